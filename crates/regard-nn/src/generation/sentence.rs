//! One source and the targets under way for it: which tokens may follow, which are followed, and what has ended.

use std::borrow::Cow;
use std::collections::HashSet;

use super::{GenerationOptions, Hypothesis, Sampling};
use crate::Noise;
use crate::models::sequence_to_sequence::SequenceToSequence;
use crate::operation::log_sum_exp;

/// One target under way.
#[derive(Clone, Debug, Default)]
pub(super) struct Open {
    pub(super) tokens: Vec<u32>,
    log_probability: f32,
    /// Not yet a hypothesis of its own: all begin as one.
    idle: bool,
}

/// One source under way.
pub(super) struct Sentence {
    /// Its place among the sources.
    pub(super) place: usize,
    pub(super) limit: usize,
    key: u64,
    pub(super) open: Vec<Open>,
    finished: Vec<Hypothesis>,
    /// So many of the finished have been scored for what they left out.
    covered: usize,
}

/// A token that a row may go on with.
#[derive(Clone, Copy, Debug)]
struct Candidate {
    row: usize,
    token: u32,
    log_probability: f32,
}

impl Sentence {
    pub(super) fn new(place: usize, source: &[u32], options: &GenerationOptions) -> Self {
        let open = (0..options.beam).map(|row| Open {
            // Lots differ from the first draw on; a search begins with one hypothesis.
            idle: row > 0 && options.sampling.is_none(),
            ..Open::default()
        });
        Self {
            place,
            limit: options.longest_target(source.len()),
            key: source.iter().fold(0xCBF2_9CE4_8422_2325, |key, id| {
                (key ^ u64::from(*id)).wrapping_mul(0x0000_0100_0000_01B3)
            }),
            open: open.collect(),
            finished: Vec::new(),
            covered: 0,
        }
    }

    /// Scores what has just finished for what it left out of its source. Nobody gains by it, so that the best that is under
    /// way still bounds what can come.
    pub(super) fn cover(&mut self, model: &SequenceToSequence, source: &[u32], penalty: f32) {
        for hypothesis in &mut self.finished[self.covered..] {
            hypothesis.score += penalty * coverage(model, source, &hypothesis.tokens);
        }
        self.covered = self.finished.len();
    }

    /// Whether nothing under way can still come back: all that are asked for are finished, and the best under way would
    /// score no better than the last of them even if it ended for nothing now. A peaked model fills the beam with bad
    /// endings early, so how many have ended says nothing.
    pub(super) fn is_done(&self, options: &GenerationOptions) -> bool {
        let under_way = self.open.iter().filter(|open| !open.idle);
        let best = under_way
            .map(|open| ranked(open.log_probability, open.tokens.len(), options))
            .max_by(f32::total_cmp);
        let Some(best) = best else { return true };
        if options.sampling.is_some() || self.finished.len() < options.n_best {
            return false;
        }
        let better = self.finished.iter().filter(|done| done.score >= best);
        better.count() >= options.n_best
    }

    /// Goes one token on; the row that each hypothesis continues.
    pub(super) fn advance(
        &mut self,
        logits: &[f32],
        vocabulary: usize,
        end: u32,
        options: &GenerationOptions,
    ) -> Vec<usize> {
        if let Some(sampling) = &options.sampling {
            return self.draw(logits, vocabulary, end, options, sampling);
        }
        let beam = options.beam;
        let mut candidates = Vec::with_capacity(2 * beam * beam);
        for (row, (open, logits)) in self.open.iter().zip(logits.chunks(vocabulary)).enumerate() {
            if open.idle {
                continue;
            }
            let penalized = penalized(&open.tokens, logits, options.repetition_penalty);
            let found = self.likeliest(&open.tokens, &penalized, end, options, 2 * beam);
            for (token, log_probability) in found {
                candidates.push(Candidate {
                    row,
                    token,
                    log_probability: open.log_probability + log_probability,
                });
            }
        }
        candidates.sort_by(|a, b| {
            b.log_probability
                .total_cmp(&a.log_probability)
                .then((a.row, a.token).cmp(&(b.row, b.token)))
        });
        let (mut next, mut rows) = (Vec::with_capacity(beam), Vec::with_capacity(beam));
        for (rank, candidate) in candidates.iter().enumerate() {
            if next.len() == beam {
                break;
            }
            let before = &self.open[candidate.row].tokens;
            if candidate.token == end {
                // An end that would not be followed as a token is not followed as an end.
                if rank < beam {
                    let cut = before.len() >= self.limit;
                    let finished = finish(before, candidate.log_probability, cut, options);
                    self.finished.push(finished);
                }
                continue;
            }
            let mut tokens = Vec::with_capacity(before.len() + 1);
            tokens.extend_from_slice(before);
            tokens.push(candidate.token);
            rows.push(candidate.row);
            next.push(Open {
                tokens,
                log_probability: candidate.log_probability,
                idle: false,
            });
        }
        while next.len() < beam {
            rows.push(0);
            next.push(Open {
                idle: true,
                ..Open::default()
            });
        }
        self.open = next;
        rows
    }

    /// One lot for each hypothesis.
    fn draw(
        &mut self,
        logits: &[f32],
        vocabulary: usize,
        end: u32,
        options: &GenerationOptions,
        sampling: &Sampling,
    ) -> Vec<usize> {
        for row in 0..self.open.len() {
            if self.open[row].idle {
                continue;
            }
            let before = std::mem::take(&mut self.open[row].tokens);
            let logits = &logits[row * vocabulary..][..vocabulary];
            let penalized = penalized(&before, logits, options.repetition_penalty);
            // All that may follow, the likeliest first.
            let allowed = self.likeliest(&before, &penalized, end, options, vocabulary);
            let seed = sampling.seed ^ self.key.wrapping_add(row as u64);
            let lot = Noise::at(seed, before.len() as u64).uniform(1)[0];
            let (token, log_probability) = lot_of(&allowed, sampling, lot);
            let log_probability = self.open[row].log_probability + log_probability;
            if token == end {
                let cut = before.len() >= self.limit;
                self.finished
                    .push(finish(&before, log_probability, cut, options));
                self.open[row].idle = true;
            } else {
                self.open[row].log_probability = log_probability;
                self.open[row].tokens = [before, vec![token]].concat();
            }
        }
        (0..self.open.len()).collect()
    }

    /// The `count` likeliest tokens that may follow with the logarithms of their probabilities, the likeliest first, equals by
    /// their number. One pass over the logits for the sum and one for the largest; nothing is copied.
    fn likeliest(
        &self,
        before: &[u32],
        logits: &[f32],
        end: u32,
        options: &GenerationOptions,
        count: usize,
    ) -> Vec<(u32, f32)> {
        let log_sum = log_sum_exp(logits);
        let only = match options.prefix.get(before.len()) {
            Some(forced) => Some(*forced),
            None => (before.len() >= self.limit).then_some(end),
        };
        if let Some(only) = only {
            return vec![(only, logits[only as usize] - log_sum)];
        }
        let mut forbidden = repeats(before, options.no_repeat);
        forbidden.extend(&options.forbidden);
        forbidden.extend((before.len() < options.min_length).then_some(end));
        // So many that enough are left.
        let mut found = most(logits, count.saturating_add(forbidden.len()));
        found.retain(|(token, logit)| *logit > f32::NEG_INFINITY && !forbidden.contains(token));
        found.truncate(count);
        found.iter_mut().for_each(|(_, logit)| *logit -= log_sum);
        found
    }

    /// What was finished, the best first.
    pub(super) fn best(mut self, count: usize) -> Vec<Hypothesis> {
        self.finished.sort_by(|a, b| {
            b.score
                .total_cmp(&a.score)
                .then_with(|| a.tokens.cmp(&b.tokens))
        });
        self.finished.truncate(count.max(1));
        self.finished
    }
}

/// The logits with those of tokens that were written divided by the penalty, or multiplied where negative.
fn penalized<'a>(before: &[u32], logits: &'a [f32], penalty: f32) -> Cow<'a, [f32]> {
    if penalty == 1.0 {
        return Cow::Borrowed(logits);
    }
    let mut values = logits.to_vec();
    let written: HashSet<u32> = before.iter().copied().collect();
    for token in written {
        let value = &mut values[token as usize];
        *value = match *value > 0.0 {
            true => *value / penalty,
            false => *value * penalty,
        };
    }
    Cow::Owned(values)
}

fn finish(
    tokens: &[u32],
    log_probability: f32,
    cut: bool,
    options: &GenerationOptions,
) -> Hypothesis {
    Hypothesis {
        tokens: tokens.to_vec(),
        log_probability,
        score: ranked(log_probability, tokens.len(), options),
        cut,
    }
}

/// `Σ_i ln min(Σ_t a_ti, 1)`: 0 where every source token was looked at with a whole weight, all target tokens together.
fn coverage(model: &SequenceToSequence, source: &[u32], target: &[u32]) -> f32 {
    let layers = model.source_weights(source, target);
    let mut seen = vec![0.0_f32; source.len()];
    for weights in &layers {
        // [1, heads, target, source]: summed over the target, averaged over heads and layers.
        let share = 1.0 / (layers.len() * weights.dims()[1]) as f32;
        let weights = weights.clone().into_data();
        let weights: Vec<f32> = weights.iter::<f32>().collect();
        for row in weights.chunks(source.len()) {
            let sums = seen.iter_mut().zip(row);
            sums.for_each(|(sum, weight)| *sum += share * weight);
        }
    }
    seen.iter()
        .map(|sum| sum.clamp(f32::MIN_POSITIVE, 1.0).ln())
        .sum()
}

/// The score of a target of so many tokens and an end.
fn ranked(log_probability: f32, tokens: usize, options: &GenerationOptions) -> f32 {
    log_probability / ((tokens + 1) as f32).powf(options.length_penalty)
}

/// The tokens that would make a run of `length` tokens occur a second time.
fn repeats(before: &[u32], length: usize) -> Vec<u32> {
    if length == 0 || before.len() < length {
        return Vec::new();
    }
    let last = &before[before.len() + 1 - length..];
    before
        .windows(length)
        .filter(|window| window[..length - 1] == *last)
        .map(|window| window[length - 1])
        .collect()
}

/// The `count` largest values above −∞ with their places, largest first, equals by their place.
fn most(values: &[f32], count: usize) -> Vec<(u32, f32)> {
    /// Values that are skipped together where none of them is among the largest: nearly always, with a vocabulary.
    const TOGETHER: usize = 64;
    if 4 * count >= values.len() {
        let mut all: Vec<(u32, f32)> = (0..).zip(values.iter().copied()).collect();
        all.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        all.truncate(count);
        return all;
    }
    let mut found: Vec<(u32, f32)> = Vec::with_capacity(count + 1);
    // What the next value must exceed.
    let mut least = f32::NEG_INFINITY;
    for (chunk, values) in values.chunks(TOGETHER).enumerate() {
        let exceeds = values
            .iter()
            .fold(false, |any, value| any | (*value > least));
        if !exceeds {
            continue;
        }
        for (at, value) in values.iter().enumerate() {
            if *value > least {
                let place = (chunk * TOGETHER + at) as u32;
                let rank = found.partition_point(|old| old.1 >= *value);
                found.insert(rank, (place, *value));
                found.truncate(count);
                if found.len() == count {
                    least = found[count - 1].1;
                }
            }
        }
    }
    found
}

/// The token that a number of `0.0..1.0` stands for, of those that may follow, the likeliest first; and the logarithm of its
/// probability before temperature and bounds.
fn lot_of(allowed: &[(u32, f32)], sampling: &Sampling, lot: f32) -> (u32, f32) {
    let count = match sampling.top_k {
        0 => allowed.len(),
        count => count.min(allowed.len()),
    };
    let ranked = &allowed[..count];
    let Some(first) = ranked.first().copied() else {
        return (0, f32::NEG_INFINITY);
    };
    let weight = |value: f32| f64::from((value - first.1) / sampling.temperature.max(1e-6)).exp();
    let total: f64 = ranked.iter().map(|(_, value)| weight(*value)).sum();
    let (mut kept, mut mass) = (0, 0.0);
    for (_, value) in ranked {
        mass += weight(*value);
        kept += 1;
        if mass >= f64::from(sampling.top_p) * total {
            break;
        }
    }
    let mut left = f64::from(lot) * mass;
    for (token, value) in &ranked[..kept] {
        left -= weight(*value);
        if left < 0.0 {
            return (*token, *value);
        }
    }
    first
}
