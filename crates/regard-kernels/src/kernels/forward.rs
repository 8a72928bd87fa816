//! The forward pass: blocks of keys go by, and each query keeps a running softmax of what it has seen.
//!
//! For a query with the scores s₁, s₂, … (in units of log₂) and a reference point m, after the keys seen so far:
//!
//! ```text
//! l = Σ_j 2^(s_j − m)          o = Σ_j 2^(s_j − m) v_j
//! ```
//!
//! The result is o / l for any m, and 2^(s_j − m) must not overflow. So m is a maximum that was true at some time, and
//! is moved, multiplying l and o by 2^(m_old − m_new), only when a score exceeds it by more than [`HEADROOM`].

use std::f32::consts::{LN_2, LOG2_E};

use ndarray::{ArrayViewMut1, ArrayViewMut3, ArrayViewMut4};

use super::exponential::exp2;
use super::scores::Block;
use super::tiles::{
    LINE, RowsMut, all_finite, blocks, from, from_mut, lines, outer, split, take, transpose,
    with_room,
};
use crate::element::Numeric;
use crate::mask::Tile;
use crate::problem::Problem;
use crate::simd::{self, Kernel, Product, Simd};
use crate::{Isa, kernels};

/// Queries of a task at most: whole panels of 32, and the keys and values are read once for each task. 80 was 2 to 4 % slower
/// at lengths from 2,048 on with AVX-512; 192 was no faster.
const QUERIES: usize = 128;
/// Keys of a block: with 64 numbers each, keys and values of a block are 64 KiB of the second cache, and its weights
/// for a panel of 16 queries 8 KiB of the first.
const KEYS: usize = 128;
/// How far (in powers of 2) a score may exceed the reference point before that is moved.
const HEADROOM: f32 = 8.0;

/// Fills `out` and `log_sum_exp`, whose shapes the door has checked.
pub(crate) fn forward<E: Numeric>(
    isa: Isa,
    problem: &Problem<'_>,
    out: ArrayViewMut4<'_, E>,
    log_sum_exp: ArrayViewMut3<'_, f32>,
) {
    if kernels::decode::is_decoding(problem) {
        return kernels::decode::forward(isa, problem, out, log_sum_exp);
    }
    let (_, _, _, head_dim) = problem.q.dim();
    let (_, _, keys, value_dim) = problem.v.dim();
    // Parts of about one length: a rest of a few queries would read all keys for a vector that is mostly empty.
    let queries = problem.q.dim().2;
    let length = queries
        .div_ceil(queries.div_ceil(QUERIES).max(1))
        .next_multiple_of(LINE)
        .clamp(LINE, QUERIES);
    let mut tasks = Vec::new();
    for (batch, (out, lse)) in outer(out).zip(outer(log_sum_exp)).enumerate() {
        for (head, (out, lse)) in outer(out).zip(outer(lse)).enumerate() {
            let parts = split(out, length).into_iter().zip(split(lse, length));
            for (i, (out, lse)) in parts.enumerate() {
                tasks.push((batch, head, i * length, E::rows_mut(out), lse));
            }
        }
    }
    let room = room_sizes(problem).into_iter().map(lines).sum();
    let operations = 2 * tasks.len() * length * keys * (head_dim + value_dim);
    super::for_each(tasks, operations, |(batch, head, first, out, lse)| {
        with_room(room, |room| {
            simd::run(
                isa,
                Queries {
                    problem,
                    batch,
                    head,
                    first,
                    out,
                    lse,
                    room,
                },
            );
        });
    });
}

/// Some queries of one head.
struct Queries<'a, 'o, 'p> {
    problem: &'a Problem<'p>,
    batch: usize,
    head: usize,
    first: usize,
    /// `[queries, value_dim]`.
    out: RowsMut<'o>,
    /// `[queries]`.
    lse: ArrayViewMut1<'o, f32>,
    room: &'a mut [f32],
}

impl Kernel for Queries<'_, '_, '_> {
    type Output = ();

    #[inline(always)]
    fn call<S: Simd>(mut self, simd: S) {
        let mut room = std::mem::take(&mut self.room);
        let [rows, q_t, out_t, m, l, weights, k, v] =
            room_sizes(self.problem).map(|size| take(&mut room, size));
        let width = self.lse.len().next_multiple_of(S::LANES);
        let out_t = &mut out_t[..lines(self.problem.v.dim().3) * width];
        let (m, l) = (&mut m[..width], &mut l[..width]);
        self.compute(
            simd,
            width,
            Room {
                rows,
                q_t,
                state: Running { out_t, m, l },
                weights,
                k,
                v,
            },
        );
    }
}

/// How much room each of these takes, with any instruction set.
fn room_sizes(problem: &Problem<'_>) -> [usize; 8] {
    let (head_dim, value_dim) = (problem.q.dim().3, problem.v.dim().3);
    [
        QUERIES * lines(head_dim).max(lines(value_dim)), // rows of q, later of out
        lines(head_dim) * QUERIES,                       // q, transposed
        lines(value_dim) * QUERIES,                      // out, transposed
        QUERIES,                                         // m
        QUERIES,                                         // l
        KEYS * 2 * LINE,                                 // weights
        KEYS * head_dim,                                 // keys, if they have to be copied
        KEYS * value_dim,                                // values, likewise
    ]
}

struct Room<'r> {
    rows: &'r mut [f32],
    q_t: &'r mut [f32],
    state: Running<'r>,
    weights: &'r mut [f32],
    k: &'r mut [f32],
    v: &'r mut [f32],
}

impl Queries<'_, '_, '_> {
    #[inline(always)]
    fn compute<S: Simd>(self, simd: S, width: usize, room: Room<'_>) {
        let Queries {
            problem,
            batch,
            head,
            first,
            ..
        } = self;
        let Room {
            rows,
            q_t,
            mut state,
            weights,
            k: k_room,
            v: v_room,
        } = room;
        let head_dim = problem.q.dim().3;
        let value_dim = problem.v.dim().3;
        let (q_width, out_width) = (
            head_dim.next_multiple_of(S::LANES),
            value_dim.next_multiple_of(S::LANES),
        );
        let count = self.lse.len();
        let last = first + count;
        let kv_head = head / problem.group();
        let (k, v) = (
            problem.k.head(batch, kv_head),
            problem.v.head(batch, kv_head),
        );

        // Scores come in powers of 2: e^s = 2^(log₂e · s), and the factor is put into q once.
        problem.q.head(batch, head).copy_rows(
            first..last,
            problem.scale as f32 * LOG2_E,
            &mut rows[..width * q_width],
            q_width,
        );
        transpose(simd, rows, q_width, (width, q_width), q_t, width);
        state.out_t.fill(0.0);
        state.m.fill(f32::NEG_INFINITY);
        state.l.fill(0.0);

        let seen = problem.visibility.ranges(batch, &(first..last));
        for keys in seen.into_iter().flat_map(|seen| blocks(seen, KEYS)) {
            let k = k.dense_rows(keys.clone(), k_room);
            let v = v.dense_rows(keys.clone(), v_room);
            for lane in (0..width).step_by(2 * S::LANES) {
                let panel = (width - lane).min(2 * S::LANES);
                let queries = first + lane..last.min(first + lane + panel);
                // What none of these queries sees is not computed.
                let seen = problem.visibility.part(batch, &queries, &keys);
                if seen.is_empty() {
                    continue;
                }
                let block = Block {
                    batch,
                    head,
                    queries,
                    keys: seen,
                };
                let skipped = block.keys.start - keys.start;
                let (k, v) = (&k[skipped * head_dim..], &v[skipped * value_dim..]);
                let tile = block.scores(
                    simd,
                    problem,
                    k,
                    (from(q_t, lane), width),
                    (weights, 2 * S::LANES, panel),
                    None,
                );
                if tile == Tile::Empty {
                    continue;
                }
                for vector in (0..panel).step_by(S::LANES) {
                    // rescaled and summed before any is dropped: the weights of a query add up to 1 without dropout
                    state.weigh(
                        simd,
                        block.keys.len(),
                        (weights, vector, 2 * S::LANES),
                        (lane + vector, width),
                    );
                }
                if let Some(dropout) = problem.dropout {
                    block.drop(simd, problem, dropout, panel, (&mut *weights, 2 * S::LANES));
                }
                let v = &v[..block.keys.len() * value_dim];
                if tile == Tile::Partial && !all_finite(v) {
                    state.add_visible(problem, &block, v, (weights, 2 * S::LANES), (lane, width));
                    continue;
                }
                // out[i] += Σ_j w_ij v_j, transposed
                simd.run(Product {
                    rows: value_dim,
                    columns: panel,
                    depth: block.keys.len(),
                    left: v,
                    left_row: 1,
                    left_step: value_dim,
                    right: weights,
                    right_step: 2 * S::LANES,
                    into: from_mut(state.out_t, lane),
                    into_row: width,
                    add: true,
                });
            }
        }

        transpose(
            simd,
            state.out_t,
            width,
            (out_width, width),
            rows,
            out_width,
        );
        let mut out = self.out;
        for (i, lse) in self.lse.into_iter().enumerate() {
            let (m, l) = (state.m[i], state.l[i]);
            // Nothing is seen where l is 0; a NaN is no 0, and goes into the row.
            let (mut factor, mut log_sum_exp) = if l == 0.0 {
                (0.0, f32::NEG_INFINITY)
            } else {
                (1.0 / l, m * LN_2 + l.ln())
            };
            if let Some(sink) = problem.sinks.map(|sinks| sinks[head]) {
                // e^lse / (e^lse + e^sink): the sink's value is 0, so it only takes its share of the weight.
                let with_sink = add_exponentials(log_sum_exp, sink);
                if log_sum_exp > f32::NEG_INFINITY {
                    factor *= (log_sum_exp - with_sink).exp();
                }
                log_sum_exp = with_sink;
            }
            out.write(i, &rows[i * out_width..][..value_dim], factor);
            *lse = log_sum_exp;
        }
    }
}

/// ln(eᵃ + eᵇ); NaN where either is.
pub(super) fn add_exponentials(a: f32, b: f32) -> f32 {
    let larger = if a > b { a } else { b };
    if larger == f32::NEG_INFINITY {
        return a + b;
    }
    larger + ((a - larger).exp() + (b - larger).exp()).ln()
}

/// What the queries of a task have seen so far, one lane each.
struct Running<'r> {
    /// `o`, transposed: `[value_dim, width]`.
    out_t: &'r mut [f32],
    /// The reference point.
    m: &'r mut [f32],
    /// The sum of the weights.
    l: &'r mut [f32],
}

impl Running<'_> {
    /// Turns a block of scores into weights, for one vector of queries: lanes from `from` on in the block (whose rows
    /// are `step` apart), from `lane` on in the state.
    #[inline(always)]
    fn weigh<S: Simd>(
        &mut self,
        simd: S,
        keys: usize,
        (scores, from, step): (&mut [f32], usize, usize),
        (lane, width): (usize, usize),
    ) {
        let mut m = simd.load(&self.m[lane..]);
        // Four maxima side by side: one would wait for itself at each key. `max` gives its second argument where a score is
        // NaN; that NaN reaches the row through the sum below.
        let (mut a, mut b, mut c, mut d) = (m, m, m, m);
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
            for row in self.out_t.chunks_exact_mut(width) {
                let row = &mut row[lane..];
                simd.store(simd.mul(simd.load(row), factor), row);
            }
            simd.store(moved, &mut self.m[lane..]);
            m = moved;
        }
        // A query that has seen nothing yet has only scores of −∞, and 2^(−∞ − 0) = 0.
        let m = simd.select_below(simd.splat(f32::NEG_INFINITY), m, m, simd.splat(0.0));
        let mut sum = simd.splat(0.0);
        for row in scores.chunks_exact_mut(step).take(keys) {
            let row = &mut row[from..];
            let weight = exp2(simd, simd.sub(simd.load(row), m));
            sum = simd.add(sum, weight);
            simd.store(weight, row);
        }
        simd.store(
            simd.add(simd.load(&self.l[lane..]), sum),
            &mut self.l[lane..],
        );
    }

    /// `out[i] += w_ij v_j` pair by pair, for the visible pairs only: 0 · NaN is NaN, and a value that is not seen must
    /// not reach the row.
    fn add_visible(
        &mut self,
        problem: &Problem<'_>,
        block: &Block,
        v: &[f32],
        (weights, step): (&[f32], usize),
        (lane, width): (usize, usize),
    ) {
        let value_dim = problem.v.dim().3;
        for (i, query) in block.queries.clone().enumerate() {
            for (j, _) in block
                .keys
                .clone()
                .enumerate()
                .filter(|&(_, key)| problem.sees(block.batch, block.head, query, key))
            {
                for (c, v) in v[j * value_dim..][..value_dim].iter().enumerate() {
                    self.out_t[c * width + lane + i] += weights[j * step + i] * v;
                }
            }
        }
    }
}
