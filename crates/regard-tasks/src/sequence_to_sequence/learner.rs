//! The writer as the trainer sees it: batches by tokens on both sides, loss, validation by what it writes.

use burn::tensor::Tensor;
use regard_kernels::threads;
use regard_nn::Noise;
use regard_nn::generation::{GenerationOptions, generate};
use regard_nn::models::sequence_to_sequence::SequenceToSequence;

use super::data::{Examples, Pairs};
use super::plan::Plan;
use super::vocabularies::{Vocabularies, drawn};
use super::{Kind, judge};
use crate::Result;
use crate::text_metrics::{CorpusScore, Statistics};
use crate::tokenizer::DroppingMerges;
use crate::trainer::{Learner, Validation, batches};

/// Where the data order's random numbers begin, far from those of the steps.
const DATA_ORDER: u64 = 1 << 40;
/// Where those are that draw the validation sources to be written.
const WHICH_ARE_WRITTEN: u64 = DATA_ORDER - 1;
/// Pairs in a batch at most.
const MOST_ROWS: usize = 512;
/// Validation sources that are written out after every epoch: enough to tell epochs apart by a BLEU point.
const WRITTEN: usize = 300;
/// Outputs that are shown after every epoch.
const SHOWN: usize = 3;

/// What one run learns from, and how.
pub(super) struct PairLearner<'a> {
    pub(super) kind: Kind,
    pub(super) train: &'a Examples,
    /// The texts of `train`.
    pub(super) learned: &'a Pairs,
    pub(super) validation: &'a Examples,
    pub(super) held_out: &'a Pairs,
    pub(super) vocabularies: &'a Vocabularies,
    /// What cuts the texts anew at every step, with BPE-dropout.
    pub(super) dropping: Option<[DroppingMerges; 2]>,
    pub(super) plan: &'a Plan,
}

impl Learner for PairLearner<'_> {
    type Model = SequenceToSequence;

    fn batches(&self, epoch: usize) -> Vec<Vec<usize>> {
        let lengths = self.lengths(self.train);
        let seed = self.plan.recipe.seed;
        let order = Noise::at(seed, DATA_ORDER + 2 * epoch as u64).permutation(lengths.len());
        let sorted = batches(&lengths, &order, MOST_ROWS, self.plan.batch_tokens);
        let order = Noise::at(seed, DATA_ORDER + 2 * epoch as u64 + 1).permutation(sorted.len());
        order
            .into_iter()
            .map(|index| sorted[index].clone())
            .collect()
    }

    fn loss(
        &self,
        model: &SequenceToSequence,
        rows: &[usize],
        noise: &mut Noise,
    ) -> Result<Tensor<1>> {
        let smoothing = self.plan.label_smoothing as f32;
        let drawn;
        let (examples, rows) = match &self.dropping {
            None => (self.train, rows),
            Some(merges) => {
                drawn = self.drawn(merges, rows, noise)?;
                (&drawn, &*Vec::from_iter(0..rows.len()))
            }
        };
        let (total, tokens) = loss(model, examples, rows, smoothing, noise);
        Ok(total / tokens as f32)
    }

    fn tokens(&self, rows: &[usize]) -> usize {
        rows.iter()
            .map(|row| self.train.sources[*row].len() + self.train.targets[*row].len() + 1)
            .sum()
    }

    fn is_hidden(&self, parameter: &str) -> bool {
        SequenceToSequence::is_hidden(parameter)
    }

    fn validate(&self, model: &SequenceToSequence) -> Result<Validation> {
        let lengths = self.lengths(self.validation);
        let order: Vec<usize> = (0..lengths.len()).collect();
        let batches = batches(&lengths, &order, MOST_ROWS, self.plan.batch_tokens);
        let pairs = self.validation;
        let losses = threads::side_by_side(&batches, |rows| {
            let (total, tokens) = loss(model, pairs, rows, 0.0, &mut Noise::off());
            (f64::from(total.into_scalar::<f32>()), tokens)
        });
        let sum: f64 = losses.iter().map(|(sum, _)| sum).sum();
        let count: usize = losses.iter().map(|(_, tokens)| tokens).sum();
        // Drawn from the whole held-out part, pairs that are too long to learn from among them.
        let mut drawn =
            Noise::at(self.plan.recipe.seed, WHICH_ARE_WRITTEN).permutation(self.held_out.len());
        drawn.truncate(WRITTEN);
        drawn.sort_unstable();
        let shown = self.held_out.select(&drawn);
        let mut sources = self.vocabularies.sources(&shown.sources)?;
        let limit = self.plan.model.max_source;
        sources.iter_mut().for_each(|source| source.truncate(limit));
        let options = GenerationOptions {
            beam: 1,
            max_length: self.plan.model.max_target,
            ..GenerationOptions::default()
        };
        let written = write(model, self.vocabularies, &sources, &options)?;
        let measure = |metric: &dyn CorpusScore| {
            Statistics::new(metric, &written, &shown.targets).score(metric)
        };
        let metrics = judge::metrics(self.kind);
        let scores: Vec<String> = metrics
            .iter()
            .map(|(name, metric)| format!("{name} {:.1}", measure(metric.as_ref())))
            .collect();
        let samples = (0..shown.len().min(SHOWN)).map(|at| {
            format!(
                "{} → {} (reference: {})",
                shortened(&shown.sources[at]),
                shortened(&written[at]),
                shortened(&shown.targets[at])
            )
        });
        Ok(Validation {
            loss: sum / count.max(1) as f64,
            score: measure(judge::deciding(self.kind).as_ref()),
            said: scores.join("  "),
            samples: samples.collect(),
        })
    }
}

impl PairLearner<'_> {
    fn lengths(&self, examples: &Examples) -> Vec<usize> {
        let pairs = examples.sources.iter().zip(&examples.targets);
        pairs
            .map(|(source, target)| source.len().max(target.len() + 1))
            .collect()
    }

    /// These rows, cut by the lots of this step. A text that would then be too long stays cut as it was.
    fn drawn(
        &self,
        [sources, targets]: &[DroppingMerges; 2],
        rows: &[usize],
        noise: &mut Noise,
    ) -> Result<Examples> {
        let (plan, learned) = (self.plan, self.learned);
        let mut examples = Examples::default();
        for row in rows {
            let pair = self.train.rows[*row];
            let mut cut = |merges, text: &str, usual: &Vec<u32>, most| -> Result<Vec<u32>> {
                let pieces = drawn(merges, text, plan.bpe_dropout, noise)?;
                Ok(if pieces.len() > most {
                    usual.clone()
                } else {
                    pieces
                })
            };
            let (most_source, most_target) = (plan.model.max_source, plan.model.max_target);
            let usual = &self.train.sources[*row];
            let source = cut(sources, &learned.sources[pair], usual, most_source)?;
            let usual = &self.train.targets[*row];
            let target = cut(targets, &learned.targets[pair], usual, most_target)?;
            examples.sources.push(source);
            examples.targets.push(target);
        }
        Ok(examples)
    }
}

/// Summed loss of the rows and how many tokens it is of.
fn loss(
    model: &SequenceToSequence,
    examples: &Examples,
    rows: &[usize],
    smoothing: f32,
    noise: &mut Noise,
) -> (Tensor<1>, usize) {
    let source: Vec<&[u32]> = rows
        .iter()
        .map(|row| examples.sources[*row].as_slice())
        .collect();
    let target: Vec<&[u32]> = rows
        .iter()
        .map(|row| examples.targets[*row].as_slice())
        .collect();
    model.loss(&source, &target, smoothing, noise)
}

/// Hypotheses of a batch at most: 400 texts on two threads take 129 MB and 2.9 s, with 160 of them 155 MB and 2.6 s.
const WRITE_TOGETHER: usize = 100;
/// Positions that the hypotheses of all batches under way may reach at most, together: there is memory for their keys and values
/// from the beginning, 9 MiB with the smallest preset. Long texts are written in smaller batches, …
const REACH: usize = 32 * WRITE_TOGETHER;
/// … and batches are smaller where several threads write one each; not smaller than for so many of them.
const MOST_THREADS: usize = 4;

/// Writes a text for each source: sources of similar length together, answers in the order of the sources.
pub(super) fn write(
    model: &SequenceToSequence,
    vocabularies: &Vocabularies,
    sources: &[Vec<u32>],
    options: &GenerationOptions,
) -> Result<Vec<String>> {
    let best = hypotheses(model, sources, options);
    let texts = best.iter().map(|best| {
        let tokens = best.first().map_or(&[][..], |one| one.tokens.as_slice());
        vocabularies.text(tokens)
    });
    texts.collect()
}

/// The hypotheses for each source, in the order of the sources.
pub(super) fn hypotheses(
    model: &SequenceToSequence,
    sources: &[Vec<u32>],
    options: &GenerationOptions,
) -> Vec<Vec<regard_nn::generation::Hypothesis>> {
    let mut order: Vec<usize> = (0..sources.len()).collect();
    order.sort_by_key(|row| std::cmp::Reverse(sources[*row].len()));
    let threads = rayon::current_num_threads().min(MOST_THREADS);
    let mut batches: Vec<&[usize]> = Vec::new();
    let mut rest = order.as_slice();
    while let Some(longest) = rest.first() {
        let reach = options.longest_target(sources[*longest].len());
        let rows = WRITE_TOGETHER.min(REACH / threads / reach);
        let (batch, others) = rest.split_at((rows / options.beam).clamp(1, rest.len()));
        batches.push(batch);
        rest = others;
    }
    let write = |rows: &&[usize]| {
        let batch: Vec<&[u32]> = rows.iter().map(|row| sources[*row].as_slice()).collect();
        generate(model, &batch, options)
    };
    let mut answers = vec![Vec::new(); sources.len()];
    // The longest texts come first. A step of writing has products that are too small to share: with two threads on each, 1.1 of
    // two cores were busy.
    let written = threads::side_by_side(&batches, write);
    for (rows, written) in batches.iter().zip(written) {
        for (row, written) in rows.iter().zip(written) {
            answers[*row] = written;
        }
    }
    answers
}

fn shortened(text: &str) -> String {
    const SHOWN: usize = 70;
    match text.char_indices().nth(SHOWN) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_owned(),
    }
}
