//! Getting numbers to where a kernel wants them: dense rows, transposed blocks, and the room for both.

use std::cell::RefCell;
use std::ops::Range;

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use ndarray::{ArrayViewMut, ArrayViewMut1, ArrayViewMut2, Axis, Dimension, RemoveAxis};

use crate::simd::Simd;

/// The numbers of a cache line, and of the longest vector.
pub(super) const LINE: usize = 16;

thread_local! {
    /// Kept from one block to the next: a kernel allocates nothing.
    static ROOM: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// Gives `f` room for `numbers` numbers on this thread, at the start of a cache line. What is in it is left over.
///
/// A kernel is run inside `f`, never the other way round: a closure inside a kernel would not be compiled with its
/// instructions.
pub(super) fn with_room<R>(numbers: usize, f: impl FnOnce(&mut [f32]) -> R) -> R {
    ROOM.with_borrow_mut(|room| {
        if room.len() < numbers + LINE {
            // What there was goes first: not both at a time.
            *room = Vec::new();
            *room = vec![0.0; numbers + LINE];
        }
        let start = room.as_ptr().align_offset(4 * LINE).min(LINE);
        f(&mut room[start..start + numbers])
    })
}

/// `numbers`, rounded up to what [`take`] uses for them.
pub(super) fn lines(numbers: usize) -> usize {
    numbers.next_multiple_of(LINE)
}

/// Cuts `numbers` off the front of the room, and what is left of the last cache line.
pub(super) fn take<'a>(room: &mut &'a mut [f32], numbers: usize) -> &'a mut [f32] {
    let (taken, rest) = std::mem::take(room).split_at_mut(lines(numbers));
    *room = rest;
    &mut taken[..numbers]
}

/// `numbers[start..]`, and nothing of nothing: an array of width 0 has no lanes.
#[inline(always)]
pub(super) fn from(numbers: &[f32], start: usize) -> &[f32] {
    numbers.get(start..).unwrap_or_default()
}

/// As [`from`].
#[inline(always)]
pub(super) fn from_mut(numbers: &mut [f32], start: usize) -> &mut [f32] {
    numbers.get_mut(start..).unwrap_or_default()
}

/// Rows of a result, of whatever numbers.
pub enum RowsMut<'a> {
    F32(ArrayViewMut2<'a, f32>),
    F64(ArrayViewMut2<'a, f64>),
    Bf16(ArrayViewMut2<'a, bf16>),
    F16(ArrayViewMut2<'a, f16>),
}

impl RowsMut<'_> {
    /// The same rows, for a shorter time.
    pub(super) fn view_mut(&mut self) -> RowsMut<'_> {
        match self {
            RowsMut::F32(rows) => RowsMut::F32(rows.view_mut()),
            RowsMut::F64(rows) => RowsMut::F64(rows.view_mut()),
            RowsMut::Bf16(rows) => RowsMut::Bf16(rows.view_mut()),
            RowsMut::F16(rows) => RowsMut::F16(rows.view_mut()),
        }
    }

    /// Row `i` becomes `factor · row`, each number rounded to the nearest.
    #[inline(always)]
    pub(super) fn write(&mut self, i: usize, row: &[f32], factor: f32) {
        match self {
            RowsMut::F32(rows) => write_row(row, factor, rows.row_mut(i)),
            RowsMut::F64(rows) => {
                let scaled = row.iter().map(|&number| f64::from(factor * number));
                rows.row_mut(i)
                    .iter_mut()
                    .zip(scaled)
                    .for_each(|(into, number)| *into = number);
            }
            RowsMut::Bf16(rows) => {
                let mut into = rows.row_mut(i);
                match into.as_slice_mut() {
                    Some(into) => {
                        for (into, number) in into.iter_mut().zip(row) {
                            *into = rounded(factor * number);
                        }
                    }
                    None => {
                        for (into, number) in into.iter_mut().zip(row) {
                            *into = rounded(factor * number);
                        }
                    }
                }
            }
            RowsMut::F16(rows) => round_row(row, factor, rows.row_mut(i), f16::from_f32),
        }
    }

    /// `factor · row` is added to row `i` of sums, which are f32.
    #[inline(always)]
    pub(super) fn add(&mut self, i: usize, row: &[f32], factor: f32) {
        let RowsMut::F32(rows) = self else {
            unreachable!("what is added to is a sum, and sums are f32");
        };
        for (into, number) in rows.row_mut(i).iter_mut().zip(row) {
            *into += factor * number;
        }
    }
}

/// As `bf16::from_f32`, in a form that the compiler turns into vectors.
#[inline(always)]
fn rounded(number: f32) -> bf16 {
    let bits = number.to_bits();
    let nearest = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16;
    let quiet = bits >> 16 | 0x40;
    bf16::from_bits(if number.is_nan() { quiet } else { nearest } as u16)
}

/// As [`write_row`], in pieces that `half` rounds with the processor's instruction where there is one.
fn round_row<H: Copy + Default>(
    row: &[f32],
    factor: f32,
    mut into: ArrayViewMut1<'_, H>,
    round: fn(f32) -> H,
) where
    [H]: HalfFloatSliceExt,
{
    match into.as_slice_mut() {
        Some(into) => {
            for (into, row) in into.chunks_mut(LINE).zip(row.chunks(LINE)) {
                let mut scaled = [0.0; LINE];
                scaled
                    .iter_mut()
                    .zip(row)
                    .for_each(|(scaled, number)| *scaled = factor * number);
                into.convert_from_f32_slice(&scaled[..row.len()]);
            }
        }
        None => into
            .iter_mut()
            .zip(row)
            .for_each(|(into, &number)| *into = round(factor * number)),
    }
}

/// `range` in blocks of `length`; the last may be shorter.
pub(super) fn blocks(range: Range<usize>, length: usize) -> impl Iterator<Item = Range<usize>> {
    let end = range.end;
    range
        .step_by(length)
        .map(move |start| start..end.min(start + length))
}

/// `into[c · into_row + r] = from[r · from_row + c]` for `rows` × `columns`, both multiples of `LANES`.
#[inline(always)]
pub(super) fn transpose<S: Simd>(
    simd: S,
    from: &[f32],
    from_row: usize,
    (rows, columns): (usize, usize),
    into: &mut [f32],
    into_row: usize,
) {
    for r in (0..rows).step_by(S::LANES) {
        for c in (0..columns).step_by(S::LANES) {
            simd.transpose(
                &from[r * from_row + c..],
                from_row,
                &mut into[c * into_row + r..],
                into_row,
            );
        }
    }
}

/// `into = factor · row`.
#[inline(always)]
pub(super) fn write_row(row: &[f32], factor: f32, mut into: ArrayViewMut1<'_, f32>) {
    match into.as_slice_mut() {
        Some(into) => into
            .iter_mut()
            .zip(row)
            .for_each(|(into, &number)| *into = factor * number),
        None => into
            .iter_mut()
            .zip(row)
            .for_each(|(into, &number)| *into = factor * number),
    }
}

/// Whether every number is finite: `0 · x` is 0 for these and NaN for the others.
#[inline(always)]
pub(super) fn all_finite(numbers: &[f32]) -> bool {
    let (vectors, rest) = numbers.as_chunks::<LINE>();
    let mut sums = [0.0f32; LINE];
    for vector in vectors {
        for (sum, number) in sums.iter_mut().zip(vector) {
            *sum += 0.0 * number;
        }
    }
    sums.iter().chain(rest).all(|number| number.is_finite())
}

/// `⟨a, b⟩`, in an order that vectors can follow.
#[inline(always)]
pub(super) fn dot(a: &[f32], b: &[f32]) -> f32 {
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<LINE>(), b.as_chunks::<LINE>());
    let mut sums = [0.0f32; LINE];
    for (a, b) in a.iter().zip(b) {
        for (sum, (a, b)) in sums.iter_mut().zip(a.iter().zip(b)) {
            *sum += a * b;
        }
    }
    let rest: f32 = a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum();
    sums.iter().sum::<f32>() + rest
}

/// The parts of `length` that an array falls into along its first axis; the last may be shorter.
pub(super) fn split<E, D: Dimension>(
    view: ArrayViewMut<'_, E, D>,
    length: usize,
) -> Vec<ArrayViewMut<'_, E, D>> {
    let (mut parts, mut rest) = (Vec::new(), view);
    while rest.len_of(Axis(0)) > length {
        let (part, after) = rest.split_at(Axis(0), length);
        parts.push(part);
        rest = after;
    }
    if rest.len_of(Axis(0)) > 0 {
        parts.push(rest);
    }
    parts
}

/// The elements of an array along its first axis.
pub(super) fn outer<'a, E: 'a, D: RemoveAxis>(
    view: ArrayViewMut<'a, E, D>,
) -> impl Iterator<Item = ArrayViewMut<'a, E, D::Smaller>> {
    split(view, 1)
        .into_iter()
        .map(|part| part.index_axis_move(Axis(0), 0))
}
