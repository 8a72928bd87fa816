//! A few queries against many keys, as when a sequence is written token by token: here the keys are the work, and each
//! has to be read from memory once.
//!
//! The other kernel has the queries in the lanes, and most of these would be idle. Here `head_dim` is: a score is a dot
//! product, and the heads of a group, which read the same keys and values, share each read. The keys are cut into
//! parts, by their number alone, so that one sequence keeps several threads busy; the parts' results are merged in order.

use std::f32::consts::{LN_2, LOG2_E};
use std::ops::Range;

use ndarray::{ArrayViewMut3, ArrayViewMut4, s};

use super::exponential::exp2;
use super::forward::add_exponentials;
use super::softcap::soft_cap;
use super::tiles::{LINE, all_finite, blocks, lines, take, with_room};
use crate::Isa;
use crate::element::Numeric;
use crate::mask::Tile;
use crate::problem::Problem;
use crate::simd::{self, Dots, Kernel, Product, Simd, Stored, Weighted};

/// With more queries than this, the other kernel fills more than half of AVX2's lanes. A count, not a measurement.
const QUERIES: usize = 4;
/// Keys of a task: some 0.5 MiB of keys and values, so that a task is long beside its start, and two threads find
/// something to do from 1,024 keys on.
const PART: usize = 512;
/// Parts of a head at most: longer ones are cut into longer parts, so that their results take no more memory.
const PARTS: usize = 256;
/// How many numbers the results of all parts may take together: 4 MiB.
const STATES: usize = 1 << 20;
/// Keys of a block: with 128 numbers each, keys and values of a block are 64 KiB of the second cache.
const KEYS: usize = 64;

pub(super) fn is_decoding(problem: &Problem<'_>) -> bool {
    let (_, heads, queries, _) = problem.q.dim();
    heads > 0 && (1..=QUERIES).contains(&queries)
}

/// As [`forward`](super::forward::forward), for a few queries.
pub(super) fn forward<E: Numeric>(
    isa: Isa,
    problem: &Problem<'_>,
    mut out: ArrayViewMut4<'_, E>,
    mut log_sum_exp: ArrayViewMut3<'_, f32>,
) {
    let (batch, _, queries, head_dim) = problem.q.dim();
    let (_, kv_heads, keys, value_dim) = problem.v.dim();
    let group = problem.group();
    let rows = group * queries;
    let part = PART.max(keys.div_ceil(PARTS).next_multiple_of(KEYS));
    let parts = keys.div_ceil(part).max(1);
    let size = State::size(rows, value_dim);
    let room = room_sizes(problem).into_iter().map(lines).sum();
    let all = batch * kv_heads;
    // As many heads at a time as the room for their parts allows.
    let wave = (STATES / (parts * size)).min(all).max(1);
    let mut states = vec![0.0; wave * parts * size];
    for first in (0..all).step_by(wave) {
        let heads = wave.min(all - first);
        let states = &mut states[..heads * parts * size];
        let mut tasks = Vec::new();
        for (at, state) in states.chunks_exact_mut(size).enumerate() {
            let (head, of) = (first + at / parts, at % parts);
            state.fill(0.0);
            tasks.push(Part {
                problem,
                batch: head / kv_heads,
                kv_head: head % kv_heads,
                keys: of * part..keys.min((of + 1) * part),
                state: State::of(state, rows, value_dim),
            });
        }
        let operations = 2 * heads * rows * keys * (head_dim + value_dim);
        super::for_each(tasks, operations, |part| {
            with_room(room, |room| simd::run(isa, (part, room)));
        });

        for (at, states) in states.chunks_exact_mut(parts * size).enumerate() {
            let (b, kv_head) = ((first + at) / kv_heads, (first + at) % kv_heads);
            let (first, others) = states.split_at_mut(size);
            let mut state = State::of(first, rows, value_dim);
            for other in others.chunks_exact_mut(size) {
                state.merge(&State::of(other, rows, value_dim));
            }
            for row in 0..rows {
                let (h, i) = (kv_head * group + row / queries, row % queries);
                let sink = problem.sinks.map(|sinks| sinks[h]);
                let (factor, lse) = state.factor(row, sink);
                let mut out = E::rows_mut(out.slice_mut(s![b, h, .., ..]));
                out.write(i, &state.out(row)[..value_dim], factor);
                log_sum_exp[[b, h, i]] = lse;
            }
        }
    }
}

/// What the queries of a group have seen so far: row `r` is query `r % queries` of the group's head `r / queries`.
struct State<'a> {
    /// `Σ_j 2^(s_j − m) v_j`, `[rows, lines(value_dim)]`.
    out: &'a mut [f32],
    /// The reference point.
    m: &'a mut [f32],
    /// `Σ_j 2^(s_j − m)`.
    l: &'a mut [f32],
}

impl<'a> State<'a> {
    fn size(rows: usize, value_dim: usize) -> usize {
        rows * (lines(value_dim) + 2)
    }

    fn of(numbers: &'a mut [f32], rows: usize, value_dim: usize) -> Self {
        let (out, rest) = numbers.split_at_mut(rows * lines(value_dim));
        let (m, l) = rest.split_at_mut(rows);
        Self { out, m, l }
    }

    fn width(&self) -> usize {
        self.out.len() / self.m.len()
    }

    fn out(&self, row: usize) -> &[f32] {
        let width = self.width();
        &self.out[row * width..][..width]
    }

    /// Moves the reference point of a row up to `m`.
    fn move_to(&mut self, row: usize, m: f32) {
        if m == self.m[row] || m == f32::NEG_INFINITY {
            return;
        }
        let factor = (self.m[row] - m).exp2();
        let width = self.width();
        self.l[row] *= factor;
        self.out[row * width..][..width]
            .iter_mut()
            .for_each(|out| *out *= factor);
        self.m[row] = m;
    }

    /// Adds what the same queries have seen in later keys.
    fn merge(&mut self, other: &State<'_>) {
        let width = self.width();
        for row in 0..self.m.len() {
            let m = if other.m[row] > self.m[row] {
                other.m[row]
            } else {
                self.m[row]
            };
            self.move_to(row, m);
            let factor = if other.m[row] == f32::NEG_INFINITY {
                1.0 // it has seen nothing, or NaN
            } else {
                (other.m[row] - m).exp2()
            };
            self.l[row] += factor * other.l[row];
            let out = &mut self.out[row * width..][..width];
            out.iter_mut()
                .zip(other.out(row))
                .for_each(|(out, other)| *out += factor * other);
        }
    }

    /// What `out` has to be multiplied by, and the log-sum-exp.
    fn factor(&self, row: usize, sink: Option<f32>) -> (f32, f32) {
        let (m, l) = (self.m[row], self.l[row]);
        // Nothing is seen where l is 0; a NaN is no 0, and goes into the row.
        let (factor, lse) = if l == 0.0 {
            (0.0, f32::NEG_INFINITY)
        } else {
            (1.0 / l, m * LN_2 + l.ln())
        };
        match sink {
            None => (factor, lse),
            Some(sink) => {
                let with_sink = add_exponentials(lse, sink);
                let share = if lse > f32::NEG_INFINITY {
                    (lse - with_sink).exp()
                } else {
                    1.0
                };
                (factor * share, with_sink)
            }
        }
    }
}

/// Some keys of one key head, and the queries of its group.
struct Part<'a, 'p> {
    problem: &'a Problem<'p>,
    batch: usize,
    kv_head: usize,
    keys: Range<usize>,
    state: State<'a>,
}

/// How much room each of these takes, with any instruction set.
fn room_sizes(problem: &Problem<'_>) -> [usize; 5] {
    let (_, _, queries, head_dim) = problem.q.dim();
    let rows = problem.group() * queries;
    [
        rows * head_dim,                        // q
        rows * KEYS,                            // scores, then weights
        KEYS,                                   // a row of the bias
        KEYS * head_dim,                        // keys, if they have to be copied
        KEYS * lines(problem.v.dim().3) + LINE, // values, likewise
    ]
}

/// In room for [`room_sizes`].
impl Kernel for (Part<'_, '_>, &mut [f32]) {
    type Output = ();

    #[inline(always)]
    fn call<S: Simd>(self, simd: S) {
        let (mut part, mut room) = self;
        let problem = part.problem;
        let (_, _, queries, head_dim) = problem.q.dim();
        let value_dim = problem.v.dim().3;
        let rows = part.state.m.len();
        let [q, scores, bias, k_room, v_room] =
            room_sizes(problem).map(|size| take(&mut room, size));
        part.state.m.fill(f32::NEG_INFINITY);
        for row in 0..rows {
            let q = &mut q[row * head_dim..][..head_dim];
            let scale = problem.scale as f32 * LOG2_E;
            let head = problem.q.head(part.batch, part.head(row));
            head.copy_part(row % queries, 0..head_dim, scale, q);
        }
        let seen = problem
            .visibility
            .part(part.batch, &(0..queries), &part.keys);
        for keys in blocks(seen, KEYS) {
            let k = problem.k.head(part.batch, part.kv_head);
            // bf16 is read where it lies: copied and widened first, decoding took 1.5 times as long.
            match k.bf16_in_place(keys.clone()) {
                Some(k) => dots(simd, (q, rows), (k, keys.len()), head_dim, scores),
                None => {
                    let k = k.dense_rows(keys.clone(), k_room);
                    dots(simd, (q, rows), (k, keys.len()), head_dim, scores);
                }
            }
            let mut all_seen = true;
            for row in 0..rows {
                let scores = &mut scores[row * KEYS..][..KEYS];
                all_seen &= part.complete(simd, row, &keys, scores, bias);
                part.weigh(simd, row, keys.len(), scores);
                part.drop(row, &keys, scores);
            }
            let v = problem.v.head(part.batch, part.kv_head);
            if all_seen
                && value_dim.is_multiple_of(S::LANES)
                && let Some(v) = v.bf16_in_place(keys.clone())
            {
                simd.run(Weighted {
                    left_rows: rows,
                    right_rows: keys.len(),
                    columns: value_dim,
                    left: scores,
                    left_row: KEYS,
                    right: v,
                    into: part.state.out,
                    into_row: lines(value_dim),
                });
                continue;
            }
            // The product reads whole vectors.
            let step = if value_dim.is_multiple_of(S::LANES) {
                value_dim
            } else {
                lines(value_dim)
            };
            let v = if step == value_dim {
                v.dense_rows(keys.clone(), v_room)
            } else {
                v.copy_rows(keys.clone(), 1.0, v_room, step);
                &*v_room
            };
            if all_seen || all_finite(&v[..keys.len() * step]) {
                // o_r += Σ_j w_rj v_j
                simd.run(Product {
                    rows,
                    columns: value_dim,
                    depth: keys.len(),
                    left: scores,
                    left_row: KEYS,
                    left_step: 1,
                    right: v,
                    right_step: step,
                    into: part.state.out,
                    into_row: lines(value_dim),
                    add: true,
                });
            } else {
                part.add_visible(&keys, scores, (v, step));
            }
        }
    }
}

/// `scores[r · KEYS + j] = ⟨q_r, k_j⟩`.
#[inline(always)]
fn dots<S: Simd, N: Stored>(
    simd: S,
    (q, rows): (&[f32], usize),
    (k, keys): (&[N], usize),
    head_dim: usize,
    scores: &mut [f32],
) {
    simd.run(Dots {
        left_rows: rows,
        right_rows: keys,
        depth: head_dim,
        left: q,
        right: k,
        into: scores,
        into_row: KEYS,
    });
}

impl Part<'_, '_> {
    fn head(&self, row: usize) -> usize {
        let queries = self.problem.q.dim().2;
        self.kv_head * self.problem.group() + row / queries
    }

    /// Makes scores of the dot products of a row: the cap, what is added, −∞ where a key is not seen. Says whether all
    /// are seen.
    #[inline(always)]
    fn complete<S: Simd>(
        &self,
        simd: S,
        row: usize,
        keys: &Range<usize>,
        scores: &mut [f32],
        bias_room: &mut [f32],
    ) -> bool {
        let problem = self.problem;
        let visibility = &problem.visibility;
        let (head, query) = (self.head(row), row % problem.q.dim().2);
        if let Some(cap) = problem.softcap {
            soft_cap(simd, cap as f32, (1, KEYS), (&mut *scores, KEYS), None);
        }
        let scores = &mut scores[..keys.len()];
        let mut tile = visibility.tile(self.batch, head, query..query + 1, keys.clone());
        if let Some(bias) = problem.bias {
            let bias_room = &mut bias_room[..keys.len()];
            let bias = bias.head(self.batch, head);
            bias.copy_part(query, keys.clone(), LOG2_E, bias_room);
            for (score, &bias) in scores.iter_mut().zip(&*bias_room) {
                *score += bias;
                if bias == f32::NEG_INFINITY {
                    tile = Tile::Partial; // it hides its pair, as a mask does
                }
            }
        }
        if let Some(slopes) = problem.slopes {
            let place = visibility.key_of(self.batch, query);
            let ahead = place.saturating_sub_unsigned(keys.start) as f32;
            for (j, score) in scores.iter_mut().enumerate() {
                *score -= LOG2_E * slopes[head] * (ahead - j as f32).abs();
            }
        }
        if tile != Tile::Full {
            for (key, score) in keys.clone().zip(scores) {
                if !problem.sees(self.batch, head, query, key) {
                    *score = f32::NEG_INFINITY;
                }
            }
        }
        tile == Tile::Full
    }

    /// Turns the scores of a row into weights, and adds them to its sum.
    #[inline(always)]
    fn weigh<S: Simd>(&mut self, simd: S, row: usize, keys: usize, scores: &mut [f32]) {
        scores[keys..].fill(f32::NEG_INFINITY); // up to whole vectors
        let mut max = simd.splat(f32::NEG_INFINITY);
        for scores in scores.chunks_exact(S::LANES) {
            // `max` gives its second argument where a score is NaN; that NaN reaches the row through the sum below.
            max = simd.max(simd.load(scores), max);
        }
        let mut lanes = [f32::NEG_INFINITY; 16];
        simd.store(max, &mut lanes);
        let max = lanes.into_iter().fold(self.state.m[row], f32::max);
        self.state.move_to(row, max);
        let m = simd.splat(if max == f32::NEG_INFINITY { 0.0 } else { max });
        let mut sum = simd.splat(0.0);
        for scores in scores.chunks_exact_mut(S::LANES) {
            let weights = exp2(simd, simd.sub(simd.load(scores), m));
            sum = simd.add(sum, weights);
            simd.store(weights, scores);
        }
        self.state.l[row] += simd.sum(sum);
    }

    fn drop(&self, row: usize, keys: &Range<usize>, weights: &mut [f32]) {
        if let Some(dropout) = self.problem.dropout {
            let (head, query) = (self.head(row), row % self.problem.q.dim().2);
            for (key, weight) in keys.clone().zip(weights) {
                let row = self.problem.first_row + self.batch;
                let kept = dropout.keeps(row, head, query, key);
                *weight *= if kept { dropout.factor() } else { 0.0 };
            }
        }
    }

    /// Pair by pair, for the visible pairs only: 0 · NaN is NaN, and a value that is not seen must not reach the row.
    fn add_visible(&mut self, keys: &Range<usize>, weights: &[f32], (v, step): (&[f32], usize)) {
        let queries = self.problem.q.dim().2;
        let value_dim = self.problem.v.dim().3;
        let width = self.state.width();
        for row in 0..self.state.m.len() {
            let head = self.head(row);
            let out = &mut self.state.out[row * width..][..value_dim];
            for (j, key) in keys.clone().enumerate() {
                if self.problem.sees(self.batch, head, row % queries, key) {
                    let weight = weights[row * KEYS + j];
                    let v = &v[j * step..][..value_dim];
                    out.iter_mut()
                        .zip(v)
                        .for_each(|(out, v)| *out += weight * v);
                }
            }
        }
    }
}
