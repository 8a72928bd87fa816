//! Both sides of a product, rounded to bf16 and laid out as pairs: what [`PairProduct`](super::PairProduct) reads.
//!
//! A side lies in rows or in columns, so the two numbers of a pair are neighbours or a line apart, and the pairs of a vector
//! lie as they are wanted, or are turned block by block: words are as long as f32.

use super::Simd;
use super::pairs::BLOCK;
use super::panels::Side;

/// Columns of a panel of the right side: two blocks, what a tile of the result is wide.
pub(super) const PANEL: usize = 2 * BLOCK;
/// Numbers of the longest vector.
const LONGEST: usize = 16;
/// Lines that a line is asked for before it is read: whoever packs reads a part of each, and no processor sees that coming.
const AHEAD: usize = 16;

/// Pairs of so many steps: whole blocks, zeros behind the last.
pub(super) fn pairs(depth: usize) -> usize {
    depth.div_ceil(2).next_multiple_of(BLOCK)
}

/// A vector of `line` from number `at` on; zeros where it has none.
#[inline(always)]
fn vector<S: Simd>(simd: S, line: &[f32], at: usize) -> S::Vector {
    match line.get(at..at + S::LANES) {
        Some(whole) => simd.load(whole),
        None => {
            let mut room = [0.0; LONGEST];
            let rest = line.get(at..).unwrap_or(&[]);
            room[..rest.len()].copy_from_slice(rest);
            simd.load(&room)
        }
    }
}

/// Some steps of the left side's `rows` from row `first` on: row `r` is `to[r · step..]`, in whole blocks of pairs. What lies
/// behind the last row up to the next block is anything.
#[inline(always)]
pub(super) fn pack_rows<S: Simd>(
    simd: S,
    left: Side<'_>,
    [first, rows]: [usize; 2],
    [from, deep]: [usize; 2],
    to: &mut [f32],
    step: usize,
) {
    if left.column_step == 1 {
        for (row, to) in to.chunks_mut(step).take(rows).enumerate() {
            let line = &left.values[(first + row) * left.row_step + from..][..deep];
            for (at, to) in to[..pairs(deep)].chunks_exact_mut(S::LANES).enumerate() {
                let low = vector(simd, line, 2 * at * S::LANES);
                let high = vector(simd, line, (2 * at + 1) * S::LANES);
                simd.store(simd.narrow(low, high), to);
            }
        }
        return;
    }
    let start = |at: usize| (from + at) * left.column_step + first;
    let line = |at: usize| match at < deep {
        true => &left.values[start(at)..][..rows],
        false => &[],
    };
    for pair in (0..pairs(deep)).step_by(S::LANES) {
        for row in (0..rows).step_by(S::LANES) {
            let mut words = [0.0; LONGEST * LONGEST];
            for (p, words) in words.chunks_exact_mut(S::LANES).take(S::LANES).enumerate() {
                let at = 2 * (pair + p);
                for at in [at, at + 1] {
                    let ahead = start(at + 2 * S::LANES) + row;
                    simd.prefetch(left.values.as_ptr().wrapping_add(ahead));
                }
                let (low, high) = (line(at), line(at + 1));
                let words_of = simd.pair(vector(simd, low, row), vector(simd, high, row));
                simd.store(words_of, words);
            }
            simd.transpose(&words, S::LANES, &mut to[row * step + pair..], step);
        }
    }
}

/// Some steps of the right side's `columns` from column `first` on: `[panel][pair][PANEL]`, zeros behind the last. The columns
/// are added to `sums`, as they are and in the order of the steps.
#[inline(always)]
pub(super) fn pack_columns<S: Simd>(
    simd: S,
    right: Side<'_>,
    [first, columns]: [usize; 2],
    [from, deep]: [usize; 2],
    to: &mut [f32],
    mut sums: Option<&mut [f32]>,
) {
    let pairs = pairs(deep);
    let to = &mut to[..columns.div_ceil(PANEL) * pairs * PANEL];
    if right.column_step == 1 {
        let start = |at: usize| (from + at) * right.row_step + first;
        let line = |at: usize| match at < deep {
            true => &right.values[start(at)..][..columns],
            false => &[],
        };
        for pair in 0..pairs {
            let (low, high) = (line(2 * pair), line(2 * pair + 1));
            for column in (0..columns.next_multiple_of(PANEL)).step_by(S::LANES) {
                for ahead in [2 * pair + AHEAD, 2 * pair + AHEAD + 1] {
                    let ahead = start(ahead) + column;
                    simd.prefetch(right.values.as_ptr().wrapping_add(ahead));
                }
                let (low, high) = (vector(simd, low, column), vector(simd, high, column));
                let words = simd.pair(low, high);
                if let Some(sums) = sums.as_mut().and_then(|sums| sums.get_mut(column..)) {
                    add_to(simd, sums, low, high);
                }
                let at = (column / PANEL * pairs + pair) * PANEL + column % PANEL;
                simd.store(words, &mut to[at..]);
            }
        }
        return;
    }
    let line = |at: usize| match at < columns {
        true => &right.values[(first + at) * right.column_step + from..][..deep],
        false => &[],
    };
    for column in (0..columns.next_multiple_of(PANEL)).step_by(S::LANES) {
        let panel = &mut to[column / PANEL * pairs * PANEL..][..pairs * PANEL];
        for pair in (0..pairs).step_by(S::LANES) {
            let mut words = [0.0; LONGEST * LONGEST];
            for (c, words) in words.chunks_exact_mut(S::LANES).take(S::LANES).enumerate() {
                let (line, at) = (line(column + c), 2 * pair);
                let second = vector(simd, line, at + S::LANES);
                simd.store(simd.narrow(vector(simd, line, at), second), words);
            }
            let to = &mut panel[pair * PANEL + column % PANEL..];
            simd.transpose(&words, S::LANES, to, PANEL);
        }
    }
    if let Some(sums) = sums {
        for (at, sum) in sums.iter_mut().enumerate() {
            *sum = line(at).iter().fold(*sum, |sum, x| sum + x);
        }
    }
}

/// `sums += low + high`, as many as there are.
#[inline(always)]
fn add_to<S: Simd>(simd: S, sums: &mut [f32], low: S::Vector, high: S::Vector) {
    let sum = simd.add(simd.add(vector(simd, sums, 0), low), high);
    let mut lanes = [0.0; LONGEST];
    match sums.get_mut(..S::LANES) {
        Some(sums) => simd.store(sum, sums),
        None => {
            simd.store(sum, &mut lanes);
            sums.iter_mut().zip(lanes).for_each(|(sum, x)| *sum = x);
        }
    }
}
