//! Both sides of a product, laid out as the register tile reads them.

use super::clock::counted;
use super::lines::Lines;
use super::rounded;
use super::{Kernel, Simd, run_pairs};
use crate::threads::share_out;
use crate::{Isa, Precision};

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

/// What a product is computed with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Means {
    pub(crate) isa: Isa,
    pub(crate) precision: Precision,
}

/// The right side of products, laid out for their means: columns side by side in panels, zeros behind the last. In f32
/// `[panel][row][2 · LANES]`, in bf16 `[panel][pair][32]`.
#[derive(Clone, Debug)]
pub(crate) struct Panels {
    pub(crate) means: Means,
    values: Lines,
    /// Of the values.
    length: usize,
    pub(crate) rows: usize,
    pub(crate) columns: usize,
}

/// Numbers that are worth a second thread for their packing: at 8 GB/s they take 8 µs.
const ALONE: usize = 1 << 13;

impl Panels {
    pub(crate) fn new(means: Means, right: Side<'_>) -> Self {
        let mut panels = Self::empty(means);
        panels.fill(right, None);
        panels
    }

    pub(super) fn empty(means: Means) -> Self {
        Self {
            means,
            values: Lines::new(),
            length: 0,
            rows: 0,
            columns: 0,
        }
    }

    pub(super) fn values(&self) -> &[f32] {
        self.values.first(self.length)
    }

    /// Another right side in the same memory. Adds each of its columns to `sums`, in the order of the rows.
    pub(super) fn fill(&mut self, right: Side<'_>, sums: Option<&mut [f32]>) {
        right.check();
        (self.rows, self.columns) = (right.rows, right.columns);
        if let Some(sums) = &sums {
            assert_eq!(sums.len(), right.columns, "a sum for each column");
        }
        let pack = Pack {
            right,
            panels: self,
            sums,
        };
        run_pairs(pack.panels.means.isa, pack);
    }
}

struct Pack<'a> {
    right: Side<'a>,
    panels: &'a mut Panels,
    sums: Option<&'a mut [f32]>,
}

impl Kernel for Pack<'_> {
    type Output = ();

    #[inline(always)]
    fn call<S: Simd>(self, simd: S) {
        let (right, panels) = (self.right, self.panels);
        let (panel, steps) = match panels.means.precision {
            Precision::F32 => (2 * S::LANES, right.rows),
            Precision::Bf16 => (rounded::PANEL, rounded::pairs(right.rows)),
        };
        let count = right.columns.div_ceil(panel);
        let alone = right.rows * right.columns < ALONE;
        // In bf16 a thread's panels are packed side by side: what is read lies in rows, as a rule.
        let together = match panels.means.precision {
            Precision::F32 => 1,
            Precision::Bf16 if alone => count.max(1),
            Precision::Bf16 => count.div_ceil(rayon::current_num_threads()).max(1),
        };
        // What was there before is overwritten.
        panels.length = count * panel * steps;
        let values = panels.values.at_least(panels.length);
        let mut sums = self.sums.map(|sums| sums.chunks_mut(together * panel));
        let tasks = values.chunks_mut((together * panel * steps).max(1));
        let tasks = tasks.enumerate().map(|(at, to)| Panel {
            right,
            first: at * together * panel,
            to,
            sums: sums.as_mut().and_then(Iterator::next),
        });
        let pack = |task: Panel<'_>| {
            counted(|| match panels.means.precision {
                Precision::F32 => simd.run(task),
                Precision::Bf16 => simd.run(Rounded(task)),
            });
        };
        if alone {
            tasks.for_each(pack);
        } else {
            rayon::scope(|_| share_out(tasks.collect(), 1, pack));
        }
    }
}

/// Some panels in bf16.
struct Rounded<'a>(Panel<'a>);

impl Kernel for Rounded<'_> {
    type Output = ();

    #[inline(always)]
    fn call<S: Simd>(self, simd: S) {
        let Panel {
            right,
            first,
            to,
            sums,
        } = self.0;
        let panels = to.len() / (rounded::pairs(right.rows) * rounded::PANEL).max(1);
        let columns = (right.columns - first).min(panels * rounded::PANEL);
        let all = [0, right.rows];
        rounded::pack_columns(simd, right, [first, columns], all, to, sums);
    }
}

/// One panel.
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
