//! Rows of numbers as pairs of bf16, a word of 32 bits each, in the two layouts of [`PairProduct`](crate::simd::PairProduct).

use std::ops::Range;

use half::bf16;
use ndarray::ArrayView1;

use crate::numbers::Head;
use crate::simd::{BLOCK, Simd, word};

/// The longest row of a block of weights.
const ROW: usize = 64;

/// Words that `steps` numbers take: pairs, in whole blocks.
pub(super) const fn width(steps: usize) -> usize {
    steps.div_ceil(2).next_multiple_of(BLOCK)
}

/// Numbers of room that rows of other numbers than bf16 are widened in: two of them.
pub(super) fn spare(width: usize) -> usize {
    2 * width.next_multiple_of(2 * BLOCK)
}

/// Neighbours of a row side by side, `[rows, into_row]`; zeros to the right and below.
#[inline(always)]
pub(super) fn rows<S: Simd>(
    simd: S,
    head: &Head<'_>,
    rows: Range<usize>,
    into: &mut [f32],
    into_row: usize,
    spare: &mut [f32],
) {
    if into_row == 0 {
        return;
    }
    let (filled, rest) = into.split_at_mut(rows.len() * into_row);
    rest.fill(0.0);
    let mut row = rows.start;
    let mut filled = filled.chunks_exact_mut(into_row);
    while row < rows.end {
        if let Some(part) = head.f32_rows(row..rows.end)
            && head.width() == 2 * into_row
        {
            for (numbers, into) in part.outer_iter().zip(&mut filled) {
                narrow_row(simd, 1.0, slice(&numbers), into);
            }
            row += part.nrows();
            continue;
        }
        let Some(part) = head.bf16_rows(row..rows.end) else {
            for (row, into) in (row..rows.end).zip(filled) {
                let widened = &mut spare[..2 * into_row];
                head.copy_rows(row..row + 1, 1.0, widened, 2 * into_row);
                narrow_row(simd, 1.0, widened, into);
            }
            return;
        };
        for (numbers, into) in part.outer_iter().zip(&mut filled) {
            words_of_row(simd, slice(&numbers), into);
        }
        row += part.nrows();
    }
}

/// Neighbours of a row side by side; zeros behind.
#[inline(always)]
fn words_of_row<S: Simd>(simd: S, row: &[bf16], into: &mut [f32]) {
    let (vectors, rest) = row.split_at(row.len() / (2 * S::LANES) * (2 * S::LANES));
    let (words, padding) = into.split_at_mut(vectors.len() / 2);
    let of_words = words.chunks_exact_mut(S::LANES);
    for (numbers, into) in vectors.chunks_exact(2 * S::LANES).zip(of_words) {
        simd.store(simd.load_words(numbers), into);
    }
    padding.fill(0.0);
    for (into, pair) in padding.iter_mut().zip(rest.chunks(2)) {
        *into = word(pair[0], pair.get(1).copied().unwrap_or(bf16::ZERO));
    }
}

/// `into[c]` holds `low[c]` and `high[c]`, as they are; zeros behind.
#[inline(always)]
fn words_of_rows<S: Simd>(simd: S, low: &[bf16], high: &[bf16], into: &mut [f32]) {
    let vectors = low.len().min(high.len()) / S::LANES * S::LANES;
    let ((low, low_rest), (high, high_rest)) = (low.split_at(vectors), high.split_at(vectors));
    let (words, padding) = into.split_at_mut(vectors);
    let both = low.chunks_exact(S::LANES).zip(high.chunks_exact(S::LANES));
    for ((low, high), into) in both.zip(words.chunks_exact_mut(S::LANES)) {
        simd.store(simd.load_pairs(low, high), into);
    }
    padding.fill(0.0);
    for (into, (&low, &high)) in padding.iter_mut().zip(low_rest.iter().zip(high_rest)) {
        *into = word(low, high);
    }
}

fn slice<'a, T>(row: &ArrayView1<'a, T>) -> &'a [T] {
    row.to_slice().expect("neighbours lie side by side")
}

/// `into = factor · row`, rounded; whole vectors, twice as many numbers as words.
#[inline(always)]
pub(super) fn narrow_row<S: Simd>(simd: S, factor: f32, row: &[f32], into: &mut [f32]) {
    let words = into.chunks_exact_mut(S::LANES);
    let factor = simd.splat(factor);
    for (numbers, into) in row.chunks_exact(2 * S::LANES).zip(words) {
        let (first, second) = numbers.split_at(S::LANES);
        // Not by `map`: its closure would be compiled without the instructions.
        let first = simd.mul(factor, simd.load(first));
        let second = simd.mul(factor, simd.load(second));
        simd.store(simd.narrow(first, second), into);
    }
}

/// Each two rows interleaved, `[pairs of rows, columns]`; zeros to the right and below.
#[inline(always)]
pub(super) fn pairs_of_rows<S: Simd>(
    simd: S,
    head: &Head<'_>,
    rows: Range<usize>,
    into: &mut [f32],
    columns: usize,
    spare: &mut [f32],
) {
    if columns == 0 {
        return;
    }
    let (filled, rest) = into.split_at_mut(rows.len().div_ceil(2) * columns);
    rest.fill(0.0);
    let width = head.width();
    let (mut row, mut filled) = (rows.start, filled);
    if width == columns
        && let Some(part) = head.f32_rows(rows.clone())
        && part.nrows() == rows.len()
        && rows.len().is_multiple_of(2)
    {
        let mut rows = part.outer_iter();
        for into in filled.chunks_exact_mut(columns) {
            if let (Some(low), Some(high)) = (rows.next(), rows.next()) {
                pair_rows(simd, slice(&low), slice(&high), into);
            }
        }
        return;
    }
    while row < rows.end {
        let part = head.bf16_rows(row..rows.end);
        // Two rows that lie in different pages are paired as other numbers are.
        let as_they_are =
            part.filter(|part| row + part.nrows() == rows.end || part.nrows().is_multiple_of(2));
        let count = match as_they_are {
            Some(part) => part.nrows(),
            None => 2.min(rows.end - row),
        };
        let (into, rest) = filled.split_at_mut(count.div_ceil(2) * columns);
        let dense = as_they_are.and_then(|part| part.to_slice());
        match (dense, as_they_are) {
            (Some(numbers), _) if width == columns && count.is_multiple_of(2) => {
                let pairs = numbers.chunks_exact(2 * columns);
                for (pair, into) in pairs.zip(into.chunks_exact_mut(columns)) {
                    let (low, high) = pair.split_at(columns);
                    words_of_rows(simd, low, high, into);
                }
            }
            (_, Some(part)) => {
                let mut rows = part.outer_iter();
                for into in into.chunks_exact_mut(columns) {
                    match (rows.next(), rows.next()) {
                        (Some(low), Some(high)) => {
                            words_of_rows(simd, slice(&low), slice(&high), into);
                        }
                        (low, _) => {
                            into.fill(0.0);
                            for (into, &low) in into.iter_mut().zip(low.iter().flatten()) {
                                *into = word(low, bf16::ZERO);
                            }
                        }
                    }
                }
            }
            (_, None) => {
                let widened = &mut spare[..2 * columns];
                head.copy_rows(row..row + count, 1.0, widened, columns);
                let (low, high) = widened.split_at(columns);
                pair_rows(simd, low, high, into);
            }
        }
        (row, filled) = (row + count, rest);
    }
}

/// `into[c]` holds `low[c]` and `high[c]`, rounded; whole vectors.
#[inline(always)]
pub(super) fn pair_rows<S: Simd>(simd: S, low: &[f32], high: &[f32], into: &mut [f32]) {
    let words = into.chunks_exact_mut(S::LANES);
    let both = low.chunks_exact(S::LANES).zip(high.chunks_exact(S::LANES));
    for ((low, high), into) in both.zip(words) {
        simd.store(simd.pair(simd.load(low), simd.load(high)), into);
    }
}

/// A block of numbers, `[keys, row]`, in pairs of keys; zeros up to whole blocks of pairs.
#[inline(always)]
pub(super) fn of_block<S: Simd>(
    simd: S,
    keys: usize,
    row: usize,
    weights: &[f32],
    into: &mut [f32],
) {
    let into = &mut into[..width(keys) * row];
    let (filled, rest) = into.split_at_mut(keys.div_ceil(2) * row);
    rest.fill(0.0);
    let pairs = weights[..keys * row].chunks_exact(2 * row);
    let low = pairs.remainder();
    if !low.is_empty() {
        let last = filled.len() - row;
        pair_rows(simd, low, &[0.0; ROW], &mut filled[last..]);
    }
    for (pair, into) in pairs.zip(filled.chunks_exact_mut(row)) {
        let (low, high) = pair.split_at(row);
        pair_rows(simd, low, high, into);
    }
}

/// The lower half of a word (0), or the upper one, as a number.
#[inline(always)]
pub(super) fn half(word: f32, which: usize) -> f32 {
    let bits = word.to_bits();
    f32::from_bits(if which == 0 {
        bits << 16
    } else {
        bits & 0xffff_0000
    })
}

/// Whether both halves of every word are finite.
#[inline(always)]
pub(super) fn all_finite(words: &[f32]) -> bool {
    const EXPONENT: u32 = 0x7f80;
    // Adding the lowest bit of an exponent carries out of it where all its bits are set; no early end, so that vectors do it.
    let mut carried = 0;
    for word in words {
        let bits = word.to_bits();
        carried |= (bits & EXPONENT) + 0x80;
        carried |= (bits >> 16 & EXPONENT) + 0x80;
    }
    carried & 0x8000 == 0
}
