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

use ndarray::{Array5, ArrayView3, ArrayView5, ArrayViewMut2, ArrayViewMut3, s};

use super::pairs::{KEYS, QUERIES};
use super::part::{OfKeys, OfQueries, Part, room, run};
use super::score_gradients;
use super::sink_gradient::sink_gradient;
use super::tiles::{RowsMut, outer, split, with_room};
use super::{rounded, small};
use crate::numbers::Numbers;
use crate::problem::Problem;
use crate::results::{GradientsMut, OptionGradients};
use crate::threads::share_out;
use crate::{Element, Isa};

/// With as many heads as this, a task is a whole head.
const HEADS_ENOUGH: usize = 16;
/// Into how many parts the keys of a head are cut otherwise, and how many keys a part has at least.
const PARTS: usize = 8;
pub(super) const PART: usize = 512;
/// Tasks for each thread, where heads are cut: enough to end at about the same time. 8 heads of 4,096 × 128, causal, on two threads: 363
/// GFLOP/s with 4, 398 with 8, 381 with 16.
const TASKS: usize = 8;
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
    let (queries, keys) = (problem.q.dim().2, problem.v.dim().2);
    let heads = heads(problem, into);
    if heads.len() >= HEADS_ENOUGH || keys <= PART {
        let whole = heads.into_iter().map(|head| Part {
            problem,
            known,
            batch: head.batch,
            kv_head: head.kv_head,
            keys: 0..keys,
            queries: 0..queries,
            of_queries: OfQueries {
                begin: true,
                dq: outer(head.dq).map(RowsMut::F32).collect(),
            },
            of_keys: Some(sums(head.dk, head.dv, true)),
        });
        pass(isa, problem, queries, whole.collect());
    } else {
        in_parts(isa, problem, known, heads);
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

/// A key head, and where the gradients of what meets in it go.
struct Head<'a> {
    batch: usize,
    kv_head: usize,
    /// `[group, queries, head_dim]`.
    dq: ArrayViewMut3<'a, f32>,
    dk: ArrayViewMut2<'a, f32>,
    dv: ArrayViewMut2<'a, f32>,
}

fn heads<'a>(problem: &Problem<'_>, into: GradientsMut<'a, f32>) -> Vec<Head<'a>> {
    let of_batch = outer(into.q).zip(outer(into.k)).zip(outer(into.v));
    let of_batch = of_batch.enumerate().map(|(batch, ((dq, dk), dv))| {
        let dq = split(dq, problem.group().max(1));
        let of_head = dq.into_iter().zip(outer(dk)).zip(outer(dv)).enumerate();
        of_head.map(move |(kv_head, ((dq, dk), dv))| Head {
            batch,
            kv_head,
            dq,
            dk,
            dv,
        })
    });
    of_batch.flatten().collect()
}

fn sums<'a>(dk: ArrayViewMut2<'a, f32>, dv: ArrayViewMut2<'a, f32>, begin: bool) -> OfKeys<'a, 'a> {
    let dense = |rows: ArrayViewMut2<'a, f32>| rows.into_slice();
    OfKeys {
        begin,
        dk: dense(dk).expect("the door gives standard layout"),
        dv: dense(dv).expect("the door gives standard layout"),
        into: None,
    }
}

/// Cuts the keys of each head into parts, with a sum of `dq` for each. Some heads meet their keys at a time, and some of their
/// queries.
///
/// Neither changes what is added in which order, so the number of heads may be that of the threads. It is small: their keys,
/// values and sums are met again by the next queries, and are in the cache then. Those of 8 heads of 4,096 × 128 are 64 MiB.
fn in_parts<'p>(isa: Isa, problem: &Problem<'p>, known: &Known<'p, f32>, mut heads: Vec<Head<'_>>) {
    let (group, (_, _, queries, head_dim)) = (problem.group(), problem.q.dim());
    let keys = problem.v.dim().2;
    let part = part_of(keys);
    let parts = keys.div_ceil(part);
    let together = (TASKS * rayon::current_num_threads()).div_ceil(parts);
    let together = together.min(heads.len());
    // As many queries at a time as the room for partial sums allows.
    let per_query = (together * group * parts * head_dim).max(1);
    let wave = (PARTIAL_SUMS / per_query / QUERIES).max(1) * QUERIES;
    let rows = wave.min(queries);
    let mut partial = Array5::zeros((together, parts, group, rows, head_dim));
    for heads in heads.chunks_mut(together.max(1)) {
        // Once at least: it is what zeroes `dk` and `dv`.
        for start in (0..queries.max(1)).step_by(wave) {
            let wave = start..queries.min(start + wave);
            let mut partial = partial.slice_mut(s![.., .., .., ..wave.len(), ..]);
            let mut tasks = Vec::new();
            for (head, dq) in heads.iter_mut().zip(outer(partial.view_mut())) {
                let of_dk = split(head.dk.view_mut(), part).into_iter();
                let of_keys = of_dk.zip(split(head.dv.view_mut(), part));
                for (p, (dq, (dk, dv))) in outer(dq).zip(of_keys).enumerate() {
                    tasks.push(Part {
                        problem,
                        known,
                        batch: head.batch,
                        kv_head: head.kv_head,
                        keys: p * part..keys.min((p + 1) * part),
                        queries: wave.clone(),
                        of_queries: OfQueries {
                            begin: true,
                            dq: outer(dq).map(RowsMut::F32).collect(),
                        },
                        of_keys: Some(sums(dk, dv, start == 0)),
                    });
                }
            }
            pass(isa, problem, wave.len(), tasks);
            add_parts(partial.view(), wave, heads);
        }
    }
}

/// Lets so many queries of some heads meet the keys of these, or parts of them.
fn pass(isa: Isa, problem: &Problem<'_>, queries: usize, tasks: Vec<Part<'_, '_, '_>>) {
    let (head_dim, value_dim) = (problem.q.dim().3, problem.v.dim().3);
    let keys: usize = tasks.iter().map(|part| part.keys.len()).sum();
    let operations = 4 * problem.group() * queries * keys * (head_dim + value_dim);
    super::for_each(tasks, operations, |part| {
        with_room(room(isa, problem), |room| run(isa, part, room));
    });
}

/// `dq = Σ_part partial` for some queries, in the order of the parts: `partial` is `[heads, parts, group, queries, head_dim]`.
fn add_parts(partial: ArrayView5<'_, f32>, queries: Range<usize>, heads: &mut [Head<'_>]) {
    let mut tasks = Vec::new();
    for (head, partial) in heads.iter_mut().zip(partial.outer_iter()) {
        let dq = head.dq.slice_mut(s![.., queries.clone(), ..]);
        for (member, dq) in outer(dq).enumerate() {
            let partial = partial.slice_move(s![.., member, .., ..]);
            for (block, dq) in split(dq, QUERIES).into_iter().enumerate() {
                let first = block * QUERIES;
                let partial = partial.slice_move(s![.., first..first + dq.nrows(), ..]);
                tasks.push((partial, dq));
            }
        }
    }
    share_out(tasks, 1, |(partial, mut dq)| {
        for (part, partial) in partial.outer_iter().enumerate() {
            match part {
                0 => dq.assign(&partial),
                _ => dq += &partial,
            }
        }
    });
}
