//! A block of scores, `[keys, queries]`: the products, the cap, the bias, and what may not be seen.

use std::f32::consts::LOG2_E;
use std::ops::Range;

use ndarray::s;

use super::softcap::soft_cap;
use crate::attention::Problem;
use crate::mask::Tile;
use crate::simd::{Product, Simd};

/// Which queries of which head meet which keys.
#[derive(Clone)]
pub(super) struct Block {
    pub(super) batch: usize,
    pub(super) head: usize,
    pub(super) queries: Range<usize>,
    pub(super) keys: Range<usize>,
}

impl Block {
    /// Writes the scores of the block, in units of log₂: `into[j · into_row + i] = log₂e · s_ij`, −∞ where a pair is
    /// not visible. An empty block is not written.
    ///
    /// `k` holds the keys of the block; `q_t` the queries, transposed, `[head_dim, step]`, and already multiplied
    /// by scale · log₂e; `width` is the number of queries rounded up to whole vectors. With a softcap, `slopes` gets
    /// the derivative of the cap at each score, laid out as `into`.
    #[inline(always)]
    pub(super) fn scores<S: Simd>(
        &self,
        simd: S,
        problem: &Problem<'_>,
        k: &[f32],
        (q_t, step): (&[f32], usize),
        (into, into_row, width): (&mut [f32], usize, usize),
        slopes: Option<&mut [f32]>,
    ) -> Tile {
        let mut tile = problem.visibility.tile(
            self.batch,
            self.head,
            self.queries.clone(),
            self.keys.clone(),
        );
        if tile == Tile::Empty {
            return tile;
        }
        let head_dim = problem.q.dim().3;
        simd.run(Product {
            rows: self.keys.len(),
            columns: width,
            depth: head_dim,
            left: k,
            left_row: head_dim,
            left_step: 1,
            right: q_t,
            right_step: step,
            into,
            into_row,
            add: false,
        });
        if let Some(cap) = problem.softcap {
            let size = (self.keys.len(), width);
            soft_cap(simd, cap, size, (&mut *into, into_row), slopes);
        }
        if let Some(bias) = problem.bias {
            for (i, query) in self.queries.clone().enumerate() {
                let row = bias.slice(s![self.batch, self.head, query, self.keys.clone()]);
                for (score, &bias) in into[i..].iter_mut().step_by(into_row).zip(row) {
                    if bias == f32::NEG_INFINITY {
                        tile = Tile::Partial; // it hides its pair, as a mask does
                    }
                    *score += LOG2_E * bias;
                }
            }
        }
        if tile == Tile::Partial {
            self.hide(simd, problem, width, (into, into_row), f32::NEG_INFINITY);
        }
        tile
    }

    /// Writes `value` over the pairs of the block that are not visible.
    #[inline(always)]
    pub(super) fn hide<S: Simd>(
        &self,
        simd: S,
        problem: &Problem<'_>,
        width: usize,
        (into, into_row): (&mut [f32], usize),
        value: f32,
    ) {
        let visibility = &problem.visibility;
        let first = self.queries.start;
        // By position: query i sees the keys from its start on and below its limit, both counted from the block's first
        // key. Small integers are exact in f32.
        let count = self.keys.len();
        let of_block = |key: usize| key.clamp(self.keys.start, self.keys.end) - self.keys.start;
        let start = |query: usize| of_block(visibility.start(query));
        let limit = |query: usize| of_block(visibility.limit(self.batch, query));
        // What all queries see needs no look.
        let (all_from, all_to) = (start(self.queries.end - 1), limit(first));
        if all_from > 0 || all_to < count {
            let (mut starts, mut limits) = ([0.0; 16], [0.0; 16]);
            for lane in (0..width).step_by(S::LANES) {
                for i in 0..S::LANES {
                    let query = first + lane + i;
                    (starts[i], limits[i]) = if query < self.queries.end {
                        (start(query) as f32, limit(query) as f32)
                    } else {
                        (0.0, 0.0)
                    };
                }
                let (starts, limits) = (simd.load(&starts), simd.load(&limits));
                let hidden = simd.splat(value);
                let rows = (0..all_from.min(count)).chain(all_to.max(all_from)..count);
                for j in rows {
                    let row = &mut into[j * into_row + lane..];
                    let key = simd.splat(j as f32);
                    let kept = simd.select_below(key, limits, simd.load(row), hidden);
                    let kept = simd.select_below(key, starts, hidden, kept);
                    simd.store(kept, row);
                }
            }
        }
        if let Some(mask) = visibility.mask {
            for (i, query) in self.queries.clone().enumerate() {
                let row = mask.slice(s![self.batch, self.head, query, self.keys.clone()]);
                for (score, _) in into[i..]
                    .iter_mut()
                    .step_by(into_row)
                    .zip(row)
                    .filter(|(_, visible)| !**visible)
                {
                    *score = value;
                }
            }
        }
        if let Some(bias) = problem.bias {
            for (i, query) in self.queries.clone().enumerate() {
                let row = bias.slice(s![self.batch, self.head, query, self.keys.clone()]);
                for (score, _) in into[i..]
                    .iter_mut()
                    .step_by(into_row)
                    .zip(row)
                    .filter(|&(_, &bias)| bias == f32::NEG_INFINITY)
                {
                    *score = value;
                }
            }
        }
    }

    /// Whether a pair of the block is visible.
    pub(super) fn sees(&self, problem: &Problem<'_>, query: usize, key: usize) -> bool {
        problem.visibility.sees(self.batch, self.head, query, key)
            && problem
                .bias
                .is_none_or(|bias| bias[[self.batch, self.head, query, key]] != f32::NEG_INFINITY)
    }
}
