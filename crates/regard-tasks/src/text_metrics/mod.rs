//! Scores of written texts against references: BLEU and chrF as `sacrebleu` gives them, ROUGE as `rouge_score` does.
//!
//! Every score is a function of counts that add up over segments ([`Statistics`]), so that a bootstrap resamples counts
//! and never looks at a text twice.

mod bleu;
mod chrf;
mod porter;
mod rouge;
mod tokenize;

use serde::{Deserialize, Serialize};

pub use bleu::Bleu;
pub use chrf::Chrf;
pub use porter::stem;
pub use rouge::{Rouge, RougeKind};
pub use tokenize::BleuTokenizer;

use crate::metrics::{Difference, Interval, percentiles, resample};

/// A score of a whole corpus that is made of counts of its segments.
pub trait CorpusScore: Sync {
    /// What is counted in one segment.
    fn count(&self, hypothesis: &str, reference: &str) -> Vec<f64>;

    /// The score of the added counts.
    fn score(&self, counts: &[f64]) -> f64;

    /// What the score depends on, for a reader who wants to compute it again.
    fn signature(&self) -> String;
}

/// The counts of every segment of a corpus.
#[derive(Clone, Debug)]
pub struct Statistics {
    segments: Vec<Vec<f64>>,
}

/// A score, its interval, and how it was computed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TextScore {
    /// `BLEU`, `chrF`, `ROUGE-1`, …
    pub name: String,
    /// On all segments, 0 to 100, with its bootstrap 95 % interval.
    pub interval: Interval,
    /// What it depends on.
    pub signature: String,
}

impl Statistics {
    /// Counts every segment.
    ///
    /// # Panics
    ///
    /// If there are not as many references as hypotheses.
    pub fn new<S: AsRef<str> + Sync, T: AsRef<str> + Sync>(
        metric: &dyn CorpusScore,
        hypotheses: &[S],
        references: &[T],
    ) -> Self {
        use rayon::prelude::*;
        assert_eq!(
            hypotheses.len(),
            references.len(),
            "a reference for every hypothesis"
        );
        let segments = hypotheses.par_iter().zip(references);
        Self {
            segments: segments
                .map(|(hypothesis, reference)| {
                    metric.count(hypothesis.as_ref(), reference.as_ref())
                })
                .collect(),
        }
    }

    /// The score of all segments.
    pub fn score(&self, metric: &dyn CorpusScore) -> f64 {
        metric.score(&self.sum(&mut (0..self.segments.len())))
    }

    /// The score with its bootstrap interval.
    pub fn interval(&self, metric: &dyn CorpusScore, seed: u64) -> Interval {
        let value = self.score(metric);
        let resampled = resample(self.segments.len(), seed, |rows| {
            metric.score(&self.sum(rows))
        });
        let (low, high) = percentiles(resampled, value);
        Interval { value, low, high }
    }

    /// The score of these minus that of `other`, on the same resampled segments.
    ///
    /// # Panics
    ///
    /// If the two do not have as many segments.
    pub fn difference(&self, other: &Self, metric: &dyn CorpusScore, seed: u64) -> Difference {
        assert_eq!(
            self.segments.len(),
            other.segments.len(),
            "two outputs for the same segments"
        );
        let value = self.score(metric) - other.score(metric);
        let resampled = resample(self.segments.len(), seed, |rows| {
            let rows: Vec<usize> = rows.collect();
            metric.score(&self.sum(&mut rows.iter().copied()))
                - metric.score(&other.sum(&mut rows.iter().copied()))
        });
        let (low, high) = percentiles(resampled, value);
        Difference { value, low, high }
    }

    fn sum(&self, rows: &mut dyn Iterator<Item = usize>) -> Vec<f64> {
        let mut sum = vec![0.0; self.segments.first().map_or(0, Vec::len)];
        for row in rows {
            for (sum, count) in sum.iter_mut().zip(&self.segments[row]) {
                *sum += count;
            }
        }
        sum
    }
}

/// The scores of a set, each with its interval.
pub fn scores<S: AsRef<str> + Sync, T: AsRef<str> + Sync>(
    metrics: &[(&str, &dyn CorpusScore)],
    hypotheses: &[S],
    references: &[T],
    seed: u64,
) -> Vec<TextScore> {
    let one = |(name, metric): &(&str, &dyn CorpusScore)| TextScore {
        name: (*name).to_owned(),
        interval: Statistics::new(*metric, hypotheses, references).interval(*metric, seed),
        signature: metric.signature(),
    };
    metrics.iter().map(one).collect()
}

/// The words of a text as Python's `str.split` finds them.
fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(is_space).filter(|word| !word.is_empty())
}

/// Python's idea of white space: Rust's and four separators of ASCII.
fn is_space(letter: char) -> bool {
    letter.is_whitespace() || matches!(letter, '\u{1c}'..='\u{1f}')
}
