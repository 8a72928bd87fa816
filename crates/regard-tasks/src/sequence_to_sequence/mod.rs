//! Translation and summarization: pairs of texts in, a model that writes the second for the first out.
//!
//! Both are one task with two names: what differs is what columns are called, what is measured, what the scores stand
//! beside, and that a summary never repeats three words.

mod alignment;
mod answers;
mod config;
mod data;
mod evaluate;
mod explain;
mod judge;
mod learner;
mod letters;
mod page;
mod plan;
mod report;
mod run;
mod settings;
mod tracing;
mod train;
mod vocabularies;

pub use alignment::{Alignment, AttentionPart, Reading, Word, alignment_error_rate, parse_pharaoh};
pub use answers::{Alternative, Inspection, Written};
pub use config::WritingOptions;
pub use data::{PairColumns, PairFiles};
pub use evaluate::Scored;
pub use report::{PairReport, Rival, SampleOutput};
pub use run::Writer;
pub use settings::Settings;
pub use tracing::{Origin, Trace};
pub use train::{TrainRequest, train};

use serde::{Deserialize, Serialize};

/// Which of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// The same in another language.
    Translation,
    /// The same, shorter.
    Summarization,
}

impl Kind {
    /// The name of the task in a model folder.
    pub fn name(self) -> &'static str {
        match self {
            Self::Translation => "translation",
            Self::Summarization => "summarization",
        }
    }

    /// The task of that name.
    pub fn of(name: &str) -> Option<Self> {
        [Self::Translation, Self::Summarization]
            .into_iter()
            .find(|kind| kind.name() == name)
    }
}
