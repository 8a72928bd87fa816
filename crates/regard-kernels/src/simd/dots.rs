//! Dot products of a few rows with many: what decoding spends half of its time in.

use half::bf16;

use super::{Kernel, Simd};

/// A number that rows may be stored in: they are read as f32, without a copy of them in between.
pub(crate) trait Stored: Copy {
    fn number(self) -> f32;
    /// # Safety
    /// `from` is valid for reads of `LANES` numbers.
    unsafe fn vector_at<S: Simd>(simd: S, from: *const Self) -> S::Vector;
}

impl Stored for f32 {
    #[inline(always)]
    fn number(self) -> f32 {
        self
    }

    #[inline(always)]
    unsafe fn vector_at<S: Simd>(simd: S, from: *const Self) -> S::Vector {
        // SAFETY: the caller's promise.
        unsafe { simd.load_at(from) }
    }
}

impl Stored for bf16 {
    #[inline(always)]
    fn number(self) -> f32 {
        self.to_f32()
    }

    #[inline(always)]
    unsafe fn vector_at<S: Simd>(simd: S, from: *const Self) -> S::Vector {
        // SAFETY: the caller's promise.
        unsafe { simd.widen_at(from) }
    }
}

/// `into[r · into_row + j] = ⟨left_r, right_j⟩`, for `left_rows` × `right_rows`; the rows of both sides are `depth`
/// numbers long and lie one after the other.
pub(crate) struct Dots<'a, N> {
    pub(crate) left_rows: usize,
    pub(crate) right_rows: usize,
    pub(crate) depth: usize,
    pub(crate) left: &'a [f32],
    pub(crate) right: &'a [N],
    pub(crate) into: &'a mut [f32],
    pub(crate) into_row: usize,
}

/// Rows of the right side that are asked for ahead of their use: it is streamed from memory, and the processor itself looks
/// no further than a page, which is 8 rows of 128 numbers. Decoding 4,096 keys of 128 numbers was 18 % faster with it.
pub(super) const AHEAD: usize = 16;

impl<N: Stored> Kernel for Dots<'_, N> {
    type Output = ();

    #[inline(always)]
    fn call<S: Simd>(mut self, simd: S) {
        assert!(self.left.len() >= self.left_rows * self.depth);
        assert!(self.right.len() >= self.right_rows * self.depth);
        // With four rows on the left and two on the right, the sums take 8 registers and what is read of both sides 6.
        for j in (0..self.right_rows).step_by(2) {
            let mut r = 0;
            while r < self.left_rows {
                // SAFETY: `r` and `j` and what follows them are below the rows, for which the assertions above hold.
                r += unsafe {
                    match (self.left_rows - r, self.right_rows - j) {
                        (4.., 2..) => self.tile::<S, 4, 2>(simd, r, j),
                        (4.., _) => self.tile::<S, 4, 1>(simd, r, j),
                        (3, 2..) => self.tile::<S, 3, 2>(simd, r, j),
                        (3, _) => self.tile::<S, 3, 1>(simd, r, j),
                        (2, 2..) => self.tile::<S, 2, 2>(simd, r, j),
                        (2, _) => self.tile::<S, 2, 1>(simd, r, j),
                        (_, 2..) => self.tile::<S, 1, 2>(simd, r, j),
                        (_, _) => self.tile::<S, 1, 1>(simd, r, j),
                    }
                };
            }
        }
    }
}

impl<N: Stored> Dots<'_, N> {
    /// The products of rows `r..r + M` with rows `j..j + COUNT`; says `M`.
    ///
    /// # Safety
    /// There are as many rows on both sides.
    #[inline(always)]
    unsafe fn tile<S: Simd, const M: usize, const COUNT: usize>(
        &mut self,
        simd: S,
        r: usize,
        j: usize,
    ) -> usize {
        let depth = self.depth;
        let whole = depth - depth % S::LANES;
        let mut sums = [[simd.splat(0.0); COUNT]; M];
        // SAFETY: the caller's promise: `depth` numbers from each of these on are inside.
        let (left, right) = unsafe {
            (
                self.left.as_ptr().add(r * depth),
                self.right.as_ptr().add(j * depth),
            )
        };
        for c in (0..whole).step_by(S::LANES) {
            let mut vectors = [simd.splat(0.0); COUNT];
            for (n, vector) in vectors.iter_mut().enumerate() {
                simd.prefetch(right.wrapping_add((n + AHEAD) * depth + c).cast());
                // SAFETY: a vector from `c` on ends within the row.
                *vector = unsafe { N::vector_at(simd, right.add(n * depth + c)) };
            }
            for (m, sums) in sums.iter_mut().enumerate() {
                // SAFETY: the same.
                let left = unsafe { simd.load_at(left.add(m * depth + c)) };
                for (sum, vector) in sums.iter_mut().zip(vectors) {
                    *sum = simd.multiply_add(left, vector, *sum);
                }
            }
        }
        for (m, sums) in sums.into_iter().enumerate() {
            for (n, sum) in sums.into_iter().enumerate() {
                let mut dot = simd.sum(sum);
                for c in whole..depth {
                    // SAFETY: `c` is below the depth.
                    dot +=
                        unsafe { *left.add(m * depth + c) * (*right.add(n * depth + c)).number() };
                }
                self.into[(r + m) * self.into_row + j + n] = dot;
            }
        }
        M
    }
}
