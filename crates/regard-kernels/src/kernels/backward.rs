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

use super::pairs::{KEYS, QUERIES};
use super::part::{OfKeys, OfQueries, Part, room, run};
use super::score_gradients;
use super::sink_gradient::sink_gradient;
use super::tiles::{RowsMut, outer, split, with_room};
use super::{rounded, small};
use crate::numbers::Numbers;
use crate::problem::Problem;
use crate::results::{GradientsMut, OptionGradients};
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
                    of_queries: OfQueries {
                        begin: true,
                        dq: dq.map(std::mem::take).unwrap_or_default(),
                    },
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
