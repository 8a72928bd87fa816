//! Both sides of a product, laid out as the register tile reads them.

use rayon::prelude::*;

use super::clock::counted;
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

impl<'a> Side<'a> {
    /// Some of its rows.
    pub(super) fn some_rows(self, first: usize, rows: usize) -> Self {
        let values = self.values.get(first * self.row_step..).unwrap_or(&[]);
        Self {
            values,
            rows,
            ..self
        }
    }

    /// Some of its columns.
    pub(super) fn some_columns(self, first: usize, columns: usize) -> Self {
        let values = self.values.get(first * self.column_step..).unwrap_or(&[]);
        Self {
            values,
            columns,
            ..self
        }
    }

    /// # Panics
    /// If the last element lies beyond the values, or no step is 1.
    pub(super) fn check(&self) {
        assert!(self.row_step == 1 || self.column_step == 1);
        if self.rows > 0 && self.columns > 0 {
            let last = (self.rows - 1) * self.row_step + (self.columns - 1) * self.column_step;
            assert!(last < self.values.len());
        }
    }
}

/// The right side of products, laid out for one instruction set: columns side by side in panels of two vectors,
/// `[panel][row][2 · LANES]`, zeros behind the last.
#[derive(Clone, Debug)]
pub(crate) struct Panels {
    pub(super) isa: Isa,
    pub(super) values: Vec<f32>,
    pub(crate) rows: usize,
    pub(crate) columns: usize,
}

/// Numbers that are worth a second thread for their packing: at 8 GB/s they take 8 µs.
const ALONE: usize = 1 << 13;

impl Panels {
    pub(crate) fn new(isa: Isa, right: Side<'_>) -> Self {
        let mut panels = Self::empty(isa);
        panels.fill(right, None);
        panels
    }

    pub(super) fn empty(isa: Isa) -> Self {
        Self {
            isa,
            values: Vec::new(),
            rows: 0,
            columns: 0,
        }
    }

    /// Another right side in the same memory. Adds each of its columns to `sums`, in the order of the rows.
    pub(super) fn fill(&mut self, right: Side<'_>, sums: Option<&mut [f32]>) {
        right.check();
        (self.rows, self.columns) = (right.rows, right.columns);
        if let Some(sums) = &sums {
            assert_eq!(sums.len(), right.columns, "a sum for each column");
        }
        run(
            self.isa,
            Pack {
                right,
                panels: &mut self.values,
                sums,
            },
        );
    }
}

struct Pack<'a> {
    right: Side<'a>,
    panels: &'a mut Vec<f32>,
    sums: Option<&'a mut [f32]>,
}

impl Kernel for Pack<'_> {
    type Output = ();

    #[inline(always)]
    fn call<S: Simd>(self, simd: S) {
        let Side { rows, columns, .. } = self.right;
        let panel = 2 * S::LANES;
        // What was there before is overwritten.
        self.panels
            .resize(columns.div_ceil(panel) * panel * rows, 0.0);
        let mut sums = self.sums.map(|sums| sums.chunks_mut(panel));
        let chunks = self.panels.chunks_mut((panel * rows).max(1)).enumerate();
        let tasks = chunks.map(|(at, to)| Panel {
            right: self.right,
            first: at * panel,
            to,
            sums: sums.as_mut().and_then(Iterator::next),
        });
        if rows * columns < ALONE {
            counted(|| tasks.for_each(|task| simd.run(task)));
        } else {
            let tasks: Vec<_> = tasks.collect();
            tasks
                .into_par_iter()
                .for_each(|task| counted(|| simd.run(task)));
        }
    }
}

struct Panel<'a> {
    right: Side<'a>,
    first: usize,
    to: &'a mut [f32],
    sums: Option<&'a mut [f32]>,
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
        if width < panel {
            for to in self.to.chunks_exact_mut(panel) {
                to[width..].fill(0.0);
            }
        }
        if column_step == 1 && width == panel {
            for (row, to) in self.to.chunks_exact_mut(panel).enumerate() {
                let from = &values[row * row_step + self.first..][..panel];
                for (to, from) in to
                    .chunks_exact_mut(S::LANES)
                    .zip(from.chunks_exact(S::LANES))
                {
                    simd.store(simd.load(from), to);
                }
            }
            return self.sum(simd);
        }
        if column_step == 1 {
            for (row, to) in self.to.chunks_exact_mut(panel).enumerate() {
                to[..width].copy_from_slice(&values[row * row_step + self.first..][..width]);
            }
            return self.sum(simd);
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
        self.sum(simd);
    }
}

impl Panel<'_> {
    /// Adds the panel's columns, which are in the cache now.
    #[inline(always)]
    fn sum<S: Simd>(self, simd: S) {
        let Some(sums) = self.sums else {
            return;
        };
        let mut totals = [simd.splat(0.0); 2];
        for row in self.to.chunks_exact(2 * S::LANES) {
            for (total, part) in totals.iter_mut().zip(row.chunks_exact(S::LANES)) {
                *total = simd.add(*total, simd.load(part));
            }
        }
        for (total, sums) in totals.into_iter().zip(sums.chunks_mut(S::LANES)) {
            let mut lanes = [0.0; 16];
            simd.store(total, &mut lanes);
            sums.iter_mut().zip(lanes).for_each(|(sum, x)| *sum += x);
        }
    }
}

/// Numbers of a step of a packed tile: a whole number of vectors.
pub(super) fn tile_step<S: Simd>() -> usize {
    S::ROWS.next_multiple_of(S::LANES)
}

/// Lays out some steps of the `rows` of a tile whose side lies in columns: `[step][tile_step]`. Then every step reads
/// neighbours, whatever the distance of the columns is.
#[inline(always)]
pub(super) fn pack_tile<S: Simd>(
    simd: S,
    left: Side<'_>,
    [first, rows]: [usize; 2],
    [from, deep]: [usize; 2],
    to: &mut [f32],
) {
    assert!(left.row_step == 1, "rows are read where they lie");
    let step = tile_step::<S>();
    for (p, to) in to.chunks_exact_mut(step).take(deep).enumerate() {
        let from = &left.values[(from + p) * left.column_step + first..];
        if from.len() >= step {
            for (to, from) in to.chunks_exact_mut(S::LANES).zip(from.chunks(S::LANES)) {
                simd.store(simd.load(from), to);
            }
        } else {
            to[..rows].copy_from_slice(&from[..rows]);
        }
    }
}
