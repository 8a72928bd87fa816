//! Weighted sums of many rows, a few at a time: what decoding spends the other half of its time in, where the rows are not f32.

use super::dots::{AHEAD, Stored};
use super::{Kernel, Simd};

/// `into[r · into_row + c] += Σ_j left[r · left_row + j] · right_j[c]`, for `left_rows` × `columns` and `j` below `right_rows`; the
/// rows of the right side are `columns` numbers long, whole vectors, and lie one after the other. Summed as
/// [`Product`](super::Product) sums.
pub(crate) struct Weighted<'a, N> {
    pub(crate) left_rows: usize,
    pub(crate) right_rows: usize,
    pub(crate) columns: usize,
    pub(crate) left: &'a [f32],
    pub(crate) left_row: usize,
    pub(crate) right: &'a [N],
    pub(crate) into: &'a mut [f32],
    pub(crate) into_row: usize,
}

impl<N: Stored> Kernel for Weighted<'_, N> {
    type Output = ();

    #[inline(always)]
    fn call<S: Simd>(mut self, simd: S) {
        let (rows, columns) = (self.left_rows, self.columns);
        if rows == 0 {
            return;
        }
        assert!(columns.is_multiple_of(S::LANES));
        assert!(self.left.len() >= (rows - 1) * self.left_row + self.right_rows);
        assert!(self.right.len() >= self.right_rows * columns);
        assert!(self.into.len() >= (rows - 1) * self.into_row + columns);
        let mut r = 0;
        while r < rows {
            let taken = (rows - r).min(4);
            for c in (0..columns).step_by(2 * S::LANES) {
                // SAFETY: `taken` rows from `r` on, and one or two vectors of columns from `c` on, are inside: asserted above.
                unsafe {
                    match (taken, columns - c > S::LANES) {
                        (4, true) => self.tile::<S, 4, 2>(simd, r, c),
                        (4, false) => self.tile::<S, 4, 1>(simd, r, c),
                        (3, true) => self.tile::<S, 3, 2>(simd, r, c),
                        (3, false) => self.tile::<S, 3, 1>(simd, r, c),
                        (2, true) => self.tile::<S, 2, 2>(simd, r, c),
                        (2, false) => self.tile::<S, 2, 1>(simd, r, c),
                        (_, true) => self.tile::<S, 1, 2>(simd, r, c),
                        (_, false) => self.tile::<S, 1, 1>(simd, r, c),
                    }
                }
            }
            r += taken;
        }
    }
}

impl<N: Stored> Weighted<'_, N> {
    /// Rows `r..r + M` and `COUNT` vectors of columns from `c` on.
    ///
    /// # Safety
    /// There are as many.
    #[inline(always)]
    unsafe fn tile<S: Simd, const M: usize, const COUNT: usize>(
        &mut self,
        simd: S,
        r: usize,
        c: usize,
    ) {
        let mut sums = [[simd.splat(0.0); COUNT]; M];
        for j in 0..self.right_rows {
            let right = self.right.as_ptr().wrapping_add(j * self.columns + c);
            let mut vectors = [simd.splat(0.0); COUNT];
            for (n, vector) in vectors.iter_mut().enumerate() {
                let ahead = right.wrapping_add(AHEAD * self.columns + n * S::LANES);
                simd.prefetch(ahead.cast());
                // SAFETY: row `j` is one of the rows; its columns are inside as promised.
                *vector = unsafe { N::vector_at(simd, right.add(n * S::LANES)) };
            }
            for (m, sums) in sums.iter_mut().enumerate() {
                let at = (r + m) * self.left_row + j;
                // SAFETY: as promised.
                let weight = simd.splat(unsafe { *self.left.get_unchecked(at) });
                for (sum, vector) in sums.iter_mut().zip(vectors) {
                    *sum = simd.multiply_add(weight, vector, *sum);
                }
            }
        }
        for (m, sums) in sums.into_iter().enumerate() {
            let into = &mut self.into[(r + m) * self.into_row + c..];
            for (into, sum) in into.chunks_exact_mut(S::LANES).zip(sums) {
                simd.store(simd.add(simd.load(into), sum), into);
            }
        }
    }
}
