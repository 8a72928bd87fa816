//! A block of queries in the layouts that the products of the backward pass take.

use std::f32::consts::LOG2_E;
use std::ops::Range;

use ndarray::s;

use super::PANEL;
use crate::kernels::part::Part;
use crate::kernels::tiles::{dot, from, from_mut, lines, transpose};
use crate::kernels::words;
use crate::numbers::Head;
use crate::simd::Simd;

/// Queries of one head, as the products want them.
pub(super) struct QueryBlock<'r> {
    pub(super) batch: usize,
    pub(super) head: usize,
    pub(super) queries: Range<usize>,
    /// `[queries / 2, lines(head_dim)]`.
    pub(super) q: &'r [f32],
    /// For [`PANEL`] queries after the other: `[panel][head_dim / 2][PANEL]`.
    pub(super) q_t: &'r [f32],
    pub(super) d_out: &'r [f32],
    pub(super) d_out_t: &'r [f32],
    /// −log₂e · lse; −∞ for a query that sees nothing, whose weights are then 2^−∞ = 0.
    pub(super) minus_lse: &'r [f32],
    /// −scale · D_i, D_i = ⟨do_i, o_i⟩ − dlse_i.
    pub(super) minus_mean: &'r [f32],
    pub(super) finite: bool,
}

impl<'r> QueryBlock<'r> {
    #[inline(always)]
    pub(super) fn pack<S: Simd>(
        simd: S,
        of: &Part<'_, '_, '_>,
        (head, queries): (usize, Range<usize>),
        [q, q_t, d_out, d_out_t, minus_lse, minus_mean]: [&'r mut [f32]; 6],
        [rows, d_rows, spare]: [&mut [f32]; 3],
    ) -> Self {
        let (problem, known, batch) = (of.problem, of.known, of.batch);
        let scale = problem.scale as f32;
        let out_width = lines(problem.v.dim().3);
        let of_d_out = known.d_out.head(batch, head);

        // D_i = ⟨do_i, o_i⟩ − dlse_i
        let count = queries.len();
        let (out, d_rows) = (
            &mut rows[..count * out_width],
            &mut d_rows[..count * out_width],
        );
        known
            .out
            .head(batch, head)
            .copy_rows(queries.clone(), 1.0, out, out_width);
        of_d_out.copy_rows(queries.clone(), 1.0, d_rows, out_width);
        minus_mean.fill(0.0);
        for (i, mean) in minus_mean[..count].iter_mut().enumerate() {
            let row = i * out_width..(i + 1) * out_width;
            *mean = -scale * dot(&d_rows[row.clone()], &out[row]);
        }
        if let Some(d_lse) = known.d_log_sum_exp {
            let d_lse = d_lse.slice_move(s![batch, head, queries.clone()]);
            for (mean, d_lse) in minus_mean.iter_mut().zip(d_lse) {
                *mean += scale * d_lse;
            }
        }
        minus_lse.fill(f32::NEG_INFINITY);
        let lse = known.log_sum_exp.slice(s![batch, head, queries.clone()]);
        for (into, &lse) in minus_lse.iter_mut().zip(lse) {
            if lse != f32::NEG_INFINITY {
                *into = -LOG2_E * lse;
            }
        }

        let of_q = problem.q.head(batch, head);
        let in_words = (&mut *rows, &mut *spare);
        let q = pack(simd, &of_q, &queries, (&mut *q, &mut *q_t), in_words);
        let d_out = pack(
            simd,
            &of_d_out,
            &queries,
            (&mut *d_out, &mut *d_out_t),
            (rows, spare),
        );
        let finite = words::all_finite(q) && words::all_finite(d_out);
        Self {
            batch,
            head,
            queries,
            q,
            q_t,
            d_out,
            d_out_t,
            minus_lse,
            minus_mean,
            finite,
        }
    }
}

/// Rows of a head in both layouts of the right side; gives the first.
#[inline(always)]
fn pack<'r, S: Simd>(
    simd: S,
    head: &Head<'_>,
    queries: &Range<usize>,
    (into, into_t): (&'r mut [f32], &mut [f32]),
    (rows, spare): (&mut [f32], &mut [f32]),
) -> &'r [f32] {
    let (width, pairs) = (lines(head.width()), words::width(head.width()));
    let count = queries.len().next_multiple_of(PANEL);
    let rows = &mut rows[..count * pairs];
    words::rows(simd, head, queries.clone(), rows, pairs, spare);
    for lane in (0..count).step_by(PANEL) {
        let (rows, into) = (from(rows, lane * pairs), from_mut(into_t, lane * pairs));
        transpose(simd, rows, pairs, (PANEL, pairs), into, PANEL);
    }
    let into = &mut into[..count / 2 * width];
    words::pairs_of_rows(simd, head, queries.clone(), into, width, spare);
    into
}
