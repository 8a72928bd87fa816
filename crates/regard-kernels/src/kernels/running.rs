//! The running softmax of the forward pass: how a block of scores becomes weights, and what was summed before is rescaled.

use super::arithmetic::{Arithmetic, Left};
use super::exponential::{exp2, exp2_short};
use super::scores::Block;
use super::tiles::from_mut;
use super::words;
use crate::problem::Problem;
use crate::simd::Simd;

/// How far (in powers of 2) a score may exceed the reference point before that is moved.
const HEADROOM: f32 = 8.0;

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
    /// The reference point of a vector of queries, after it has been moved, if it must be, for the scores times `factor`:
    /// lanes from `from` on in the block (whose rows are `step` apart), from `panel + vector` on in the state. 0 for a query that has
    /// seen nothing yet: it has only scores of −∞, and 2^(−∞ − 0) = 0.
    #[inline(always)]
    fn reference<S: Simd>(
        &mut self,
        simd: S,
        keys: usize,
        factor: f32,
        (scores, from, step): (&[f32], usize, usize),
        (panel, vector): (usize, usize),
    ) -> S::Vector {
        let lane = panel + vector;
        let mut m = simd.load(&self.m[lane..]);
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
        let max = simd.max(simd.max(a, b), simd.max(c, d));
        let max = simd.max(simd.mul(simd.splat(factor), max), m);
        let reach = simd.add(m, simd.splat(HEADROOM));
        if simd.any_above(max, reach) {
            let moved = simd.select_below(reach, max, max, m);
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
            m = moved;
        }
        simd.select_below(lowest, m, m, simd.splat(0.0))
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
        let m = self.reference(simd, keys, factor, (scores, from, step), at);
        let factor = simd.splat(factor);
        let mut sum = simd.splat(0.0);
        for row in scores.chunks_exact_mut(step).take(keys) {
            let row = &mut row[from..];
            let score = simd.mul(factor, simd.load(row));
            let weight = exp2(simd, simd.sub(score, m));
            sum = simd.add(sum, weight);
            simd.store(weight, row);
        }
        self.add_weight(simd, at.0 + at.1, sum);
    }

    /// As [`Running::weigh`], rounded to bf16, into `words` for two keys each; zeros up to whole blocks of them.
    #[inline(always)]
    pub(super) fn weigh_in_words<S: Simd>(
        &mut self,
        simd: S,
        keys: usize,
        factor: f32,
        (scores, from, step): (&[f32], usize, usize),
        at: (usize, usize),
        words: &mut [f32],
    ) {
        let m = self.reference(simd, keys, factor, (scores, from, step), at);
        let factor = simd.splat(factor);
        let minus_m = simd.sub(simd.splat(0.0), m);
        let (mut even, mut odd) = (simd.splat(0.0), simd.splat(0.0));
        let mut words = words[..words::width(keys) * step].chunks_exact_mut(step);
        let pairs = scores[..keys * step].chunks_exact(2 * step);
        let last = pairs.remainder();
        for (rows, words) in pairs.zip(&mut words) {
            let [low, high] = [&rows[from..], &rows[step + from..]];
            let low = exp2_short(simd, simd.multiply_add(factor, simd.load(low), minus_m));
            let high = exp2_short(simd, simd.multiply_add(factor, simd.load(high), minus_m));
            (even, odd) = (simd.add(even, low), simd.add(odd, high));
            simd.store(simd.pair(low, high), &mut words[from..]);
        }
        if !last.is_empty()
            && let Some(words) = words.next()
        {
            let low = simd.multiply_add(factor, simd.load(&last[from..]), minus_m);
            let low = exp2_short(simd, low);
            even = simd.add(even, low);
            simd.store(simd.pair(low, simd.splat(0.0)), &mut words[from..]);
        }
        for words in words {
            simd.store(simd.splat(0.0), &mut words[from..]);
        }
        self.add_weight(simd, at.0 + at.1, simd.add(even, odd));
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
