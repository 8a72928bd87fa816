//! The product of two matrices that are rounded to bf16 and share a long depth: the gradient of a weight.
//!
//! Its result is small and both sides are large, so reading them is most of the work: threads share out blocks of the result,
//! and each packs what its block needs, a part of the depth at a time, into its own second cache. A right side that is packed
//! for all threads goes from cache to cache once more: 256 × 4,096 · 4,096 × 1,024 on two threads took 2.9 ms so, and takes 1.6.

use std::cell::Cell;
use std::ops::Range;

use rayon::prelude::*;

use super::clock::counted;
use super::lines::Lines;
use super::pairs::BLOCK;
use super::panels::Side;
use super::rounded::{PANEL, pack_columns, pack_rows, pairs};
use super::{Kernel, PairProduct, Simd, Start, Unit, run_pairs};
use crate::Isa;
use crate::threads::share_out;

/// Steps that are packed at a time: for a block of 256 × 512 384 KiB, which stay in the second cache with the block's sums.
const DEPTH: usize = 256;
/// Numbers of a result at most that is worth copying once more: 2 MiB.
const SMALL: usize = 1 << 19;

thread_local! {
    /// The blocks of a result, and a block's packed sides: kept from product to product.
    static SUMS: Cell<Lines> = const { Cell::new(Lines::new()) };
    static SIDES: Cell<Lines> = const { Cell::new(Lines::new()) };
}

/// Whether the product is one of these.
pub(super) fn are_worth_it(rows: usize, depth: usize, columns: usize) -> bool {
    rows * columns <= SMALL && depth >= 2 * rows.max(columns) && depth > DEPTH
}

/// Rows and columns of a block, the last ones of a row or column of blocks fewer.
fn block_size(rows: usize, columns: usize, threads: usize) -> [usize; 2] {
    let (mut size, mut count) = ([rows, columns], 1);
    while count < threads {
        let longer = if size[0] >= size[1] { 0 } else { 1 };
        if size[longer] <= PANEL {
            break;
        }
        size[longer] = size[longer].div_ceil(2).next_multiple_of(PANEL);
        count = rows.div_ceil(size[0]) * columns.div_ceil(size[1]);
    }
    size
}

/// `out (+)= left · right`; the columns of `right` are added to `sums`.
pub(super) fn multiply(
    isa: Isa,
    left: Side<'_>,
    right: Side<'_>,
    start: Start<'_>,
    out: &mut [f32],
    sums: Option<&mut [f32]>,
) {
    let (rows, columns) = (left.rows, right.columns);
    assert!(left.columns == right.rows && out.len() == rows * columns);
    left.check();
    right.check();
    let [high, wide] = block_size(rows, columns, rayon::current_num_threads());
    let across = columns.div_ceil(wide);
    let count = rows.div_ceil(high) * across;
    let mut kept = SUMS.take();
    let blocks = kept.at_least(count * high * wide);
    let mut sums = sums.map(|sums| sums.chunks_mut(wide));
    let tasks = blocks.chunks_exact_mut(high * wide).enumerate();
    let tasks = tasks.map(|(at, out)| {
        let (row, column) = (at / across * high, at % across * wide);
        Block {
            isa,
            left,
            right,
            rows: row..(row + high).min(rows),
            columns: column..(column + wide).min(columns),
            out,
            // The first row of blocks has all columns.
            sums: sums.as_mut().and_then(Iterator::next),
        }
    });
    let compute = |task| counted(|| run_pairs(isa, task));
    rayon::scope(|_| share_out(tasks.collect(), 1, compute));
    let blocks = &*blocks;
    out.par_chunks_mut(columns * BLOCK)
        .enumerate()
        .for_each(|(at, out)| {
            for (row, out) in (at * BLOCK..).zip(out.chunks_exact_mut(columns)) {
                let blocks = blocks[row / high * across * high * wide..].chunks(high * wide);
                for (at, (out, block)) in out.chunks_mut(wide).zip(blocks).enumerate() {
                    let sums = block[row % high * out.len()..].iter();
                    match start {
                        Start::Zero => out.iter_mut().zip(sums).for_each(|(out, x)| *out = *x),
                        Start::Old => out.iter_mut().zip(sums).for_each(|(out, x)| *out += x),
                        Start::Bias(bias) => {
                            let sums = sums.zip(&bias[at * wide..]);
                            let all = out.iter_mut().zip(sums);
                            all.for_each(|(out, (x, bias))| *out = x + bias);
                        }
                    }
                }
            }
        });
    SUMS.set(kept);
}

/// A block of the result.
struct Block<'a> {
    isa: Isa,
    left: Side<'a>,
    right: Side<'a>,
    rows: Range<usize>,
    columns: Range<usize>,
    /// Its rows, one behind the other.
    out: &'a mut [f32],
    sums: Option<&'a mut [f32]>,
}

impl Kernel for Block<'_> {
    type Output = ();

    #[inline(always)]
    fn call<S: Simd>(self, simd: S) {
        let unit = Unit::of(self.isa);
        let (rows, columns) = (self.rows.len(), self.columns.len());
        let depth = self.right.rows;
        // A block more, so that the rows of a tile lie in different sets of the cache.
        let step = DEPTH / 2 + BLOCK;
        let of_left = rows.next_multiple_of(BLOCK) * step;
        let of_right = columns.next_multiple_of(PANEL) * DEPTH / 2;
        let mut kept = SIDES.take();
        let (left, right) = kept.at_least(of_left + of_right).split_at_mut(of_left);
        let mut sums = self.sums;
        for from in (0..depth).step_by(DEPTH) {
            let some = [from, DEPTH.min(depth - from)];
            let pairs = pairs(some[1]);
            pack_rows(simd, self.left, [self.rows.start, rows], some, left, step);
            let of_columns = [self.columns.start, columns];
            pack_columns(
                simd,
                self.right,
                of_columns,
                some,
                right,
                sums.as_deref_mut(),
            );
            for column in (0..columns).step_by(PANEL) {
                let product = PairProduct {
                    unit: &unit,
                    rows,
                    columns: (columns - column).min(PANEL),
                    pairs,
                    left,
                    left_row: step,
                    right: &right[column * pairs..],
                    right_row: PANEL,
                    into: &mut self.out[column..],
                    into_row: columns,
                    add: from > 0,
                };
                product.call(simd);
            }
        }
        SIDES.set(kept);
    }
}
