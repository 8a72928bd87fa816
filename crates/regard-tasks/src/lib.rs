//! Files in, models and answers out: the tasks that Regard trains, scores, uses and explains.
//!
//! One row travels one way: file → [`tables::Table`] → example → token ids → batch of tensors → model →
//! prediction (and, only when asked, the attention that made it) → [`report::Report`].

pub mod answers;
pub mod bundle;
pub mod columns;
pub mod error;
pub mod image_recognition;
mod limits;
pub mod linear;
pub mod metrics;
pub mod pictures;
mod precision;
mod random;
pub mod report;
mod rivals;
mod run_folder;
pub mod sequence_to_sequence;
pub mod splits;
pub mod tables;
pub mod task;
pub mod text_classification;
pub mod text_metrics;
pub mod tokenizer;
pub mod trainer;

pub use error::{Error, Result};
pub use precision::Precision;
pub use task::Task;
