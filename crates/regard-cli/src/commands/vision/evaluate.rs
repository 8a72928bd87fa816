use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::Context;
use regard_tasks::Task;
use regard_tasks::image_recognition::{ImageClassifier, Mistake, contact_sheet};
use regard_tasks::pictures::PictureColumns;

use super::ScoreArguments;
use crate::terminal::{
    Table, TrainingProgress, confusions, heading, note, one_line, per_class, print, shorten,
    standings, tell,
};

/// Mistakes that the terminal names.
const SHOWN: usize = 12;
/// Columns that the name of a picture takes on it.
const NAME: usize = 48;

/// Scores a model on labelled pictures.
pub(crate) fn evaluate(
    folder: &Path,
    data: &Path,
    label_column: Option<String>,
    arguments: ScoreArguments,
    json: bool,
) -> anyhow::Result<()> {
    let model = ImageClassifier::open(folder)?;
    let columns = PictureColumns {
        picture: arguments.picture_column,
        label: label_column,
    };
    let mut progress = TrainingProgress::new(Arc::new(AtomicBool::new(false)));
    let scored = model.evaluate(data, &columns, &mut progress)?;
    drop(progress);
    for line in &scored.notes {
        note(line);
    }
    if let Some(path) = &arguments.sheet {
        fs::write(path, contact_sheet(&scored.mistakes))
            .with_context(|| format!("cannot write {}", path.display()))?;
        tell(&format!("{} {}", heading("wrote"), path.display()));
    }
    if json {
        return Ok(print(&(serde_json::to_string(&scored)? + "\n"))?);
    }
    let mut text = format!("{}\n", heading("scores"));
    let name = format!("this model ({})", model.report().model.kind);
    text += &standings(&name, &scored.scores, &scored.rivals);
    text += &format!("\n{}\n", heading("by class"));
    text += &per_class(&scored.scores);
    text += &format!("\n{}\n", heading("what was taken for what"));
    text += &confusions(&scored.scores);
    if !scored.mistakes.is_empty() {
        text += &format!("\n{}\n", heading("mistakes, the surest first"));
        text += &named(&scored.mistakes);
    }
    Ok(print(&text)?)
}

fn named(mistakes: &[Mistake]) -> String {
    let mut table = Table::new(["picture", "is", "taken for", ">probability"]);
    for mistake in mistakes.iter().take(SHOWN) {
        table.row([
            shorten(&one_line(&mistake.place), NAME).into_owned(),
            one_line(&mistake.truth),
            one_line(&mistake.answer),
            format!("{:.3}", mistake.probability),
        ]);
    }
    table.render()
}
