//! The pairs of some queries and keys: their weights and the gradients of their scores, first in f32, then in words.

use std::ops::Range;

use super::queries::QueryBlock;
use super::{PANEL, QUERIES};
use crate::kernels::arithmetic::{Arithmetic, Left, multiply};
use crate::kernels::exponential::{exp2, exp2_short};
use crate::kernels::scores::Block;
use crate::kernels::tiles::{from, lines};
use crate::kernels::words;
use crate::mask::Tile;
use crate::problem::Problem;
use crate::simd::{Kernel, Simd, Unit};

/// The pairs of query and key of a panel, and the words they become.
pub(super) struct Pairs<'r> {
    /// `[keys, PANEL]`: scores, then weights.
    pub(super) weights: &'r mut [f32],
    /// Gradients of the weights, then of the scores, times the scale.
    pub(super) gradients: &'r mut [f32],
    /// With a softcap.
    pub(super) slopes: &'r mut [f32],
    /// `[keys, QUERIES / 2]`, of all panels of the block.
    pub(super) of_weights: &'r mut [f32],
    pub(super) of_gradients: &'r mut [f32],
    /// `[keys / 2, PANEL]`.
    pub(super) below: &'r mut [f32],
}

/// What a pair adds to, of what is asked for.
pub(super) struct Sums<'a> {
    pub(super) dk: Option<&'a mut [f32]>,
    pub(super) dv: Option<&'a mut [f32]>,
    /// `[head_dim, PANEL]`.
    pub(super) dq_t: Option<&'a mut [f32]>,
}

impl Pairs<'_> {
    /// Zeros the words of a panel of queries for the keys that are not `filled`.
    pub(super) fn clear_all_but(&mut self, filled: Range<usize>, lane: usize, keys: usize) {
        for j in (0..filled.start).chain(filled.end..keys) {
            let row = j * (QUERIES / 2) + lane / 2;
            self.of_weights[row..][..PANEL / 2].fill(0.0);
            self.of_gradients[row..][..PANEL / 2].fill(0.0);
        }
    }

    /// The three products pair by pair, for the visible pairs only: 0 · NaN is NaN, and what is not seen must not reach a
    /// gradient.
    pub(super) fn add_visible(
        &self,
        problem: &Problem<'_>,
        block: &QueryBlock<'_>,
        (queries, keys): (Range<usize>, Range<usize>),
        skipped: usize,
        k: Left<'_>,
        Sums {
            mut dk,
            mut dv,
            mut dq_t,
        }: Sums<'_>,
    ) {
        let (head_dim, value_dim) = (problem.q.dim().3, problem.v.dim().3);
        for (j, key) in keys.enumerate() {
            for (i, query) in queries.clone().enumerate() {
                if !problem.sees(block.batch, block.head, query, key) {
                    continue;
                }
                let (weight, gradient) =
                    (self.weights[j * PANEL + i], self.gradients[j * PANEL + i]);
                let at = query - block.queries.start;
                let word = |words: &[f32], width: usize, c: usize| {
                    words::half(words[at / 2 * lines(width) + c], at % 2)
                };
                if let Some(dv) = &mut dv {
                    let row = &mut dv[(skipped + j) * value_dim..][..value_dim];
                    for (c, dv) in row.iter_mut().enumerate() {
                        *dv += weight * word(block.d_out, value_dim, c);
                    }
                }
                if let Some(dk) = &mut dk {
                    let row = &mut dk[(skipped + j) * head_dim..][..head_dim];
                    for (c, dk) in row.iter_mut().enumerate() {
                        *dk += gradient * word(block.q, head_dim, c);
                    }
                }
                if let Some(dq_t) = &mut dq_t {
                    for c in 0..head_dim {
                        dq_t[c * PANEL + i] += gradient * k.at(j, c);
                    }
                }
            }
        }
    }
}

/// The pairs of [`PANEL`] queries, from a lane of the block on, and some keys. Out of line, as a product is.
pub(super) struct Panel<'r, 'w, 'p> {
    pub(super) unit: &'r Unit,
    pub(super) queries: &'r QueryBlock<'r>,
    pub(super) problem: &'r Problem<'p>,
    pub(super) block: Block,
    pub(super) k: Left<'r>,
    pub(super) v: Left<'r>,
    pub(super) lane: usize,
    /// Keys before those of `block`, in the rows of words.
    pub(super) skipped: usize,
    pub(super) pairs: &'r mut Pairs<'w>,
    pub(super) finite: bool,
}

impl Kernel for Panel<'_, '_, '_> {
    type Output = Tile;

    #[inline(always)]
    fn call<S: Simd>(self, simd: S) -> Tile {
        let Panel {
            unit,
            queries,
            problem,
            block,
            k,
            v,
            lane,
            skipped,
            pairs,
            finite,
        } = self;
        let arithmetic = Arithmetic::Pairs(unit);
        let (head_dim, value_dim) = (problem.q.dim().3, problem.v.dim().3);
        let keys = block.keys.len();
        let q_t = from(queries.q_t, lane * words::width(head_dim));
        let tile = block.scores(
            simd,
            problem,
            (arithmetic, k),
            (q_t, PANEL),
            (&mut *pairs.weights, PANEL, PANEL),
            problem.softcap.map(|_| &mut *pairs.slopes),
        );
        if tile == Tile::Empty {
            return tile;
        }
        // dw_ij = ⟨do_i, v_j⟩
        let d_out_t = from(queries.d_out_t, lane * words::width(value_dim));
        multiply(
            simd,
            arithmetic,
            [keys, PANEL, value_dim],
            v,
            (d_out_t, PANEL),
            (&mut *pairs.gradients, PANEL),
            false,
        );
        let of = Weigh {
            factor: simd.splat(arithmetic.factor(problem)),
            scale: simd.splat(problem.scale as f32),
            minus_lse: [
                simd.load(&queries.minus_lse[lane..]),
                simd.load(&queries.minus_lse[lane + S::LANES..]),
            ],
            minus_mean: [
                simd.load(&queries.minus_mean[lane..]),
                simd.load(&queries.minus_mean[lane + S::LANES..]),
            ],
        };
        let words = skipped * (QUERIES / 2) + lane / 2;
        if finite && problem.dropout.is_none() && problem.softcap.is_none() {
            of.write_words(simd, keys, pairs, words);
            return tile;
        }
        of.in_place(simd, problem, &block, pairs);
        if problem.softcap.is_some() {
            // in the forward pass this was: s_ij = cap · tanh(c_ij / cap); so now we have: dc_ij = ds_ij (1 − tanh²)
            let gradients = pairs.gradients[..keys * PANEL].chunks_exact_mut(S::LANES);
            for (gradients, slopes) in gradients.zip(pairs.slopes.chunks_exact(S::LANES)) {
                let gradient = simd.mul(simd.load(gradients), simd.load(slopes));
                simd.store(gradient, gradients);
            }
        }
        if tile == Tile::Partial {
            // The weights are 0 there; their gradients are, unless a value that is not seen made them NaN.
            block.hide(simd, problem, PANEL, (&mut *pairs.weights, PANEL), 0.0);
            block.hide(simd, problem, PANEL, (&mut *pairs.gradients, PANEL), 0.0);
        }
        let weights = pairs.weights[..keys * PANEL].chunks_exact(PANEL);
        let gradients = pairs.gradients[..keys * PANEL].chunks_exact(PANEL);
        for (j, (weights, gradients)) in weights.zip(gradients).enumerate() {
            let at = words + j * (QUERIES / 2);
            words::narrow_row(simd, 1.0, weights, &mut pairs.of_weights[at..][..PANEL / 2]);
            words::narrow_row(
                simd,
                1.0,
                gradients,
                &mut pairs.of_gradients[at..][..PANEL / 2],
            );
        }
        words::of_block(simd, keys, PANEL, pairs.gradients, pairs.below);
        tile
    }
}

/// What turns scores and the gradients of weights into weights and the gradients of scores: of two vectors of queries.
struct Weigh<S: Simd> {
    factor: S::Vector,
    scale: S::Vector,
    minus_lse: [S::Vector; 2],
    minus_mean: [S::Vector; 2],
}

impl<S: Simd> Weigh<S> {
    /// w_ij = exp(s_ij − lse_i) and scale · ds_ij = w_ij (scale · dw_ij − scale · D_i), rounded, into words.
    #[inline(always)]
    fn write_words(&self, simd: S, keys: usize, pairs: &mut Pairs<'_>, words: usize) {
        let below = &mut pairs.below[..words::width(keys) * PANEL];
        for (j, below) in below.chunks_exact_mut(PANEL).enumerate() {
            let mut gradients = [[simd.splat(0.0); 2]; 2];
            for (half, gradient) in gradients.iter_mut().enumerate() {
                let key = 2 * j + half;
                if key >= keys {
                    continue;
                }
                let mut weights = [simd.splat(0.0); 2];
                for v in 0..2 {
                    let at = key * PANEL + v * S::LANES;
                    let score = simd.load(&pairs.weights[at..]);
                    let x = simd.multiply_add(self.factor, score, self.minus_lse[v]);
                    weights[v] = exp2_short(simd, x);
                    let d_weight = simd.load(&pairs.gradients[at..]);
                    let d_score = simd.multiply_add(self.scale, d_weight, self.minus_mean[v]);
                    gradient[v] = simd.mul(weights[v], d_score);
                }
                let at = words + key * (QUERIES / 2);
                let narrow = simd.narrow(weights[0], weights[1]);
                simd.store(narrow, &mut pairs.of_weights[at..]);
                let narrow = simd.narrow(gradient[0], gradient[1]);
                simd.store(narrow, &mut pairs.of_gradients[at..]);
            }
            let [low, high] = gradients;
            for v in 0..2 {
                simd.store(simd.pair(low[v], high[v]), &mut below[v * S::LANES..]);
            }
        }
    }

    /// Likewise in f32, with dropout: what is used of a weight is w_ij r_ij, and dw_ij = r_ij ⟨do_i, v_j⟩.
    #[inline(always)]
    fn in_place(&self, simd: S, problem: &Problem<'_>, block: &Block, pairs: &mut Pairs<'_>) {
        for v in 0..2 {
            let lane = v * S::LANES;
            let draws = problem
                .dropout
                .map(|dropout| block.draws(simd, problem, dropout, lane));
            for (j, key) in block.keys.clone().enumerate() {
                let weights = &mut pairs.weights[j * PANEL + lane..];
                let gradients = &mut pairs.gradients[j * PANEL + lane..];
                let score = simd.load(weights);
                let weight = exp2(
                    simd,
                    simd.multiply_add(self.factor, score, self.minus_lse[v]),
                );
                let (mut used, mut d_weight) = (weight, simd.load(gradients));
                if let Some(draws) = &draws {
                    let rest = draws.rest(simd, key);
                    d_weight = simd.mul(d_weight, rest);
                    used = simd.mul(weight, rest);
                }
                let d_score = simd.multiply_add(self.scale, d_weight, self.minus_mean[v]);
                simd.store(used, weights);
                simd.store(simd.mul(weight, d_score), gradients);
            }
        }
    }
}
