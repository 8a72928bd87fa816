//! The product of two whole matrices: the right side is packed into panels once, then threads share the rows.

use std::mem::MaybeUninit;

use rayon::prelude::*;

use super::product::Tile;
use super::{Kernel, Simd, run};
use crate::Isa;

/// One side of a product: `values[r · row_step + c · column_step]`; one of both steps is 1.
#[derive(Clone, Copy)]
pub(crate) struct Side<'a> {
    pub(crate) values: &'a [f32],
    pub(crate) rows: usize,
    pub(crate) columns: usize,
    pub(crate) row_step: usize,
    pub(crate) column_step: usize,
}

/// What the sums are added to.
#[derive(Clone, Copy)]
pub(crate) enum Start<'a> {
    /// Nothing: what is there is overwritten, and may be uninitialised.
    Zero,
    /// What is there.
    Old,
    /// A number for each column; what is there is overwritten, and may be uninitialised.
    Bias(&'a [f32]),
}

/// Steps of the sums at a time: a panel of so many steps and 2 · 8 columns is 16 KiB, half of the first cache.
const DEPTH: usize = 256;
/// Rows of a task at most: with `DEPTH` steps 96 KiB of the left side, which stay in the second cache while the panels go
/// by.
const ROWS: usize = 96;
/// Multiplications that are worth a second thread: at 60 GFLOP/s, what one thread did here, they take 17 µs, and waking a
/// thread takes some of them.
const ALONE: usize = 1 << 19;

/// The right side of products, laid out for one instruction set: columns side by side in panels of two vectors,
/// `[panel][row][2 · LANES]`, zeros behind the last.
#[derive(Clone, Debug)]
pub(crate) struct Panels {
    isa: Isa,
    values: Vec<f32>,
    pub(crate) rows: usize,
    pub(crate) columns: usize,
}

impl Panels {
    pub(crate) fn new(isa: Isa, right: Side<'_>) -> Self {
        Self {
            isa,
            values: run(isa, Pack { right }),
            rows: right.rows,
            columns: right.columns,
        }
    }
}

/// `left · right` in memory of its own, which is written once: nothing is set to zero first.
pub(crate) fn product(left: Side<'_>, right: &Panels, start: Start<'_>) -> Vec<f32> {
    assert!(!matches!(start, Start::Old), "there is nothing to add to");
    let length = left.rows * right.columns;
    let mut out = Vec::with_capacity(length);
    multiply(left, right, start, &mut out.spare_capacity_mut()[..length]);
    // SAFETY: `multiply` writes every element unless it starts from what is there.
    unsafe { out.set_len(length) };
    out
}

/// `out += left · right`.
pub(crate) fn add_product(left: Side<'_>, right: &Panels, out: &mut [f32]) {
    // SAFETY: initialised numbers are a special case of numbers that may be; `multiply` writes nothing but numbers.
    let out = unsafe {
        std::slice::from_raw_parts_mut(out.as_mut_ptr().cast::<MaybeUninit<f32>>(), out.len())
    };
    multiply(left, right, Start::Old, out);
}

fn multiply(left: Side<'_>, right: &Panels, start: Start<'_>, out: &mut [MaybeUninit<f32>]) {
    assert_eq!(left.columns, right.rows, "the sides share the depth");
    assert_eq!(out.len(), left.rows * right.columns);
    if let Start::Bias(bias) = start {
        assert_eq!(bias.len(), right.columns, "a bias for each column");
    }
    if out.is_empty() {
        return;
    }
    let threads = match left.rows * right.columns * right.rows {
        ..ALONE => 1,
        _ => rayon::current_num_threads(),
    };
    // Two tasks a thread at least, in whole tiles of six rows: the last thread waits for less. Every element is summed in
    // the same order whatever the tasks are.
    let rows = left
        .rows
        .div_ceil(2 * threads)
        .next_multiple_of(6)
        .min(ROWS);
    let task = |(at, out): (usize, &mut [MaybeUninit<f32>])| {
        run(
            right.isa,
            Rows {
                left,
                first: at * rows,
                right,
                start,
                out,
            },
        );
    };
    if threads == 1 {
        out.chunks_mut(rows * right.columns)
            .enumerate()
            .for_each(task);
    } else {
        out.par_chunks_mut(rows * right.columns)
            .enumerate()
            .for_each(task);
    }
}

/// Lays out [`Panels`].
struct Pack<'a> {
    right: Side<'a>,
}

impl Kernel for Pack<'_> {
    type Output = Vec<f32>;

    #[inline(always)]
    fn call<S: Simd>(self, simd: S) -> Vec<f32> {
        let Side { rows, columns, .. } = self.right;
        let panel = 2 * S::LANES;
        let mut panels = vec![0.0; columns.div_ceil(panel) * panel * rows];
        let fill = |(at, to): (usize, &mut [f32])| {
            simd.run(Panel {
                right: self.right,
                first: at * panel,
                to,
            });
        };
        if rows * columns < ALONE / 64 {
            panels
                .chunks_mut((panel * rows).max(1))
                .enumerate()
                .for_each(fill);
        } else {
            panels
                .par_chunks_mut((panel * rows).max(1))
                .enumerate()
                .for_each(fill);
        }
        panels
    }
}

struct Panel<'a> {
    right: Side<'a>,
    first: usize,
    to: &'a mut [f32],
}

impl Kernel for Panel<'_> {
    type Output = ();

    #[inline(always)]
    fn call<S: Simd>(self, simd: S) {
        let Side {
            values,
            rows,
            columns,
            row_step,
            column_step,
        } = self.right;
        let panel = 2 * S::LANES;
        let width = (columns - self.first).min(panel);
        if column_step == 1 {
            for (row, to) in self.to.chunks_exact_mut(panel).enumerate() {
                to[..width].copy_from_slice(&values[row * row_step + self.first..][..width]);
            }
            return;
        }
        // The columns lie in memory: blocks of vectors are turned in registers, the rest number by number.
        let whole = rows - rows % S::LANES;
        for block in (0..width).step_by(S::LANES) {
            let turned = if block + S::LANES <= width { whole } else { 0 };
            for row in (0..turned).step_by(S::LANES) {
                let from = &values[(self.first + block) * column_step + row..];
                simd.transpose(
                    from,
                    column_step,
                    &mut self.to[row * panel + block..],
                    panel,
                );
            }
            for column in block..(block + S::LANES).min(width) {
                let from = &values[(self.first + column) * column_step..];
                let rest = self.to.chunks_exact_mut(panel).zip(&from[..rows]);
                for (to, x) in rest.skip(turned) {
                    to[column] = *x;
                }
            }
        }
    }
}

/// Some rows of the result.
struct Rows<'a> {
    left: Side<'a>,
    first: usize,
    right: &'a Panels,
    start: Start<'a>,
    /// As many whole rows as there are.
    out: &'a mut [MaybeUninit<f32>],
}

impl Kernel for Rows<'_> {
    type Output = ();

    #[inline(always)]
    fn call<S: Simd>(self, simd: S) {
        let (depth, columns) = (self.right.rows, self.right.columns);
        let panel = 2 * S::LANES;
        let rows = self.out.len() / columns;
        let Side {
            values,
            row_step,
            column_step,
            ..
        } = self.left;
        assert_eq!(self.out.len(), rows * columns);
        let panels = self.right.values.as_slice();
        assert_eq!(panels.len(), columns.div_ceil(panel) * panel * depth);
        assert!(row_step == 1 || column_step == 1);
        if depth > 0 {
            let last = (self.first + rows - 1) * row_step + (depth - 1) * column_step;
            assert!(last < values.len());
        }
        let fill = |out: &mut [MaybeUninit<f32>], with: &[f32]| {
            for row in out.chunks_exact_mut(columns) {
                row.iter_mut().zip(with).for_each(|(out, x)| {
                    out.write(*x);
                });
            }
        };
        let mut add = match self.start {
            Start::Old => true,
            Start::Bias(bias) => {
                fill(self.out, bias);
                true
            }
            Start::Zero => false,
        };
        if depth == 0 && !add {
            self.out.fill(MaybeUninit::new(0.0));
        }
        for from in (0..depth).step_by(DEPTH) {
            let deep = DEPTH.min(depth - from);
            for column in (0..columns).step_by(panel) {
                let mut row = 0;
                while row < rows {
                    let left = (self.first + row) * row_step + from * column_step;
                    let tile = Tile {
                        depth: deep,
                        left: values[left..].as_ptr(),
                        left_row: row_step,
                        left_step: column_step,
                        right: panels[column * depth + from * panel..].as_ptr(),
                        right_step: panel,
                        into: self.out[row * columns + column..].as_mut_ptr().cast(),
                        into_row: columns,
                        columns: (columns - column).min(panel),
                        add,
                    };
                    // SAFETY: `rows − row` rows and `deep` steps lie inside the left side, `deep` steps of a whole panel
                    // inside the panels, and as many rows of the tile's columns inside the result, as asserted above.
                    // `add` reads what is initialised: given, filled, or written by the steps before.
                    row += unsafe { tile.rows(simd, rows - row) };
                }
            }
            add = true;
        }
    }
}
