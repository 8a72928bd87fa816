//! Small heads, forward.

use std::f32::consts::{LN_2, LOG2_E};

use ndarray::{ArrayViewMut1, ArrayViewMut3, ArrayViewMut4, Axis};

use super::super::exponential::exp2;
use super::super::tiles::{LINE, lines, take, with_room};
use super::{MOST, Side, scale, share, split, turn, write};
use crate::Isa;
use crate::element::Numeric;
use crate::problem::Problem;
use crate::simd::{self, Kernel, Product, Simd};

/// As [`forward`](super::super::forward::forward), where [`fits`](super::fits) says so.
pub(in super::super) fn forward<E: Numeric>(
    isa: Isa,
    problem: &Problem<'_>,
    out: ArrayViewMut4<'_, E>,
    log_sum_exp: ArrayViewMut3<'_, f32>,
) {
    let (batch, heads, queries, head_dim) = problem.q.dim();
    let (_, _, keys, value_dim) = problem.v.dim();
    let operations = 2 * batch * heads * queries * keys * (head_dim + value_dim);
    let (axis, length) = share([batch, heads], operations);
    let sides = [problem.q, problem.k, problem.v].map(Side::of);
    let tasks: Vec<_> = split(out, axis, length)
        .into_iter()
        .zip(split(log_sum_exp, axis, length))
        .enumerate()
        .map(|(i, (out, lse))| Heads {
            problem,
            sides,
            axis,
            first: i * length,
            out,
            lse,
        })
        .collect();
    let room = sizes(&sides).into_iter().map(lines).sum();
    super::super::for_each(tasks, operations, |heads| {
        with_room(room, |room| simd::run(isa, (heads, room)));
    });
}

/// Some batch rows, or some heads of the only one.
struct Heads<'a, 'p, E> {
    problem: &'a Problem<'p>,
    sides: [Side<'p>; 3],
    axis: Axis,
    first: usize,
    out: ArrayViewMut4<'a, E>,
    lse: ArrayViewMut3<'a, f32>,
}

/// How much room each of these takes, with any instruction set.
fn sizes([q, k, v]: &[Side<'_>; 3]) -> [usize; 6] {
    [
        q.room().max(q.rows * v.width), // rows of q, later of out
        k.room(),
        v.room(),
        q.width * lines(q.rows), // q, transposed
        k.rows * lines(q.rows),  // scores, later weights
        lines(q.rows),           // the sums of the weights
    ]
}

/// In room for [`sizes`].
impl<E: Numeric> Kernel for (Heads<'_, '_, E>, &mut [f32]) {
    type Output = ();

    #[inline(always)]
    fn call<S: Simd>(self, simd: S) {
        let (mut heads, mut room) = self;
        let mut room = sizes(&heads.sides).map(|size| take(&mut room, size));
        for (i, (mut out, mut lse)) in heads
            .out
            .outer_iter_mut()
            .zip(heads.lse.outer_iter_mut())
            .enumerate()
        {
            for (h, (out, lse)) in out.outer_iter_mut().zip(lse.outer_iter_mut()).enumerate() {
                let at = match heads.axis {
                    Axis(0) => (heads.first + i, h),
                    _ => (i, heads.first + h),
                };
                let rows = head(simd, heads.problem, &heads.sides, at, &mut room, lse);
                write(rows, out);
            }
        }
    }
}

/// The output of a head, in dense rows.
#[inline(always)]
fn head<'r, S: Simd>(
    simd: S,
    problem: &Problem<'_>,
    [q, k, v]: &[Side<'_>; 3],
    (batch, head): (usize, usize),
    [rows, k_room, v_room, q_t, weights, sums]: &'r mut [&mut [f32]; 6],
    lse: ArrayViewMut1<'_, f32>,
) -> &'r [f32] {
    let (queries, width) = (q.rows, q.rows.next_multiple_of(S::LANES));
    let keys = problem.visibility.visible(batch);
    let kv_head = (batch, head / problem.group());
    // Scores come in powers of 2: e^s = 2^(log₂e · s), and the factor is put into q once.
    let q_t = &mut q_t[..q.width * width];
    let of_q = q.rows(simd, (batch, head), queries, rows);
    turn(simd, of_q, (queries, q.width), q_t, width);
    scale(simd, q_t, problem.scale as f32 * LOG2_E);
    let weights = &mut weights[..keys * width];
    simd.run(Product {
        rows: keys,
        columns: width,
        depth: q.width,
        left: k.rows(simd, kv_head, keys, k_room),
        left_row: q.width,
        left_step: 1,
        right: q_t,
        right_step: width,
        into: weights,
        into_row: width,
        add: false,
    });
    let mut highest = [0.0; MOST];
    for lane in (0..width).step_by(S::LANES) {
        let (m, l) = normalize(simd, weights, width, lane);
        simd.store(m, &mut highest[lane..]);
        simd.store(l, &mut sums[lane..]);
    }
    for ((lse, m), l) in lse.into_iter().zip(highest).zip(&**sums) {
        *lse = if *l == 0.0 {
            f32::NEG_INFINITY
        } else {
            m * LN_2 + l.ln()
        };
    }
    // out[i] = Σ_j w_ij v_j
    let rows = &mut rows[..queries * v.width];
    simd.run(Product {
        rows: queries,
        columns: v.width,
        depth: keys,
        left: weights,
        left_row: 1,
        left_step: width,
        right: v.rows(simd, kv_head, keys, v_room),
        right_step: v.width,
        into: &mut *rows,
        into_row: v.width,
        add: false,
    });
    rows
}

/// Turns the scores of a vector of queries into weights that add up to 1; gives the highest score and the sum before that.
#[inline(always)]
fn normalize<S: Simd>(
    simd: S,
    scores: &mut [f32],
    step: usize,
    lane: usize,
) -> (S::Vector, S::Vector) {
    let (zero, lowest) = (simd.splat(0.0), simd.splat(f32::NEG_INFINITY));
    // `max` gives its second argument where a score is NaN; that NaN reaches the row through the sum of the weights.
    let (mut a, mut b) = (lowest, lowest);
    let twos = scores.chunks_exact(2 * step);
    let last = twos.remainder();
    for rows in twos {
        a = simd.max(simd.load(&rows[lane..]), a);
        b = simd.max(simd.load(&rows[step + lane..]), b);
    }
    if !last.is_empty() {
        a = simd.max(simd.load(&last[lane..]), a);
    }
    let m = simd.max(a, b);
    // Where all scores are −∞, 2^(−∞ − 0) = 0.
    let m = simd.select_below(lowest, m, m, zero);
    let mut sum = zero;
    for row in scores.chunks_exact_mut(step) {
        let weight = exp2(simd, simd.sub(simd.load(&row[lane..]), m));
        sum = simd.add(sum, weight);
        simd.store(weight, &mut row[lane..]);
    }
    // 0 for a sum of 0; a NaN is no 0, and goes into the row.
    let share = simd.div(simd.splat(1.0), sum);
    let share = simd.select_below(zero, sum, share, sum);
    for row in scores.chunks_exact_mut(step) {
        let weight = simd.mul(simd.load(&row[lane..]), share);
        simd.store(weight, &mut row[lane..]);
    }
    (m, sum)
}

const _: () = assert!(
    MOST.is_multiple_of(LINE),
    "whole vectors of queries have room"
);
