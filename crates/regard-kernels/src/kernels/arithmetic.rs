//! What the products of attention are computed in: f32, or bf16 summed in f32.
//!
//! What differs is how the sides of a product lie: f32 on the left is read number by number, in rows or in columns, so nothing is
//! packed; bf16 comes in pairs of steps (see [`PairProduct`]), and is packed block by block, which is rare beside the work on it.

use std::f32::consts::LOG2_E;
use std::ops::Range;

use super::tiles::{LINE, from, lines, transpose};
use super::words;
use crate::Isa;
use crate::numbers::{Head, Numbers};
use crate::problem::Problem;
use crate::simd::{BLOCK, PairProduct, Product, Simd, Unit};

/// Steps of the depth that are multiplied together.
pub(super) const PAIRED: usize = 2 * BLOCK;

/// Products of a head (queries × keys × head_dim) that are worth the layouts of pairs. Forward, 256 heads on one thread with AMX, in pairs and
/// in f32: 16 × 16 × 64 .60 and .47 ms, 32 × 32 × 16 .42 and .39, 24 × 24 × 64 .78 and .88, 48 × 48 × 16 .66 and .71.
const FEW: usize = 1 << 15;

#[derive(Clone, Copy)]
pub(super) enum Arithmetic<'u> {
    F32,
    Pairs(&'u Unit),
}

impl<'u> Arithmetic<'u> {
    /// Pairs where the instruction set multiplies them and everything is bf16 already, or f32 that may be rounded to it, and a head
    /// is not tiny; f32 otherwise.
    pub(super) fn is_in_pairs(isa: Isa, problem: &Problem<'_>) -> bool {
        let sides = [&problem.q, &problem.k, &problem.v];
        let (_, _, queries, head_dim) = problem.q.dim();
        let pairs = queries.saturating_mul(problem.k.dim().2);
        if pairs.saturating_mul(head_dim) < FEW {
            return false;
        }
        let may_be = |side: &&Numbers<'_>| side.is_bf16() || problem.rounded && side.is_f32();
        isa.multiplies_bf16() && sides.iter().all(may_be)
    }

    /// What the scores of a block are still to be multiplied by: in f32 the queries have been. In pairs they cannot be without
    /// rounding them again, so it is left to whoever reads the scores, unless they are capped or lowered by a slope first. A bias is
    /// divided by it where it is added.
    pub(super) fn factor(self, problem: &Problem<'_>) -> f32 {
        /// Dividing by a scale beyond could make a bias infinite that is not, or 0.
        const SCALES: Range<f64> = 1.0 / (1 << 20) as f64..(1 << 20) as f64;
        let scale = problem.scale;
        let alone = problem.softcap.is_none() && problem.slopes.is_none();
        let divides = problem.bias.is_none() || SCALES.contains(&scale);
        match self {
            Arithmetic::Pairs(_) if alone && divides && scale as f32 > 0.0 => scale as f32 * LOG2_E,
            _ => 1.0,
        }
    }
}

/// The keys of `block` from which `seen` is multiplied in pairs: all of it, and as many more as whole steps need.
pub(super) fn whole_steps(seen: Range<usize>, block: &Range<usize>) -> Range<usize> {
    if seen.is_empty() {
        return seen;
    }
    let steps = |key: usize| key - block.start;
    let start = block.start + steps(seen.start) / PAIRED * PAIRED;
    let end = block.start + steps(seen.end).next_multiple_of(PAIRED);
    start..end.min(block.end)
}

/// `range` in blocks of `length`; a rest that fills no more than a step of pairs belongs to the last: it would be padded to one and
/// packed alone.
pub(super) fn blocks_of_steps(
    range: Range<usize>,
    length: usize,
) -> impl Iterator<Item = Range<usize>> {
    let mut start = range.start;
    std::iter::from_fn(move || {
        let left = range.end.saturating_sub(start);
        let taken = if left <= length + PAIRED {
            left
        } else {
            length
        };
        let block = start..start + taken;
        start += taken;
        (taken > 0).then_some(block)
    })
}

/// Rows of a head as the left side of a product in pairs, `[rows, width]`; in `room` for [`rows_room`].
#[inline(always)]
pub(super) fn rows<'r, S: Simd>(
    simd: S,
    head: &Head<'_>,
    rows: Range<usize>,
    room: &'r mut [f32],
) -> Left<'r> {
    let row = words::width(head.width());
    let (spare, room) = room.split_at_mut(words::spare(head.width()));
    // The room is that of the largest block: what no product reads stays as it is.
    let room = &mut room[..rows.len().next_multiple_of(BLOCK) * row];
    words::rows(simd, head, rows, &mut *room, row, spare);
    Left::rows(room, row)
}

/// Rows of a head, transposed, as the left side of a product in pairs, `[width, rows]`; in `room` for [`turned_room`].
#[inline(always)]
pub(super) fn turned<'r, S: Simd>(
    simd: S,
    head: &Head<'_>,
    rows: Range<usize>,
    room: &'r mut [f32],
) -> Left<'r> {
    let (width, pairs) = (lines(head.width()), words::width(rows.len()));
    let (spare, room) = room.split_at_mut(words::spare(head.width()));
    let (in_pairs, turned) = room.split_at_mut(width * pairs);
    words::pairs_of_rows(simd, head, rows, in_pairs, width, spare);
    transpose(simd, in_pairs, width, (pairs, width), turned, pairs);
    Left::rows(&turned[..width * pairs], pairs)
}

/// The numbers of room for [`rows`], of blocks of `rows`.
pub(super) fn rows_room(rows: usize, width: usize) -> usize {
    let rows = rows + PAIRED;
    words::spare(width) + rows * width.max(words::width(width))
}

/// The numbers of room for [`turned`], likewise.
pub(super) fn turned_room(rows: usize, width: usize) -> usize {
    let rows = rows + PAIRED;
    words::spare(width) + lines(width) * rows.next_multiple_of(PAIRED)
}

/// The left side of a product. In f32, `left[r][p]` is `values[r · row + p · step]`; in pairs `step` is 1, and the word at
/// `values[r · row + p]` holds steps `2p` and `2p + 1`.
#[derive(Clone, Copy)]
pub(super) struct Left<'r> {
    values: &'r [f32],
    row: usize,
    step: usize,
}

impl<'r> Left<'r> {
    pub(super) fn rows(values: &'r [f32], row: usize) -> Self {
        Left {
            values,
            row,
            step: 1,
        }
    }

    /// Of f32: the columns of `values` are the rows.
    pub(super) fn turned(values: &'r [f32], step: usize) -> Self {
        Left {
            values,
            row: 1,
            step,
        }
    }

    #[inline(always)]
    pub(super) fn rows_from(self, rows: usize) -> Self {
        Left {
            values: from(self.values, rows * self.row),
            ..self
        }
    }

    /// In pairs, from a step on, one of [`PAIRED`].
    #[inline(always)]
    pub(super) fn steps_from(self, steps: usize) -> Self {
        Left {
            values: from(self.values, steps / 2),
            ..self
        }
    }

    /// In pairs, `left[r][p]` as a number.
    #[inline(always)]
    pub(super) fn at(&self, row: usize, step: usize) -> f32 {
        words::half(self.values[row * self.row + step / 2], step % 2)
    }

    /// In pairs, whether all of `rows` × `depth` is finite.
    #[inline(always)]
    pub(super) fn is_finite(&self, rows: usize, depth: usize) -> bool {
        let mut finite = true;
        for row in 0..rows {
            finite &= words::all_finite(&self.values[row * self.row..][..depth.div_ceil(2)]);
        }
        finite
    }
}

/// `into[r][c] (+)= Σ_p left[r][p] · right[p][c]` for `[rows, columns, depth]`. The rows of `right` and of `into` are as far
/// apart as the second numbers say; in pairs, a row of `right` holds two steps, and both sides are 0 from the depth up to
/// whole steps of [`PAIRED`].
#[inline(always)]
pub(super) fn multiply<S: Simd>(
    simd: S,
    arithmetic: Arithmetic<'_>,
    [rows, columns, depth]: [usize; 3],
    left: Left<'_>,
    (right, right_row): (&[f32], usize),
    (into, into_row): (&mut [f32], usize),
    add: bool,
) {
    match arithmetic {
        Arithmetic::F32 => simd.run(Product {
            rows,
            columns,
            depth,
            left: left.values,
            left_row: left.row,
            left_step: left.step,
            right,
            right_step: right_row,
            into,
            into_row,
            add,
        }),
        Arithmetic::Pairs(unit) => simd.run(PairProduct {
            unit,
            rows,
            columns,
            pairs: words::width(depth),
            left: left.values,
            left_row: left.row,
            right,
            right_row,
            into,
            into_row,
            add,
        }),
    }
}

const _: () = assert!(
    LINE == BLOCK,
    "what is padded to whole lines is padded to whole blocks"
);
