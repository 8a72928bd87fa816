//! Scoring a writer on pairs, and what is odd about them.

use serde::Serialize;

use super::data::Pairs;
use super::report::Rival;
use super::run::Writer;
use super::{PairColumns, PairFiles, judge, letters};
use crate::text_metrics::TextScore;
use crate::{Result, Task};

/// What [`Writer::evaluate`] gives.
#[derive(Clone, Debug, Serialize)]
pub struct Scored {
    /// Pairs scored.
    pub pairs: usize,
    /// The model's scores.
    pub scores: Vec<TextScore>,
    /// What can be had without it.
    pub rivals: Vec<Rival>,
    /// What the comparison says, and what was left out.
    pub notes: Vec<String>,
    /// What was written, in the order of the pairs.
    #[serde(skip)]
    pub written: Vec<String>,
}

impl Writer {
    /// Scores the model on pairs, beside what can be had without it.
    ///
    /// # Errors
    ///
    /// As reading and writing.
    pub fn evaluate(&self, files: &PairFiles, columns: &PairColumns) -> Result<Scored> {
        let trained = PairColumns {
            source: Some(self.config.source_column.clone()),
            target: Some(self.config.target_column.clone()),
            group: None,
        };
        let pairs = files.read(self.kind, columns, &trained)?;
        let mut notes = pairs.notes.clone();
        notes.extend(pairs.warnings.iter().cloned());
        let (sources, targets) = (&self.config.source_letters, &self.config.target_letters);
        notes.extend(letters::swapped(sources, targets, &pairs));
        let seed = self
            .report
            .as_ref()
            .map_or(0, |report| report.training.seed);
        let scored = self.score_pairs(&pairs, seed)?;
        notes.extend(scored.notes);
        Ok(Scored { notes, ..scored })
    }

    /// Scores the model on pairs that are read; notes of what was cut and what the comparison says.
    pub(super) fn score_pairs(&self, pairs: &Pairs, seed: u64) -> Result<Scored> {
        let mut notes = Vec::new();
        let answers = self.run(&pairs.sources)?;
        let cut = answers
            .iter()
            .filter(|answer| answer.cut_source_pieces > 0)
            .count();
        if cut > 0 {
            let limit = self.config.model.max_source;
            notes.push(format!(
                "{cut} sources were cut to their first {limit} pieces"
            ));
        }
        let unfinished = answers.iter().filter(|answer| answer.cut).count();
        if unfinished > 0 {
            notes.push(format!(
                "{unfinished} outputs were ended by the bound on their length"
            ));
        }
        let written: Vec<String> = answers.into_iter().map(|answer| answer.text).collect();
        let (scores, rivals, verdicts) = judge::judge(self.kind, pairs, &written, seed);
        notes.extend(verdicts);
        Ok(Scored {
            pairs: pairs.len(),
            scores,
            rivals,
            notes,
            written,
        })
    }

    /// What a text has that the training never had: the share of its letters and some of them.
    pub fn unseen_letters(&self, text: &str) -> Option<String> {
        letters::unseen(&self.config.source_letters, text)
    }
}
