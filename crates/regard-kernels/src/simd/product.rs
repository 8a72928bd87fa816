//! The matrix product that the kernels spend their time in: a tile of the result stays in registers while the depth
//! goes by.

use super::{Kernel, Simd};

/// Steps that a column is asked for before it is used: with 14 rows of two vectors a step takes 14 cycles, and the second
/// cache answers after about as many. With this, forward attention at a length of 4,096 was 4 to 8 % faster.
const AHEAD: usize = 8;
/// Steps from which on a tile asks for the part of the result that it will write, before it begins: a large result is in no
/// cache, and the stores of a tile do not fit into the processor's queue. 4,096 × 256 · 256 × 768 went from 139 to 158
/// GFLOP/s a thread with AVX-512, × 1,024 from 135 to 146. Shorter tiles, attention's, write what is in the first cache; what they
/// add to is not, as a rule: backward 4,096 × 128 went from 329 to 357 GFLOP/s on two threads.
const LONG: usize = 96;
/// Numbers of a cache line.
const LINE: usize = 16;

/// `into[r][c] (+)= Σ_p left[r][p] · right[p][c]`, for `rows` × `columns` and `p` below `depth`.
///
/// The columns are vectors; the numbers on the left are broadcast one by one, so they may lie in rows or in
/// columns and nothing has to be packed for them.
pub(crate) struct Product<'a> {
    pub(crate) rows: usize,
    pub(crate) columns: usize,
    pub(crate) depth: usize,
    /// `left[r][p]` is `left[r · left_row + p · left_step]`; one of both strides is 1.
    pub(crate) left: &'a [f32],
    pub(crate) left_row: usize,
    pub(crate) left_step: usize,
    /// `right[p][c]` is `right[p · right_step + c]`; whole vectors are read, so there is room up to the next
    /// multiple of `LANES` after `columns`.
    pub(crate) right: &'a [f32],
    pub(crate) right_step: usize,
    /// `into[r][c]` is `into[r · into_row + c]`; nothing beyond `columns` is touched.
    pub(crate) into: &'a mut [f32],
    pub(crate) into_row: usize,
    /// Whether the sums are added to what is there.
    pub(crate) add: bool,
}

impl Kernel for Product<'_> {
    type Output = ();

    #[inline(always)]
    fn call<S: Simd>(self, simd: S) {
        let Product {
            rows,
            columns,
            depth,
            ..
        } = self;
        if rows == 0 || columns == 0 {
            return;
        }
        assert!(self.left_row == 1 || self.left_step == 1);
        assert!((rows - 1) * self.into_row + columns <= self.into.len());
        if depth > 0 {
            assert!((rows - 1) * self.left_row + (depth - 1) * self.left_step < self.left.len());
            assert!(
                (depth - 1) * self.right_step + columns.next_multiple_of(S::LANES)
                    <= self.right.len()
            );
        }
        let mut tile = Tile {
            depth,
            left: self.left.as_ptr(),
            left_row: self.left_row,
            left_step: self.left_step,
            right: self.right.as_ptr(),
            right_step: self.right_step,
            into: self.into.as_mut_ptr(),
            into_row: self.into_row,
            columns: 0,
            add: None,
            ahead: None,
        };
        // Column panels outside: the panel of the right side stays in the first cache while the rows go by.
        for column in (0..columns).step_by(2 * S::LANES) {
            tile.columns = (columns - column).min(2 * S::LANES);
            let mut row = 0;
            while row < rows {
                // SAFETY: `row` and `column` are below `rows` and `columns`, for which the assertions above hold;
                // with a depth of 0 the sides are never read, and wrapping keeps the arithmetic defined.
                let into = tile.into.wrapping_add(row * self.into_row + column);
                let at = Tile {
                    left: tile.left.wrapping_add(row * self.left_row),
                    right: tile.right.wrapping_add(column),
                    into,
                    add: self.add.then_some((into.cast_const(), self.into_row)),
                    ..tile
                };
                // SAFETY: the tile begins inside, and `rows` and `columns` bound it: asserted above.
                row += unsafe { at.rows(simd, rows - row) };
            }
        }
    }
}

/// How many of the `rest` rows the next tile takes, where the registers hold `most`: 14 or 6.
///
/// A sum waits some four cycles for itself and two are made at once, so fewer than four rows of two vectors leave the
/// processor waiting. So the last rows are shared out: 16 are 8 and 8, not 14 and 2.
#[inline(always)]
pub(super) const fn tile_rows(most: usize, rest: usize) -> usize {
    match (most, rest) {
        (14, 14 | 18..) => 14,
        (14, 8 | 12 | 13 | 15..=17) => 8,
        (14, 7) | (6, 7 | 8) => 4,
        (_, 9 | 10) => 5,
        (_, 6..) => 6,
        (_, few) => few,
    }
}

/// A tile of the result: at most `ROWS` rows of at most two vectors.
#[derive(Clone, Copy)]
pub(super) struct Tile {
    pub(super) depth: usize,
    pub(super) left: *const f32,
    pub(super) left_row: usize,
    pub(super) left_step: usize,
    pub(super) right: *const f32,
    pub(super) right_step: usize,
    pub(super) into: *mut f32,
    pub(super) into_row: usize,
    pub(super) columns: usize,
    /// What the sums are added to, and how far apart its rows are: what is there, or a bias, which is one row for all.
    pub(super) add: Option<(*const f32, usize)>,
    /// What is asked for meanwhile, and how many numbers of it a step: the right side of the tiles that come next.
    pub(super) ahead: Option<(*const f32, usize)>,
}

impl Tile {
    /// As many of the `rest` rows as the registers hold; says how many.
    ///
    /// # Safety
    /// The pointers are valid for `rest` rows, `columns` columns and the whole depth, the right side for whole vectors; what is
    /// added to is initialised.
    #[inline(always)]
    pub(super) unsafe fn rows<S: Simd>(self, simd: S, rest: usize) -> usize {
        // What is decided by `S::ROWS` is decided at compile time.
        macro_rules! rows {
            ($rows:literal) => {{
                if self.columns > S::LANES {
                    // SAFETY: the caller's promise, for no more than `rest` rows.
                    unsafe { self.sum::<S, $rows, 2>(simd) }
                } else {
                    // SAFETY: the same.
                    unsafe { self.sum::<S, $rows, 1>(simd) }
                }
                $rows
            }};
        }
        const { assert!(S::ROWS == 14 || S::ROWS == 6) };
        match tile_rows(S::ROWS, rest) {
            14 if S::ROWS >= 14 => rows!(14),
            8 if S::ROWS >= 8 => rows!(8),
            6 => rows!(6),
            5 => rows!(5),
            4 => rows!(4),
            3 => rows!(3),
            2 => rows!(2),
            _ => rows!(1),
        }
    }

    /// # Safety
    /// The pointers are valid for `M` rows, `columns` columns (at most `N` vectors) and the whole depth, the right side
    /// for whole vectors.
    #[inline(always)]
    unsafe fn sum<S: Simd, const M: usize, const N: usize>(self, simd: S) {
        if self.depth >= LONG || self.add.is_some() {
            for row in 0..M {
                for column in (0..N * S::LANES).step_by(LINE) {
                    simd.prefetch(self.into.wrapping_add(row * self.into_row + column));
                }
            }
        }
        // SAFETY: the caller's promise.
        unsafe {
            let sums = if self.left_row == 1 {
                self.sums_of_columns::<S, M, N>(simd)
            } else {
                self.sums_of_rows::<S, M, N>(simd)
            };
            if self.columns == N * S::LANES {
                self.store(simd, sums);
            } else {
                let mut numbers = [[[0.0; 16]; N]; M];
                for (row, numbers) in sums.into_iter().zip(&mut numbers) {
                    for (sum, numbers) in row.into_iter().zip(numbers) {
                        simd.store(sum, numbers);
                    }
                }
                self.store_some(S::LANES, numbers.as_flattened(), N);
            }
        }
    }

    /// Whole vectors. A loop with a known end for each of the two ways, so that no sum leaves its register: as one loop over the
    /// rows, with the columns beside it, all went through memory, which took 6 % of a product of 192 steps.
    ///
    /// # Safety
    /// As [`Tile::sum`], with all columns of the vectors.
    #[expect(
        clippy::needless_range_loop,
        reason = "with iterators over the sums a product takes 2 % more"
    )]
    #[inline(always)]
    unsafe fn store<S: Simd, const M: usize, const N: usize>(
        self,
        simd: S,
        sums: [[S::Vector; N]; M],
    ) {
        // SAFETY: the caller's promise.
        unsafe {
            match self.add {
                None => {
                    for m in 0..M {
                        for n in 0..N {
                            let into = self.into.add(m * self.into_row + n * S::LANES);
                            simd.store_at(sums[m][n], into);
                        }
                    }
                }
                Some((from, row)) => {
                    for m in 0..M {
                        for n in 0..N {
                            let at = n * S::LANES;
                            let before = simd.load_at(from.add(m * row + at));
                            let sum = simd.add(before, sums[m][n]);
                            simd.store_at(sum, self.into.add(m * self.into_row + at));
                        }
                    }
                }
            }
        }
    }

    /// Some columns of the vectors, whose `lanes` numbers are in sixteen each, `vectors` of them a row.
    ///
    /// # Safety
    /// As [`Tile::sum`], for as many rows as there are vectors for.
    #[inline(never)]
    unsafe fn store_some(self, lanes: usize, sums: &[[f32; 16]], vectors: usize) {
        for (m, row) in sums.chunks_exact(vectors).enumerate() {
            for column in 0..self.columns {
                let sum = row[column / lanes][column % lanes];
                // SAFETY: the caller's promise.
                unsafe {
                    let before = self.add.map(|(from, row)| *from.add(m * row + column));
                    *self.into.add(m * self.into_row + column) = before.map_or(sum, |x| x + sum);
                }
            }
        }
    }

    /// The left side lies in columns: each step reads `M` neighbours.
    ///
    /// # Safety
    /// As [`Tile::sum`], and `left_row` is 1.
    #[inline(always)]
    unsafe fn sums_of_columns<S: Simd, const M: usize, const N: usize>(
        self,
        simd: S,
    ) -> [[S::Vector; N]; M] {
        let mut sums = [[simd.splat(0.0); N]; M];
        let (mut left, mut right) = (self.left, self.right);
        let (mut ahead, ahead_step) = self.ahead.unwrap_or((right, 0));
        for _ in 0..self.depth {
            if self.ahead.is_some() {
                simd.prefetch(ahead);
                ahead = ahead.wrapping_add(ahead_step);
            }
            if M > 4 {
                // The column's part some steps on: the next line, of another row.
                simd.prefetch(left.wrapping_add(AHEAD * self.left_step));
            }
            // SAFETY: the caller's promise; the steps that lead behind the last one are never read.
            unsafe {
                let vectors = load::<S, N>(simd, right);
                for (m, row) in sums.iter_mut().enumerate() {
                    add_products(simd, simd.splat(*left.add(m)), vectors, row);
                }
            }
            left = left.wrapping_add(self.left_step);
            right = right.wrapping_add(self.right_step);
        }
        sums
    }

    /// The left side lies in rows: a pointer for each, so that no address waits for another.
    ///
    /// # Safety
    /// As [`Tile::sum`], and `left_step` is 1.
    #[inline(always)]
    unsafe fn sums_of_rows<S: Simd, const M: usize, const N: usize>(
        self,
        simd: S,
    ) -> [[S::Vector; N]; M] {
        let mut sums = [[simd.splat(0.0); N]; M];
        let mut rows = [self.left; M];
        for (m, row) in rows.iter_mut().enumerate() {
            *row = row.wrapping_add(m * self.left_row);
        }
        let mut right = self.right;
        // The rows of the next tile, which begin behind this one's: spread over the steps, all of their lines.
        let mut next_rows = self.left.wrapping_add(M * self.left_row);
        let (mut ahead, ahead_step) = self.ahead.unwrap_or((right, 0));
        for p in 0..self.depth {
            if M > 4 {
                simd.prefetch(next_rows);
                next_rows = next_rows.wrapping_add(M);
                if self.ahead.is_some() {
                    simd.prefetch(ahead);
                    ahead = ahead.wrapping_add(ahead_step);
                }
            } else {
                // With few rows the right side is what comes from memory.
                for n in 0..N {
                    simd.prefetch(right.wrapping_add(2 * AHEAD * self.right_step + n * S::LANES));
                }
            }
            // SAFETY: the caller's promise; the step that leads behind the last one is never read.
            unsafe {
                let vectors = load::<S, N>(simd, right);
                for (row, left) in sums.iter_mut().zip(rows) {
                    add_products(simd, simd.splat(*left.add(p)), vectors, row);
                }
            }
            right = right.wrapping_add(self.right_step);
        }
        sums
    }
}

/// # Safety
/// `from` is valid for reads of `N` vectors.
#[inline(always)]
unsafe fn load<S: Simd, const N: usize>(simd: S, from: *const f32) -> [S::Vector; N] {
    let mut vectors = [simd.splat(0.0); N];
    for (n, vector) in vectors.iter_mut().enumerate() {
        // SAFETY: the caller's promise.
        *vector = unsafe { simd.load_at(from.add(n * S::LANES)) };
    }
    vectors
}

/// `sums += number · vectors`.
#[inline(always)]
fn add_products<S: Simd, const N: usize>(
    simd: S,
    number: S::Vector,
    vectors: [S::Vector; N],
    sums: &mut [S::Vector; N],
) {
    for (sum, vector) in sums.iter_mut().zip(vectors) {
        *sum = simd.multiply_add(number, vector, *sum);
    }
}
