//! What the commands do with a model that writes: a translator or a summarizer.

mod arguments;
mod evaluate;
mod explain;
mod output;
mod train;

use std::path::Path;

use regard_tasks::Task;
use regard_tasks::sequence_to_sequence::Writer;

pub(crate) use arguments::{PairArguments, WritingArguments};
pub(crate) use evaluate::{evaluate, scores_table};
pub(crate) use explain::{ExplainRequest, Reading, explain, shown, traced};
pub(crate) use output::Output;
pub(crate) use train::{Pairs, summary};

use crate::terminal::warn;

/// Opens a model that writes as the arguments say.
pub(crate) fn open(folder: &Path, arguments: &WritingArguments) -> anyhow::Result<Writer> {
    let mut model = Writer::open(folder)?;
    let options = arguments.over(model.options());
    model.set_options(options)?;
    Ok(model)
}

/// Says when a text is written in letters that training never saw.
fn warn_of_unseen_letters(model: &Writer, text: &str) {
    if let Some(what) = model.unseen_letters(text) {
        warn(&what);
    }
}
