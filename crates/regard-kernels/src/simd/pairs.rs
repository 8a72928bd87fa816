//! The product of two matrices of bf16, summed in f32.
//!
//! Instructions that multiply bf16 take the depth two steps at a time. So both sides come as **pairs**, words of 32 bits
//! with the earlier step in the lower half: the left side as it lies in rows, `[rows, pairs]`, the right side with the two
//! rows of a pair interleaved, `[pairs, columns]`. Words are carried as the f32 of their bits: the room, the loads and the
//! transposition of f32 serve them, and none of these changes a bit.

#[cfg(target_arch = "x86_64")]
use super::amx::Tiles;
#[cfg(target_arch = "x86_64")]
use super::avx512::Avx512;
use half::bf16;

use super::{Kernel, Simd};
use crate::Isa;

/// Rows, columns and pairs of a block: both sides are padded to whole blocks.
pub(crate) const BLOCK: usize = 16;

/// What multiplies pairs on this thread.
pub(crate) enum Unit {
    /// The tiles of AMX.
    #[cfg(target_arch = "x86_64")]
    Tiles(Tiles),
    /// The instruction of AVX-512-BF16.
    #[cfg(target_arch = "x86_64")]
    Dots(Avx512<true>),
    /// Halves widened to f32, with any instruction set: what a machine without the others can test.
    Widened,
}

impl Unit {
    /// The unit of an instruction set that the door has found; AMX is configured for this thread until this is dropped.
    pub(crate) fn of(isa: Isa) -> Self {
        match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Amx => Unit::Tiles(Tiles::configure().expect("the door has found it")),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Bf16 => Unit::Dots(Avx512::<true>::detect().expect("the door has found it")),
            _ => Unit::Widened,
        }
    }
}

/// `into[r][c] (+)= Σ_p low(left[r][p]) · low(right[p][c]) + high(left[r][p]) · high(right[p][c])`, for `rows` × `columns`
/// and `p` below `pairs`.
///
/// How the sum of a pair is rounded, and whether the smallest numbers (below 2⁻¹²⁶) count, is the unit's.
pub(crate) struct PairProduct<'a> {
    pub(crate) unit: &'a Unit,
    pub(crate) rows: usize,
    pub(crate) columns: usize,
    /// A multiple of [`BLOCK`], as the rows of `left` and the columns of `right` are rounded up to one.
    pub(crate) pairs: usize,
    /// `left[r][p]` is `left[r · left_row + p]`.
    pub(crate) left: &'a [f32],
    pub(crate) left_row: usize,
    /// `right[p][c]` is `right[p · right_row + c]`.
    pub(crate) right: &'a [f32],
    pub(crate) right_row: usize,
    /// `into[r][c]` is `into[r · into_row + c]`; nothing beyond `rows` and `columns` is touched.
    pub(crate) into: &'a mut [f32],
    pub(crate) into_row: usize,
    pub(crate) add: bool,
}

/// One or two blocks of rows by one or two of columns.
#[derive(Clone, Copy)]
pub(super) struct Tile {
    pub(super) left: *const f32,
    pub(super) left_row: usize,
    pub(super) right: *const f32,
    pub(super) right_row: usize,
    pub(super) into: *mut f32,
    pub(super) into_row: usize,
    /// Blocks of pairs.
    pub(super) steps: usize,
    pub(super) add: bool,
}

impl Kernel for PairProduct<'_> {
    type Output = ();

    #[inline(always)]
    fn call<S: Simd>(self, simd: S) {
        let (rows, columns) = (self.rows, self.columns);
        if rows == 0 || columns == 0 {
            return;
        }
        assert!((rows - 1) * self.into_row + columns <= self.into.len());
        assert!(self.pairs.is_multiple_of(BLOCK));
        if self.pairs == 0 {
            if !self.add {
                for row in self.into.chunks_mut(self.into_row).take(rows) {
                    row[..columns].fill(0.0);
                }
            }
            return;
        }
        let (left_rows, right_columns) = (
            rows.next_multiple_of(BLOCK),
            columns.next_multiple_of(BLOCK),
        );
        assert!((left_rows - 1) * self.left_row + self.pairs <= self.left.len());
        assert!((self.pairs - 1) * self.right_row + right_columns <= self.right.len());
        #[cfg(target_arch = "x86_64")]
        if let Unit::Tiles(tiles) = self.unit
            && (rows, self.add) == (2 * BLOCK, false)
            && self.pairs == 2 * BLOCK
            && columns.is_multiple_of(BLOCK)
        {
            let tile = Tile {
                left: self.left.as_ptr(),
                left_row: self.left_row,
                right: self.right.as_ptr(),
                right_row: self.right_row,
                into: self.into.as_mut_ptr(),
                into_row: self.into_row,
                steps: 2,
                add: false,
            };
            // SAFETY: whole blocks of rows and columns lie inside both sides and inside the result, as asserted above.
            unsafe { tiles.multiply_kept(&tile, columns / BLOCK) };
            return;
        }
        for column in (0..columns).step_by(2 * BLOCK) {
            let across = (columns - column).min(2 * BLOCK);
            for row in (0..rows).step_by(2 * BLOCK) {
                let down = (rows - row).min(2 * BLOCK);
                let into = &mut self.into[row * self.into_row + column..];
                let tile = Tile {
                    left: self.left[row * self.left_row..].as_ptr(),
                    left_row: self.left_row,
                    right: self.right[column..].as_ptr(),
                    right_row: self.right_row,
                    into: into.as_mut_ptr(),
                    into_row: self.into_row,
                    steps: self.pairs / BLOCK,
                    add: self.add,
                };
                if down.is_multiple_of(BLOCK) && across.is_multiple_of(BLOCK) {
                    // SAFETY: whole blocks of rows and columns lie inside both sides and inside the result, as asserted
                    // above.
                    unsafe { tile.multiply(simd, self.unit, (down / BLOCK, across / BLOCK)) };
                } else {
                    // SAFETY: likewise for the sides.
                    unsafe { tile.multiply_edge(simd, self.unit, (down, across), into) };
                }
            }
        }
    }
}

impl Tile {
    /// # Safety
    /// `blocks` (rows, columns) of the sides, for all steps, and of the result are valid for reads, and those of the result
    /// for writes; it is initialised.
    #[inline(always)]
    unsafe fn multiply<S: Simd>(&self, simd: S, unit: &Unit, blocks: (usize, usize)) {
        // SAFETY: as promised.
        unsafe {
            match unit {
                #[cfg(target_arch = "x86_64")]
                Unit::Tiles(tiles) => tiles.multiply(self, blocks),
                #[cfg(target_arch = "x86_64")]
                Unit::Dots(dots) => dots.multiply_pairs(self, blocks),
                Unit::Widened => self.widened(simd, blocks),
            }
        }
    }

    /// A tile that is not whole, through one that is: nothing of `into` beyond `down` rows and `across` columns is touched.
    ///
    /// # Safety
    /// As [`Tile::multiply`] for the sides.
    #[inline(never)]
    unsafe fn multiply_edge<S: Simd>(
        mut self,
        simd: S,
        unit: &Unit,
        (down, across): (usize, usize),
        into: &mut [f32],
    ) {
        let mut whole = [0.0; 4 * BLOCK * BLOCK];
        if self.add {
            let rows = into.chunks(self.into_row).take(down);
            for (whole, into) in whole.chunks_exact_mut(2 * BLOCK).zip(rows) {
                whole[..across].copy_from_slice(&into[..across]);
            }
        }
        let into_row = std::mem::replace(&mut self.into_row, 2 * BLOCK);
        self.into = whole.as_mut_ptr();
        let blocks = (down.div_ceil(BLOCK), across.div_ceil(BLOCK));
        // SAFETY: promised for the sides; the result has room for two blocks either way.
        unsafe { self.multiply(simd, unit, blocks) };
        let rows = into.chunks_mut(into_row).take(down);
        for (whole, into) in whole.chunks_exact(2 * BLOCK).zip(rows) {
            into[..across].copy_from_slice(&whole[..across]);
        }
    }

    /// # Safety
    /// As [`Tile::multiply`].
    #[inline(always)]
    unsafe fn widened<S: Simd>(&self, simd: S, (down, across): (usize, usize)) {
        for row in 0..down * BLOCK {
            for column in (0..across * BLOCK).step_by(S::LANES) {
                let into = self.into.wrapping_add(row * self.into_row + column);
                // SAFETY: `LANES` divides a block; rows, columns and pairs are inside as promised.
                unsafe {
                    let mut sum = match self.add {
                        true => simd.load_at(into),
                        false => simd.splat(0.0),
                    };
                    for pair in 0..self.steps * BLOCK {
                        let left = simd.splat(*self.left.add(row * self.left_row + pair));
                        let right = simd.load_at(self.right.add(pair * self.right_row + column));
                        let ((a, b), (c, d)) = (halves(simd, left), halves(simd, right));
                        sum = simd.multiply_add(b, d, simd.multiply_add(a, c, sum));
                    }
                    simd.store_at(sum, into);
                }
            }
        }
    }
}

/// The lower and the upper bf16 of each word, widened.
#[inline(always)]
fn halves<S: Simd>(simd: S, words: S::Vector) -> (S::Vector, S::Vector) {
    let low = simd.shift_left(words, 16);
    (low, simd.shift_left(simd.shift_right(words, 16), 16))
}

/// [`Simd::pair`], number by number.
#[inline(always)]
pub(super) fn pair<S: Simd>(simd: S, low: S::Vector, high: S::Vector) -> S::Vector {
    let [low, high] = [low, high].map(|numbers| rounded(simd, numbers));
    let words: [f32; LONGEST] = std::array::from_fn(|i| word(low[i], high[i]));
    simd.load(&words)
}

/// [`Simd::narrow`], number by number.
#[inline(always)]
pub(super) fn narrow<S: Simd>(simd: S, first: S::Vector, second: S::Vector) -> S::Vector {
    let mut both = [bf16::ZERO; 2 * LONGEST];
    both[..LONGEST].copy_from_slice(&rounded(simd, first));
    let second = rounded(simd, second);
    both[S::LANES..][..S::LANES].copy_from_slice(&second[..S::LANES]);
    let words: [f32; LONGEST] = std::array::from_fn(|i| word(both[2 * i], both[2 * i + 1]));
    simd.load(&words)
}

/// Numbers of the longest vector.
const LONGEST: usize = 16;

fn rounded<S: Simd>(simd: S, numbers: S::Vector) -> [bf16; LONGEST] {
    let mut room = [0.0; LONGEST];
    simd.store(numbers, &mut room);
    room.map(bf16::from_f32)
}

/// Two numbers as a pair.
#[inline(always)]
pub(crate) fn word(low: bf16, high: bf16) -> f32 {
    f32::from_bits(u32::from(high.to_bits()) << 16 | u32::from(low.to_bits()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::run_pairs;

    fn isas() -> impl Iterator<Item = Isa> {
        let all = Isa::available().into_iter().chain([Isa::WidePairs]);
        all.filter(|isa| isa.multiplies_bf16())
    }

    fn numbers(count: usize, seed: usize) -> Vec<f32> {
        (0..count)
            .map(|at| ((at * 7919 + seed * 104_729) % 257) as f32 / 128.0 - 1.0)
            .collect()
    }

    /// Both sides in the layouts of the product, from rows of numbers.
    fn packed(
        left: &[f32],
        right: &[f32],
        [rows, depth, columns]: [usize; 3],
    ) -> (Vec<f32>, Vec<f32>, usize) {
        let pairs = depth.div_ceil(2).next_multiple_of(BLOCK);
        let at = |values: &[f32], row: usize, column: usize, size: (usize, usize)| match row
            < size.0
            && column < size.1
        {
            true => bf16::from_f32(values[row * size.1 + column]),
            false => bf16::ZERO,
        };
        let left = (0..rows.next_multiple_of(BLOCK) * pairs).map(|i| {
            let (row, pair) = (i / pairs, i % pairs);
            let number = |half| at(left, row, 2 * pair + half, (rows, depth));
            word(number(0), number(1))
        });
        let width = columns.next_multiple_of(BLOCK);
        let right = (0..pairs * width).map(|i| {
            let (pair, column) = (i / width, i % width);
            let number = |half| at(right, 2 * pair + half, column, (depth, columns));
            word(number(0), number(1))
        });
        (left.collect(), right.collect(), pairs)
    }

    #[test]
    fn every_unit_gives_the_product_of_any_shape() {
        for size in [
            [1, 1, 1],
            [16, 32, 16],
            [33, 64, 17],
            [32, 64, 48],
            [128, 80, 32],
            [40, 3, 100],
            [5, 0, 7],
        ] {
            let [rows, depth, columns] = size;
            let (a, b) = (numbers(rows * depth, 1), numbers(depth * columns, 2));
            let (left, right, pairs) = packed(&a, &b, size);
            let round = |x: f32| f64::from(bf16::from_f32(x));
            for isa in isas() {
                for add in [false, true] {
                    let before = numbers(rows * columns, 3);
                    let mut into = before.clone();
                    let unit = Unit::of(isa);
                    let product = PairProduct {
                        unit: &unit,
                        rows,
                        columns,
                        pairs,
                        left: &left,
                        left_row: pairs,
                        right: &right,
                        right_row: columns.next_multiple_of(BLOCK),
                        into: &mut into,
                        into_row: columns,
                        add,
                    };
                    run_pairs(isa, product);
                    for (i, (found, before)) in into.iter().zip(before).enumerate() {
                        let (row, column) = (i / columns, i % columns);
                        let terms = (0..depth)
                            .map(|p| round(a[row * depth + p]) * round(b[p * columns + column]));
                        let start = if add { f64::from(before) } else { 0.0 };
                        let expected = start + terms.sum::<f64>();
                        let error = (f64::from(*found) - expected).abs();
                        assert!(
                            error <= 1e-6 * (depth + 2) as f64,
                            "{isa} {size:?} {row}, {column}: {found}, expected {expected}"
                        );
                    }
                }
            }
        }
    }

    /// Both roundings, of two vectors of 16.
    struct Round<'a>(&'a [f32], &'a mut [f32]);

    impl Kernel for Round<'_> {
        type Output = ();
        #[inline(always)]
        fn call<S: Simd>(self, simd: S) {
            let (a, b) = (simd.load(self.0), simd.load(&self.0[S::LANES..]));
            simd.store(simd.pair(a, b), self.1);
            simd.store(simd.narrow(a, b), &mut self.1[S::LANES..]);
        }
    }

    #[test]
    fn numbers_are_rounded_to_the_nearest_and_lie_in_pairs() {
        let mut numbers = numbers(32, 5);
        // a tie to even down, a tie up, overflow to infinity, NaN, −0
        numbers[..6].copy_from_slice(&[
            f32::from_bits(0x3f80_8000),
            f32::from_bits(0x3f81_8000),
            f32::MAX,
            f32::NAN,
            f32::NEG_INFINITY,
            -0.0,
        ]);
        let rounded: Vec<bf16> = numbers.iter().map(|&x| bf16::from_f32(x)).collect();
        for isa in isas() {
            let mut words = [0.0; 32];
            run_pairs(isa, Round(&numbers, &mut words));
            for (i, found) in words.into_iter().enumerate() {
                let expected = match i {
                    0..16 => word(rounded[i], rounded[16 + i]),
                    _ => word(rounded[2 * (i - 16)], rounded[2 * (i - 16) + 1]),
                };
                assert_eq!(found.to_bits(), expected.to_bits(), "{isa} word {i}");
            }
        }
    }
}
