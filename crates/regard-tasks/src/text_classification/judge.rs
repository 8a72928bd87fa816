//! The model beside something simpler, on the same rows: honest scores by construction.

use super::corpus::{Corpus, Part};
use super::{Explanation, TextClassifier};
use crate::Result;
use crate::metrics::{Difference, Evaluation, evaluate, paired_difference};
use crate::report::Rival;

/// What each contender answered, row by row.
pub(super) struct Judged {
    pub(super) predicted: Vec<usize>,
    pub(super) without_attention: Option<Vec<usize>>,
    pub(super) linear: Option<Vec<usize>>,
}

/// The name of the rival that always gives the most frequent training label.
pub(super) const MAJORITY: &str = "majority class";
/// The name of the rival that is the same model, trained the same way, with mean pooling instead of attention.
pub(super) const MEAN: &str = "same model, mean pooling";
/// The name of the linear rival.
pub(super) const LINEAR: &str = "linear SVM on TF-IDF";

/// Scores of the model, scores of its rivals, and what the comparison says.
pub(super) fn judge(
    corpus: &Corpus,
    part: &Part,
    judged: &Judged,
    seed: u64,
) -> (Evaluation, Vec<Rival>, Vec<String>) {
    let labels = corpus.all_labels();
    let mut counts = vec![0_usize; corpus.labels.len()];
    corpus
        .train
        .labels
        .iter()
        .for_each(|label| counts[*label] += 1);
    let majority = vec![most_frequent(&counts); part.labels.len()];
    let contenders = [
        (MAJORITY, Some(&majority)),
        (MEAN, judged.without_attention.as_ref()),
        (LINEAR, judged.linear.as_ref()),
    ];
    let rivals = contenders
        .into_iter()
        .filter_map(|(name, predicted)| {
            Some(rival(
                name,
                &labels,
                &part.labels,
                &judged.predicted,
                predicted?,
                seed,
            ))
        })
        .collect::<Vec<_>>();
    let scores = evaluate(&labels, &part.labels, &judged.predicted, seed);
    let verdicts = rivals.iter().map(verdict).collect();
    (scores, rivals, verdicts)
}

/// One rival's scores and the model's lead over it.
pub(super) fn rival(
    name: &str,
    labels: &[String],
    truth: &[usize],
    model: &[usize],
    predicted: &[usize],
    seed: u64,
) -> Rival {
    let scores = evaluate(labels, truth, predicted, seed);
    Rival {
        name: name.to_owned(),
        accuracy: scores.accuracy,
        macro_f1: scores.macro_f1,
        difference: paired_difference(truth, model, predicted, seed),
    }
}

/// The label with the highest count; the first of equals.
pub(super) fn most_frequent(counts: &[usize]) -> usize {
    let most = counts.iter().max().copied().unwrap_or(0);
    counts.iter().position(|count| *count == most).unwrap_or(0)
}

/// What a difference says, in a sentence that does not flatter.
pub(super) fn verdict(rival: &Rival) -> String {
    let Difference { value, low, high } = rival.difference;
    let interval = format!("95 % interval {:+.1} to {:+.1}", 100.0 * low, 100.0 * high);
    let points = 100.0 * value.abs();
    if low > 0.0 {
        format!(
            "The model beats {} by {points:.1} points ({interval}).",
            rival.name
        )
    } else if high < 0.0 {
        format!(
            "The model is {points:.1} points behind {} ({interval}): for this data that is the better choice.",
            rival.name
        )
    } else {
        format!(
            "The model cannot be told apart from {}: {:+.1} points ({interval}).",
            rival.name,
            100.0 * value
        )
    }
}

/// Some scored texts and what the model looked at: of each of the first labels, the first that is short enough to show.
pub(super) fn examples(model: &TextClassifier, corpus: &Corpus) -> Result<Vec<Explanation>> {
    /// Examples on the page, and the bytes of a text that still reads at a glance.
    const EXAMPLES: usize = 6;
    const LONGEST: usize = 600;
    let part = corpus.test.as_ref().unwrap_or(&corpus.validation);
    let mut examples = Vec::new();
    for label in 0..corpus.labels.len().min(EXAMPLES) {
        let shown = (0..part.rows.len())
            .find(|row| part.labels[*row] == label && part.rows[*row].len() <= LONGEST);
        if let Some(row) = shown {
            examples.push(model.explain(&part.rows[row])?);
        }
    }
    Ok(examples)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Interval;

    fn said(value: f64, low: f64, high: f64) -> String {
        let interval = Interval {
            value: 0.5,
            low: 0.4,
            high: 0.6,
        };
        let difference = Difference { value, low, high };
        verdict(&Rival {
            name: MEAN.to_owned(),
            accuracy: interval,
            macro_f1: interval,
            difference,
        })
    }

    #[test]
    fn a_difference_whose_interval_holds_zero_is_no_difference() {
        assert!(said(0.01, -0.01, 0.03).contains("cannot be told apart"));
        assert!(said(0.02, 0.01, 0.03).contains("beats"));
        assert!(said(-0.02, -0.03, -0.01).contains("behind"));
    }

    #[test]
    fn the_first_of_equally_frequent_labels_is_the_majority() {
        assert_eq!(most_frequent(&[2, 5, 5]), 1);
    }
}
