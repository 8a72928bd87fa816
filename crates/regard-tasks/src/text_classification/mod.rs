//! Text classification: a table of texts and labels in, a model that labels and shows its attention out.

mod answers;
mod budget;
mod config;
mod corpus;
mod data;
mod judge;
mod learner;
mod plan;
mod run;
mod settings;
mod train;

pub use answers::{AttendedWord, Explanation, Prediction};
pub use run::TextClassifier;
pub use settings::{ModelKind, Settings};
pub use train::{TrainRequest, train};
