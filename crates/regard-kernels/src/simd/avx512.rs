//! x86-64 with AVX-512F and DQ: 16 numbers in a register, 32 registers; and what AVX-512-BF16 adds.

use std::arch::x86_64::*;

use half::bf16;

use super::avx2::Avx2;
use super::pairs::{self, BLOCK, Tile};
use super::{Kernel, Simd, holds_block};
use crate::Isa;

/// Proof that this processor has AVX-512F and DQ, AVX2 and FMA, and, if `PAIRS`, AVX-512-BF16 and AVX-512BW: `detect` is
/// the only way to get one.
#[derive(Clone, Copy)]
pub(crate) struct Avx512<const PAIRS: bool>(());

impl Avx512<false> {
    pub(crate) fn detect() -> Option<Self> {
        Isa::Avx512.is_available().then_some(Self(()))
    }
}

impl Avx512<true> {
    pub(crate) fn detect() -> Option<Self> {
        Isa::Avx512Bf16.is_available().then_some(Self(()))
    }

    /// # Safety
    /// As [`Tile::multiply`](super::pairs::Tile).
    #[inline(always)]
    pub(super) unsafe fn multiply_pairs(self, tile: &Tile, (down, across): (usize, usize)) {
        // SAFETY: `self` proves AVX-512-BF16; the rest is promised.
        unsafe {
            match across {
                1 => dots::<1>(tile, down * BLOCK),
                _ => dots::<2>(tile, down * BLOCK),
            }
        }
    }
}

/// Rows of a register tile: 8 × 2 sums and two vectors of the right side.
const ROWS: usize = 8;

/// `ACROSS` vectors of columns.
///
/// # Safety
/// As [`Tile::multiply`](super::pairs::Tile).
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn dots<const ACROSS: usize>(tile: &Tile, rows: usize) {
    let bf16 = |words: __m512| -> __m512bh {
        // SAFETY: as many bits, and every pattern is a bf16.
        unsafe { std::mem::transmute(words) }
    };
    for row in (0..rows).step_by(ROWS) {
        let into = |r: usize, c: usize| {
            tile.into
                .wrapping_add((row + r) * tile.into_row + c * Avx512::<true>::LANES)
        };
        let mut sums = [[_mm512_setzero_ps(); ACROSS]; ROWS];
        if tile.add {
            for (r, sums) in sums.iter_mut().enumerate() {
                for (c, sum) in sums.iter_mut().enumerate() {
                    // SAFETY: inside the result, as promised.
                    *sum = unsafe { _mm512_loadu_ps(into(r, c)) };
                }
            }
        }
        for pair in 0..tile.steps * BLOCK {
            let right = std::array::from_fn::<_, ACROSS, _>(|c| {
                let at = pair * tile.right_row + c * Avx512::<true>::LANES;
                // SAFETY: inside the right side, as promised.
                bf16(unsafe { _mm512_loadu_ps(tile.right.wrapping_add(at)) })
            });
            for (r, sums) in sums.iter_mut().enumerate() {
                let at = (row + r) * tile.left_row + pair;
                // SAFETY: inside the left side, as promised.
                let left = bf16(_mm512_set1_ps(unsafe { *tile.left.wrapping_add(at) }));
                for (sum, right) in sums.iter_mut().zip(right) {
                    *sum = _mm512_dpbf16_ps(*sum, left, right);
                }
            }
        }
        for (r, sums) in sums.into_iter().enumerate() {
            for (c, sum) in sums.into_iter().enumerate() {
                // SAFETY: inside the result, as promised.
                unsafe { _mm512_storeu_ps(into(r, c), sum) };
            }
        }
    }
}

impl<const PAIRS: bool> Simd for Avx512<PAIRS> {
    const LANES: usize = 16;
    // 14 × 2 sums, 2 vectors of the right side: 30 of 32 registers; the broadcast is part of the instruction.
    const ROWS: usize = 14;
    const FLOORS: bool = true;
    type Vector = __m512;

    #[inline(always)]
    fn run<K: Kernel>(self, kernel: K) -> K::Output {
        #[inline(never)]
        #[target_feature(enable = "avx512f,avx512dq,avx2,fma")]
        fn enter<S: Simd, K: Kernel>(simd: S, kernel: K) -> K::Output {
            kernel.call(simd)
        }
        #[inline(never)]
        #[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512bf16,avx2,fma")]
        fn enter_pairs<S: Simd, K: Kernel>(simd: S, kernel: K) -> K::Output {
            kernel.call(simd)
        }
        // SAFETY: `self` proves the features.
        unsafe {
            match PAIRS {
                false => enter(self, kernel),
                true => enter_pairs(self, kernel),
            }
        }
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
    fn shift_left(self, a: __m512, bits: u32) -> __m512 {
        // SAFETY: `self` proves AVX-512F.
        unsafe {
            let bits = _mm512_set1_epi32(bits as i32);
            _mm512_castsi512_ps(_mm512_sllv_epi32(_mm512_castps_si512(a), bits))
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

    #[inline(always)]
    fn load_words(self, from: &[bf16]) -> __m512 {
        assert!(from.len() >= 2 * Self::LANES);
        // SAFETY: asserted above; as many bytes, and any of them are numbers.
        unsafe { self.load_at(from.as_ptr().cast()) }
    }

    #[inline(always)]
    fn transpose(self, from: &[f32], from_row: usize, to: &mut [f32], to_row: usize) {
        assert!(holds_block(self, from.len(), from_row) && holds_block(self, to.len(), to_row));
        // SAFETY: `self` proves AVX-512F; the block lies in both, as asserted above.
        unsafe { transpose(from.as_ptr(), from_row, to.as_mut_ptr(), to_row) };
    }

    #[inline(always)]
    fn transpose_words(self, from: &[bf16], from_row: usize, to: &mut [f32], to_row: usize) {
        assert!(from_row.is_multiple_of(2));
        let (words, word_row) = (from.len() / 2, from_row / 2);
        assert!(holds_block(self, words, word_row) && holds_block(self, to.len(), to_row));
        // SAFETY: `self` proves AVX-512F; the block lies in both, as asserted above, and any two bf16 are a word.
        unsafe { transpose(from.as_ptr().cast(), word_row, to.as_mut_ptr(), to_row) };
    }

    #[inline(always)]
    fn whole_and_rest(self, x: __m512) -> (__m512, __m512) {
        /// `x` less its floor.
        const FLOOR: i32 = 1;
        // SAFETY: `self` proves AVX-512DQ.
        let rest = unsafe { _mm512_reduce_ps::<FLOOR>(x) };
        (x, rest)
    }

    #[inline(always)]
    fn times_power(self, a: __m512, whole: __m512) -> __m512 {
        // SAFETY: `self` proves AVX-512F.
        unsafe { _mm512_scalef_ps(a, whole) }
    }

    #[inline(always)]
    fn pair(self, low: __m512, high: __m512) -> __m512 {
        if !PAIRS {
            return pairs::pair(self, low, high);
        }
        // SAFETY: `self` proves AVX-512-BF16 and AVX-512BW.
        unsafe { paired(low, high) }
    }

    #[inline(always)]
    fn narrow(self, first: __m512, second: __m512) -> __m512 {
        if !PAIRS {
            return pairs::narrow(self, first, second);
        }
        // SAFETY: `self` proves AVX-512-BF16.
        unsafe { narrowed(first, second) }
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
    unsafe fn widen_at(self, from: *const bf16) -> __m512 {
        // SAFETY: `self` proves AVX-512F; the caller promises `LANES` readable numbers.
        unsafe {
            let words = _mm512_cvtepu16_epi32(_mm256_loadu_si256(from.cast()));
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(words))
        }
    }

    #[inline(always)]
    unsafe fn store_at(self, vector: __m512, to: *mut f32) {
        // SAFETY: `self` proves AVX-512F; the caller promises `LANES` writable numbers.
        unsafe { _mm512_storeu_ps(to, vector) }
    }
}

/// A block of 16 × 16 numbers, in four rounds of 16 operations: numbers of neighbouring rows side by side, pairs of those, and quarters of a
/// register twice. Four blocks of AVX2 take 531 ns instead of 367 for 32 × 128 words (Emerald Rapids).
///
/// # Safety
/// The rows of the block are valid, for reads in `from` and for writes in `to`.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn transpose(from: *const f32, from_row: usize, to: *mut f32, to_row: usize) {
    /// Quarters 0 and 2 of each of two registers, and quarters 1 and 3.
    const EVEN: i32 = 0b10_00_10_00;
    const ODD: i32 = 0b11_01_11_01;
    let zero = _mm512_setzero_ps();
    let mut rows = [zero; 16];
    for (r, row) in rows.iter_mut().enumerate() {
        // SAFETY: promised by the caller.
        *row = unsafe { _mm512_loadu_ps(from.wrapping_add(r * from_row)) };
    }
    let mut pairs = [zero; 16];
    for i in (0..16).step_by(2) {
        pairs[i] = _mm512_unpacklo_ps(rows[i], rows[i + 1]);
        pairs[i + 1] = _mm512_unpackhi_ps(rows[i], rows[i + 1]);
    }
    // Quarter q of fours[4 i + c] is column 4 q + c of rows 4 i to 4 i + 3.
    let mut fours = [zero; 16];
    for i in (0..16).step_by(4) {
        let (a, b) = (_mm512_castps_pd(pairs[i]), _mm512_castps_pd(pairs[i + 1]));
        let (c, d) = (
            _mm512_castps_pd(pairs[i + 2]),
            _mm512_castps_pd(pairs[i + 3]),
        );
        fours[i] = _mm512_castpd_ps(_mm512_unpacklo_pd(a, c));
        fours[i + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(a, c));
        fours[i + 2] = _mm512_castpd_ps(_mm512_unpacklo_pd(b, d));
        fours[i + 3] = _mm512_castpd_ps(_mm512_unpackhi_pd(b, d));
    }
    for c in 0..4 {
        let (a, b) = (fours[c], fours[4 + c]);
        let (e, f) = (fours[8 + c], fours[12 + c]);
        let [ab_even, ab_odd] = [
            _mm512_shuffle_f32x4::<EVEN>(a, b),
            _mm512_shuffle_f32x4::<ODD>(a, b),
        ];
        let [ef_even, ef_odd] = [
            _mm512_shuffle_f32x4::<EVEN>(e, f),
            _mm512_shuffle_f32x4::<ODD>(e, f),
        ];
        let columns = [
            (c, _mm512_shuffle_f32x4::<EVEN>(ab_even, ef_even)),
            (c + 4, _mm512_shuffle_f32x4::<EVEN>(ab_odd, ef_odd)),
            (c + 8, _mm512_shuffle_f32x4::<ODD>(ab_even, ef_even)),
            (c + 12, _mm512_shuffle_f32x4::<ODD>(ab_odd, ef_odd)),
        ];
        for (column, numbers) in columns {
            // SAFETY: promised by the caller.
            unsafe { _mm512_storeu_ps(to.wrapping_add(column * to_row), numbers) };
        }
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
fn narrowed(first: __m512, second: __m512) -> __m512 {
    // SAFETY: as many bits.
    unsafe { std::mem::transmute(_mm512_cvtne2ps_pbh(second, first)) }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
fn paired(low: __m512, high: __m512) -> __m512 {
    /// Number `i` of the lower half, then number `i` of the upper half.
    const INTERLEAVED: [i16; 32] = {
        let mut order = [0; 32];
        let mut i = 0;
        while i < 32 {
            order[i] = (i / 2 + i % 2 * 16) as i16;
            i += 1;
        }
        order
    };
    // SAFETY: the order has 64 bytes.
    let order = unsafe { _mm512_loadu_epi16(INTERLEAVED.as_ptr()) };
    let halves = _mm512_castps_si512(narrowed(low, high));
    _mm512_castsi512_ps(_mm512_permutexvar_epi16(order, halves))
}
