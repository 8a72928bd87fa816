//! What the commands do with a model that writes: a translator or a summarizer.

mod arguments;
mod evaluate;
mod explain;
mod output;
mod train;

use std::path::Path;

use regard_tasks::sequence_to_sequence::{Kind, Writer};
use regard_tasks::{Task, bundle};

pub(crate) use arguments::{PairArguments, WritingArguments};
pub(crate) use evaluate::{evaluate, scores_table};
pub(crate) use explain::{ExplainRequest, Reading, explain};
pub(crate) use output::Output;
pub(crate) use train::Pairs;

use crate::failure::Usage;
use crate::terminal::warn;

/// Whether a model folder holds a translator or a summarizer.
pub(crate) fn is_writer(folder: &Path) -> anyhow::Result<bool> {
    Ok(Kind::of(&bundle::task_of(folder)?).is_some())
}

/// Opens a model that writes as the arguments say.
pub(crate) fn open(folder: &Path, arguments: &WritingArguments) -> anyhow::Result<Writer> {
    let mut model = Writer::open(folder)?;
    let options = arguments.over(model.options());
    model.set_options(options)?;
    Ok(model)
}

/// An argument that the model at hand has no use for.
pub(crate) fn only_for(name: &str, tasks: &str) -> Usage {
    Usage::new(format!(
        "{name} is for {tasks}, and this model does something else"
    ))
}

/// Says when a text is written in letters that training never saw.
fn warn_of_unseen_letters(model: &Writer, text: &str) {
    if let Some(what) = model.unseen_letters(text) {
        warn(&what);
    }
}
