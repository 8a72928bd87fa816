//! What a training run reports, as data (`report.json`), as prose (`README.md`) and as a page.

mod attention;
mod curve;
mod page;
pub(crate) mod parts;
mod prose;
mod scores;
pub(crate) mod standings;

use serde::{Deserialize, Serialize};

pub(crate) use page::{capital, escape, page, page_with, thousands};
pub use page::{explanation_html, html};
pub use prose::readme;

use crate::metrics::{Difference, Evaluation, Interval};

/// Everything a reader needs to believe, or doubt, a model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Version of this format.
    pub format: u32,
    /// The task, such as `text-classification`.
    pub task: String,
    /// What was learned from.
    pub data: DataFacts,
    /// What learned.
    pub model: ModelFacts,
    /// How it learned.
    pub training: TrainingFacts,
    /// Which rows the scores are of, in words.
    pub scored_on: String,
    /// The model's scores.
    pub scores: Evaluation,
    /// The same rows, scored by something simpler.
    pub rivals: Vec<Rival>,
    /// What the comparison says, in plain sentences.
    pub verdicts: Vec<String>,
}

/// One file that was read.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FileFacts {
    /// Its name, without the folder.
    pub name: String,
    /// Rows in it.
    pub rows: usize,
    /// SHA-256 of its bytes.
    pub sha256: String,
}

/// What was learned from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DataFacts {
    /// The files.
    pub files: Vec<FileFacts>,
    /// Column of the texts.
    pub text_column: String,
    /// Column of the labels.
    pub label_column: String,
    /// Column whose groups were kept together.
    pub group_column: Option<String>,
    /// Rows trained on.
    pub train_rows: usize,
    /// Rows held out to stop early on.
    pub validation_rows: usize,
    /// Rows scored on; 0 = the validation rows were scored.
    pub test_rows: usize,
    /// Labels and how many training rows have each.
    pub labels: Vec<(String, usize)>,
    /// What was left out, counted and named.
    pub skipped: Vec<String>,
    /// Texts longer than the model reads.
    pub truncated_texts: usize,
}

/// What learned.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelFacts {
    /// `mean`, `pooling` or `transformer`.
    pub kind: String,
    /// Numbers that training set.
    pub parameters: usize,
    /// Parameters by part.
    pub parts: Vec<(String, usize)>,
    /// Entries of the vocabulary.
    pub vocabulary: usize,
    /// Bytes of the weights.
    pub bytes: u64,
}

/// One point of the learning curve.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct CurvePoint {
    /// Passes over the training rows.
    pub epoch: f64,
    /// Mean training loss since the last point.
    pub train_loss: f64,
    /// Loss on the validation rows.
    pub validation_loss: f64,
    /// Accuracy on the validation rows.
    pub validation_accuracy: f64,
}

/// How it learned.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrainingFacts {
    /// Seed of data order, dropout and initial weights.
    pub seed: u64,
    /// Optimizer steps.
    pub steps: u64,
    /// Passes over the training rows.
    pub epochs: f64,
    /// Wall-clock seconds of training.
    pub seconds: f64,
    /// Epoch whose weights were kept.
    pub best_epoch: usize,
    /// The learning curve.
    pub curve: Vec<CurvePoint>,
    /// Why training ended, in words.
    pub stopped: String,
    /// What was inferred and decided.
    pub notes: Vec<String>,
}

/// Something simpler, scored on the same rows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rival {
    /// `majority class`, `linear SVM on TF-IDF` or `same model, mean pooling`.
    pub name: String,
    /// Its accuracy.
    pub accuracy: Interval,
    /// Its macro-F1.
    pub macro_f1: Interval,
    /// Accuracy of the model minus the rival's, on the same rows.
    pub difference: Difference,
}

#[cfg(test)]
mod tests;
