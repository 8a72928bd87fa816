//! The running softmax of the forward pass: how a block of scores becomes weights, and what was summed before is rescaled.

use super::exponential::exp2;
use super::scores::Block;
use super::tiles::from_mut;
use crate::problem::Problem;
use crate::simd::Simd;

/// How far (in powers of 2) a score may exceed the reference point before that is moved.
pub(super) const HEADROOM: f32 = 8.0;

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
        (scores, from, step): (&mut [f32], usize, usize),
        at: (usize, usize),
    ) {
        let lane = at.0 + at.1;
        let highest = highest(simd, keys, (scores, from, step));
        let reach = simd.add(simd.load(&self.m[lane..]), simd.splat(HEADROOM));
        self.move_reference(simd, highest, reach, at);
        let m = reference(simd, &self.m[lane..]);
        let mut sum = simd.splat(0.0);
        for row in scores.chunks_exact_mut(step).take(keys) {
            let row = &mut row[from..];
            let weight = exp2(simd, simd.sub(simd.load(row), m));
            sum = simd.add(sum, weight);
            simd.store(weight, row);
        }
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
        problem: &Problem<'_>,
        block: &Block,
        v: &[f32],
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
                let v = &v[j * value_dim..][..value_dim];
                for (c, v) in v.iter().enumerate() {
                    out[c * step + i] += weights[j * step + i] * v;
                }
            }
        }
    }
}

/// The highest score of each query, for a vector of queries: lanes from `from` on in a block whose rows are `step` apart.
#[inline(always)]
fn highest<S: Simd>(
    simd: S,
    keys: usize,
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
    simd.max(simd.max(a, b), simd.max(c, d))
}

/// The reference point of a vector of queries; 0 for a query that has seen nothing yet: it has only scores of −∞, and 2^(−∞ − 0) = 0.
#[inline(always)]
fn reference<S: Simd>(simd: S, m: &[f32]) -> S::Vector {
    let m = simd.load(m);
    simd.select_below(simd.splat(f32::NEG_INFINITY), m, m, simd.splat(0.0))
}
