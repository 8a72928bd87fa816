//! Scoring a writer on pairs, and what is odd about them.

use serde::Serialize;

use super::data::Pairs;
use super::report::Rival;
use super::run::Writer;
use super::{PairColumns, PairFiles, judge};
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
            source: columns
                .source
                .clone()
                .or_else(|| self.known(files, &self.config.source_column)),
            target: columns
                .target
                .clone()
                .or_else(|| self.known(files, &self.config.target_column)),
            group: None,
        };
        let pairs = files.read(self.kind, &trained)?;
        let mut notes = pairs.notes.clone();
        notes.extend(pairs.warnings.iter().cloned());
        notes.extend(self.swapped(&pairs));
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
        let seed = self
            .report
            .as_ref()
            .map_or(0, |report| report.training.seed);
        let (scores, rivals, verdicts) = judge::judge(self.kind, &pairs, &written, seed);
        notes.extend(verdicts);
        Ok(Scored {
            pairs: pairs.len(),
            scores,
            rivals,
            notes,
            written,
        })
    }

    /// The column of training, where the first table has it.
    fn known(&self, files: &PairFiles, column: &str) -> Option<String> {
        let PairFiles::Tables(paths) = files else {
            return None;
        };
        let table = crate::tables::Table::read(paths.first()?).ok()?;
        table.names().contains(&column).then(|| column.to_owned())
    }

    /// Evidence that the sides are swapped: letters that the training's targets had and its sources did not.
    fn swapped(&self, pairs: &Pairs) -> Option<String> {
        let only = |yes: &str, no: &str| -> Vec<char> {
            let rank = |letters: &str, letter: char| letters.chars().position(|one| one == letter);
            yes.chars()
                .filter(|letter| {
                    let (yes, no) = (rank(yes, *letter), rank(no, *letter));
                    yes.is_some_and(|yes| no.is_none_or(|no| no > 2 * yes + 10))
                })
                .collect()
        };
        let (sources, targets) = (&self.config.source_letters, &self.config.target_letters);
        let (of_source, of_target) = (only(sources, targets), only(targets, sources));
        let count = |texts: &[String], letters: &[char]| -> usize {
            let all = texts.iter().flat_map(|text| text.chars());
            all.filter(|letter| letters.contains(letter)).count()
        };
        let right = count(&pairs.sources, &of_source) + count(&pairs.targets, &of_target);
        let wrong = count(&pairs.sources, &of_target) + count(&pairs.targets, &of_source);
        (wrong > 20 && wrong > 3 * right).then(|| {
            format!(
                "the columns look swapped: {wrong} letters stand on the side where training had few of them, {right} where it \
                 had most (--source-column, --target-column)"
            )
        })
    }

    /// What a text has that the training never had: the share of its letters and some of them.
    pub fn unseen_letters(&self, text: &str) -> Option<String> {
        let letters: Vec<char> = text
            .chars()
            .filter(|letter| letter.is_alphabetic())
            .collect();
        let mut unseen: Vec<char> = letters
            .iter()
            .copied()
            .filter(|letter| !self.config.source_letters.contains(*letter))
            .collect();
        if 2 * unseen.len() <= letters.len() {
            return None;
        }
        let count = unseen.len();
        unseen.truncate(8);
        let shown: String = unseen.into_iter().collect();
        Some(format!(
            "{count} of {} letters never occurred in the sources of training ({shown} …): do not trust what is written",
            letters.len()
        ))
    }
}
