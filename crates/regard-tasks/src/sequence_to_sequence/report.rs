//! What a run reports, as data (`report.json`) and as prose (`README.md`); [`page`](super::page) shows it.

use std::fmt::Write;

use serde::{Deserialize, Serialize};

use super::Kind;
use crate::metrics::Difference;
use crate::report::{FileFacts, ModelFacts, TrainingFacts};
use crate::text_metrics::TextScore;

/// Everything a reader needs to believe, or doubt, a model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PairReport {
    /// Version of this format.
    pub format: u32,
    /// Translation or summarization.
    pub task: Kind,
    /// The files.
    pub files: Vec<FileFacts>,
    /// What was read.
    pub source_column: String,
    /// What was to be written.
    pub target_column: String,
    /// Pairs trained on.
    pub train_pairs: usize,
    /// Pairs held out to stop early on.
    pub validation_pairs: usize,
    /// What was left out, cut and inferred.
    pub data_notes: Vec<String>,
    /// What learned.
    pub model: ModelFacts,
    /// How it learned; the curve's accuracy is the task's own score on the validation pairs.
    pub training: TrainingFacts,
    /// Which pairs the scores are of, in words.
    pub scored_on: String,
    /// How many those are.
    pub scored_pairs: usize,
    /// The model's scores.
    pub scores: Vec<TextScore>,
    /// The same pairs, scored by something trivial.
    pub rivals: Vec<Rival>,
    /// What the comparison says, in plain sentences.
    pub verdicts: Vec<String>,
}

/// What can be had without a model, scored on the same pairs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rival {
    /// `copy of the source`, `first sentence` …
    pub name: String,
    /// Its scores.
    pub scores: Vec<TextScore>,
    /// The model's first score minus the rival's, on the same resampled pairs.
    pub difference: Difference,
}

/// A pair and what the model made of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SampleOutput {
    /// What was read.
    pub source: String,
    /// What was hoped for.
    pub reference: String,
    /// What was written.
    pub written: String,
}

/// What a difference says.
pub(super) fn verdict(measure: &str, name: &str, difference: &Difference) -> String {
    let Difference { value, low, high } = difference;
    let words = match (*low > 0.0, *high < 0.0) {
        (true, _) => format!("the model has {value:.1} {measure} more than the {name}"),
        (_, true) => format!(
            "the model has {:.1} {measure} less than the {name}: do not use it",
            -value
        ),
        _ => format!("the model and the {name} cannot be told apart by {measure}"),
    };
    format!("{words} (95 % of resamples {low:.1} to {high:.1})")
}

/// `33.1 (32.0 to 34.2)`
fn shown(score: &TextScore) -> String {
    let interval = &score.interval;
    format!(
        "{:.1} ({:.1} to {:.1})",
        interval.value, interval.low, interval.high
    )
}

/// The report in words.
pub(super) fn readme(report: &PairReport) -> String {
    let mut text = format!("# A model for {}\n\n", report.task.name());
    let names: Vec<&str> = report
        .scores
        .iter()
        .map(|score| score.name.as_str())
        .collect();
    let _ = writeln!(
        text,
        "Reads `{}`, writes `{}`. Scores on {} ({} pairs), with bootstrap 95 % intervals:\n",
        report.source_column, report.target_column, report.scored_on, report.scored_pairs
    );
    let _ = writeln!(text, "| | {} |", names.join(" | "));
    let _ = writeln!(text, "|---|{}", "---|".repeat(names.len()));
    let row = |name: &str, scores: &[TextScore]| {
        let cells: Vec<String> = scores.iter().map(shown).collect();
        format!("| {name} | {} |\n", cells.join(" | "))
    };
    text += &row("this model", &report.scores);
    for rival in &report.rivals {
        text += &row(&rival.name, &rival.scores);
    }
    text.push('\n');
    for verdict in &report.verdicts {
        let _ = writeln!(text, "- {verdict}");
    }
    text += "\nSignatures:\n\n";
    for score in &report.scores {
        let _ = writeln!(text, "- {}: `{}`", score.name, score.signature);
    }
    let (model, training) = (&report.model, &report.training);
    let _ = writeln!(
        text,
        "\n{} parameters, {} pieces. Trained on {} pairs for {} epochs ({} steps, {:.0} s, seed {}); epoch {} was kept: {}.\n",
        model.parameters,
        model.vocabulary,
        report.train_pairs,
        training.epochs,
        training.steps,
        training.seconds,
        training.seed,
        training.best_epoch,
        training.stopped
    );
    for note in report.data_notes.iter().chain(&training.notes) {
        let _ = writeln!(text, "- {note}");
    }
    text += "\nFiles:\n\n";
    for file in &report.files {
        let _ = writeln!(
            text,
            "- {} ({} rows, SHA-256 {})",
            file.name, file.rows, file.sha256
        );
    }
    text
}
