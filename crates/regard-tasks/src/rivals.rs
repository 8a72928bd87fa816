//! A classifier beside something simpler, on the same rows.

use crate::metrics::{Difference, evaluate, paired_difference};
use crate::report::Rival;

/// The name of the rival that always gives the most frequent training label.
pub(crate) const MAJORITY: &str = "majority class";
/// The name of the rival that is the same model, trained the same way, with mean pooling instead of attention.
pub(crate) const MEAN: &str = "same model, mean pooling";
/// One rival's scores and the model's lead over it.
pub(crate) fn rival(
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
pub(crate) fn most_frequent(counts: &[usize]) -> usize {
    let most = counts.iter().max().copied().unwrap_or(0);
    counts.iter().position(|count| *count == most).unwrap_or(0)
}

/// What a difference says, in a sentence that does not flatter.
pub(crate) fn verdict(rival: &Rival) -> String {
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
