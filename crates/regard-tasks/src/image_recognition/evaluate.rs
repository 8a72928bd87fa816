//! Scores on labelled pictures, beside something simpler.

use super::answers::Mistake;
use super::gallery::Part;
use crate::Result;
use crate::metrics::{Evaluation, Interval, best, evaluate, percentiles, resample};
use crate::report::Rival;
use crate::rivals::{MAJORITY, most_frequent, rival, verdict};

/// The name of the rival that is the same tokenizer, trained the same way, with the mean of its places instead of attention.
pub(super) const MEAN: &str = "same tokenizer, mean, no attention";

/// Mistakes that are named at most.
const MISTAKES: usize = 48;

/// What each contender answered.
pub(super) struct Answered<'a> {
    pub(super) part: &'a Part,
    /// Label names by index, those the model does not know last.
    pub(super) labels: &'a [String],
    /// How often each label was learned from.
    pub(super) counts: &'a [usize],
    pub(super) probabilities: Vec<Vec<f32>>,
    pub(super) without_attention: Option<Vec<Vec<f32>>>,
    pub(super) seed: u64,
}

impl Answered<'_> {
    fn predicted(probabilities: &[Vec<f32>]) -> Vec<usize> {
        probabilities.iter().map(|row| best(row)).collect()
    }

    pub(super) fn scores(&self) -> Evaluation {
        let predicted = Self::predicted(&self.probabilities);
        evaluate(self.labels, &self.part.labels, &predicted, self.seed)
    }

    pub(super) fn rivals(&self) -> Vec<Rival> {
        let truth = &self.part.labels;
        let predicted = Self::predicted(&self.probabilities);
        let beside =
            |name, other: &[usize]| rival(name, self.labels, truth, &predicted, other, self.seed);
        let majority = vec![most_frequent(self.counts); truth.len()];
        let mut rivals = vec![beside(MAJORITY, &majority)];
        if let Some(probabilities) = &self.without_attention {
            rivals.push(beside(MEAN, &Self::predicted(probabilities)));
        }
        rivals
    }

    /// Share of the pictures whose label is among the five most probable; `None` where there are no more than five.
    pub(super) fn top_5(&self) -> Option<Interval> {
        if self.counts.len() <= 5 {
            return None;
        }
        let among = |(row, truth): (&Vec<f32>, &usize)| {
            let own = row.get(*truth);
            own.is_some_and(|own| row.iter().filter(|other| *other > own).count() < 5)
        };
        let hits: Vec<bool> = self
            .probabilities
            .iter()
            .zip(&self.part.labels)
            .map(among)
            .collect();
        let share = |hits: usize, rows: usize| hits as f64 / rows.max(1) as f64;
        let value = share(hits.iter().filter(|hit| **hit).count(), hits.len());
        let resampled = resample(hits.len(), self.seed, |rows| {
            share(rows.filter(|row| hits[*row]).count(), hits.len())
        });
        let (low, high) = percentiles(resampled, value);
        Some(Interval { value, low, high })
    }

    /// The mistakes, those first of which the model was surest.
    pub(super) fn mistakes(&self) -> Result<Vec<Mistake>> {
        let mut wrong: Vec<(usize, usize)> = Self::predicted(&self.probabilities)
            .into_iter()
            .enumerate()
            .filter(|(row, answer)| self.part.labels[*row] != *answer)
            .collect();
        wrong.sort_by(|a, b| self.probabilities[b.0][b.1].total_cmp(&self.probabilities[a.0][a.1]));
        let mistake = |(row, answer): (usize, usize)| {
            Ok(Mistake {
                place: self.part.places[row].clone(),
                truth: self.labels[self.part.labels[row]].clone(),
                answer: self.labels[answer].clone(),
                probability: self.probabilities[row][answer],
                picture: self.part.picture(row)?,
            })
        };
        wrong.into_iter().take(MISTAKES).map(mistake).collect()
    }

    /// What the scores say, in sentences.
    pub(super) fn verdicts(&self, rivals: &[Rival]) -> Vec<String> {
        let mut verdicts: Vec<String> = rivals.iter().map(verdict).collect();
        if let Some(Interval { value, low, high }) = self.top_5() {
            verdicts.push(format!(
                "The right label is among the five most probable for {:.1} % of the pictures (95 % interval {:.1} to {:.1}).",
                100.0 * value,
                100.0 * low,
                100.0 * high
            ));
        }
        verdicts
    }
}
