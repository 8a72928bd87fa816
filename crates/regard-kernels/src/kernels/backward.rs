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
//! into parts (by their number alone); then each part has its own sum for `dq`, and these are added in order.

use std::ops::Range;

use ndarray::{Array4, ArrayView3, ArrayViewMut3, ArrayViewMut4, Axis, Zip, s};

use super::arithmetic::Arithmetic;
use super::backward_in_pairs::{self, InPairs};
use super::pairs::{Into, KEYS, Pairs, QUERIES, QueryBlock, STEP};
use super::score_gradients;
use super::sink_gradient::sink_gradient;
use super::small;
use super::tiles::{
    RowsMut, all_finite, blocks, lines, outer, split, take, transpose, with_room, write_row,
};
use crate::numbers::Numbers;
use crate::problem::Problem;
use crate::results::{GradientsMut, OptionGradients};
use crate::simd::{self, Kernel, Product, Simd, Unit};
use crate::{Element, Isa};

/// With as many heads as this, a task is a whole head.
const HEADS_ENOUGH: usize = 16;
/// Into how many parts the keys of a head are cut otherwise, and how many keys a part has at least.
const PARTS: usize = 8;
const PART: usize = 512;
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
        let part = keys.div_ceil(PARTS).max(PART).next_multiple_of(KEYS);
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
    if Arithmetic::is_in_pairs(isa, problem) && backward_in_pairs::holds_a_head(problem) {
        backward_in_pairs::backward(isa, problem, known, into);
        return of_options(isa, problem, known, wanted);
    }
    if small::fits(isa, problem) {
        small::backward(isa, problem, known, into);
        return of_options(isa, problem, known, wanted);
    }
    let [mut q, mut k, mut v] =
        [&into.q, &into.k, &into.v].map(|into| Array4::<f32>::zeros(into.dim()));
    let sums = GradientsMut {
        q: q.view_mut(),
        k: k.view_mut(),
        v: v.view_mut(),
    };
    let options = backward(isa, problem, known, wanted, sums);
    for (mut into, sums) in [(into.q, q), (into.k, k), (into.v, v)] {
        Zip::from(&mut into)
            .and(&sums)
            .for_each(|into, &sum| *into = E::from_f32(sum));
    }
    options
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
        dqs.extend(split(dq, group.max(1)).into_iter().map(Some));
    }
    let mut tasks = Vec::new();
    for (b, (dk, dv)) in outer(into.dk).zip(outer(into.dv)).enumerate() {
        for (kv_head, (dk, dv)) in outer(dk).zip(outer(dv)).enumerate() {
            for (p, (dk, dv)) in split(dk, part).into_iter().zip(split(dv, part)).enumerate() {
                let dq = dqs
                    .get_mut((b * parts + p) * kv_heads + kv_head)
                    .and_then(Option::take);
                tasks.push(Part {
                    problem,
                    known,
                    batch: b,
                    kv_head,
                    keys: p * part..keys.min((p + 1) * part),
                    queries: queries.clone(),
                    dq,
                    begin: into.begin,
                    dk: dk.into_slice().expect("the door gives standard layout"),
                    dv: dv.into_slice().expect("the door gives standard layout"),
                });
            }
        }
    }
    let in_pairs = Arithmetic::is_in_pairs(isa, problem);
    let room = match in_pairs {
        false => room_sizes(problem).into_iter().map(lines).sum(),
        true => backward_in_pairs::room(problem),
    };
    let operations = 4 * batch * heads * queries.len() * keys * (head_dim + value_dim);
    super::for_each(tasks, operations, |part| {
        with_room(room, |room| match in_pairs {
            false => simd::run(isa, (part, room)),
            true => {
                let unit = Unit::of(isa);
                let dq = part.dq.into_iter().flat_map(outer).map(RowsMut::F32);
                let head = backward_in_pairs::KeyHead {
                    problem: part.problem,
                    known: part.known,
                    batch: part.batch,
                    kv_head: part.kv_head,
                    keys: part.keys,
                    queries: part.queries,
                    begin: part.begin,
                    dk: part.dk,
                    dv: part.dv,
                };
                let kernel = InPairs {
                    unit: &unit,
                    head,
                    dq: dq.collect(),
                    finished: None,
                    room,
                };
                simd::run_pairs(isa, kernel);
            }
        });
    });
}

/// Some keys of one key head, and the queries that read it.
struct Part<'a, 'p> {
    problem: &'a Problem<'p>,
    known: &'a Known<'p, f32>,
    batch: usize,
    kv_head: usize,
    keys: Range<usize>,
    queries: Range<usize>,
    /// `[group, queries, head_dim]`; none if there are no queries.
    dq: Option<ArrayViewMut3<'a, f32>>,
    begin: bool,
    dk: &'a mut [f32],
    dv: &'a mut [f32],
}

/// In room for [`room_sizes`].
impl Kernel for (Part<'_, '_>, &mut [f32]) {
    type Output = ();

    #[inline(always)]
    fn call<S: Simd>(self, simd: S) {
        let (mut part, mut room) = self;
        let problem = part.problem;
        let head_dim = problem.q.dim().3;
        let group = problem.group();
        let q_width = head_dim.next_multiple_of(S::LANES);
        let [block, dq_t, dq_rows, weights, scores, slopes, k, v] =
            room_sizes(problem).map(|size| take(&mut room, size));
        if part.begin {
            part.dk.fill(0.0);
            part.dv.fill(0.0);
        }
        let Some(dq) = part.dq.take() else { return };
        for (h, dq) in outer(dq).enumerate() {
            for (i, dq) in split(dq, QUERIES).into_iter().enumerate() {
                let first = part.queries.start + i * QUERIES;
                let queries = first..first + dq.nrows();
                let head = part.kv_head * group + h;
                let seen = problem.visibility.part(part.batch, &queries, &part.keys);
                if seen.is_empty() {
                    dq.into_iter().for_each(|dq| *dq = 0.0);
                    continue;
                }
                let block = QueryBlock::pack(
                    simd,
                    problem,
                    part.known,
                    (part.batch, head),
                    queries,
                    &mut *block,
                );
                let dq_t = &mut dq_t[..q_width * STEP];
                dq_t.fill(0.0);
                part.meet(
                    simd,
                    &block,
                    dq_t,
                    (&mut *weights, &mut *scores),
                    problem.softcap.map(|_| &mut *slopes),
                    (&mut *k, &mut *v),
                );
                transpose(simd, dq_t, STEP, (q_width, block.width), dq_rows, q_width);
                for (row, dq) in dq_rows.chunks(q_width.max(1)).zip(outer(dq)) {
                    write_row(&row[..head_dim], problem.scale as f32, dq);
                }
            }
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

impl Part<'_, '_> {
    /// A block of queries meets the keys of the part.
    #[inline(always)]
    fn meet<S: Simd>(
        &mut self,
        simd: S,
        block: &QueryBlock<'_>,
        dq_t: &mut [f32],
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
            let skipped = keys.start - own.start;
            let dk = &mut self.dk[skipped * head_dim..][..keys.len() * head_dim];
            let dv = &mut self.dv[skipped * value_dim..][..keys.len() * value_dim];
            if pairs == Pairs::None {
                continue;
            }
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
            // so now we have (the scale of dk is in `block.q`, that of dq comes at the end):
            // dk_j += Σ_i ds_ij q_i
            // dq_i += Σ_j ds_ij k_j
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
                block.visible_pairs(problem, keys.clone(), |i, j| {
                    add_scaled(
                        &mut dk[j * head_dim..][..head_dim],
                        scores[j * STEP + i],
                        &block.q[i * step..],
                    );
                });
            }
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

fn add_scaled(into: &mut [f32], factor: f32, row: &[f32]) {
    into.iter_mut()
        .zip(row)
        .for_each(|(into, &number)| *into += factor * number);
}
