//! x86-64 with AVX-512F: 16 numbers in a register, 32 registers.

use std::arch::x86_64::*;

use super::avx2::Avx2;
use super::{Kernel, Simd};
use crate::Isa;

/// Proof that this processor has AVX-512F, AVX2 and FMA: `detect` is the only way to get one.
#[derive(Clone, Copy)]
pub(crate) struct Avx512(());

impl Avx512 {
    pub(crate) fn detect() -> Option<Self> {
        Isa::Avx512.is_available().then_some(Self(()))
    }
}

impl Simd for Avx512 {
    const LANES: usize = 16;
    // 14 × 2 sums, 2 vectors of the right side: 30 of 32 registers; the broadcast is part of the instruction.
    const ROWS: usize = 14;
    type Vector = __m512;

    #[inline(always)]
    fn run<K: Kernel>(self, kernel: K) -> K::Output {
        #[inline(never)]
        #[target_feature(enable = "avx512f,avx2,fma")]
        fn enter<K: Kernel>(simd: Avx512, kernel: K) -> K::Output {
            kernel.call(simd)
        }
        // SAFETY: `self` proves AVX-512F.
        unsafe { enter(self, kernel) }
    }

    #[inline(always)]
    fn splat(self, value: f32) -> __m512 {
        // SAFETY: `self` proves AVX-512F.
        unsafe { _mm512_set1_ps(value) }
    }

    #[inline(always)]
    fn load(self, from: &[f32]) -> __m512 {
        assert!(from.len() >= Self::LANES);
        // SAFETY: asserted above.
        unsafe { self.load_at(from.as_ptr()) }
    }

    #[inline(always)]
    fn store(self, vector: __m512, to: &mut [f32]) {
        assert!(to.len() >= Self::LANES);
        // SAFETY: asserted above.
        unsafe { self.store_at(vector, to.as_mut_ptr()) }
    }

    #[inline(always)]
    fn add(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: `self` proves AVX-512F.
        unsafe { _mm512_add_ps(a, b) }
    }

    #[inline(always)]
    fn sub(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: `self` proves AVX-512F.
        unsafe { _mm512_sub_ps(a, b) }
    }

    #[inline(always)]
    fn mul(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: `self` proves AVX-512F.
        unsafe { _mm512_mul_ps(a, b) }
    }

    #[inline(always)]
    fn div(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: `self` proves AVX-512F.
        unsafe { _mm512_div_ps(a, b) }
    }

    #[inline(always)]
    fn multiply_add(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        // SAFETY: `self` proves AVX-512F.
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }

    #[inline(always)]
    fn max(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: `self` proves AVX-512F.
        unsafe { _mm512_max_ps(a, b) }
    }

    #[inline(always)]
    fn select_below(self, a: __m512, b: __m512, yes: __m512, no: __m512) -> __m512 {
        // SAFETY: `self` proves AVX-512F.
        unsafe { _mm512_mask_blend_ps(_mm512_cmp_ps_mask::<_CMP_LT_OQ>(a, b), no, yes) }
    }

    #[inline(always)]
    fn any_above(self, a: __m512, b: __m512) -> bool {
        // SAFETY: `self` proves AVX-512F.
        unsafe { _mm512_cmp_ps_mask::<_CMP_GT_OQ>(a, b) != 0 }
    }

    #[inline(always)]
    fn low_bits_as_exponent(self, a: __m512) -> __m512 {
        // SAFETY: `self` proves AVX-512F.
        unsafe { _mm512_castsi512_ps(_mm512_slli_epi32::<23>(_mm512_castps_si512(a))) }
    }

    #[inline(always)]
    fn xor(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: `self` proves AVX-512F.
        unsafe {
            let bits = _mm512_xor_si512(_mm512_castps_si512(a), _mm512_castps_si512(b));
            _mm512_castsi512_ps(bits)
        }
    }

    #[inline(always)]
    fn shift_right(self, a: __m512, bits: u32) -> __m512 {
        // SAFETY: `self` proves AVX-512F.
        unsafe {
            let bits = _mm512_set1_epi32(bits as i32);
            _mm512_castsi512_ps(_mm512_srlv_epi32(_mm512_castps_si512(a), bits))
        }
    }

    #[inline(always)]
    fn multiply_bits(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: `self` proves AVX-512F.
        unsafe {
            let product = _mm512_mullo_epi32(_mm512_castps_si512(a), _mm512_castps_si512(b));
            _mm512_castsi512_ps(product)
        }
    }

    #[inline(always)]
    fn integer_to_number(self, a: __m512) -> __m512 {
        // SAFETY: `self` proves AVX-512F.
        unsafe { _mm512_cvtepi32_ps(_mm512_castps_si512(a)) }
    }

    #[inline(always)]
    fn sum(self, a: __m512) -> f32 {
        // SAFETY: `self` proves AVX-512F.
        let (low, high) = unsafe {
            let high = _mm512_extractf64x4_pd::<1>(_mm512_castps_pd(a));
            (_mm512_castps512_ps256(a), _mm256_castpd_ps(high))
        };
        let half = Avx2::implied_by(self);
        half.sum(half.add(low, high))
    }

    // Four blocks of AVX2: this is a thousandth of the work, and so it runs on every machine that tests AVX2.
    #[inline(always)]
    fn transpose(self, from: &[f32], from_row: usize, to: &mut [f32], to_row: usize) {
        let half = Avx2::LANES;
        for (r, c) in [(0, 0), (0, half), (half, 0), (half, half)] {
            Avx2::implied_by(self).transpose(
                &from[r * from_row + c..],
                from_row,
                &mut to[c * to_row + r..],
                to_row,
            );
        }
    }

    #[inline(always)]
    fn prefetch(self, at: *const f32) {
        // SAFETY: every x86-64 processor has the instruction, and it reads nothing that a program can see.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast()) }
    }

    #[inline(always)]
    unsafe fn load_at(self, from: *const f32) -> __m512 {
        // SAFETY: `self` proves AVX-512F; the caller promises `LANES` readable numbers.
        unsafe { _mm512_loadu_ps(from) }
    }

    #[inline(always)]
    unsafe fn store_at(self, vector: __m512, to: *mut f32) {
        // SAFETY: `self` proves AVX-512F; the caller promises `LANES` writable numbers.
        unsafe { _mm512_storeu_ps(to, vector) }
    }
}
