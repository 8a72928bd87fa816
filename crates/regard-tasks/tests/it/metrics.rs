//! Scores: those of scikit-learn, and intervals that mean what they say.

use proptest::prelude::*;
use regard_tasks::metrics::{evaluate, paired_difference};
use serde_json::Value;

fn names(classes: usize) -> Vec<String> {
    (0..classes).map(|class| format!("class {class}")).collect()
}

fn numbers(value: &Value) -> Vec<f64> {
    value
        .as_array()
        .unwrap()
        .iter()
        .map(|value| value.as_f64().unwrap())
        .collect()
}

fn indices(value: &Value) -> Vec<usize> {
    value
        .as_array()
        .unwrap()
        .iter()
        .map(|value| value.as_u64().unwrap() as usize)
        .collect()
}

#[test]
fn the_scores_are_those_of_scikit_learn() {
    let golden: Value = serde_json::from_str(include_str!("../golden/metrics.json")).unwrap();
    let near = |a: f64, b: f64| (a - b).abs() < 1e-12;
    for case in golden["cases"].as_array().unwrap() {
        let name = &case["name"];
        let labels = names(case["classes"].as_u64().unwrap() as usize);
        let found = evaluate(
            &labels,
            &indices(&case["truth"]),
            &indices(&case["predicted"]),
            1,
        );
        assert!(
            near(found.accuracy.value, case["accuracy"].as_f64().unwrap()),
            "{name}"
        );
        assert!(
            near(found.macro_f1.value, case["macro_f1"].as_f64().unwrap()),
            "{name}"
        );
        let expected = numbers(&case["precision"])
            .into_iter()
            .zip(numbers(&case["recall"]))
            .zip(numbers(&case["f1"]));
        for (found, ((precision, recall), f1)) in found.classes.iter().zip(expected) {
            assert!(
                near(found.precision, precision)
                    && near(found.recall, recall)
                    && near(found.f1, f1),
                "{name}"
            );
        }
        let support: Vec<usize> = found.classes.iter().map(|class| class.support).collect();
        assert_eq!(support, indices(&case["support"]), "{name}");
        let confusion: Vec<Vec<usize>> = case["confusion"]
            .as_array()
            .unwrap()
            .iter()
            .map(indices)
            .collect();
        assert_eq!(found.confusion, confusion, "{name}");
    }
}

/// `right` of `rows` rows right, in turn.
fn answers(rows: usize, right: usize) -> (Vec<usize>, Vec<usize>) {
    let truth: Vec<usize> = (0..rows).map(|row| row % 2).collect();
    let predicted = truth
        .iter()
        .enumerate()
        .map(|(row, truth)| if row < right { *truth } else { 1 - truth })
        .collect();
    (truth, predicted)
}

#[test]
fn the_interval_is_as_wide_as_the_binomial_says() {
    // 1.96 · √(0.8 · 0.2 / 1000) = 0.0248
    let (truth, predicted) = answers(1000, 800);
    let accuracy = evaluate(&names(2), &truth, &predicted, 3).accuracy;
    assert!((accuracy.low - 0.7752).abs() < 0.003, "{accuracy:?}");
    assert!((accuracy.high - 0.8248).abs() < 0.003, "{accuracy:?}");
}

#[test]
fn the_interval_depends_on_the_seed_and_not_on_the_threads() {
    let (truth, predicted) = answers(300, 200);
    let on = |threads: usize, seed: u64| {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .unwrap();
        pool.install(|| evaluate(&names(2), &truth, &predicted, seed))
    };
    assert_eq!(on(1, 5), on(4, 5));
    assert_ne!(on(1, 5).macro_f1, on(1, 6).macro_f1);
}

#[test]
fn a_model_does_not_differ_from_itself_and_a_better_one_does() {
    let (truth, good) = answers(1000, 900);
    let (_, worse) = answers(1000, 800);
    let same = paired_difference(&truth, &good, &good, 1);
    assert_eq!((same.value, same.low, same.high), (0.0, 0.0, 0.0));
    let better = paired_difference(&truth, &good, &worse, 1);
    // 100 rows of 1,000 differ, all one way: the pairing makes it narrow, √(0.1 · 0.9 / 1000) · 1.96 = 0.0186.
    assert!(
        (better.value - 0.1).abs() < 1e-12 && better.low > 0.078 && better.high < 0.122,
        "{better:?}"
    );
    let turned = paired_difference(&truth, &worse, &good, 1);
    assert_eq!(
        (turned.value, turned.low, turned.high),
        (-better.value, -better.high, -better.low)
    );
}

#[test]
fn nothing_to_score_scores_nothing() {
    let none = evaluate(&names(2), &[], &[], 1);
    assert_eq!(
        (none.rows, none.accuracy.value, none.macro_f1.high),
        (0, 0.0, 0.0)
    );
    assert_eq!(paired_difference(&[], &[], &[], 1).value, 0.0);
}

proptest! {
    #[test]
    fn every_score_lies_between_nought_and_one_and_in_its_interval(
        rows in proptest::collection::vec((0_usize..4, 0_usize..4), 1..60), seed: u64
    ) {
        let (truth, predicted): (Vec<_>, Vec<_>) = rows.into_iter().unzip();
        let found = evaluate(&names(4), &truth, &predicted, seed);
        for interval in [found.accuracy, found.macro_f1] {
            prop_assert!(0.0 <= interval.low && interval.low <= interval.value);
            prop_assert!(interval.value <= interval.high && interval.high <= 1.0);
        }
        prop_assert_eq!(found.confusion.iter().flatten().sum::<usize>(), truth.len());
    }
}
