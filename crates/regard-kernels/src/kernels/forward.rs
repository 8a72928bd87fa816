//! The forward pass: blocks of keys go by, and each query keeps a running softmax of what it has seen.
//!
//! For a query with the scores s₁, s₂, … (in units of log₂) and a reference point m, after the keys seen so far:
//!
//! ```text
//! l = Σ_j 2^(s_j − m)          o = Σ_j 2^(s_j − m) v_j
//! ```
//!
//! The result is o / l for any m, and 2^(s_j − m) must not overflow. So m is a maximum that was true at some time, and
//! is moved, multiplying l and o by 2^(m_old − m_new), only when a score exceeds it by more than `HEADROOM` (see [`Running`]).

use std::f32::consts::{LN_2, LOG2_E};

use ndarray::{ArrayViewMut1, ArrayViewMut3, ArrayViewMut4};

use super::arithmetic::{Arithmetic, Left, multiply};
use super::forward_in_pairs::{self, InPairs};
use super::running::Running;
use super::scores::Block;
use super::tiles::{
    LINE, RowsMut, all_finite, blocks, from, from_mut, lines, outer, split, take, transpose,
    with_room,
};
use crate::element::Numeric;
use crate::mask::Tile;
use crate::problem::Problem;
use crate::simd::{self, Kernel, Simd, Unit};
use crate::{Isa, kernels};

/// Queries of a task at most: whole panels of 32, and the keys and values are read once for each task. 80 was 2 to 4 % slower
/// at lengths from 2,048 on with AVX-512; 192 was no faster.
const QUERIES: usize = 128;
/// Keys of a block: with 64 numbers each, keys and values of a block are 64 KiB of the second cache, and its weights
/// for a panel of 16 queries 8 KiB of the first.
const KEYS: usize = 128;

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
    if kernels::small::fits(isa, problem) {
        return kernels::small::forward(isa, problem, out, log_sum_exp);
    }
    let (_, _, _, head_dim) = problem.q.dim();
    let (_, _, keys, value_dim) = problem.v.dim();
    // Parts of about one length: a rest of a few queries would read all keys for a vector that is mostly empty.
    let queries = problem.q.dim().2;
    let in_pairs = Arithmetic::is_in_pairs(isa, problem);
    let most = if in_pairs {
        forward_in_pairs::QUERIES
    } else {
        QUERIES
    };
    let length = queries
        .div_ceil(queries.div_ceil(most).max(1))
        .next_multiple_of(LINE)
        .clamp(LINE, most);
    let mut tasks = Vec::new();
    for (batch, (out, lse)) in outer(out).zip(outer(log_sum_exp)).enumerate() {
        for (head, (out, lse)) in outer(out).zip(outer(lse)).enumerate() {
            let parts = split(out, length).into_iter().zip(split(lse, length));
            for (i, (out, lse)) in parts.enumerate() {
                tasks.push((batch, head, i * length, E::rows_mut(out), lse));
            }
        }
    }
    let room = match in_pairs {
        false => room_sizes(problem).into_iter().map(lines).sum(),
        true => forward_in_pairs::room(problem),
    };
    let operations = 2 * tasks.len() * length * keys * (head_dim + value_dim);
    super::for_each(tasks, operations, |(batch, head, first, out, lse)| {
        with_room(room, |room| {
            if in_pairs {
                let unit = &Unit::of(isa);
                let task = InPairs {
                    unit,
                    problem,
                    batch,
                    head,
                    first,
                    out,
                    lse,
                    room,
                };
                return simd::run_pairs(isa, task);
            }
            let task = Queries {
                problem,
                batch,
                head,
                first,
                out,
                lse,
                room,
            };
            simd::run(isa, task);
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
        let out_width = self.problem.v.dim().3.next_multiple_of(S::LANES);
        let (m, l) = (&mut m[..width], &mut l[..width]);
        self.compute(
            simd,
            width,
            Room {
                rows,
                q_t,
                state: Running {
                    out_t: &mut out_t[..out_width * width.next_multiple_of(2 * S::LANES)],
                    out_width,
                    m,
                    l,
                },
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
        QUERIES * lines(head_dim.max(value_dim)), // rows of q, later of out
        lines(head_dim) * QUERIES,                // q, transposed
        lines(value_dim) * QUERIES,               // out, transposed
        QUERIES,                                  // m
        QUERIES,                                  // l
        KEYS * 2 * LINE,                          // weights
        KEYS * head_dim,                          // keys, if they have to be copied
        KEYS * value_dim,                         // values, likewise
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

        let q = problem.q.head(batch, head);
        // Scores come in powers of 2: e^s = 2^(log₂e · s), and the factor is put into q once.
        let factor = problem.scale as f32 * LOG2_E;
        q.copy_rows(first..last, factor, &mut rows[..width * q_width], q_width);
        for (lane, panel) in panels::<S>(width) {
            let (rows, into) = (from(rows, lane * q_width), from_mut(q_t, lane * q_width));
            transpose(simd, rows, q_width, (panel, q_width), into, 2 * S::LANES);
        }
        state.out_t.fill(0.0);
        state.m.fill(f32::NEG_INFINITY);
        state.l.fill(0.0);

        let seen = problem.visibility.ranges(batch, &(first..last));
        for keys in seen.into_iter().flat_map(|seen| blocks(seen, KEYS)) {
            let k = k.dense_rows(keys.clone(), k_room);
            let v = v.dense_rows(keys.clone(), v_room);
            for (lane, panel) in panels::<S>(width) {
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
                let v = &v[skipped * value_dim..][..block.keys.len() * value_dim];
                let tile = block.scores(
                    simd,
                    problem,
                    (
                        Arithmetic::F32,
                        Left::rows(&k[skipped * head_dim..], head_dim),
                    ),
                    (from(q_t, lane * q_width), 2 * S::LANES),
                    (weights, 2 * S::LANES, panel),
                    None,
                );
                if tile == Tile::Empty {
                    continue;
                }
                for vector in (0..panel).step_by(S::LANES) {
                    // rescaled and summed before any is dropped: the weights of a query add up to 1 without dropout
                    let scores = (&mut *weights, vector, 2 * S::LANES);
                    state.weigh(simd, block.keys.len(), scores, (lane, vector));
                }
                if let Some(dropout) = problem.dropout {
                    block.drop(simd, problem, dropout, panel, (&mut *weights, 2 * S::LANES));
                }
                if tile == Tile::Partial && !all_finite(v) {
                    let weights = (&*weights, 2 * S::LANES);
                    state.add_visible(problem, &block, v, weights, lane);
                    continue;
                }
                // out[i] += Σ_j w_ij v_j, transposed
                multiply(
                    simd,
                    Arithmetic::F32,
                    [value_dim, panel, block.keys.len()],
                    Left::turned(v, value_dim),
                    (&*weights, 2 * S::LANES),
                    (from_mut(state.out_t, lane * out_width), 2 * S::LANES),
                    true,
                );
            }
        }

        for (lane, panel) in panels::<S>(width) {
            let (of, into) = (
                from(state.out_t, lane * out_width),
                from_mut(rows, lane * out_width),
            );
            transpose(simd, of, 2 * S::LANES, (out_width, panel), into, out_width);
        }
        let mut out = self.out;
        for (i, lse) in self.lse.into_iter().enumerate() {
            let (m, l) = (state.m[i], state.l[i]);
            // Nothing is seen where l is 0; a NaN is no 0, and goes into the row.
            let log_sum_exp = if l == 0.0 {
                f32::NEG_INFINITY
            } else {
                m * LN_2 + l.ln()
            };
            let factor;
            (factor, *lse) = row_factor(problem, head, l, log_sum_exp);
            out.write(i, &rows[i * out_width..][..value_dim], factor);
        }
    }
}

/// What the sum of the weighted values of a query is multiplied by, and the log-sum-exp with a sink; `l` is the sum of its weights.
pub(super) fn row_factor(
    problem: &Problem<'_>,
    head: usize,
    l: f32,
    log_sum_exp: f32,
) -> (f32, f32) {
    let mut factor = if l == 0.0 { 0.0 } else { 1.0 / l };
    let Some(sink) = problem.sinks.map(|sinks| sinks[head]) else {
        return (factor, log_sum_exp);
    };
    // e^lse / (e^lse + e^sink): the sink's value is 0, so it only takes its share of the weight.
    let with_sink = add_exponentials(log_sum_exp, sink);
    if log_sum_exp > f32::NEG_INFINITY {
        factor *= (log_sum_exp - with_sink).exp();
    }
    (factor, with_sink)
}

/// The first lane of each two vectors of queries, and how many lanes there are from it on.
#[inline(always)]
fn panels<S: Simd>(width: usize) -> impl Iterator<Item = (usize, usize)> {
    let lanes = (0..width).step_by(2 * S::LANES);
    lanes.map(move |lane| (lane, (width - lane).min(2 * S::LANES)))
}

/// ln(eᵃ + eᵇ); NaN where either is.
pub(super) fn add_exponentials(a: f32, b: f32) -> f32 {
    let larger = if a > b { a } else { b };
    if larger == f32::NEG_INFINITY {
        return a + b;
    }
    larger + ((a - larger).exp() + (b - larger).exp()).ln()
}
