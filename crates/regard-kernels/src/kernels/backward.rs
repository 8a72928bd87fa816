//! The backward pass: the scores are computed again, block by block, and five products give the gradients.
//!
//! With the weights w_ij = exp(s_ij − lse_i), and d = ∂loss/∂(what follows):
//!
//! ```text
//! dv_j = Σ_i w_ij r_ij do_i         r_ij is 1; with dropout, 0 or 1/(1 − p)
//! dw_ij = r_ij ⟨do_i, v_j⟩
//! ds_ij = w_ij (dw_ij − D_i)        D_i = Σ_j w_ij dw_ij − dlse_i = ⟨do_i, o_i⟩ − dlse_i
//!                                   with a softcap, from here on ds_ij (1 − tanh²(…))
//! dq_i = scale · Σ_j ds_ij k_j      dk_j = scale · Σ_i ds_ij q_i
//! ```
//!
//! A task owns some keys of one head and meets the queries of its group one after the other, so `dk` and `dv` are
//! summed in one place and in one order. Where there are fewer heads than would keep a machine busy, the keys are cut
//! into parts (by their number alone); then each part has its own sum for `dq`, and these are added in order. Results that cannot
//! be summed where they lie are those of [`rounded`](super::rounded).

use std::ops::Range;

use ndarray::{Array4, ArrayView3, ArrayViewMut4, Axis, s};

use super::arithmetic::Arithmetic;
use super::backward_in_pairs::{self, InPairs};
use super::pairs::{Into, KEYS, Pairs, QUERIES, QueryBlock, STEP};
use super::score_gradients;
use super::sink_gradient::sink_gradient;
use super::tiles::{RowsMut, all_finite, blocks, lines, outer, split, take, transpose, with_room};
use super::{rounded, small};
use crate::numbers::Numbers;
use crate::problem::Problem;
use crate::results::{GradientsMut, OptionGradients};
use crate::simd::{self, Kernel, Product, Simd, Unit};
use crate::{Element, Isa};

/// With as many heads as this, a task is a whole head.
const HEADS_ENOUGH: usize = 16;
/// Into how many parts the keys of a head are cut otherwise, and how many keys a part has at least.
const PARTS: usize = 8;
pub(super) const PART: usize = 512;
/// How many numbers all partial sums of `dq` together may take: 4 MiB.
const PARTIAL_SUMS: usize = 1 << 20;

/// The gradients of the results, and what the forward pass left. `S` is what sums are in.
#[derive(Clone, Copy)]
pub struct Known<'a, S> {
    pub(crate) out: Numbers<'a>,
    pub(crate) log_sum_exp: ArrayView3<'a, S>,
    pub(crate) d_out: Numbers<'a>,
    pub(crate) d_log_sum_exp: Option<ArrayView3<'a, S>>,
}

/// Which gradients are asked for, beside those of `q`, `k` and `v`.
#[derive(Clone, Copy)]
pub struct Wanted {
    /// That of the bias, summed to this shape.
    pub(crate) bias: Option<(usize, usize, usize, usize)>,
    pub(crate) sinks: bool,
    pub(crate) slopes: bool,
}

/// Fills `into`, in standard layout, with the gradients of `q`, `k` and `v`; gives those that are wanted.
pub(crate) fn backward<'p>(
    isa: Isa,
    problem: &Problem<'p>,
    known: &Known<'p, f32>,
    wanted: Wanted,
    into: GradientsMut<'_, f32>,
) -> OptionGradients<f32> {
    if small::fits(isa, problem) {
        small::backward(isa, problem, known, into);
        return of_options(isa, problem, known, wanted);
    }
    let (batch, heads, queries, head_dim) = problem.q.dim();
    let (_, kv_heads, keys, _) = problem.v.dim();
    let GradientsMut {
        q: mut dq,
        k: mut dk,
        v: mut dv,
    } = into;
    if batch * kv_heads >= HEADS_ENOUGH || keys <= PART {
        let into = Results {
            dq,
            dk,
            dv,
            begin: true,
        };
        pass(isa, problem, known, 0..queries, keys.max(1), into);
    } else {
        let part = part_of(keys);
        let parts = keys.div_ceil(part);
        // As many queries at a time as the room for partial sums allows.
        let per_query = (batch * heads * parts * head_dim).max(1);
        let wave = (PARTIAL_SUMS / per_query / QUERIES).max(1) * QUERIES;
        // Once at least: it is what zeroes `dk` and `dv`.
        for start in (0..queries.max(1)).step_by(wave) {
            let wave = start..queries.min(start + wave);
            let mut partial = Array4::zeros((batch * parts, heads, wave.len(), head_dim));
            let into = Results {
                dq: partial.view_mut(),
                dk: dk.view_mut(),
                dv: dv.view_mut(),
                begin: start == 0,
            };
            pass(isa, problem, known, wave.clone(), part, into);
            let mut dq = dq.slice_mut(s![.., .., wave, ..]);
            for (batch, mut dq) in dq.outer_iter_mut().enumerate() {
                dq.fill(0.0);
                for part in 0..parts {
                    dq += &partial.index_axis(Axis(0), batch * parts + part);
                }
            }
        }
    }
    of_options(isa, problem, known, wanted)
}

/// As [`backward`], for results of any kind; each is summed in f32 and rounded once.
pub(crate) fn backward_into<'p, E: Element<Sum = f32>>(
    isa: Isa,
    problem: &Problem<'p>,
    known: &Known<'p, f32>,
    wanted: Wanted,
    into: GradientsMut<'_, E>,
) -> OptionGradients<f32> {
    match small::fits(isa, problem) {
        true => small::backward(isa, problem, known, into),
        false => rounded::backward(isa, problem, known, into),
    }
    of_options(isa, problem, known, wanted)
}

/// How many keys a part has, where the keys of a head are cut.
pub(super) fn part_of(keys: usize) -> usize {
    keys.div_ceil(PARTS).max(PART).next_multiple_of(KEYS)
}

/// The gradients that are wanted beside those of `q`, `k` and `v`.
fn of_options<'p>(
    isa: Isa,
    problem: &Problem<'p>,
    known: &Known<'p, f32>,
    wanted: Wanted,
) -> OptionGradients<f32> {
    OptionGradients {
        bias: wanted
            .bias
            .map(|shape| score_gradients::of_bias(isa, problem, known, shape)),
        sinks: wanted.sinks.then(|| sink_gradient(problem, known)),
        slopes: wanted
            .slopes
            .then(|| score_gradients::of_slopes(isa, problem, known)),
    }
}

/// Where the gradients go.
struct Results<'a> {
    /// Whether `dk` and `dv` begin at 0; they are added to otherwise.
    begin: bool,
    /// `[batch · parts, heads, queries of the wave, head_dim]`.
    dq: ArrayViewMut4<'a, f32>,
    dk: ArrayViewMut4<'a, f32>,
    dv: ArrayViewMut4<'a, f32>,
}

/// Lets some queries of every head meet all keys, in parts of `part` keys.
fn pass<'p>(
    isa: Isa,
    problem: &Problem<'p>,
    known: &Known<'p, f32>,
    queries: Range<usize>,
    part: usize,
    into: Results<'_>,
) {
    let (batch, heads, _, head_dim) = problem.q.dim();
    let (_, kv_heads, keys, value_dim) = problem.v.dim();
    let group = heads / kv_heads.max(1);
    let parts = keys.div_ceil(part);
    let mut dqs = Vec::new();
    for dq in outer(into.dq) {
        let of_groups = split(dq, group.max(1)).into_iter();
        dqs.extend(of_groups.map(|dq| outer(dq).map(RowsMut::F32).collect::<Vec<_>>()));
    }
    let mut tasks = Vec::new();
    for (b, (dk, dv)) in outer(into.dk).zip(outer(into.dv)).enumerate() {
        for (kv_head, (dk, dv)) in outer(dk).zip(outer(dv)).enumerate() {
            for (p, (dk, dv)) in split(dk, part).into_iter().zip(split(dv, part)).enumerate() {
                let dq = dqs.get_mut((b * parts + p) * kv_heads + kv_head);
                tasks.push(Part {
                    problem,
                    known,
                    batch: b,
                    kv_head,
                    keys: p * part..keys.min((p + 1) * part),
                    queries: queries.clone(),
                    dq: dq.map(std::mem::take).unwrap_or_default(),
                    of_keys: Some(OfKeys {
                        begin: into.begin,
                        dk: dk.into_slice().expect("the door gives standard layout"),
                        dv: dv.into_slice().expect("the door gives standard layout"),
                        into: None,
                    }),
                });
            }
        }
    }
    let operations = 4 * batch * heads * queries.len() * keys * (head_dim + value_dim);
    super::for_each(tasks, operations, |part| {
        with_room(room(isa, problem), |room| run(isa, part, room));
    });
}

/// How much room [`run`] takes.
pub(super) fn room(isa: Isa, problem: &Problem<'_>) -> usize {
    match Arithmetic::is_in_pairs(isa, problem) {
        false => room_sizes(problem).into_iter().map(lines).sum(),
        true => backward_in_pairs::room(problem),
    }
}

/// Lets the queries of a part meet its keys, with the widest products that the instruction set has for them.
pub(super) fn run(isa: Isa, part: Part<'_, '_, '_>, room: &mut [f32]) {
    if Arithmetic::is_in_pairs(isa, part.problem) {
        let unit = &Unit::of(isa);
        simd::run_pairs(isa, InPairs { unit, part, room });
    } else {
        simd::run(isa, (part, room));
    }
}

/// Some keys of one key head, the queries that read it, and where the gradients of both go.
pub(super) struct Part<'a, 'o, 'p> {
    pub(super) problem: &'a Problem<'p>,
    pub(super) known: &'a Known<'p, f32>,
    pub(super) batch: usize,
    pub(super) kv_head: usize,
    pub(super) keys: Range<usize>,
    pub(super) queries: Range<usize>,
    /// Of each head of the group, `[queries, head_dim]`; none where nobody asks for them.
    pub(super) dq: Vec<RowsMut<'o>>,
    /// None where nobody asks for them.
    pub(super) of_keys: Option<OfKeys<'a, 'o>>,
}

/// The sums of `dk` and `dv` of some keys, one row behind the other.
pub(super) struct OfKeys<'a, 'o> {
    /// Whether they begin at 0; they are added to otherwise.
    pub(super) begin: bool,
    pub(super) dk: &'a mut [f32],
    pub(super) dv: &'a mut [f32],
    /// Where they go in the end, if they do not stay where they are.
    pub(super) into: Option<[RowsMut<'o>; 2]>,
}

impl OfKeys<'_, '_> {
    #[inline(always)]
    pub(super) fn start(&mut self) {
        if self.begin {
            self.dk.fill(0.0);
            self.dv.fill(0.0);
        }
    }

    /// Those of `count` keys from the key `first` on.
    #[inline(always)]
    pub(super) fn rows(
        &mut self,
        first: usize,
        count: usize,
        (head_dim, value_dim): (usize, usize),
    ) -> (&mut [f32], &mut [f32]) {
        (
            &mut self.dk[first * head_dim..][..count * head_dim],
            &mut self.dv[first * value_dim..][..count * value_dim],
        )
    }

    #[inline(always)]
    pub(super) fn finish(self, keys: usize, (head_dim, value_dim): (usize, usize)) {
        let Some([mut dk, mut dv]) = self.into else {
            return;
        };
        for j in 0..keys {
            dk.write(j, &self.dk[j * head_dim..][..head_dim], 1.0);
            dv.write(j, &self.dv[j * value_dim..][..value_dim], 1.0);
        }
    }
}

/// In room for [`room_sizes`].
impl Kernel for (Part<'_, '_, '_>, &mut [f32]) {
    type Output = ();

    #[inline(always)]
    fn call<S: Simd>(self, simd: S) {
        let (mut part, mut room) = self;
        let problem = part.problem;
        let (head_dim, value_dim) = (problem.q.dim().3, problem.v.dim().3);
        let group = problem.group();
        let q_width = head_dim.next_multiple_of(S::LANES);
        let [block, dq_t, dq_rows, weights, scores, slopes, k, v] =
            room_sizes(problem).map(|size| take(&mut room, size));
        let mut dq = std::mem::take(&mut part.dq);
        if let Some(sums) = &mut part.of_keys {
            sums.start();
        }
        for h in 0..group {
            let mut dq = dq.get_mut(h);
            for queries in blocks(part.queries.clone(), QUERIES) {
                let (first, count) = (queries.start - part.queries.start, queries.len());
                let seen = problem.visibility.part(part.batch, &queries, &part.keys);
                if seen.is_empty() {
                    dq_rows[..count * q_width].fill(0.0);
                } else {
                    let head = part.kv_head * group + h;
                    let block = QueryBlock::pack(
                        simd,
                        problem,
                        part.known,
                        (part.batch, head),
                        queries,
                        &mut *block,
                    );
                    let mut dq_t = dq.is_some().then_some(&mut dq_t[..q_width * STEP]);
                    if let Some(dq_t) = &mut dq_t {
                        dq_t.fill(0.0);
                    }
                    part.meet(
                        simd,
                        &block,
                        dq_t.as_deref_mut(),
                        (&mut *weights, &mut *scores),
                        problem.softcap.map(|_| &mut *slopes),
                        (&mut *k, &mut *v),
                    );
                    if let Some(dq_t) = dq_t {
                        let columns = (q_width, block.width);
                        transpose(simd, dq_t, STEP, columns, dq_rows, q_width);
                    }
                }
                let Some(dq) = &mut dq else { continue };
                for (i, row) in dq_rows.chunks(q_width.max(1)).take(count).enumerate() {
                    dq.write(first + i, &row[..head_dim], problem.scale as f32);
                }
            }
        }
        if let Some(sums) = part.of_keys {
            sums.finish(part.keys.len(), (head_dim, value_dim));
        }
    }
}

/// How much room each of these takes, with any instruction set.
fn room_sizes(problem: &Problem<'_>) -> [usize; 8] {
    let (head_dim, value_dim) = (problem.q.dim().3, problem.v.dim().3);
    [
        QueryBlock::room(problem),
        lines(head_dim) * STEP,                     // dq, transposed
        QUERIES * lines(head_dim),                  // dq
        KEYS * STEP,                                // weights
        KEYS * STEP,                                // their gradients
        problem.softcap.map_or(0, |_| KEYS * STEP), // the slopes of the cap
        KEYS * head_dim,                            // keys, if they have to be copied
        KEYS * value_dim,                           // values, likewise
    ]
}

impl Part<'_, '_, '_> {
    /// A block of queries meets the keys of the part.
    #[inline(always)]
    fn meet<S: Simd>(
        &mut self,
        simd: S,
        block: &QueryBlock<'_>,
        mut dq_t: Option<&mut [f32]>,
        (weights, scores): (&mut [f32], &mut [f32]),
        mut slopes: Option<&mut [f32]>,
        (k_room, v_room): (&mut [f32], &mut [f32]),
    ) {
        let problem = self.problem;
        let (head_dim, value_dim) = (problem.q.dim().3, problem.v.dim().3);
        let k = problem.k.head(self.batch, self.kv_head);
        let v = problem.v.head(self.batch, self.kv_head);
        let width = block.width;
        let own = self.keys.clone();
        let seen = problem
            .visibility
            .ranges(self.batch, &block.queries)
            .map(|seen| {
                let start = seen.start.max(own.start);
                start..seen.end.min(own.end).max(start)
            });
        for keys in seen.into_iter().flat_map(|seen| blocks(seen, KEYS)) {
            let k = k.dense_rows(keys.clone(), k_room);
            let v = v.dense_rows(keys.clone(), v_room);
            let pairs = block.pairs(
                simd,
                problem,
                keys.clone(),
                (k, v),
                Into {
                    weights: &mut *weights,
                    gradients: &mut *scores,
                    slopes: slopes.as_deref_mut(),
                },
            );
            if pairs == Pairs::None {
                continue;
            }
            if let Some(sums) = &mut self.of_keys {
                let rows = sums.rows(keys.start - own.start, keys.len(), (head_dim, value_dim));
                let of_pairs = (&*weights, &*scores, pairs);
                add_to_keys(simd, problem, block, keys.clone(), of_pairs, rows);
            }

            // in the forward pass this was:
            // s_ij = scale · ⟨q_i, k_j⟩
            // so now we have (its scale comes at the end):
            // dq_i += Σ_j ds_ij k_j
            let Some(dq_t) = &mut dq_t else { continue };
            if pairs == Pairs::All || all_finite(k) {
                simd.run(Product {
                    rows: head_dim,
                    columns: width,
                    depth: keys.len(),
                    left: k,
                    left_row: 1,
                    left_step: head_dim,
                    right: scores,
                    right_step: STEP,
                    into: dq_t,
                    into_row: STEP,
                    add: true,
                });
            } else {
                block.visible_pairs(problem, keys.clone(), |i, j| {
                    for (c, k) in k[j * head_dim..][..head_dim].iter().enumerate() {
                        dq_t[c * STEP + i] += scores[j * STEP + i] * k;
                    }
                });
            }
        }
    }
}

/// What a block of queries adds to `dk` and `dv` of some keys.
#[inline(always)]
fn add_to_keys<S: Simd>(
    simd: S,
    problem: &Problem<'_>,
    block: &QueryBlock<'_>,
    keys: Range<usize>,
    (weights, scores, pairs): (&[f32], &[f32], Pairs),
    (dk, dv): (&mut [f32], &mut [f32]),
) {
    let (head_dim, value_dim) = (problem.q.dim().3, problem.v.dim().3);
    let safe = |finite: bool| pairs == Pairs::All || finite;

    // in the forward pass this was:
    // o_i += Σ_j w_ij r_ij v_j
    // so now we have:
    // dv_j += Σ_i w_ij r_ij do_i
    if safe(block.d_out_finite) {
        simd.run(Product {
            rows: keys.len(),
            columns: value_dim,
            depth: block.queries.len(),
            left: weights,
            left_row: STEP,
            left_step: 1,
            right: block.d_out,
            right_step: block.out_width,
            into: dv,
            into_row: value_dim,
            add: true,
        });
    } else {
        let step = block.out_width;
        block.visible_pairs(problem, keys.clone(), |i, j| {
            add_scaled(
                &mut dv[j * value_dim..][..value_dim],
                weights[j * STEP + i],
                &block.d_out[i * step..],
            );
        });
    }

    // in the forward pass this was:
    // s_ij = scale · ⟨q_i, k_j⟩
    // so now we have (its scale is in `block.q`):
    // dk_j += Σ_i ds_ij q_i
    if safe(block.q_finite) {
        simd.run(Product {
            rows: keys.len(),
            columns: head_dim,
            depth: block.queries.len(),
            left: scores,
            left_row: STEP,
            left_step: 1,
            right: block.q,
            right_step: block.q_width,
            into: dk,
            into_row: head_dim,
            add: true,
        });
    } else {
        let step = block.q_width;
        block.visible_pairs(problem, keys, |i, j| {
            add_scaled(
                &mut dk[j * head_dim..][..head_dim],
                scores[j * STEP + i],
                &block.q[i * step..],
            );
        });
    }
}

fn add_scaled(into: &mut [f32], factor: f32, row: &[f32]) {
    into.iter_mut()
        .zip(row)
        .for_each(|(into, &number)| *into += factor * number);
}
