//! Scores of a classifier, with what chance may have done to them.

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::random::Random;

/// Resamples of every bootstrap interval: enough for its ends to move by less than a tenth of its width from seed to seed.
const RESAMPLES: usize = 1000;

/// A score and its bootstrap 95 % interval (percentiles of 1,000 resamples of the rows).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// The score on all rows.
    pub value: f64,
    /// 2.5 % of the resamples are below.
    pub low: f64,
    /// 2.5 % of the resamples are above.
    pub high: f64,
}

/// The scores of one label.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClassScore {
    /// The label.
    pub label: String,
    /// Share of the rows given this label that have it; 0 if none was given it.
    pub precision: f64,
    /// Share of the rows with this label that were given it; 0 if none has it.
    pub recall: f64,
    /// Harmonic mean of precision and recall.
    pub f1: f64,
    /// Rows with this label.
    pub support: usize,
}

/// Scores of predictions against the truth.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// Rows scored.
    pub rows: usize,
    /// Share of the rows that are right.
    pub accuracy: Interval,
    /// Mean F1 over the labels that occur in the truth or the predictions, as scikit-learn has it (zero division = 0).
    pub macro_f1: Interval,
    /// Every label, in the order of `labels`.
    pub classes: Vec<ClassScore>,
    /// Rows by label: `confusion[true][predicted]`.
    pub confusion: Vec<Vec<usize>>,
    /// Names of the labels.
    pub labels: Vec<String>,
}

/// A difference of two accuracies on the same rows and its paired bootstrap 95 % interval.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Difference {
    /// The difference on all rows.
    pub value: f64,
    /// 2.5 % of the resamples are below.
    pub low: f64,
    /// 2.5 % of the resamples are above.
    pub high: f64,
}

/// Scores predictions; `truth` and `predicted` are indices into `labels`.
///
/// Without rows every score is 0.
///
/// # Panics
///
/// If `truth` and `predicted` differ in length or hold an index beyond `labels`.
pub fn evaluate(labels: &[String], truth: &[usize], predicted: &[usize], seed: u64) -> Evaluation {
    assert_eq!(truth.len(), predicted.len(), "a prediction for every row");
    let mut confusion = vec![vec![0; labels.len()]; labels.len()];
    let mut all = Counts::new(labels.len());
    for (truth, predicted) in truth.iter().zip(predicted) {
        confusion[*truth][*predicted] += 1;
        all.add(*truth, *predicted);
    }
    let classes = labels
        .iter()
        .enumerate()
        .map(|(class, label)| all.class(class, label))
        .collect();
    let resampled = resample(truth.len(), seed, |rows| {
        let mut counts = Counts::new(labels.len());
        rows.for_each(|row| counts.add(truth[row], predicted[row]));
        (counts.accuracy(), counts.macro_f1())
    });
    let interval = |value, pick: fn(&(f64, f64)) -> f64| {
        let (low, high) = percentiles(resampled.iter().map(pick).collect(), value);
        Interval { value, low, high }
    };
    Evaluation {
        rows: truth.len(),
        accuracy: interval(all.accuracy(), |scores| scores.0),
        macro_f1: interval(all.macro_f1(), |scores| scores.1),
        classes,
        confusion,
        labels: labels.to_vec(),
    }
}

/// Accuracy and macro-F1 without intervals, for a look between two epochs.
///
/// # Panics
///
/// If `truth` and `predicted` hold an index of `classes` or more.
pub(crate) fn scores(truth: &[usize], predicted: &[usize], classes: usize) -> (f64, f64) {
    let mut counts = Counts::new(classes);
    truth
        .iter()
        .zip(predicted)
        .for_each(|(truth, predicted)| counts.add(*truth, *predicted));
    (counts.accuracy(), counts.macro_f1())
}

/// Index of the largest value; the first of equals.
pub(crate) fn best(values: &[f32]) -> usize {
    let mut best = 0;
    for (index, value) in values.iter().enumerate() {
        if *value > values[best] {
            best = index;
        }
    }
    best
}

/// The accuracy of `a` minus that of `b`, resampling rows, so that what is hard for both cancels out.
///
/// # Panics
///
/// If the three differ in length.
pub fn paired_difference(truth: &[usize], a: &[usize], b: &[usize], seed: u64) -> Difference {
    assert!(
        truth.len() == a.len() && truth.len() == b.len(),
        "two predictions for every row"
    );
    let gain = |row: usize| i64::from(truth[row] == a[row]) - i64::from(truth[row] == b[row]);
    let mean = |sum: i64| {
        if truth.is_empty() {
            0.0
        } else {
            sum as f64 / truth.len() as f64
        }
    };
    let value = mean((0..truth.len()).map(gain).sum());
    let (low, high) = percentiles(
        resample(truth.len(), seed, |rows| mean(rows.map(gain).sum())),
        value,
    );
    Difference { value, low, high }
}

/// What was right and wrong, by label.
struct Counts {
    rows: usize,
    right: Vec<usize>,
    truth: Vec<usize>,
    predicted: Vec<usize>,
}

impl Counts {
    fn new(classes: usize) -> Self {
        Self {
            rows: 0,
            right: vec![0; classes],
            truth: vec![0; classes],
            predicted: vec![0; classes],
        }
    }

    fn add(&mut self, truth: usize, predicted: usize) {
        self.rows += 1;
        self.right[truth] += usize::from(truth == predicted);
        self.truth[truth] += 1;
        self.predicted[predicted] += 1;
    }

    fn accuracy(&self) -> f64 {
        share(self.right.iter().sum(), self.rows)
    }

    fn f1(&self, class: usize) -> f64 {
        share(
            2 * self.right[class],
            self.truth[class] + self.predicted[class],
        )
    }

    fn macro_f1(&self) -> f64 {
        let occurs =
            (0..self.right.len()).filter(|class| self.truth[*class] + self.predicted[*class] > 0);
        let (sum, count) = occurs.fold((0.0, 0_usize), |(sum, count), class| {
            (sum + self.f1(class), count + 1)
        });
        if count == 0 { 0.0 } else { sum / count as f64 }
    }

    fn class(&self, class: usize, label: &str) -> ClassScore {
        ClassScore {
            label: label.to_owned(),
            precision: share(self.right[class], self.predicted[class]),
            recall: share(self.right[class], self.truth[class]),
            f1: self.f1(class),
            support: self.truth[class],
        }
    }
}

/// `part / whole`, and 0 of nothing.
fn share(part: usize, whole: usize) -> f64 {
    if whole == 0 {
        0.0
    } else {
        part as f64 / whole as f64
    }
}

/// A statistic of `rows` rows drawn with replacement, many times; the draws depend on the seed only.
pub(crate) fn resample<T: Send>(
    rows: usize,
    seed: u64,
    statistic: impl Fn(&mut dyn Iterator<Item = usize>) -> T + Sync,
) -> Vec<T> {
    let once = |resample: usize| {
        let mut random = Random::new(seed, resample as u64);
        statistic(&mut (0..rows).map(|_| random.below(rows)))
    };
    (0..RESAMPLES).into_par_iter().map(once).collect()
}

/// The 2.5th and 97.5th percentile, linear between the nearest two, as NumPy has it; widened to hold `value` itself, which
/// the percentiles of a skewed statistic can miss.
pub(crate) fn percentiles(mut resampled: Vec<f64>, value: f64) -> (f64, f64) {
    resampled.sort_by(f64::total_cmp);
    let at = |share: f64| {
        let place = share * (resampled.len() - 1) as f64;
        let (below, above) = (
            resampled[place.floor() as usize],
            resampled[place.ceil() as usize],
        );
        below + (above - below) * place.fract()
    };
    (at(0.025).min(value), at(0.975).max(value))
}
