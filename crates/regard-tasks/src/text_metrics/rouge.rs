//! ROUGE-1, ROUGE-2 and ROUGE-L (Lin 2004), as Google's `rouge_score` computes them.

use std::collections::HashMap;

use super::{CorpusScore, stem};

/// The mean over the texts of the F₁ score of shared words, pairs of words, or the longest common subsequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rouge {
    /// What is shared.
    pub kind: RougeKind,
    /// Words of more than three letters are cut to their stems (Porter 1980, with NLTK's changes).
    pub stemming: bool,
}

/// What ROUGE counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RougeKind {
    /// Runs of so many words.
    Runs(usize),
    /// The longest common subsequence of words.
    Longest,
}

impl Rouge {
    /// ROUGE-n.
    pub fn runs(n: usize, stemming: bool) -> Self {
        Self {
            kind: RougeKind::Runs(n),
            stemming,
        }
    }

    /// ROUGE-L.
    pub fn longest(stemming: bool) -> Self {
        Self {
            kind: RougeKind::Longest,
            stemming,
        }
    }

    /// Runs of ASCII letters and digits, in lower case: other scripts have no words here.
    fn words(&self, text: &str) -> Vec<String> {
        let lower = text.to_lowercase();
        let words = lower
            .split(|letter: char| !letter.is_ascii_lowercase() && !letter.is_ascii_digit())
            .filter(|word| !word.is_empty());
        let stemmed = |word: &str| match self.stemming && word.len() > 3 {
            true => stem(word),
            false => word.to_owned(),
        };
        words.map(stemmed).collect()
    }
}

impl CorpusScore for Rouge {
    /// The text's own F₁, and 1 for the text.
    fn count(&self, hypothesis: &str, reference: &str) -> Vec<f64> {
        let (hypothesis, reference) = (self.words(hypothesis), self.words(reference));
        let (shared, found, wanted) = match self.kind {
            RougeKind::Runs(n) => {
                let runs = |words: &[String]| (words.len() + 1).saturating_sub(n);
                (
                    shared_runs(&hypothesis, &reference, n),
                    runs(&hypothesis),
                    runs(&reference),
                )
            }
            RougeKind::Longest => (
                longest_common(&hypothesis, &reference),
                hypothesis.len(),
                reference.len(),
            ),
        };
        let precision = shared as f64 / found.max(1) as f64;
        let recall = shared as f64 / wanted.max(1) as f64;
        let f = match shared {
            0 => 0.0,
            _ => 2.0 * precision * recall / (precision + recall),
        };
        vec![f, 1.0]
    }

    fn score(&self, counts: &[f64]) -> f64 {
        match counts {
            [sum, texts] if *texts > 0.0 => 100.0 * sum / texts,
            _ => 0.0,
        }
    }

    fn signature(&self) -> String {
        let kind = match self.kind {
            RougeKind::Runs(n) => format!("rouge{n}"),
            RougeKind::Longest => "rougeL".to_owned(),
        };
        let stemmer = if self.stemming { "porter" } else { "no" };
        format!("{kind}|f1|stemmer:{stemmer}|rouge_score:0.1.2")
    }
}

fn shared_runs(a: &[String], b: &[String], n: usize) -> usize {
    let mut left: HashMap<&[String], usize> = HashMap::new();
    for run in b.windows(n) {
        *left.entry(run).or_default() += 1;
    }
    let take = |run: &&[String]| match left.get_mut(*run) {
        Some(count) if *count > 0 => {
            *count -= 1;
            true
        }
        _ => false,
    };
    a.windows(n).filter(take).count()
}

/// Length of the longest common subsequence, a row of the table at a time.
fn longest_common(a: &[String], b: &[String]) -> usize {
    let mut row = vec![0; b.len() + 1];
    for a in a {
        let mut diagonal = 0;
        for (j, b) in b.iter().enumerate() {
            let above = row[j + 1];
            row[j + 1] = match a == b {
                true => diagonal + 1,
                false => above.max(row[j]),
            };
            diagonal = above;
        }
    }
    row[b.len()]
}
