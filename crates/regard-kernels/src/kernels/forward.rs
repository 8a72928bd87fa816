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

use super::arithmetic::{Arithmetic, Left, multiply, rows_room, turned_room};
use super::exponential::{exp2, exp2_short};
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
                let mut in_words = false;
                for vector in (0..panel).step_by(S::LANES) {
                    // rescaled and summed before any is dropped: the weights of a query add up to 1 without dropout
                    let scores = (&mut *weights, vector, 2 * S::LANES);
                    let at = (lane, vector);
                    match arithmetic {
                        Arithmetic::Pairs(_) if problem.dropout.is_none() && !hidden => {
                            let factor = arithmetic.factor(problem);
                            let (scores, from, step) = scores;
                            let scores = (&*scores, from, step);
                            state.weigh_in_words(simd, block.keys.len(), factor, scores, at, words);
                            in_words = true;
                        }
                        _ => {
                            let factor = arithmetic.factor(problem);
                            state.weigh(simd, block.keys.len(), factor, scores, at);
                        }
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

/// What the queries of a task have seen so far, one lane each.
struct Running<'r> {
    /// `o`, transposed, for two vectors of queries after the other: `[panel][value_dim][2 · LANES]`. Rows of all queries, 512
    /// bytes apart, would share few sets of the first cache.
    out_t: &'r mut [f32],
    /// `value_dim` in whole vectors.
    out_width: usize,
    /// The reference point.
    m: &'r mut [f32],
    /// The sum of the weights.
    l: &'r mut [f32],
}

impl Running<'_> {
    /// The reference point of a vector of queries, after it has been moved, if it must be, for the scores times `factor`:
    /// lanes from `from` on in the block (whose rows are `step` apart), from `panel + vector` on in the state. 0 for a query that has
    /// seen nothing yet: it has only scores of −∞, and 2^(−∞ − 0) = 0.
    #[inline(always)]
    fn reference<S: Simd>(
        &mut self,
        simd: S,
        keys: usize,
        factor: f32,
        (scores, from, step): (&[f32], usize, usize),
        (panel, vector): (usize, usize),
    ) -> S::Vector {
        let lane = panel + vector;
        let mut m = simd.load(&self.m[lane..]);
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
        let max = simd.max(simd.max(a, b), simd.max(c, d));
        let max = simd.max(simd.mul(simd.splat(factor), max), m);
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
            let out = from_mut(self.out_t, panel * self.out_width);
            for row in out.chunks_exact_mut(2 * S::LANES).take(self.out_width) {
                let row = &mut row[vector..];
                simd.store(simd.mul(simd.load(row), factor), row);
            }
            simd.store(moved, &mut self.m[lane..]);
            m = moved;
        }
        simd.select_below(lowest, m, m, simd.splat(0.0))
    }

    /// Turns a block of scores into weights, for one vector of queries.
    #[inline(always)]
    fn weigh<S: Simd>(
        &mut self,
        simd: S,
        keys: usize,
        factor: f32,
        (scores, from, step): (&mut [f32], usize, usize),
        at: (usize, usize),
    ) {
        let m = self.reference(simd, keys, factor, (scores, from, step), at);
        let factor = simd.splat(factor);
        let mut sum = simd.splat(0.0);
        for row in scores.chunks_exact_mut(step).take(keys) {
            let row = &mut row[from..];
            let score = simd.mul(factor, simd.load(row));
            let weight = exp2(simd, simd.sub(score, m));
            sum = simd.add(sum, weight);
            simd.store(weight, row);
        }
        self.add_weight(simd, at.0 + at.1, sum);
    }

    /// As [`Running::weigh`], rounded to bf16, into `words` for two keys each; zeros up to whole blocks of them.
    #[inline(always)]
    fn weigh_in_words<S: Simd>(
        &mut self,
        simd: S,
        keys: usize,
        factor: f32,
        (scores, from, step): (&[f32], usize, usize),
        at: (usize, usize),
        words: &mut [f32],
    ) {
        let m = self.reference(simd, keys, factor, (scores, from, step), at);
        let factor = simd.splat(factor);
        let minus_m = simd.sub(simd.splat(0.0), m);
        let (mut even, mut odd) = (simd.splat(0.0), simd.splat(0.0));
        let mut words = words[..words::width(keys) * step].chunks_exact_mut(step);
        let pairs = scores[..keys * step].chunks_exact(2 * step);
        let last = pairs.remainder();
        for (rows, words) in pairs.zip(&mut words) {
            let [low, high] = [&rows[from..], &rows[step + from..]];
            let low = exp2_short(simd, simd.multiply_add(factor, simd.load(low), minus_m));
            let high = exp2_short(simd, simd.multiply_add(factor, simd.load(high), minus_m));
            (even, odd) = (simd.add(even, low), simd.add(odd, high));
            simd.store(simd.pair(low, high), &mut words[from..]);
        }
        if !last.is_empty()
            && let Some(words) = words.next()
        {
            let low = simd.multiply_add(factor, simd.load(&last[from..]), minus_m);
            let low = exp2_short(simd, low);
            even = simd.add(even, low);
            simd.store(simd.pair(low, simd.splat(0.0)), &mut words[from..]);
        }
        for words in words {
            simd.store(simd.splat(0.0), &mut words[from..]);
        }
        self.add_weight(simd, at.0 + at.1, simd.add(even, odd));
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
    fn add_visible(
        &mut self,
        arithmetic: Arithmetic<'_>,
        problem: &Problem<'_>,
        block: &Block,
        v: Left<'_>,
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
                for c in 0..value_dim {
                    let v = v.at(arithmetic, c, j);
                    out[c * step + i] += weights[j * step + i] * v;
                }
            }
        }
    }
}
