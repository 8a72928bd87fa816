//! What a run reports, as data (`report.json`), as prose (`README.md`) and as a page.

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

/// The report as a page that needs nothing else.
pub(super) fn html(report: &PairReport, samples: &[SampleOutput]) -> String {
    let mut body = format!("<h1>A model for {}</h1>\n", report.task.name());
    let _ = writeln!(
        body,
        "<p>Reads <code>{}</code>, writes <code>{}</code>. Scores on {} ({} pairs), with bootstrap 95&nbsp;% intervals.</p>",
        escaped(&report.source_column),
        escaped(&report.target_column),
        escaped(&report.scored_on),
        report.scored_pairs
    );
    body += "<table><tr><th></th>";
    for score in &report.scores {
        let _ = write!(
            body,
            "<th title=\"{}\">{}</th>",
            escaped(&score.signature),
            score.name
        );
    }
    body += "</tr>\n";
    let mut row = |name: &str, scores: &[TextScore]| {
        let _ = write!(body, "<tr><td>{}</td>", escaped(name));
        for score in scores {
            let _ = write!(body, "<td>{}</td>", shown(score));
        }
        body += "</tr>\n";
    };
    row("this model", &report.scores);
    for rival in &report.rivals {
        row(&rival.name, &rival.scores);
    }
    body += "</table>\n<ul>";
    for verdict in &report.verdicts {
        let _ = write!(body, "<li>{}</li>", escaped(verdict));
    }
    body += "</ul>\n<h2>Some outputs</h2>\n<table><tr><th>source</th><th>reference</th><th>written</th></tr>\n";
    for sample in samples {
        let _ = writeln!(
            body,
            "<tr><td dir=\"auto\">{}</td><td dir=\"auto\">{}</td><td dir=\"auto\">{}</td></tr>",
            escaped(&sample.source),
            escaped(&sample.reference),
            escaped(&sample.written)
        );
    }
    body += "</table>\n<h2>Training</h2>\n<table><tr><th>epoch</th><th>training loss</th><th>validation loss</th><th>score</th></tr>\n";
    for point in &report.training.curve {
        let _ = writeln!(
            body,
            "<tr><td>{}</td><td>{:.3}</td><td>{:.3}</td><td>{:.2}</td></tr>",
            point.epoch, point.train_loss, point.validation_loss, point.validation_accuracy
        );
    }
    body += "</table>\n<ul>";
    for note in report.data_notes.iter().chain(&report.training.notes) {
        let _ = write!(body, "<li>{}</li>", escaped(note));
    }
    body += "</ul>\n";
    page(&format!("Regard: {}", report.task.name()), &body)
}

/// A page of its own around a body.
pub(super) fn page(title: &str, body: &str) -> String {
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>{}</title>\n<style>\n{STYLE}</style></head>\n<body>\n{body}</body></html>\n",
        escaped(title)
    )
}

const STYLE: &str = "body { font: 16px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem; }\n\
table { border-collapse: collapse; }\ntd, th { border: 1px solid #ccc; padding: .2rem .6rem; text-align: start; vertical-align: top; }\n";

/// Text as HTML takes it.
pub(super) fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}
