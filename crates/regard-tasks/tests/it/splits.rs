//! Splits: nothing is on both sides.

use std::collections::{HashMap, HashSet};

use proptest::prelude::*;
use regard_tasks::splits::hold_out;

fn texts(rows: usize) -> Vec<String> {
    (0..rows).map(|row| format!("text number {row}")).collect()
}

fn strs(texts: &[String]) -> Vec<&str> {
    texts.iter().map(String::as_str).collect()
}

#[test]
fn every_label_gives_its_share() {
    let texts = texts(1100);
    let labels: Vec<usize> = (0..1100)
        .map(|row| if row < 1000 { 0 } else { 1 + row % 2 })
        .collect();
    let split = hold_out(&strs(&texts), &labels, None, 0.1, 1);
    let held = |label| {
        split
            .held_out
            .iter()
            .filter(|row| labels[**row] == label)
            .count()
    };
    assert_eq!((held(0), held(1), held(2)), (100, 5, 5));
}

#[test]
fn a_label_with_one_row_is_learned_from() {
    for seed in 0..50 {
        let split = hold_out(&["a", "b", "c"], &[0, 1, 2], None, 0.5, seed);
        assert_eq!(split.train.len().max(1), split.train.len());
        let split = hold_out(
            &strs(&texts(21)),
            &[vec![0; 20], vec![1]].concat(),
            None,
            0.5,
            seed,
        );
        assert!(split.train.contains(&20));
    }
}

#[test]
fn another_seed_splits_otherwise_and_another_order_of_the_rows_does_not() {
    let texts = texts(200);
    let labels: Vec<usize> = (0..200).map(|row| row % 3).collect();
    let first = hold_out(&strs(&texts), &labels, None, 0.2, 1);
    assert_ne!(first, hold_out(&strs(&texts), &labels, None, 0.2, 2));
    let turned: Vec<&str> = strs(&texts).into_iter().rev().collect();
    let turned_labels: Vec<usize> = labels.iter().rev().copied().collect();
    let second = hold_out(&turned, &turned_labels, None, 0.2, 1);
    let held: HashSet<&str> = first
        .held_out
        .iter()
        .map(|row| texts[*row].as_str())
        .collect();
    assert_eq!(
        held,
        second.held_out.iter().map(|row| turned[*row]).collect()
    );
}

#[test]
fn a_few_large_groups_are_still_split() {
    let texts = texts(30);
    let groups: Vec<&str> = (0..30)
        .map(|row| if row < 20 { "large" } else { "small" })
        .collect();
    let labels: Vec<usize> = (0..30).map(|row| row % 2).collect();
    let split = hold_out(&strs(&texts), &labels, Some(&groups), 0.1, 1);
    assert_eq!(split.held_out, (20..30).collect::<Vec<_>>());
    let one = vec!["the same"; 30];
    assert!(
        hold_out(&strs(&texts), &labels, Some(&one), 0.1, 1)
            .held_out
            .is_empty()
    );
    assert!(hold_out(&[], &[], None, 0.1, 1).train.is_empty());
}

proptest! {
    #[test]
    fn groups_and_equal_texts_never_part(
        rows in proptest::collection::vec((0_usize..40, 0_usize..4, 0_usize..30), 2..150),
        fraction in 0.05_f64..0.5,
        seed: u64,
        grouped: bool,
    ) {
        let texts: Vec<String> = rows.iter().map(|row| format!("text {}{}", row.0, " ".repeat(row.1))).collect();
        let labels: Vec<usize> = rows.iter().map(|row| row.1).collect();
        let groups: Vec<String> = rows.iter().map(|row| format!("group {}", row.2)).collect();
        let named = strs(&groups);
        let groups = grouped.then_some(named.as_slice());
        let split = hold_out(&strs(&texts), &labels, groups, fraction, seed);
        prop_assert_eq!(&split, &hold_out(&strs(&texts), &labels, groups, fraction, seed));

        let mut all = [split.train.clone(), split.held_out.clone()].concat();
        all.sort_unstable();
        prop_assert_eq!(all, (0..rows.len()).collect::<Vec<_>>());
        prop_assert!(split.train.is_sorted() && split.held_out.is_sorted() && !split.train.is_empty());

        let held: HashSet<usize> = split.held_out.iter().copied().collect();
        let mut side: HashMap<&str, bool> = HashMap::new();
        for row in 0..rows.len() {
            for key in [Some(texts[row].trim()), groups.map(|groups| groups[row])].into_iter().flatten() {
                prop_assert_eq!(*side.entry(key).or_insert(held.contains(&row)), held.contains(&row), "{}", key);
            }
        }
    }
}
