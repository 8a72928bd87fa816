//! chrF and chrF++ of a corpus (Popović 2015, 2017), as `sacrebleu` computes them.

use std::collections::HashMap;
use std::hash::Hash;

use super::{CorpusScore, is_space, words};

/// Longest run of characters that is counted.
const CHARACTERS: usize = 6;
/// Recall counts so many times as much as precision, squared.
const BETA: f64 = 2.0;

/// The F₂ score of the mean precision and mean recall of runs of 1 to 6 characters, blanks left out.
#[derive(Clone, Copy, Debug, Default)]
pub struct Chrf {
    /// Longest run of words that is counted as well: 0 for chrF, 2 for chrF++.
    pub words: usize,
}

impl CorpusScore for Chrf {
    /// Of each order: the hypothesis's runs, the reference's, and those in both.
    fn count(&self, hypothesis: &str, reference: &str) -> Vec<f64> {
        let letters =
            |text: &str| -> Vec<char> { text.chars().filter(|c| !is_space(*c)).collect() };
        let (h, r) = (letters(hypothesis), letters(reference));
        let mut counts = Vec::with_capacity(3 * (CHARACTERS + self.words));
        for n in 1..=CHARACTERS {
            counts.extend(matches(&h, &r, n));
        }
        let (h, r) = (parted(hypothesis), parted(reference));
        for n in 1..=self.words {
            counts.extend(matches(&h, &r, n));
        }
        counts
    }

    fn score(&self, counts: &[f64]) -> f64 {
        let (mut precision, mut recall, mut orders) = (0.0, 0.0, 0.0);
        for [hypothesis, reference, matched] in counts.as_chunks::<3>().0 {
            if *hypothesis > 0.0 && *reference > 0.0 {
                precision += matched / hypothesis;
                recall += matched / reference;
                orders += 1.0;
            }
        }
        if precision + recall == 0.0 {
            return 0.0;
        }
        (precision, recall) = (precision / orders, recall / orders);
        let factor = BETA * BETA;
        100.0 * (1.0 + factor) * precision * recall / (factor * precision + recall)
    }

    fn signature(&self) -> String {
        let words = self.words;
        format!("nrefs:1|case:mixed|eff:yes|nc:{CHARACTERS}|nw:{words}|space:no|version:2.6.0")
    }
}

fn matches<T: Hash + Eq>(hypothesis: &[T], reference: &[T], n: usize) -> [f64; 3] {
    let runs = |all: &[T]| (all.len() + 1).saturating_sub(n) as f64;
    let mut left: HashMap<&[T], usize> = HashMap::new();
    for run in reference.windows(n) {
        *left.entry(run).or_default() += 1;
    }
    let mut matched = 0.0;
    for run in hypothesis.windows(n) {
        if let Some(count) = left.get_mut(run).filter(|count| **count > 0) {
            *count -= 1;
            matched += 1.0;
        }
    }
    // Runs are not counted where the reference has none as long.
    let found = if runs(reference) > 0.0 {
        runs(hypothesis)
    } else {
        0.0
    };
    [found, runs(reference), matched]
}

/// Words with one mark parted from their end, or else from their beginning.
fn parted(text: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    for word in words(text) {
        let (first, last) = (word.chars().next(), word.chars().next_back());
        let single = word.chars().nth(1).is_none();
        let mark =
            |letter: Option<char>| letter.is_some_and(|letter| letter.is_ascii_punctuation());
        if !single && mark(last) {
            let (rest, end) = word.split_at(word.len() - 1);
            parts.extend([rest, end]);
        } else if !single && mark(first) {
            let (start, rest) = word.split_at(1);
            parts.extend([start, rest]);
        } else {
            parts.push(word);
        }
    }
    parts
}
