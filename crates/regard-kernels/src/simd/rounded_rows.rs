//! Some rows of the product of two matrices that are rounded to bf16.

use super::lines::Lines;
use super::panels::{Panels, Side};
use super::rounded::{PANEL, pack_rows, pairs};
use super::{BLOCK, Kernel, PairProduct, Simd, Start, Unit};

/// Rows at a time, packed just before they are multiplied by all of the right side: two blocks, what a tile is high.
const TILE: usize = 2 * BLOCK;
/// Steps of the sums at a time: packed, a tile's rows and a panel of the right side take 34 KiB, which the first cache of 48 KiB
/// holds. With 512 they do not: a tile then did 2,330 instead of 3,000 GFLOP/s on one thread.
const DEPTH: usize = 256;
/// Rows of the left side at most, for which a panel of the right side is asked for while the one before it is used: in an answer
/// to one text or picture weights come from memory, and each is used for these rows only. Answers to one took 5 to 10 %
/// less so; with more rows the panels are in the second cache when the next task comes, and a step took 2 to 5 % more.
const FEW: usize = 128;
/// Pairs of the right side that a task's rows go by: 1 MiB, which stays in the second cache.
const GROUP: usize = 1 << 18;

/// Some rows of the result.
pub(super) struct RoundedRows<'a> {
    pub(super) left: Side<'a>,
    pub(super) first: usize,
    pub(super) right: &'a Panels,
    pub(super) start: Start<'a>,
    /// As many whole rows as there are.
    pub(super) out: &'a mut [f32],
    /// For the left side.
    pub(super) room: &'a mut Lines,
}

impl Kernel for RoundedRows<'_> {
    type Output = ();

    #[inline(always)]
    fn call<S: Simd>(self, simd: S) {
        let (depth, columns) = (self.right.rows, self.right.columns);
        let rows = self.out.len() / columns;
        let unit = Unit::of(self.right.means.isa);
        let right = self.right.values();
        let of_panel = pairs(depth) * PANEL;
        // A block more, so that the rows of a tile lie in different sets of the cache.
        let step = pairs(DEPTH.min(depth)) + BLOCK;
        let room = self.room.at_least(TILE * step);
        let group = (GROUP / pairs(depth).max(1) / PANEL).max(1) * PANEL;
        for from_column in (0..columns).step_by(group) {
            let some_columns = from_column..(from_column + group).min(columns);
            for first in (0..rows).step_by(TILE) {
                let rows = (rows - first).min(TILE);
                let out = &mut self.out[first * columns..][..rows * columns];
                for from in (0..depth.max(1)).step_by(DEPTH) {
                    let deep = DEPTH.min(depth - from);
                    let some = [self.first + first, rows];
                    pack_rows(simd, self.left, some, [from, deep], room, step);
                    let start = if from == 0 { self.start } else { Start::Old };
                    begin(simd, start, &mut *out, columns, from_column);
                    for column in some_columns.clone().step_by(PANEL) {
                        if column + PANEL < some_columns.end {
                            begin(simd, start, &mut *out, columns, column + PANEL);
                            if first == 0 && self.left.rows <= FEW {
                                let next = (column / PANEL + 1) * of_panel + from / 2 * PANEL;
                                ask_for(simd, &right[next..][..pairs(deep) * PANEL]);
                            }
                        }
                        let product = PairProduct {
                            unit: &unit,
                            rows,
                            columns: (columns - column).min(PANEL),
                            pairs: pairs(deep),
                            left: room,
                            left_row: step,
                            right: &right[column / PANEL * of_panel + from / 2 * PANEL..],
                            right_row: PANEL,
                            into: &mut out[column..],
                            into_row: columns,
                            add: !matches!(start, Start::Zero),
                        };
                        product.call(simd);
                    }
                }
            }
        }
    }
}

/// Every line of `right`.
#[inline(always)]
fn ask_for<S: Simd>(simd: S, right: &[f32]) {
    for line in right.chunks(BLOCK) {
        simd.prefetch(line.as_ptr());
    }
}

/// Makes a tile of the result ready while the one before it is computed: the bias is written, or its lines are asked for.
#[inline(always)]
fn begin<S: Simd>(simd: S, start: Start<'_>, out: &mut [f32], columns: usize, column: usize) {
    let width = (columns - column).min(PANEL);
    for row in out.chunks_exact_mut(columns) {
        let row = &mut row[column..][..width];
        match start {
            Start::Bias(bias) if width == PANEL => {
                let bias = bias[column..][..PANEL].chunks_exact(S::LANES);
                for (to, bias) in row.chunks_exact_mut(S::LANES).zip(bias) {
                    simd.store(simd.load(bias), to);
                }
            }
            Start::Bias(bias) => row.copy_from_slice(&bias[column..][..width]),
            _ => {
                for at in (0..width).step_by(BLOCK) {
                    simd.prefetch(&row[at]);
                }
            }
        }
    }
}
