//! Dropout in vectors: the same draws as [`Dropout::keeps`], for as many queries or keys as there are lanes.

use std::ops::Range;

use super::scores::Block;
use crate::dropout::{Dropout, FACTORS, SHIFTS, STRIDE};
use crate::problem::Problem;
use crate::simd::Simd;

/// The draws of a vector of queries.
pub(super) struct Draws<S: Simd> {
    /// What the pairs of each query start from.
    rows: S::Vector,
    threshold: S::Vector,
    factor: S::Vector,
}

impl<S: Simd> Draws<S> {
    /// What is left of the weights of these queries and a key: 0, or 1/(1 − p).
    #[inline(always)]
    pub(super) fn rest(&self, simd: S, key: usize) -> S::Vector {
        let key = simd.splat(f32::from_bits((key as u32).wrapping_mul(STRIDE)));
        rest(simd, simd.xor(self.rows, key), self.threshold, self.factor)
    }
}

/// The draws of one query and the keys of a block.
pub(super) struct RowDraws<'r, S: Simd> {
    /// What the pairs of the query start from.
    row: S::Vector,
    /// What each key adds to it.
    keys: &'r [f32],
    threshold: S::Vector,
    factor: S::Vector,
}

impl<'r, S: Simd> RowDraws<'r, S> {
    /// What `keys` add, whatever the query.
    pub(super) fn keys(keys: Range<usize>, into: &mut [f32]) {
        for (key, into) in keys.zip(into) {
            *into = f32::from_bits((key as u32).wrapping_mul(STRIDE));
        }
    }

    #[inline(always)]
    pub(super) fn of(
        simd: S,
        dropout: Dropout,
        (batch, head, query): (usize, usize, usize),
        keys: &'r [f32],
    ) -> Self {
        Self {
            row: simd.splat(f32::from_bits(dropout.row(batch, head, query))),
            keys,
            threshold: simd.splat(dropout.threshold()),
            factor: simd.splat(dropout.factor()),
        }
    }

    /// What is left of the weights of a vector of keys, from key `at` of the block on.
    #[inline(always)]
    pub(super) fn rest(&self, simd: S, at: usize) -> S::Vector {
        let pairs = simd.xor(self.row, simd.load(&self.keys[at..]));
        rest(simd, pairs, self.threshold, self.factor)
    }
}

/// What is left of pairs that start from `x`.
#[inline(always)]
fn rest<S: Simd>(simd: S, mut x: S::Vector, threshold: S::Vector, factor: S::Vector) -> S::Vector {
    let bits = |bits: u32| simd.splat(f32::from_bits(bits));
    x = simd.xor(x, simd.shift_right(x, SHIFTS[0]));
    x = simd.multiply_bits(x, bits(FACTORS[0]));
    x = simd.xor(x, simd.shift_right(x, SHIFTS[1]));
    x = simd.multiply_bits(x, bits(FACTORS[1]));
    x = simd.xor(x, simd.shift_right(x, SHIFTS[2]));
    let draw = simd.integer_to_number(simd.shift_right(x, 8));
    simd.select_below(draw, threshold, simd.splat(0.0), factor)
}

impl Block {
    /// The draws of the queries from lane `lane` of the block on.
    #[inline(always)]
    pub(super) fn draws<S: Simd>(
        &self,
        simd: S,
        problem: &Problem<'_>,
        dropout: Dropout,
        lane: usize,
    ) -> Draws<S> {
        let mut rows = [0.0; 16];
        for (i, row) in rows[..S::LANES].iter_mut().enumerate() {
            let query = self.queries.start + lane + i;
            *row = f32::from_bits(dropout.row(problem.first_row + self.batch, self.head, query));
        }
        Draws {
            rows: simd.load(&rows),
            threshold: simd.splat(dropout.threshold()),
            factor: simd.splat(dropout.factor()),
        }
    }

    /// Multiplies the block's weights by what is left of them; its rows are `step` apart and `width` wide.
    #[inline(always)]
    pub(super) fn drop<S: Simd>(
        &self,
        simd: S,
        problem: &Problem<'_>,
        dropout: Dropout,
        width: usize,
        (weights, step): (&mut [f32], usize),
    ) {
        for lane in (0..width).step_by(S::LANES) {
            let draws = self.draws(simd, problem, dropout, lane);
            for (j, key) in self.keys.clone().enumerate() {
                let weights = &mut weights[j * step + lane..];
                let rest = draws.rest(simd, key);
                simd.store(simd.mul(simd.load(weights), rest), weights);
            }
        }
    }
}
