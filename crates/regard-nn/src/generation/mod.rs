//! Choosing what a sequence-to-sequence model writes: greedy and beam search, sampling, forced scoring.
//!
//! What comes out for a source does not depend on which others are in the batch: every choice is a function of the
//! source, the options and the model, and equal scores are settled by hypothesis and token number.

mod sentence;

use rayon::prelude::*;

use crate::Noise;
use crate::models::sequence_to_sequence::SequenceToSequence;
use crate::operation::{log_sum_exp, numbers};
use sentence::Sentence;

/// How to choose.
#[derive(Clone, Debug, PartialEq)]
pub struct GenerationOptions {
    /// Hypotheses that are followed; 1 = greedy.
    pub beam: usize,
    /// Hypotheses that come back, the best first; at most `beam`.
    pub n_best: usize,
    /// A finished hypothesis scores `log p / length^penalty`: 0 prefers short ones.
    pub length_penalty: f32,
    /// What a finished hypothesis is given for what it left out of the source: this times `Σ_i ln min(Σ_t a_ti, 1)`, where
    /// a_ti is the attention over source token i with which token t was written, averaged over layers and heads (Wu et al.
    /// 2016). Costs a forward pass for each finished hypothesis; 0 = off.
    pub coverage_penalty: f32,
    /// No run of so many tokens occurs twice; 0 = no such rule.
    pub no_repeat: usize,
    /// Logits of tokens that were written are divided by this, or multiplied where negative (Keskar et al. 2019); 1 = off.
    pub repetition_penalty: f32,
    /// Tokens before an end may come.
    pub min_length: usize,
    /// Tokens of a target at most; a source of `n` tokens also bounds it at `2 n + 16`.
    pub max_length: usize,
    /// Tokens with which every target begins.
    pub prefix: Vec<u32>,
    /// Tokens that are never written.
    pub forbidden: Vec<u32>,
    /// Draw lots instead of searching.
    pub sampling: Option<Sampling>,
}

/// How lots are drawn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    /// Logits are divided by this.
    pub temperature: f32,
    /// Only the so many most probable tokens; 0 = all.
    pub top_k: usize,
    /// Only the most probable tokens that together have this probability; 1 = all.
    pub top_p: f32,
    /// Seed of the lots; the source is part of it, its place in the batch is not.
    pub seed: u64,
}

impl Default for GenerationOptions {
    fn default() -> Self {
        Self {
            beam: 5,
            n_best: 1,
            length_penalty: 1.0,
            coverage_penalty: 0.0,
            no_repeat: 0,
            repetition_penalty: 1.0,
            min_length: 0,
            max_length: 256,
            prefix: Vec::new(),
            forbidden: vec![0, 1],
            sampling: None,
        }
    }
}

impl GenerationOptions {
    /// Tokens at most of the target of a source of so many.
    pub fn longest_target(&self, source: usize) -> usize {
        let limit = self.max_length.min(2 * source + 16);
        limit.max(self.prefix.len() + 1)
    }
}

/// A target that was written.
#[derive(Clone, Debug, PartialEq)]
pub struct Hypothesis {
    /// Its tokens, without the end.
    pub tokens: Vec<u32>,
    /// Natural logarithm of its probability, the end included.
    pub log_probability: f32,
    /// By what hypotheses are ranked.
    pub score: f32,
    /// The bound on its length ended it, not the model.
    pub cut: bool,
}

/// Writes a target, or the `n_best`, for each source.
///
/// # Panics
///
/// If a source is empty or `beam` is 0.
pub fn generate(
    model: &SequenceToSequence,
    sources: &[&[u32]],
    options: &GenerationOptions,
) -> Vec<Vec<Hypothesis>> {
    assert!(
        options.beam > 0,
        "generation follows at least one hypothesis"
    );
    if sources.is_empty() {
        return Vec::new();
    }
    let beam = options.beam;
    let end = model.end();
    let mut sentences: Vec<Sentence> = sources
        .iter()
        .enumerate()
        .map(|(place, source)| Sentence::new(place, source, options))
        .collect();
    let longest = sentences.iter().map(|one| one.limit).max().unwrap_or(0);
    let mut decoding = model.start(sources, beam, longest + 1);
    let mut answers = vec![Vec::new(); sources.len()];
    let mut tokens = vec![end; sources.len() * beam];
    while !sentences.is_empty() {
        let logits = model.step(&mut decoding, &tokens);
        let vocabulary = end as usize + 1;
        let rows: Vec<Vec<usize>> = sentences
            .par_iter_mut()
            .zip(logits.par_chunks(beam * vocabulary))
            .map(|(sentence, logits)| sentence.advance(logits, vocabulary, end, options))
            .collect();
        let order: Vec<usize> = rows
            .iter()
            .enumerate()
            .flat_map(|(at, rows)| rows.iter().map(move |row| at * beam + row))
            .collect();
        decoding.reorder(&order);
        if options.coverage_penalty > 0.0 {
            for sentence in &mut sentences {
                let source = sources[sentence.place];
                sentence.cover(model, source, options.coverage_penalty);
            }
        }
        let (kept, mut going) = (sentences.len(), Vec::with_capacity(sentences.len()));
        let mut still = Vec::with_capacity(kept);
        for (at, sentence) in sentences.into_iter().enumerate() {
            if sentence.is_done(options) {
                let place = sentence.place;
                answers[place] = sentence.best(options.n_best);
            } else {
                going.push(at);
                still.push(sentence);
            }
        }
        if !still.is_empty() {
            decoding.keep(&going);
        }
        sentences = still;
        tokens = sentences
            .iter()
            .flat_map(|sentence| &sentence.open)
            .map(|open| open.tokens.last().copied().unwrap_or(end))
            .collect();
    }
    answers
}

/// Natural logarithm of the probability of each token of each target and of its end, given the source.
///
/// # Panics
///
/// If there are not as many targets as sources, or a source is empty.
pub fn score(model: &SequenceToSequence, sources: &[&[u32]], targets: &[&[u32]]) -> Vec<Vec<f32>> {
    let logits = model.forward(sources, targets, &mut Noise::off());
    let vocabulary = logits.dims()[1];
    let logits = numbers(logits);
    let mut rows = logits.chunks(vocabulary);
    let end = model.end();
    targets
        .iter()
        .map(|target| {
            target
                .iter()
                .chain([&end])
                .zip(&mut rows)
                .map(|(token, row)| row[*token as usize] - log_sum_exp(row))
                .collect()
        })
        .collect()
}
