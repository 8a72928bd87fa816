//! Some rows of a product of matrices in f32, or some columns of all: what a thread does at a time.

use super::block::Block;
use super::lines::Lines;
use super::matrix::{DEPTH, Laid, SHORT, Start};
use super::panels::{Side, pack_tile, tile_step};
use super::product::{Tile, tile_rows};
use super::{Kernel, Simd};

/// Some rows of the result.
pub(super) struct Rows<'a> {
    pub(super) left: Side<'a>,
    pub(super) first: usize,
    pub(super) right: Laid<'a>,
    pub(super) start: Start<'a>,
    /// As many rows as there are.
    pub(super) out: Block<'a>,
    /// For the columns of a right side in rows.
    pub(super) sums: Option<&'a mut [f32]>,
    /// For the left side.
    pub(super) room: &'a mut Lines,
}

impl Kernel for Rows<'_> {
    type Output = ();

    #[inline(always)]
    fn call<S: Simd>(self, simd: S) {
        let (depth, columns) = self.right.dim();
        let panel = 2 * S::LANES;
        let mut out = self.out;
        let (rows, own) = (out.rows, out.columns.clone());
        assert!(own.start.is_multiple_of(panel) && own.end <= columns);
        // Where a step of a panel lies is `panel's start + step · right_step`, and a whole panel is there to be read.
        let (values, of_panel, of_step) = match self.right {
            Laid::Panels(panels) => {
                let length = columns.div_ceil(panel) * panel * depth;
                assert_eq!(panels.values().len(), length);
                (panels.values(), panel * depth, panel)
            }
            Laid::Rows(_, side) => {
                assert!(side.column_step == 1 && columns.is_multiple_of(panel));
                side.check();
                (side.values, panel, side.row_step)
            }
        };
        let mut sums = self.sums;
        let left = self.left;
        left.check();
        assert!(self.first + rows <= left.rows && left.columns == depth);
        if let Start::Bias(bias) = self.start {
            assert_eq!(bias.len(), columns, "a bias for each column");
        }
        if depth == 0 {
            for row in 0..rows {
                for (out, column) in out.row(row).iter_mut().zip(own.clone()) {
                    match self.start {
                        Start::Zero => out.write(0.0),
                        Start::Bias(bias) => out.write(bias[column]),
                        Start::Old => continue,
                    };
                }
            }
        }
        // Packing the left side pays where it lies in columns, is read for a few panels, and fills tiles. What lies in rows
        // is read from one pointer a row: turning it cost 16 to 26 % of a product with 128 columns, and gained nothing with
        // 1,024, even where the rows lie 4 KiB apart.
        let packs = left.column_step != 1 && columns > 2 * panel && rows >= S::ROWS;
        let step = tile_step::<S>();
        // Every tile but the last three at most is of `ROWS` rows.
        let tiles = if packs { rows.div_ceil(S::ROWS) + 3 } else { 0 };
        let copies = matches!(self.right, Laid::Rows(_, side) if side.row_step > SHORT);
        let most = DEPTH.min(depth);
        let [of_tiles, of_copy] = [most * tiles * step, if copies { most * panel } else { 0 }];
        let room = self.room.at_least(of_tiles + of_copy);
        let (tiled, copy) = room.split_at_mut(of_tiles);
        for from in (0..depth).step_by(DEPTH) {
            let deep = DEPTH.min(depth - from);
            let size = deep * step;
            if packs {
                let (mut row, mut tile) = (0, 0);
                while row < rows {
                    let taken = tile_rows(S::ROWS, rows - row);
                    let to = &mut tiled[tile * size..][..size];
                    pack_tile(simd, left, [self.first + row, taken], [from, deep], to);
                    (row, tile) = (row + taken, tile + 1);
                }
            }
            for column in own.clone().step_by(panel) {
                let mut right = &values[column / panel * of_panel + from * of_step..];
                let mut right_step = of_step;
                if copies {
                    let copy = &mut copy[..deep * panel];
                    for (row, to) in copy.chunks_exact_mut(panel).enumerate() {
                        let from = &right[row * of_step..][..panel];
                        let vectors = from.chunks_exact(S::LANES);
                        for (from, to) in vectors.zip(to.chunks_exact_mut(S::LANES)) {
                            simd.store(simd.load(from), to);
                        }
                    }
                    (right, right_step) = (copy, panel);
                }
                if let Some(sums) = &mut sums {
                    let sums = &mut sums[column - own.start..][..panel];
                    add_columns(simd, right, right_step, deep, sums);
                }
                // Each tile asks for its share of the panel that comes next: the first one of the next steps behind the last, or that of
                // the next task. Weights of an answer to one text come from memory: 64 × 256 · 256 × 1,024 on one thread
                // with AVX-512 went from 113 to 149 GFLOP/s, and 1,040 × 192 · 192 × 768 from 137 to 145.
                let (next_column, next_from) = match column + panel < own.end {
                    true => (column + panel, from),
                    false if from + DEPTH < depth => (own.start, from + DEPTH),
                    false => (own.start, 0),
                };
                let next = &values[next_column / panel * of_panel + next_from * of_step..];
                let (mut row, mut tile) = (0, 0);
                while row < rows {
                    let taken = tile_rows(S::ROWS, rows - row);
                    let ahead = match self.right {
                        Laid::Panels(_) => {
                            let share = next.as_ptr().wrapping_add(row * panel * deep / rows);
                            (share, (taken * panel).div_ceil(rows))
                        }
                        // Lines of rows that lie so far apart would drive each other out of the first cache: the gradient of
                        // a weight took up to a fifth more. This asks for what is there: a branch in every step would cost more.
                        Laid::Rows(..) => (right.as_ptr(), 0),
                    };
                    let (start, left_row, left_step) = if packs {
                        (tiled[tile * size..][..size].as_ptr(), 1, step)
                    } else {
                        let at = (self.first + row) * left.row_step + from * left.column_step;
                        (left.values[at..].as_ptr(), left.row_step, left.column_step)
                    };
                    let into: *mut f32 = out.at(row, column).cast();
                    let add = match self.start {
                        Start::Bias(bias) if from == 0 => Some((bias[column..].as_ptr(), 0)),
                        Start::Zero if from == 0 => None,
                        _ => Some((into.cast_const(), columns)),
                    };
                    let product = Tile {
                        depth: deep,
                        left: start,
                        left_row,
                        left_step,
                        right: right.as_ptr(),
                        right_step,
                        into,
                        into_row: columns,
                        columns: (own.end - column).min(panel),
                        add,
                        ahead: Some(ahead),
                    };
                    // SAFETY: `taken` rows and `deep` steps lie inside the left side, or inside its packed tile of that
                    // size; `deep` steps of a whole panel inside the right side, and as many rows of the tile's columns inside
                    // the block of the result, which is this task's, as asserted above. `add` is what the caller had
                    // initialised, what the steps before have written, or as many columns of the bias.
                    row += unsafe { product.rows(simd, taken) };
                    tile += 1;
                }
            }
        }
    }
}

/// `sums[c] += Σ_p right[p · step + c]` for the columns of a panel.
#[inline(always)]
fn add_columns<S: Simd>(simd: S, right: &[f32], step: usize, deep: usize, sums: &mut [f32]) {
    for (lane, sums) in sums.chunks_exact_mut(S::LANES).enumerate() {
        let mut total = simd.load(sums);
        for row in right.chunks(step).take(deep) {
            total = simd.add(total, simd.load(&row[lane * S::LANES..]));
        }
        simd.store(total, sums);
    }
}
