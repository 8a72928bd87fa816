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

use super::arithmetic::{Arithmetic, multiply, rows_room, turned_room};
use super::running::Running;
use super::scores::Block;
use super::tiles::{
    LINE, RowsMut, from, from_mut, lines, outer, split, take, transpose, with_room,
};
use super::words;
use crate::element::Numeric;
use crate::mask::Tile;
use crate::problem::Problem;
use crate::simd::{Kernel, Simd};
use crate::{Isa, kernels};

/// Queries of a task at most: whole panels of 32, and the keys and values are read once for each task. 80 was 2 to 4 % slower
/// at lengths from 2,048 on with AVX-512; 192 was no faster.
const QUERIES: usize = 128;
/// Likewise in pairs of bf16, where packing the keys and values takes a larger share.
const QUERIES_IN_PAIRS: usize = 256;
/// Keys of a block: with 64 numbers each, keys and values of a block are 64 KiB of the second cache, and its weights
/// for a panel of 16 queries 8 KiB of the first.
const KEYS: usize = 128;
/// Keys of a block in pairs of bf16: its rows, its weights and a panel of queries and results are 40 KiB. With 128 the tiles
/// took 3.2 ns for 16 pairs of query and key, with 64 2.5, with 32 3.2.
const KEYS_IN_PAIRS: usize = 64;

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
    let most = most_queries(isa, problem);
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
    let room = room_sizes(problem, most).into_iter().map(lines).sum();
    let operations = 2 * tasks.len() * length * keys * (head_dim + value_dim);
    super::for_each(tasks, operations, |(batch, head, first, out, lse)| {
        with_room(room, |room| {
            let unit = Arithmetic::unit(isa, problem);
            let arithmetic = Arithmetic::with(&unit);
            arithmetic.run(
                isa,
                Queries {
                    arithmetic,
                    problem,
                    batch,
                    head,
                    first,
                    most,
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
    arithmetic: Arithmetic<'a>,
    problem: &'a Problem<'p>,
    batch: usize,
    head: usize,
    first: usize,
    most: usize,
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
        let [rows, q_t, out_t, m, l, weights, words, k, v] =
            room_sizes(self.problem, self.most).map(|size| take(&mut room, size));
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
                words,
                k,
                v,
            },
        );
    }
}

/// Queries of a task at most.
fn most_queries(isa: Isa, problem: &Problem<'_>) -> usize {
    match Arithmetic::is_in_pairs(isa, problem) {
        false => QUERIES,
        true => QUERIES_IN_PAIRS,
    }
}

/// How much room each of these takes for `most` queries, with any instruction set.
fn room_sizes(problem: &Problem<'_>, most: usize) -> [usize; 9] {
    let (head_dim, value_dim) = (problem.q.dim().3, problem.v.dim().3);
    [
        rows_room(most, lines(head_dim)).max(most * lines(value_dim)), // rows of q, later of out
        lines(head_dim) * most,                                        // q, transposed
        lines(value_dim) * most,                                       // out, transposed
        most,                                                          // m
        most,                                                          // l
        KEYS * 2 * LINE,                                               // weights
        KEYS * LINE,                                                   // weights, in pairs of keys
        rows_room(KEYS, head_dim),    // keys, if they have to be copied
        turned_room(KEYS, value_dim), // values, likewise
    ]
}

struct Room<'r> {
    rows: &'r mut [f32],
    q_t: &'r mut [f32],
    state: Running<'r>,
    weights: &'r mut [f32],
    words: &'r mut [f32],
    k: &'r mut [f32],
    v: &'r mut [f32],
}

impl Queries<'_, '_, '_> {
    #[inline(always)]
    fn compute<S: Simd>(self, simd: S, width: usize, room: Room<'_>) {
        let Queries {
            arithmetic,
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
            words,
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
        let q_width = match arithmetic {
            Arithmetic::F32 => {
                // Scores come in powers of 2: e^s = 2^(log₂e · s), and the factor is put into q once.
                let factor = problem.scale as f32 * LOG2_E;
                q.copy_rows(first..last, factor, &mut rows[..width * q_width], q_width);
                q_width
            }
            Arithmetic::Pairs(_) => {
                let (spare, rows) = rows.split_at_mut(words::spare(head_dim));
                let q_width = words::width(head_dim);
                let rows = &mut rows[..width * q_width];
                words::rows(simd, &q, first..last, rows, q_width, spare);
                q_width
            }
        };
        let q_rows = match arithmetic {
            Arithmetic::F32 => &*rows,
            Arithmetic::Pairs(_) => &rows[words::spare(head_dim)..],
        };
        for (lane, panel) in panels::<S>(width) {
            let (rows, into) = (from(q_rows, lane * q_width), from_mut(q_t, lane * q_width));
            transpose(simd, rows, q_width, (panel, q_width), into, 2 * S::LANES);
        }
        state.out_t.fill(0.0);
        state.m.fill(f32::NEG_INFINITY);
        state.l.fill(0.0);

        let seen = problem.visibility.ranges(batch, &(first..last));
        let length = match arithmetic {
            Arithmetic::F32 => KEYS,
            Arithmetic::Pairs(_) => KEYS_IN_PAIRS,
        };
        for keys in seen
            .into_iter()
            .flat_map(|seen| arithmetic.blocks(seen, length))
        {
            let k = arithmetic.rows(simd, &k, keys.clone(), k_room);
            let v = arithmetic.turned(simd, &v, keys.clone(), v_room);
            for (lane, panel) in panels::<S>(width) {
                let queries = first + lane..last.min(first + lane + panel);
                // What none of these queries sees is not computed.
                let seen = problem.visibility.part(batch, &queries, &keys);
                let seen = arithmetic.whole_steps(seen, &keys);
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
                let v = v.steps_from(arithmetic, skipped);
                let tile = block.scores(
                    simd,
                    problem,
                    (arithmetic, k.rows_from(skipped)),
                    (from(q_t, lane * q_width), 2 * S::LANES),
                    (weights, 2 * S::LANES, panel),
                    None,
                );
                if tile == Tile::Empty {
                    continue;
                }
                let size = [value_dim, panel, block.keys.len()];
                let hidden = tile == Tile::Partial && !v.is_finite(arithmetic, size[0], size[2]);
                // Weights that are dropped or added pair by pair are needed in f32.
                let in_words = matches!(arithmetic, Arithmetic::Pairs(_))
                    && problem.dropout.is_none()
                    && !hidden;
                let (keys, factor) = (block.keys.len(), arithmetic.factor(problem));
                for vector in (0..panel).step_by(S::LANES) {
                    // rescaled and summed before any is dropped: the weights of a query add up to 1 without dropout
                    let at = (lane, vector);
                    if in_words {
                        let scores = (&*weights, vector, 2 * S::LANES);
                        state.weigh_in_words(simd, keys, factor, scores, at, words);
                    } else {
                        let scores = (&mut *weights, vector, 2 * S::LANES);
                        state.weigh(simd, keys, factor, scores, at);
                    }
                }
                if let Some(dropout) = problem.dropout {
                    block.drop(simd, problem, dropout, panel, (&mut *weights, 2 * S::LANES));
                }
                if hidden {
                    let weights = (&*weights, 2 * S::LANES);
                    state.add_visible(arithmetic, problem, &block, v, weights, lane);
                    continue;
                }
                let right = match arithmetic {
                    Arithmetic::F32 => &*weights,
                    Arithmetic::Pairs(_) => {
                        if !in_words {
                            words::of_block(simd, block.keys.len(), 2 * S::LANES, weights, words);
                        }
                        &*words
                    }
                };
                // out[i] += Σ_j w_ij v_j, transposed
                multiply(
                    simd,
                    arithmetic,
                    size,
                    v,
                    (right, 2 * S::LANES),
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
