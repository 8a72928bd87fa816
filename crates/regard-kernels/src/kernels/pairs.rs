//! What the backward pass knows of each pair of query and key: its weight, and the gradient of its score.

use std::f32::consts::LOG2_E;
use std::ops::Range;

use ndarray::s;

use super::arithmetic::{Arithmetic, Left};
use super::backward::Known;
use super::exponential::exp2;
use super::scores::Block;
use super::tiles::{all_finite, dot, from, lines, take, transpose};
use crate::mask::Tile;
use crate::problem::Problem;
use crate::simd::{Kernel, Product, Simd};

/// Queries of a block.
pub(super) const QUERIES: usize = 64;
/// Keys of a block: with these, weights and their gradients are 32 KiB.
pub(super) const KEYS: usize = 64;

/// How far apart the rows of a block of pairs are, however many queries it has.
pub(super) const STEP: usize = QUERIES;

/// Where the numbers of a block of pairs go, `[keys, width]` each, its rows [`STEP`] apart.
pub(super) struct Into<'r> {
    pub(super) weights: &'r mut [f32],
    pub(super) gradients: &'r mut [f32],
    /// The slopes of the soft cap. With room for them, the gradients are those of the scores before the cap, which is
    /// what `q` and `k` want; without, those after it, which is what the bias wants.
    pub(super) slopes: Option<&'r mut [f32]>,
}

impl Into<'_> {
    /// The same from a number of each on.
    fn from(&mut self, at: usize) -> Into<'_> {
        Into {
            weights: &mut self.weights[at..],
            gradients: &mut self.gradients[at..],
            slopes: self.slopes.as_deref_mut().map(|slopes| &mut slopes[at..]),
        }
    }
}

/// How many pairs of a block are visible.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Pairs {
    None,
    Some,
    All,
}

/// At most [`QUERIES`] queries of one head, as the products want them.
pub(super) struct QueryBlock<'r> {
    batch: usize,
    head: usize,
    pub(super) queries: Range<usize>,
    /// Their number, rounded up to whole vectors.
    pub(super) width: usize,
    /// scale · q, `[queries, head_dim]`, with zeros up to whole vectors of both; rows are `q_width` apart.
    pub(super) q: &'r [f32],
    pub(super) q_width: usize,
    /// log₂e · scale · q, transposed: `[head_dim, width]`, rows [`STEP`] apart.
    q_t: &'r [f32],
    /// `[queries, value_dim]`, likewise; rows are `out_width` apart.
    pub(super) d_out: &'r [f32],
    pub(super) out_width: usize,
    /// `[value_dim, width]`, rows [`STEP`] apart.
    d_out_t: &'r [f32],
    /// log₂e · lse; +∞ for a query that sees nothing, whose weights are then 2^−∞ = 0.
    lse: &'r [f32],
    /// D_i = ⟨do_i, o_i⟩ − dlse_i.
    mean: &'r [f32],
    pub(super) q_finite: bool,
    pub(super) d_out_finite: bool,
}

impl<'r> QueryBlock<'r> {
    fn sizes(problem: &Problem<'_>) -> [usize; 6] {
        let (head_dim, value_dim) = (problem.q.dim().3, problem.v.dim().3);
        let (q, out) = (QUERIES * lines(head_dim), QUERIES * lines(value_dim));
        [q, q, out, out, QUERIES, QUERIES]
    }

    pub(super) fn batch(&self) -> usize {
        self.batch
    }

    /// How many numbers of room a block takes, with any instruction set.
    pub(super) fn room(problem: &Problem<'_>) -> usize {
        Self::sizes(problem).into_iter().map(lines).sum()
    }

    #[inline(always)]
    pub(super) fn pack<S: Simd>(
        simd: S,
        problem: &Problem<'_>,
        known: &Known<'_, f32>,
        (batch, head): (usize, usize),
        queries: Range<usize>,
        mut room: &'r mut [f32],
    ) -> Self {
        let width = queries.len().next_multiple_of(S::LANES);
        let q_width = problem.q.dim().3.next_multiple_of(S::LANES);
        let out_width = problem.v.dim().3.next_multiple_of(S::LANES);
        let [q, q_t, d_out, d_out_t, lse, mean] =
            Self::sizes(problem).map(|size| take(&mut room, size));
        let (q, d_out) = (&mut q[..width * q_width], &mut d_out[..width * out_width]);

        // D_i = ⟨do_i, o_i⟩ − dlse_i; `d_out_t` is free until it is filled.
        let out_rows = &mut d_out_t[..width * out_width];
        let out = known.out.head(batch, head);
        out.copy_rows(queries.clone(), 1.0, out_rows, out_width);
        let rows = known.d_out.head(batch, head);
        rows.copy_rows(queries.clone(), 1.0, d_out, out_width);
        mean.fill(0.0);
        for (i, mean) in mean.iter_mut().enumerate().take(width) {
            let row = i * out_width..(i + 1) * out_width;
            *mean = dot(&d_out[row.clone()], &out_rows[row]);
        }
        if let Some(d_lse) = known.d_log_sum_exp {
            let d_lse = d_lse.slice_move(s![batch, head, queries.clone()]);
            mean.iter_mut()
                .zip(d_lse)
                .for_each(|(mean, d_lse)| *mean -= d_lse);
        }
        transpose(simd, d_out, out_width, (width, out_width), d_out_t, STEP);

        // The factor of the forward pass, so that the scores are the same to the last bit.
        let (rows, scale) = (problem.q.head(batch, head), problem.scale as f32);
        rows.copy_rows(queries.clone(), scale * LOG2_E, q, q_width);
        transpose(simd, q, q_width, (width, q_width), q_t, STEP);
        rows.copy_rows(queries.clone(), scale, q, q_width);

        lse.fill(f32::INFINITY);
        for (lse, &of) in
            lse.iter_mut()
                .zip(known.log_sum_exp.slice(s![batch, head, queries.clone()]))
        {
            *lse = if of == f32::NEG_INFINITY {
                f32::INFINITY
            } else {
                LOG2_E * of
            };
        }
        let (q_finite, d_out_finite) = (all_finite(q), all_finite(d_out));
        Self {
            batch,
            head,
            queries,
            width,
            q,
            q_width,
            q_t,
            d_out,
            out_width,
            d_out_t,
            lse,
            mean,
            q_finite,
            d_out_finite,
        }
    }

    /// Fills `weights` with w_ij r_ij (r_ij is 1 without dropout) and `gradients` with ds_ij, 0 where a pair is not
    /// visible.
    #[inline(always)]
    pub(super) fn pairs<S: Simd>(
        &self,
        simd: S,
        problem: &Problem<'_>,
        keys: Range<usize>,
        (k, v): (&[f32], &[f32]),
        mut into: Into<'_>,
    ) -> Pairs {
        let width = self.width;
        let (head_dim, value_dim) = (problem.q.dim().3, problem.v.dim().3);
        let (mut any, mut all) = (false, true);
        for lane in (0..width).step_by(2 * S::LANES) {
            let panel = (width - lane).min(2 * S::LANES);
            let queries =
                self.queries.start + lane..self.queries.end.min(self.queries.start + lane + panel);
            let mut seen = problem.visibility.part(self.batch, &queries, &keys);
            if !seen.is_empty() {
                let block = Block {
                    batch: self.batch,
                    head: self.head,
                    queries,
                    keys: seen.clone(),
                };
                let skipped = seen.start - keys.start;
                let rows = (&k[skipped * head_dim..], &v[skipped * value_dim..]);
                let into = into.from(skipped * STEP);
                match simd.run(Panel {
                    queries: self,
                    problem,
                    block,
                    rows,
                    into,
                    lanes: (lane, panel),
                }) {
                    Tile::Empty => seen.end = seen.start,
                    Tile::Partial => (any, all) = (true, false),
                    Tile::Full => any = true,
                }
            }
            if seen.is_empty() {
                seen = keys.start..keys.start;
            }
            let (before, after) = (seen.start - keys.start, seen.end - keys.start);
            for j in (0..before).chain(after..keys.len()) {
                all = false;
                into.weights[j * STEP + lane..][..panel].fill(0.0);
                into.gradients[j * STEP + lane..][..panel].fill(0.0);
            }
        }
        match (any, all) {
            (false, _) => Pairs::None,
            (true, false) => Pairs::Some,
            (true, true) => Pairs::All,
        }
    }

    /// Calls `f(i, j)` for the visible pairs of the block and `keys`, both counted from its first.
    pub(super) fn visible_pairs(
        &self,
        problem: &Problem<'_>,
        keys: Range<usize>,
        mut f: impl FnMut(usize, usize),
    ) {
        let block = Block {
            batch: self.batch,
            head: self.head,
            queries: self.queries.clone(),
            keys,
        };
        for (j, key) in block.keys.clone().enumerate() {
            for (i, query) in block.queries.clone().enumerate() {
                if problem.sees(block.batch, block.head, query, key) {
                    f(i, j);
                }
            }
        }
    }
}

/// One or two vectors of queries, from a lane on. Out of line, as a product is: it is compiled once for each
/// instruction set.
struct Panel<'r, 'p> {
    queries: &'r QueryBlock<'r>,
    problem: &'r Problem<'p>,
    block: Block,
    rows: (&'r [f32], &'r [f32]),
    into: Into<'r>,
    lanes: (usize, usize),
}

impl Kernel for Panel<'_, '_> {
    type Output = Tile;

    #[inline(always)]
    fn call<S: Simd>(self, simd: S) -> Tile {
        let Panel {
            queries,
            problem,
            block,
            rows: (k, v),
            into,
            lanes: (lane, panel),
        } = self;
        let Into {
            weights,
            gradients,
            mut slopes,
        } = into;
        let value_dim = problem.v.dim().3;
        let q_t = (from(queries.q_t, lane), STEP);
        let tile = block.scores(
            simd,
            problem,
            (Arithmetic::F32, Left::rows(k, problem.q.dim().3)),
            q_t,
            (&mut weights[lane..], STEP, panel),
            slopes.as_deref_mut().map(|slopes| &mut slopes[lane..]),
        );
        if tile == Tile::Empty {
            return tile;
        }
        // dw_ij = ⟨do_i, v_j⟩
        simd.run(Product {
            rows: block.keys.len(),
            columns: panel,
            depth: value_dim,
            left: v,
            left_row: value_dim,
            left_step: 1,
            right: from(queries.d_out_t, lane),
            right_step: STEP,
            into: &mut gradients[lane..],
            into_row: STEP,
            add: false,
        });
        for vector in (0..panel).step_by(S::LANES) {
            let lane = lane + vector;
            let pairs = problem
                .dropout
                .map(|dropout| block.draws(simd, problem, dropout, vector));
            let lse = simd.load(&queries.lse[lane..]);
            let mean = simd.load(&queries.mean[lane..]);
            let rows = weights
                .chunks_exact_mut(STEP)
                .zip(gradients.chunks_exact_mut(STEP));
            for (key, (weights, gradients)) in block.keys.clone().zip(rows) {
                let (weights, gradients) = (&mut weights[lane..], &mut gradients[lane..]);
                // w_ij = exp(s_ij − lse_i)
                let weight = exp2(simd, simd.sub(simd.load(weights), lse));
                let mut d_weight = simd.load(gradients);
                let mut used = weight;
                if let Some(pairs) = &pairs {
                    let rest = pairs.rest(simd, key);
                    d_weight = simd.mul(d_weight, rest);
                    used = simd.mul(weight, rest);
                }
                // ds_ij = w_ij (dw_ij − D_i)
                let gradient = simd.mul(weight, simd.sub(d_weight, mean));
                simd.store(used, weights);
                simd.store(gradient, gradients);
            }
        }
        if let Some(slopes) = slopes {
            // in the forward pass this was: s_ij = cap · tanh(c_ij / cap); so now we have: dc_ij = ds_ij (1 − tanh²)
            for row in 0..block.keys.len() {
                for lane in (row * STEP + lane..row * STEP + lane + panel).step_by(S::LANES) {
                    let (gradients, slopes) = (&mut gradients[lane..], &slopes[lane..]);
                    let gradient = simd.mul(simd.load(gradients), simd.load(slopes));
                    simd.store(gradient, gradients);
                }
            }
        }
        if tile == Tile::Partial {
            // The weights are 0 there; their gradients are, unless a value that is not seen made them NaN.
            block.hide(simd, problem, panel, (&mut weights[lane..], STEP), 0.0);
            block.hide(simd, problem, panel, (&mut gradients[lane..], STEP), 0.0);
        }
        tile
    }
}
