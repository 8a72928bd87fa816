//! Some queries meet some keys: scores, weights, and what the values add to the results.

use super::MOST_KEYS;
use super::weights::Running;
use crate::kernels::arithmetic::{Arithmetic, Left, PAIRED, multiply};
use crate::kernels::scores::Block;
use crate::kernels::words;
use crate::mask::Tile;
use crate::problem::Problem;
use crate::simd::{Kernel, Simd, Unit};

/// How far apart the rows of scores are.
pub(super) const STEP: usize = MOST_KEYS;

/// At most [`PANEL`](super::PANEL) queries and the keys of a block. Out of line, as a product is: it is compiled once.
pub(super) struct Panel<'r, 'p> {
    pub(super) unit: &'r Unit,
    pub(super) problem: &'r Problem<'p>,
    pub(super) block: Block,
    /// The queries, rounded up to whole blocks.
    pub(super) rows: usize,
    /// `[rows, head_dim / 2]`, of two columns a word.
    pub(super) q: &'r [f32],
    /// `[head_dim / 2, keys]`, likewise, and how far apart its rows are.
    pub(super) k_t: (&'r [f32], usize),
    /// `[keys / 2, value_dim]`, of two keys a word.
    pub(super) v: &'r [f32],
    pub(super) scores: &'r mut [f32],
    /// Whether anything has been added to the results; they are written otherwise.
    pub(super) begun: bool,
    pub(super) state: Running<'r>,
}

impl Kernel for Panel<'_, '_> {
    /// Whether these queries see any of the keys.
    type Output = bool;

    #[inline(always)]
    fn call<S: Simd>(self, simd: S) -> bool {
        let Panel {
            unit,
            problem,
            block,
            rows,
            q,
            k_t,
            v,
            scores,
            begun,
            mut state,
        } = self;
        let arithmetic = Arithmetic::Pairs(unit);
        // Behind the keys of the block, up to whole steps, there are zeros in `v`, and in `k_t` numbers that nobody asked for.
        let padded = block.keys.len().next_multiple_of(PAIRED);
        let sides = (Left::rows(q, words::width(problem.q.dim().3)), k_t);
        let (size, into) = ((rows, padded), (&mut *scores, STEP));
        let mut tile = block.products(simd, problem, arithmetic, size, sides, into, None);
        if tile == Tile::Empty {
            return false;
        }
        let factor = arithmetic.factor(problem);
        block.finish_rows(simd, problem, factor, &mut *scores, &mut tile);
        state.weigh(simd, problem, &block, (factor, padded), &mut *scores);
        let words = &*scores;
        let out_width = state.out_width;
        let v = &v[..padded / 2 * out_width];
        if tile == Tile::Partial && !words::all_finite(v) {
            if !begun {
                state.out[..rows * out_width].fill(0.0);
            }
            state.add_visible(problem, &block, v, words);
            return true;
        }
        // out[i] += Σ_j w_ij v_j
        multiply(
            simd,
            arithmetic,
            [rows, out_width, padded],
            Left::rows(words, STEP),
            (v, out_width),
            (state.out, out_width),
            begun,
        );
        true
    }
}
