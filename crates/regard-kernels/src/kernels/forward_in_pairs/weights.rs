//! The running softmax of a row: how its scores become weights, and what was summed before is rescaled.

use super::panel::STEP;
use crate::kernels::dropout::RowDraws;
use crate::kernels::exponential::{exp2, exp2_short};
use crate::kernels::running::HEADROOM;
use crate::kernels::scores::Block;
use crate::kernels::words;
use crate::problem::Problem;
use crate::simd::Simd;

/// What some queries have seen so far.
pub(super) struct Running<'r> {
    /// `o`, `[queries, value_dim]` in whole lines.
    pub(super) out: &'r mut [f32],
    pub(super) out_width: usize,
    /// The reference point of each query.
    pub(super) m: &'r mut [f32],
    /// The sums of the weights of each query, one for each lane.
    pub(super) l: &'r mut [f32],
}

impl Running<'_> {
    /// Turns the scores of a block into weights, in words at the beginning of each row: what a panel works on has to fit the first cache.
    #[inline(always)]
    pub(super) fn weigh<S: Simd>(
        &mut self,
        simd: S,
        problem: &Problem<'_>,
        block: &Block,
        (factor, padded): (f32, usize),
        scores: &mut [f32],
    ) {
        let mut of_keys = [0.0; STEP];
        if problem.dropout.is_some() {
            RowDraws::<S>::keys(block.keys.clone(), &mut of_keys);
        }
        let factor = simd.splat(factor);
        let rows = block.queries.clone().zip(scores.chunks_exact_mut(STEP));
        for (i, (query, row)) in rows.enumerate() {
            let row = &mut row[..padded];
            let highest = simd.mul(factor, highest(simd, row));
            self.move_reference(simd, i, highest);
            let draws = match problem.dropout {
                Some(dropout) => {
                    let of_row = (problem.first_row + block.batch, block.head, query);
                    Some(RowDraws::of(simd, dropout, of_row, &of_keys))
                }
                None => None,
            };
            // Two loops: asking for each vector took up to 7 % longer.
            let sum = match draws {
                None => weigh(simd, factor, self.m[i], None, row),
                Some(draws) => weigh(simd, factor, self.m[i], Some(&draws), row),
            };
            let l = &mut self.l[i * S::LANES..];
            simd.store(simd.add(simd.load(l), sum), l);
        }
    }

    /// Moves the reference point of a query to the largest of `highest` if that is far above it, and rescales what was summed.
    #[inline(always)]
    fn move_reference<S: Simd>(&mut self, simd: S, i: usize, highest: S::Vector) {
        let m = self.m[i];
        if !simd.any_above(highest, simd.splat(m + HEADROOM)) {
            return;
        }
        let highest = simd.largest(highest);
        self.m[i] = highest;
        if m == f32::NEG_INFINITY {
            return; // nothing was summed
        }
        let factor = exp2(simd, simd.splat(m - highest));
        let l = &mut self.l[i * S::LANES..];
        simd.store(simd.mul(simd.load(l), factor), l);
        let out = &mut self.out[i * self.out_width..][..self.out_width];
        for out in out.chunks_exact_mut(S::LANES) {
            simd.store(simd.mul(simd.load(out), factor), out);
        }
    }

    /// `out[i] += w_ij v_j` pair by pair, for the visible pairs only: 0 · NaN is NaN, and a value that is not seen must not reach the
    /// row.
    pub(super) fn add_visible(
        &mut self,
        problem: &Problem<'_>,
        block: &Block,
        v: &[f32],
        words: &[f32],
    ) {
        let rows = self.out.chunks_exact_mut(self.out_width.max(1));
        let rows = block.queries.clone().zip(rows);
        for ((query, out), words) in rows.zip(words.chunks_exact(STEP)) {
            for (j, key) in block.keys.clone().enumerate() {
                if !problem.sees(block.batch, block.head, query, key) {
                    continue;
                }
                let weight = words::half(words[j / 2], j % 2);
                let v = &v[j / 2 * self.out_width..];
                for (out, &word) in out.iter_mut().zip(v) {
                    *out += weight * words::half(word, j % 2);
                }
            }
        }
    }
}

/// The highest score of each lane. `max` gives its second argument where a score is NaN; that NaN reaches the row through the sum of the
/// weights.
#[inline(always)]
fn highest<S: Simd>(simd: S, scores: &[f32]) -> S::Vector {
    let lowest = simd.splat(f32::NEG_INFINITY);
    let (mut even, mut odd) = (lowest, lowest);
    for scores in scores.chunks_exact(2 * S::LANES) {
        even = simd.max(simd.load(scores), even);
        odd = simd.max(simd.load(&scores[S::LANES..]), odd);
    }
    simd.max(even, odd)
}

/// Writes 2^(factor · score − m) of each key into the first half of the row, or what dropout leaves of it, two keys a word; gives the
/// sums before either is rounded or dropped. A query that has seen nothing yet has only scores of −∞, and 2^(−∞ − 0) = 0.
#[inline(always)]
fn weigh<S: Simd>(
    simd: S,
    factor: S::Vector,
    m: f32,
    draws: Option<&RowDraws<'_, S>>,
    row: &mut [f32],
) -> S::Vector {
    let minus_m = simd.splat(if m == f32::NEG_INFINITY { 0.0 } else { -m });
    let (mut even, mut odd) = (simd.splat(0.0), simd.splat(0.0));
    let mut word = 0;
    while 2 * word + 2 * S::LANES <= row.len() {
        let scores = &row[2 * word..][..2 * S::LANES];
        let first = simd.multiply_add(factor, simd.load(scores), minus_m);
        let second = simd.multiply_add(factor, simd.load(&scores[S::LANES..]), minus_m);
        let (mut first, mut second) = (exp2_short(simd, first), exp2_short(simd, second));
        (even, odd) = (simd.add(even, first), simd.add(odd, second));
        if let Some(draws) = draws {
            first = simd.mul(first, draws.rest(simd, 2 * word));
            second = simd.mul(second, draws.rest(simd, 2 * word + S::LANES));
        }
        simd.store(simd.narrow(first, second), &mut row[word..]);
        word += S::LANES;
    }
    simd.add(even, odd)
}
