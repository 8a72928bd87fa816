//! Small heads, backward: the formulas of [`backward`](super::super::backward) for one block.

use std::f32::consts::LOG2_E;

use ndarray::{ArrayViewMut4, Axis};

use super::super::backward::Known;
use super::super::exponential::exp2;
use super::super::tiles::{dot, lines, take, with_room};
use super::{MOST, Side, scale, share, split, turn, write};
use crate::Isa;
use crate::element::Numeric;
use crate::problem::Problem;
use crate::results::GradientsMut;
use crate::simd::{self, Kernel, Product, Simd};

/// Fills `into`, where [`fits`](super::fits) says so.
pub(in super::super) fn backward<'p, E: Numeric>(
    isa: Isa,
    problem: &Problem<'p>,
    known: &Known<'p, f32>,
    into: GradientsMut<'_, E>,
) {
    let (batch, heads, queries, head_dim) = problem.q.dim();
    let (_, kv_heads, keys, value_dim) = problem.v.dim();
    let operations = 4 * batch * heads * queries * keys * (head_dim + value_dim);
    let (axis, length) = share([batch, kv_heads], operations);
    // Along the heads, `dq` has those of a group for each.
    let of_q = match axis {
        Axis(0) => length,
        _ => length * problem.group(),
    };
    let sides = [problem.q, problem.k, problem.v, known.d_out, known.out].map(Side::of);
    let of_keys = split(into.k, axis, length)
        .into_iter()
        .zip(split(into.v, axis, length));
    let tasks: Vec<_> = split(into.q, axis, of_q)
        .into_iter()
        .zip(of_keys)
        .enumerate()
        .map(|(i, (dq, (dk, dv)))| Heads {
            problem,
            known,
            sides,
            axis,
            first: i * length,
            dq,
            dk,
            dv,
        })
        .collect();
    let room = sizes(&sides).into_iter().map(lines).sum();
    super::super::for_each(tasks, operations, |heads| {
        with_room(room, |room| simd::run(isa, (heads, room)));
    });
}

/// Some batch rows, or some key heads of the only one.
struct Heads<'a, 'p, E> {
    problem: &'a Problem<'p>,
    known: &'a Known<'p, f32>,
    sides: [Side<'p>; 5],
    axis: Axis,
    first: usize,
    dq: ArrayViewMut4<'a, E>,
    dk: ArrayViewMut4<'a, E>,
    dv: ArrayViewMut4<'a, E>,
}

/// How much room each of these takes, with any instruction set.
fn sizes([q, k, v, d_out, out]: &[Side<'_>; 5]) -> [usize; 12] {
    let block = k.rows * lines(q.rows);
    [
        q.room(),
        k.room(),
        v.room(),
        d_out.room(),
        out.room(),
        q.width * lines(q.rows), // q, transposed
        v.width * lines(q.rows), // d_out, transposed
        block,                   // weights
        block,                   // gradients of the scores
        q.rows * q.width,        // dq
        k.rows * k.width,        // dk
        v.rows * v.width,        // dv
    ]
}

/// In room for [`sizes`].
impl<E: Numeric> Kernel for (Heads<'_, '_, E>, &mut [f32]) {
    type Output = ();

    #[inline(always)]
    fn call<S: Simd>(self, simd: S) {
        let (heads, mut room) = self;
        let Heads {
            problem,
            known,
            sides,
            axis,
            first,
            mut dq,
            mut dk,
            mut dv,
        } = heads;
        let mut room = sizes(&sides).map(|size| take(&mut room, size));
        let group = problem.group();
        let rows = dk.outer_iter_mut().zip(dv.outer_iter_mut());
        for (i, (mut dq, (mut dk, mut dv))) in dq.outer_iter_mut().zip(rows).enumerate() {
            let mut dqs = dq.outer_iter_mut();
            let of_keys = dk.outer_iter_mut().zip(dv.outer_iter_mut());
            for (h, (dk, dv)) in of_keys.enumerate() {
                let (batch, kv_head) = match axis {
                    Axis(0) => (first + i, h),
                    _ => (i, first + h),
                };
                for (g, dq) in dqs.by_ref().take(group).enumerate() {
                    let at = [batch, kv_head * group + g, kv_head];
                    head(simd, problem, known, &sides, at, &mut room, g > 0);
                    write(room[9], dq);
                }
                write(room[10], dk);
                write(room[11], dv);
            }
        }
    }
}

/// The gradients of a head, in the last three of the rooms, in dense rows; those of keys and values are added to what is there where
/// `add` says so.
#[inline(always)]
fn head<S: Simd>(
    simd: S,
    problem: &Problem<'_>,
    known: &Known<'_, f32>,
    [q, k, v, d_out, out]: &[Side<'_>; 5],
    [batch, head, kv_head]: [usize; 3],
    [
        q_room,
        k_room,
        v_room,
        d_out_room,
        out_room,
        q_t,
        d_out_t,
        weights,
        gradients,
        dq,
        dk,
        dv,
    ]: &mut [&mut [f32]; 12],
    add: bool,
) {
    let (queries, width) = (q.rows, q.rows.next_multiple_of(S::LANES));
    let keys = problem.visibility.visible(batch);
    let (at, kv_at) = ((batch, head), (batch, kv_head));
    let q_rows = q.rows(simd, at, queries, q_room);
    let (k_rows, v_rows) = (
        k.rows(simd, kv_at, keys, k_room),
        v.rows(simd, kv_at, keys, v_room),
    );
    let d_out_rows = d_out.rows(simd, at, queries, d_out_room);
    let out_rows = out.rows(simd, at, queries, out_room);

    // D_i = ⟨do_i, o_i⟩ − dlse_i; for a query that sees nothing 2^−∞ = 0 is its weight.
    let (mut mean, mut lse) = ([0.0; MOST], [f32::INFINITY; MOST]);
    for i in 0..queries {
        let row = i * v.width..(i + 1) * v.width;
        mean[i] = dot(&d_out_rows[row.clone()], &out_rows[row]);
        if let Some(d_lse) = known.d_log_sum_exp {
            mean[i] -= d_lse[[batch, head, i]];
        }
        let of = known.log_sum_exp[[batch, head, i]];
        if of != f32::NEG_INFINITY {
            lse[i] = LOG2_E * of;
        }
    }
    // The factor of the forward pass, so that the scores are the same to the last bit.
    let q_t = &mut q_t[..q.width * width];
    turn(simd, q_rows, (queries, q.width), q_t, width);
    scale(simd, q_t, problem.scale as f32 * LOG2_E);
    let d_out_t = &mut d_out_t[..v.width * width];
    turn(simd, d_out_rows, (queries, v.width), d_out_t, width);

    let (weights, gradients) = (&mut weights[..keys * width], &mut gradients[..keys * width]);
    // s_ij = scale · ⟨q_i, k_j⟩ and dw_ij = ⟨do_i, v_j⟩
    for (left, left_row, right, into) in [
        (k_rows, k.width, &*q_t, &mut *weights),
        (v_rows, v.width, &*d_out_t, &mut *gradients),
    ] {
        simd.run(Product {
            rows: keys,
            columns: width,
            depth: left_row,
            left,
            left_row,
            left_step: 1,
            right,
            right_step: width,
            into,
            into_row: width,
            add: false,
        });
    }
    let factor = simd.splat(problem.scale as f32);
    for lane in (0..width).step_by(S::LANES) {
        let (lse, mean) = (simd.load(&lse[lane..]), simd.load(&mean[lane..]));
        let rows = weights
            .chunks_exact_mut(width)
            .zip(gradients.chunks_exact_mut(width));
        for (weights, gradients) in rows {
            let (weights, gradients) = (&mut weights[lane..], &mut gradients[lane..]);
            // w_ij = exp(s_ij − lse_i) and scale · ds_ij = scale · w_ij (dw_ij − D_i)
            let weight = exp2(simd, simd.sub(simd.load(weights), lse));
            let gradient = simd.mul(weight, simd.sub(simd.load(gradients), mean));
            simd.store(weight, weights);
            simd.store(simd.mul(gradient, factor), gradients);
        }
    }

    // dq_i = scale · Σ_j ds_ij k_j
    simd.run(Product {
        rows: queries,
        columns: k.width,
        depth: keys,
        left: gradients,
        left_row: 1,
        left_step: width,
        right: k_rows,
        right_step: k.width,
        into: &mut dq[..queries * k.width],
        into_row: k.width,
        add: false,
    });
    // dk_j = scale · Σ_i ds_ij q_i and dv_j = Σ_i w_ij do_i; nothing for the keys that are padding
    for (left, right, columns, into) in [
        (&*gradients, q_rows, k.width, &mut **dk),
        (&*weights, d_out_rows, v.width, &mut **dv),
    ] {
        if !add {
            into[keys * columns..].fill(0.0);
        }
        simd.run(Product {
            rows: keys,
            columns,
            depth: queries,
            left,
            left_row: width,
            left_step: 1,
            right,
            right_step: columns,
            into: &mut into[..keys * columns],
            into_row: columns,
            add,
        });
    }
}
