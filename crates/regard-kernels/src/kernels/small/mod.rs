//! Small heads: all their pairs are one block, and nothing is asked but the softmax.
//!
//! In the other passes what comes before and after a block (views, tasks, a running softmax, results that are turned) is
//! made once for many blocks. Here it took longer than the arithmetic. So a task takes several heads, keys and values are
//! read where they lie, and the results come out in rows. With AVX-512 on one thread a head of 16 × 16 × 16 takes .6 µs forward
//! and 1.1 backward, 1.1 and 2.1 in the other passes.

mod backward;
mod forward;

pub(super) use backward::backward;
pub(super) use forward::forward;

use ndarray::{ArrayViewMut, ArrayViewMut2, Axis, Dimension};

use super::arithmetic::Arithmetic;
use super::tiles::RowsMut;
use crate::Isa;
use crate::element::Numeric;
use crate::numbers::Numbers;
use crate::problem::Problem;
use crate::simd::Simd;

/// Queries and keys of a small head at most.
const MOST: usize = 64;
/// Products of a small head (queries × keys × width) at most. 256 heads on one thread with AVX-512, forward and backward, in ms, and
/// in the other passes: 32 × 32 × 64 1.4 and 3.9 (1.8, 4.4), 40 × 60 × 64 3.3 and 7.6 (4.0, 8.8), 64 × 64 × 64 5.7 and 11.6 (4.9, 11.1).
const PRODUCTS: usize = 5 << 15;
/// Operations of a task: some microseconds, so that its start is short beside it.
const TASK: usize = 1 << 18;

/// Whether the heads of a call are small, and no option needs another pass. It depends on what is asked alone, not on
/// how it lies in memory, so that the same numbers give the same bits.
pub(super) fn fits(isa: Isa, problem: &Problem<'_>) -> bool {
    let ((batch, heads, queries, head_dim), (_, _, keys, value_dim)) =
        (problem.q.dim(), problem.v.dim());
    let sizes = [batch, heads, queries, head_dim, value_dim];
    !sizes.contains(&0)
        && queries <= MOST
        && keys <= MOST
        && queries * keys <= PRODUCTS / head_dim.max(value_dim)
        && problem.softcap.is_none()
        && problem.bias.is_none()
        && problem.slopes.is_none()
        && problem.sinks.is_none()
        && problem.dropout.is_none()
        && problem.visibility.shows_all_but_padding()
        && !Arithmetic::is_in_pairs(isa, problem)
}

/// The heads of `batch` rows, shared out: along which axis, and how many of it a task takes. `operations` is the work of all.
fn share([batch, heads]: [usize; 2], operations: usize) -> (Axis, usize) {
    let (axis, count) = if batch > 1 { (0, batch) } else { (1, heads) };
    (
        Axis(axis),
        (count * TASK / operations.max(1)).clamp(1, count),
    )
}

/// The parts of `length` that an array falls into; the last may be shorter.
fn split<E, D: Dimension>(
    view: ArrayViewMut<'_, E, D>,
    axis: Axis,
    length: usize,
) -> Vec<ArrayViewMut<'_, E, D>> {
    let mut parts = Vec::with_capacity(view.len_of(axis).div_ceil(length));
    let mut rest = view;
    while rest.len_of(axis) > length {
        let (part, after) = rest.split_at(axis, length);
        parts.push(part);
        rest = after;
    }
    parts.push(rest);
    parts
}

/// One of the arrays, head by head.
#[derive(Clone, Copy)]
struct Side<'a> {
    numbers: Numbers<'a>,
    /// All of it, if it lies in order as f32.
    all: Option<&'a [f32]>,
    heads: usize,
    rows: usize,
    width: usize,
}

impl<'a> Side<'a> {
    fn of(numbers: Numbers<'a>) -> Self {
        let (_, heads, rows, width) = numbers.dim();
        Self {
            numbers,
            all: numbers.in_memory(),
            heads,
            rows,
            width,
        }
    }

    /// The numbers of room that [`Side::rows`] takes.
    fn room(&self) -> usize {
        self.rows * self.width + super::tiles::LINE
    }

    /// The first `count` rows of a head, one after the other: where they lie, or copied into `room`. Behind the last there is room to
    /// read a whole vector. No others are read: what is padding need not be anywhere (a table of pages may name none for it).
    #[inline(always)]
    fn rows<'r, S: Simd>(
        &self,
        _: S,
        (batch, head): (usize, usize),
        count: usize,
        room: &'r mut [f32],
    ) -> &'r [f32]
    where
        'a: 'r,
    {
        let length = count * self.width;
        if let Some(all) = self.all {
            let here = &all[(batch * self.heads + head) * self.rows * self.width..];
            if here.len() >= length + S::LANES - 1 {
                return here;
            }
        }
        let head = self.numbers.head(batch, head);
        head.copy_rows(0..count, 1.0, &mut room[..length], self.width);
        room
    }
}

/// `into[c · step + r] = from[r · columns + c]` for dense rows; zeros behind the last row, up to whole vectors.
#[inline(always)]
fn turn<S: Simd>(
    simd: S,
    from: &[f32],
    (rows, columns): (usize, usize),
    into: &mut [f32],
    step: usize,
) {
    for r in (0..rows).step_by(S::LANES) {
        for c in (0..columns).step_by(S::LANES) {
            if r + S::LANES <= rows && c + S::LANES <= columns {
                let (from, into) = (&from[r * columns + c..], &mut into[c * step + r..]);
                simd.transpose(from, columns, into, step);
                continue;
            }
            for c in c..columns.min(c + S::LANES) {
                let of_rows = &mut into[c * step + r..][..S::LANES];
                for (r, into) in (r..).zip(of_rows) {
                    *into = if r < rows { from[r * columns + c] } else { 0.0 };
                }
            }
        }
    }
}

/// `rows *= factor`, in whole vectors.
#[inline(always)]
fn scale<S: Simd>(simd: S, rows: &mut [f32], factor: f32) {
    let factor = simd.splat(factor);
    for vector in rows.chunks_exact_mut(S::LANES) {
        simd.store(simd.mul(simd.load(vector), factor), vector);
    }
}

/// Rounds dense rows into a result.
#[inline(always)]
fn write<E: Numeric>(rows: &[f32], into: ArrayViewMut2<'_, E>) {
    let width = into.ncols();
    let (count, mut into) = (into.nrows(), E::rows_mut(into));
    if let RowsMut::F32(view) = &mut into
        && let Some(into) = view.as_slice_mut()
    {
        into.copy_from_slice(&rows[..count * width]);
        return;
    }
    for (i, row) in rows.chunks_exact(width).take(count).enumerate() {
        into.write(i, row, 1.0);
    }
}
