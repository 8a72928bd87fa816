//! x86-64 with AVX2 and FMA: 8 numbers in a register, 16 registers.

use std::arch::x86_64::*;

use half::bf16;

use super::{Kernel, Simd, holds_block};
use crate::Isa;

/// Proof that this processor has AVX2 and FMA: `detect` is the only way to get one.
#[derive(Clone, Copy)]
pub(crate) struct Avx2(());

impl Avx2 {
    pub(crate) fn detect() -> Option<Self> {
        Isa::Avx2.is_available().then_some(Self(()))
    }

    /// AVX-512 is only ever detected together with AVX2 and FMA.
    #[inline(always)]
    pub(super) fn implied_by<const PAIRS: bool>(_: super::avx512::Avx512<PAIRS>) -> Self {
        Self(())
    }
}

impl Simd for Avx2 {
    const LANES: usize = 8;
    // 6 × 2 sums, 2 vectors of the right side, 1 broadcast number: 15 of 16 registers.
    const ROWS: usize = 6;
    type Vector = __m256;

    #[inline(always)]
    fn run<K: Kernel>(self, kernel: K) -> K::Output {
        #[inline(never)]
        #[target_feature(enable = "avx2,fma")]
        fn enter<K: Kernel>(simd: Avx2, kernel: K) -> K::Output {
            kernel.call(simd)
        }
        // SAFETY: `self` proves AVX2 and FMA.
        unsafe { enter(self, kernel) }
    }

    #[inline(always)]
    fn splat(self, value: f32) -> __m256 {
        // SAFETY: `self` proves AVX2 and FMA.
        unsafe { _mm256_set1_ps(value) }
    }

    #[inline(always)]
    fn load(self, from: &[f32]) -> __m256 {
        assert!(from.len() >= Self::LANES);
        // SAFETY: asserted above.
        unsafe { self.load_at(from.as_ptr()) }
    }

    #[inline(always)]
    fn store(self, vector: __m256, to: &mut [f32]) {
        assert!(to.len() >= Self::LANES);
        // SAFETY: asserted above.
        unsafe { self.store_at(vector, to.as_mut_ptr()) }
    }

    #[inline(always)]
    fn add(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: `self` proves AVX2 and FMA.
        unsafe { _mm256_add_ps(a, b) }
    }

    #[inline(always)]
    fn sub(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: `self` proves AVX2 and FMA.
        unsafe { _mm256_sub_ps(a, b) }
    }

    #[inline(always)]
    fn mul(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: `self` proves AVX2 and FMA.
        unsafe { _mm256_mul_ps(a, b) }
    }

    #[inline(always)]
    fn div(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: `self` proves AVX2 and FMA.
        unsafe { _mm256_div_ps(a, b) }
    }

    #[inline(always)]
    fn multiply_add(self, a: __m256, b: __m256, c: __m256) -> __m256 {
        // SAFETY: `self` proves AVX2 and FMA.
        unsafe { _mm256_fmadd_ps(a, b, c) }
    }

    #[inline(always)]
    fn max(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: `self` proves AVX2 and FMA.
        unsafe { _mm256_max_ps(a, b) }
    }

    #[inline(always)]
    fn select_below(self, a: __m256, b: __m256, yes: __m256, no: __m256) -> __m256 {
        // SAFETY: `self` proves AVX2 and FMA.
        unsafe { _mm256_blendv_ps(no, yes, _mm256_cmp_ps::<_CMP_LT_OQ>(a, b)) }
    }

    #[inline(always)]
    fn any_above(self, a: __m256, b: __m256) -> bool {
        // SAFETY: `self` proves AVX2 and FMA.
        unsafe { _mm256_movemask_ps(_mm256_cmp_ps::<_CMP_GT_OQ>(a, b)) != 0 }
    }

    #[inline(always)]
    fn xor(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: `self` proves AVX2 and FMA.
        unsafe { _mm256_xor_ps(a, b) }
    }

    #[inline(always)]
    fn shift_right(self, a: __m256, bits: u32) -> __m256 {
        // SAFETY: `self` proves AVX2 and FMA.
        unsafe {
            let bits = _mm256_set1_epi32(bits as i32);
            _mm256_castsi256_ps(_mm256_srlv_epi32(_mm256_castps_si256(a), bits))
        }
    }

    #[inline(always)]
    fn shift_left(self, a: __m256, bits: u32) -> __m256 {
        // SAFETY: `self` proves AVX2 and FMA.
        unsafe {
            let bits = _mm256_set1_epi32(bits as i32);
            _mm256_castsi256_ps(_mm256_sllv_epi32(_mm256_castps_si256(a), bits))
        }
    }

    #[inline(always)]
    fn multiply_bits(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: `self` proves AVX2 and FMA.
        unsafe {
            let product = _mm256_mullo_epi32(_mm256_castps_si256(a), _mm256_castps_si256(b));
            _mm256_castsi256_ps(product)
        }
    }

    #[inline(always)]
    fn integer_to_number(self, a: __m256) -> __m256 {
        // SAFETY: `self` proves AVX2 and FMA.
        unsafe { _mm256_cvtepi32_ps(_mm256_castps_si256(a)) }
    }

    #[inline(always)]
    fn sum(self, a: __m256) -> f32 {
        // SAFETY: `self` proves AVX2 and FMA.
        unsafe {
            let four = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps::<1>(a));
            let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
        }
    }

    #[inline(always)]
    fn load_words(self, from: &[bf16]) -> __m256 {
        assert!(from.len() >= 2 * Self::LANES);
        // SAFETY: asserted above; as many bytes, and any of them are numbers.
        unsafe { self.load_at(from.as_ptr().cast()) }
    }

    #[inline(always)]
    fn transpose(self, from: &[f32], from_row: usize, to: &mut [f32], to_row: usize) {
        assert!(holds_block(self, from.len(), from_row) && holds_block(self, to.len(), to_row));
        let (from, to) = (from.as_ptr(), to.as_mut_ptr());
        // SAFETY: rows 0 to 7 of both are as long as a vector, as asserted above; `self` proves AVX2.
        unsafe {
            let columns = transposed([
                self.load_at(from),
                self.load_at(from.add(from_row)),
                self.load_at(from.add(2 * from_row)),
                self.load_at(from.add(3 * from_row)),
                self.load_at(from.add(4 * from_row)),
                self.load_at(from.add(5 * from_row)),
                self.load_at(from.add(6 * from_row)),
                self.load_at(from.add(7 * from_row)),
            ]);
            for (c, column) in columns.into_iter().enumerate() {
                self.store_at(column, to.add(c * to_row));
            }
        }
    }

    #[inline(always)]
    fn prefetch(self, at: *const f32) {
        // SAFETY: every x86-64 processor has the instruction, and it reads nothing that a program can see.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast()) }
    }

    #[inline(always)]
    unsafe fn load_at(self, from: *const f32) -> __m256 {
        // SAFETY: `self` proves AVX2 and FMA; the caller promises `LANES` readable numbers.
        unsafe { _mm256_loadu_ps(from) }
    }

    #[inline(always)]
    unsafe fn widen_at(self, from: *const bf16) -> __m256 {
        // SAFETY: `self` proves AVX2; the caller promises `LANES` readable numbers.
        unsafe {
            let words = _mm256_cvtepu16_epi32(_mm_loadu_si128(from.cast()));
            _mm256_castsi256_ps(_mm256_slli_epi32::<16>(words))
        }
    }

    #[inline(always)]
    unsafe fn store_at(self, vector: __m256, to: *mut f32) {
        // SAFETY: `self` proves AVX2 and FMA; the caller promises `LANES` writable numbers.
        unsafe { _mm256_storeu_ps(to, vector) }
    }
}

/// Rows to columns: pairs of rows are interleaved, then pairs of pairs, then the halves are exchanged.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn transposed(r: [__m256; 8]) -> [__m256; 8] {
    let low = |i: usize| _mm256_unpacklo_ps(r[i], r[i + 1]); // columns 0 1 | 4 5 of two rows
    let high = |i: usize| _mm256_unpackhi_ps(r[i], r[i + 1]); // columns 2 3 | 6 7
    let quarter = |a: __m256, b: __m256| {
        (
            _mm256_shuffle_ps::<0b01_00_01_00>(a, b),
            _mm256_shuffle_ps::<0b11_10_11_10>(a, b),
        )
    };
    let (a04, a15) = quarter(low(0), low(2)); // columns 0 | 4 and 1 | 5 of rows 0 to 3
    let (a26, a37) = quarter(high(0), high(2));
    let (b04, b15) = quarter(low(4), low(6)); // of rows 4 to 7
    let (b26, b37) = quarter(high(4), high(6));
    let first = |a: __m256, b: __m256| _mm256_permute2f128_ps::<0x20>(a, b);
    let second = |a: __m256, b: __m256| _mm256_permute2f128_ps::<0x31>(a, b);
    [
        first(a04, b04),
        first(a15, b15),
        first(a26, b26),
        first(a37, b37),
        second(a04, b04),
        second(a15, b15),
        second(a26, b26),
        second(a37, b37),
    ]
}
