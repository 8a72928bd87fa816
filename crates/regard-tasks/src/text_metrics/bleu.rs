//! BLEU of a corpus (Papineni et al. 2002), as `sacrebleu` computes it (Post 2018).

use std::collections::HashMap;

use super::tokenize::BleuTokenizer;
use super::{CorpusScore, is_space, words};

/// Longest run of words that is counted.
const ORDER: usize = 4;

/// The geometric mean of the precisions of runs of 1 to 4 words, times the penalty for being shorter than the reference:
///
/// ```text
/// BLEU = 100 · min(1, e^(1 − r/c)) · exp(¼ Σ_n log(matched_n / total_n))
/// ```
///
/// A precision of 0 is smoothed by halving again and again, as mteval does (`exp`).
#[derive(Clone, Copy, Debug, Default)]
pub struct Bleu {
    /// How a text is cut into words.
    pub tokenizer: BleuTokenizer,
}

impl CorpusScore for Bleu {
    /// Length, length of the reference, and of each order the matched and all runs.
    fn count(&self, hypothesis: &str, reference: &str) -> Vec<f64> {
        let cut = |text: &str| self.tokenizer.cut(text.trim_end_matches(is_space));
        let (hypothesis, reference) = (cut(hypothesis), cut(reference));
        let hypothesis: Vec<&str> = words(&hypothesis).collect();
        let reference: Vec<&str> = words(&reference).collect();
        let mut counts = vec![hypothesis.len() as f64, reference.len() as f64];
        for n in 1..=ORDER {
            let mut left: HashMap<&[&str], usize> = HashMap::new();
            for run in reference.windows(n) {
                *left.entry(run).or_default() += 1;
            }
            let mut matched = 0_usize;
            for run in hypothesis.windows(n) {
                if let Some(count) = left.get_mut(run).filter(|count| **count > 0) {
                    *count -= 1;
                    matched += 1;
                }
            }
            counts.push(matched as f64);
            counts.push((hypothesis.len() + 1).saturating_sub(n) as f64);
        }
        counts
    }

    fn score(&self, counts: &[f64]) -> f64 {
        let [length, reference, runs @ ..] = counts else {
            return 0.0;
        };
        let (runs, _) = runs.as_chunks::<2>();
        if runs.iter().all(|[matched, _]| *matched == 0.0) {
            return 0.0;
        }
        let mut smoothing = 1.0;
        let mut sum = 0.0;
        for [matched, total] in runs {
            if *total == 0.0 {
                return 0.0;
            }
            let precision = if *matched == 0.0 {
                smoothing *= 2.0;
                100.0 / (smoothing * total)
            } else {
                100.0 * matched / total
            };
            sum += precision.ln();
        }
        let penalty = match length < reference {
            true => (1.0 - reference / length).exp(),
            false => 1.0,
        };
        penalty * (sum / ORDER as f64).exp()
    }

    fn signature(&self) -> String {
        let tokenizer = self.tokenizer.name();
        format!("nrefs:1|case:mixed|eff:no|tok:{tokenizer}|smooth:exp|version:2.6.0")
    }
}
