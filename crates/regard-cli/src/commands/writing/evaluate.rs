use std::path::Path;

use regard_tasks::sequence_to_sequence::{PairColumns, PairFiles, Rival};
use regard_tasks::text_metrics::TextScore;

use super::{WritingArguments, open};
use crate::terminal::{Table, heading, note, print, thousands};

/// Scores a model that writes on pairs.
pub(crate) fn evaluate(
    folder: &Path,
    files: &PairFiles,
    columns: &PairColumns,
    arguments: &WritingArguments,
    json: bool,
) -> anyhow::Result<()> {
    let model = open(folder, arguments)?;
    let scored = model.evaluate(files, columns)?;
    for line in &scored.notes {
        note(line);
    }
    if json {
        return Ok(print(&(serde_json::to_string(&scored)? + "\n"))?);
    }
    let pairs = thousands(scored.pairs);
    let mut text = format!("{}\n", heading(&format!("scores on {pairs} pairs")));
    text += &scores_table(&scored.scores, &scored.rivals);
    text += &format!("\n{}\n", heading("signatures"));
    for score in &scored.scores {
        text += &format!("  {:<8} {}\n", score.name, score.signature);
    }
    Ok(print(&text)?)
}

/// The model's scores with their intervals, and what can be had without it.
pub(crate) fn scores_table(scores: &[TextScore], rivals: &[Rival]) -> String {
    let rows = std::iter::once(("this model", scores)).chain(
        rivals
            .iter()
            .map(|rival| (rival.name.as_str(), rival.scores.as_slice())),
    );
    let mut text = String::new();
    for (name, scores) in rows {
        let mut table = Table::new([name, ">score", "95 % interval"]);
        for TextScore { name, interval, .. } in scores {
            table.row([
                name.clone(),
                format!("{:.2}", interval.value),
                format!("{:.2} to {:.2}", interval.low, interval.high),
            ]);
        }
        text += &table.render();
    }
    text
}
