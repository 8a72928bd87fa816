//! The model beside something simpler, on the same rows: honest scores by construction.

use super::corpus::{Corpus, Part};
use super::{Explanation, TextClassifier};
use crate::Result;
use crate::metrics::{Evaluation, evaluate};
use crate::report::Rival;
use crate::rivals::{MAJORITY, MEAN, most_frequent, rival, verdict};

/// What each contender answered, row by row.
pub(super) struct Judged {
    pub(super) predicted: Vec<usize>,
    pub(super) without_attention: Option<Vec<usize>>,
    pub(super) linear: Option<Vec<usize>>,
}

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
