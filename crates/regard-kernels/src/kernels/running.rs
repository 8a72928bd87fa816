//! The running softmax of the forward pass: how a block of scores becomes weights, and what was summed before is rescaled.

use super::arithmetic::{Arithmetic, Left};
use super::exponential::{exp2, exp2_short};
use super::scores::Block;
use super::tiles::{LINE, from_mut};
use super::words;
use crate::problem::Problem;
use crate::simd::{Kernel, Simd};

/// How far (in powers of 2) a score may exceed the reference point before that is moved.
const HEADROOM: f32 = 8.0;
/// In pairs, what the weights of a block may add up to before the reference point is moved: 2¹⁴, a block of 64 keys at the headroom.
const ENOUGH: f32 = 16_384.0;

/// What the queries of a task have seen so far, one lane each.
pub(super) struct Running<'r> {
    /// `o`, transposed, for two vectors of queries after the other: `[panel][value_dim][2 · LANES]`. Rows of all queries, 512
    /// bytes apart, would share few sets of the first cache.
    pub(super) out_t: &'r mut [f32],
    /// `value_dim` in whole vectors.
    pub(super) out_width: usize,
    /// The reference point.
    pub(super) m: &'r mut [f32],
    /// The sum of the weights.
    pub(super) l: &'r mut [f32],
}

impl Running<'_> {
    /// Moves the reference points of a vector of queries to `highest`, where that is above `reach`, and rescales what was summed:
    /// lanes from `panel + vector` on in the state.
    #[inline(always)]
    fn move_reference<S: Simd>(
        &mut self,
        simd: S,
        highest: S::Vector,
        reach: S::Vector,
        (panel, vector): (usize, usize),
    ) {
        if !simd.any_above(highest, reach) {
            return;
        }
        let lane = panel + vector;
        let m = simd.load(&self.m[lane..]);
        let moved = simd.select_below(reach, highest, highest, m);
        // 2⁰ = 1 exactly for the queries that keep their reference point: a query's result does not depend on its
        // neighbours. From −∞, the factor is 2^−∞ = 0.
        let factor = exp2(simd, simd.sub(m, moved));
        let factor = simd.select_below(m, moved, factor, simd.splat(1.0));
        simd.store(
            simd.mul(simd.load(&self.l[lane..]), factor),
            &mut self.l[lane..],
        );
        let out = from_mut(self.out_t, panel * self.out_width);
        for row in out.chunks_exact_mut(2 * S::LANES).take(self.out_width) {
            let row = &mut row[vector..];
            simd.store(simd.mul(simd.load(row), factor), row);
        }
        simd.store(moved, &mut self.m[lane..]);
    }

    /// Turns a block of scores into weights, for one vector of queries.
    #[inline(always)]
    pub(super) fn weigh<S: Simd>(
        &mut self,
        simd: S,
        keys: usize,
        factor: f32,
        (scores, from, step): (&mut [f32], usize, usize),
        at: (usize, usize),
    ) {
        let lane = at.0 + at.1;
        let highest = highest(simd, keys, factor, (scores, from, step));
        let reach = simd.add(simd.load(&self.m[lane..]), simd.splat(HEADROOM));
        self.move_reference(simd, highest, reach, at);
        let m = reference(simd, &self.m[lane..]);
        let (factor, minus_m) = (simd.splat(factor), simd.sub(simd.splat(0.0), m));
        let mut sum = simd.splat(0.0);
        for row in scores.chunks_exact_mut(step).take(keys) {
            let row = &mut row[from..];
            let weight = exp2(simd, simd.multiply_add(factor, simd.load(row), minus_m));
            sum = simd.add(sum, weight);
            simd.store(weight, row);
        }
        self.add_weight(simd, lane, sum);
    }

    /// As [`Running::weigh`], rounded to bf16, into `words` for two keys each; zeros up to whole blocks of them.
    ///
    /// Looking for the highest score first takes an eighth as many instructions as this. So a query keeps its reference point until
    /// the weights of a block say that it was too low, and the block is weighed again.
    #[inline(always)]
    pub(super) fn weigh_in_words<S: Simd>(
        &mut self,
        simd: S,
        keys: usize,
        factor: f32,
        scores: (&[f32], usize, usize),
        at: (usize, usize),
        words: &mut [f32],
    ) {
        let lane = at.0 + at.1;
        let (lowest, above) = (simd.splat(f32::NEG_INFINITY), simd.splat(f32::INFINITY));
        let mut reach = lowest;
        if simd.any_above(simd.load(&self.m[lane..]), lowest) {
            let sum = weighed(simd, keys, factor, scores, &self.m[lane..], words);
            // A query that has seen nothing yet moves to what it sees first, whatever its neighbours do.
            let known = simd.select_below(simd.splat(ENOUGH), sum, lowest, above);
            reach = simd.select_below(lowest, simd.load(&self.m[lane..]), known, lowest);
            if !simd.any_above(above, reach) {
                return self.add_weight(simd, lane, sum);
            }
        }
        let highest = highest(simd, keys, factor, scores);
        self.move_reference(simd, highest, reach, at);
        let sum = weighed(simd, keys, factor, scores, &self.m[lane..], words);
        self.add_weight(simd, lane, sum);
    }

    /// `l += sum`, for a vector of queries.
    #[inline(always)]
    fn add_weight<S: Simd>(&mut self, simd: S, lane: usize, sum: S::Vector) {
        simd.store(
            simd.add(simd.load(&self.l[lane..]), sum),
            &mut self.l[lane..],
        );
    }

    /// `out[i] += w_ij v_j` pair by pair, for the visible pairs only: 0 · NaN is NaN, and a value that is not seen must
    /// not reach the row.
    pub(super) fn add_visible(
        &mut self,
        arithmetic: Arithmetic<'_>,
        problem: &Problem<'_>,
        block: &Block,
        v: Left<'_>,
        (weights, step): (&[f32], usize),
        panel: usize,
    ) {
        let out = from_mut(self.out_t, panel * self.out_width);
        let value_dim = problem.v.dim().3;
        for (i, query) in block.queries.clone().enumerate() {
            for (j, _) in block
                .keys
                .clone()
                .enumerate()
                .filter(|&(_, key)| problem.sees(block.batch, block.head, query, key))
            {
                for c in 0..value_dim {
                    let v = v.at(arithmetic, c, j);
                    out[c * step + i] += weights[j * step + i] * v;
                }
            }
        }
    }
}

/// The highest score of each query, times `factor`, for a vector of queries: lanes from `from` on in a block whose rows are `step` apart.
#[inline(always)]
fn highest<S: Simd>(
    simd: S,
    keys: usize,
    factor: f32,
    (scores, from, step): (&[f32], usize, usize),
) -> S::Vector {
    // Four maxima side by side: one would wait for itself at each key. `max` gives its second argument where a score is
    // NaN; that NaN reaches the row through the sum of the weights.
    let lowest = simd.splat(f32::NEG_INFINITY);
    let (mut a, mut b, mut c, mut d) = (lowest, lowest, lowest, lowest);
    let (fours, rest) = scores[..keys * step].split_at(keys / 4 * 4 * step);
    for rows in fours.chunks_exact(4 * step) {
        a = simd.max(simd.load(&rows[from..]), a);
        b = simd.max(simd.load(&rows[step + from..]), b);
        c = simd.max(simd.load(&rows[2 * step + from..]), c);
        d = simd.max(simd.load(&rows[3 * step + from..]), d);
    }
    for row in rest.chunks_exact(step) {
        a = simd.max(simd.load(&row[from..]), a);
    }
    let highest = simd.max(simd.max(a, b), simd.max(c, d));
    simd.mul(simd.splat(factor), highest)
}

/// The reference point of a vector of queries; 0 for a query that has seen nothing yet: it has only scores of −∞, and 2^(−∞ − 0) = 0.
#[inline(always)]
fn reference<S: Simd>(simd: S, m: &[f32]) -> S::Vector {
    let m = simd.load(m);
    simd.select_below(simd.splat(f32::NEG_INFINITY), m, m, simd.splat(0.0))
}

/// Weighs a block for a vector of queries by the reference points `m`, into `words`; the sums of the weights.
#[inline(always)]
fn weighed<S: Simd>(
    simd: S,
    keys: usize,
    factor: f32,
    scores: (&[f32], usize, usize),
    m: &[f32],
    words: &mut [f32],
) -> S::Vector {
    let mut sum = [0.0; LINE];
    simd.run(InWords {
        keys,
        factor,
        scores,
        m,
        words,
        sum: &mut sum,
    });
    simd.load(&sum)
}

/// Writes 2^(factor · score − m) of each pair of a vector of queries into `words`, and the sums before they are rounded. Out of line:
/// in the whole of a pass the compiler would load the constants anew for each pair.
struct InWords<'r> {
    keys: usize,
    factor: f32,
    /// Lanes from the second on, in rows that are as far apart as the third says.
    scores: (&'r [f32], usize, usize),
    m: &'r [f32],
    words: &'r mut [f32],
    sum: &'r mut [f32],
}

impl Kernel for InWords<'_> {
    type Output = ();

    #[inline(always)]
    fn call<S: Simd>(self, simd: S) {
        let (scores, from, step) = self.scores;
        let minus_m = simd.sub(simd.splat(0.0), reference(simd, self.m));
        let factor = simd.splat(self.factor);
        let (mut even, mut odd) = (simd.splat(0.0), simd.splat(0.0));
        let words = &mut self.words[..words::width(self.keys) * step];
        let mut words = words.chunks_exact_mut(step);
        let pairs = scores[..self.keys * step].chunks_exact(2 * step);
        let last = pairs.remainder();
        for (rows, words) in pairs.zip(&mut words) {
            let [low, high] = [&rows[from..], &rows[step + from..]];
            let low = exp2_short(simd, simd.multiply_add(factor, simd.load(low), minus_m));
            let high = exp2_short(simd, simd.multiply_add(factor, simd.load(high), minus_m));
            (even, odd) = (simd.add(even, low), simd.add(odd, high));
            simd.store(simd.pair_weights(low, high), &mut words[from..]);
        }
        if !last.is_empty()
            && let Some(words) = words.next()
        {
            let low = simd.multiply_add(factor, simd.load(&last[from..]), minus_m);
            let low = exp2_short(simd, low);
            even = simd.add(even, low);
            simd.store(simd.pair_weights(low, simd.splat(0.0)), &mut words[from..]);
        }
        for words in words {
            simd.store(simd.splat(0.0), &mut words[from..]);
        }
        simd.store(simd.add(even, odd), self.sum);
    }
}
