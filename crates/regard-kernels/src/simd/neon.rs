//! AArch64 with Advanced SIMD (NEON): 4 numbers in a register, 32 registers.

use std::arch::aarch64::*;

use super::{Kernel, Simd};
use crate::Isa;

/// Proof that this processor has NEON: `detect` is the only way to get one.
#[derive(Clone, Copy)]
pub(crate) struct Neon(());

impl Neon {
    pub(crate) fn detect() -> Option<Self> {
        Isa::Neon.is_available().then_some(Self(()))
    }
}

impl Simd for Neon {
    const LANES: usize = 4;
    // 14 × 2 sums, 2 vectors of the right side, 1 broadcast number: 31 of 32 registers. A step then reads 16 times for 28
    // multiplications; with 8 rows it would be 10 for 16, more than processors read beside four multiplications.
    const ROWS: usize = 14;
    type Vector = float32x4_t;

    #[inline(always)]
    fn run<K: Kernel>(self, kernel: K) -> K::Output {
        #[inline(never)]
        #[target_feature(enable = "neon")]
        fn enter<K: Kernel>(simd: Neon, kernel: K) -> K::Output {
            kernel.call(simd)
        }
        // SAFETY: `self` proves NEON.
        unsafe { enter(self, kernel) }
    }

    #[inline(always)]
    fn splat(self, value: f32) -> float32x4_t {
        // SAFETY: `self` proves NEON.
        unsafe { vdupq_n_f32(value) }
    }

    #[inline(always)]
    fn load(self, from: &[f32]) -> float32x4_t {
        assert!(from.len() >= Self::LANES);
        // SAFETY: asserted above.
        unsafe { self.load_at(from.as_ptr()) }
    }

    #[inline(always)]
    fn store(self, vector: float32x4_t, to: &mut [f32]) {
        assert!(to.len() >= Self::LANES);
        // SAFETY: asserted above.
        unsafe { self.store_at(vector, to.as_mut_ptr()) }
    }

    #[inline(always)]
    fn add(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        // SAFETY: `self` proves NEON.
        unsafe { vaddq_f32(a, b) }
    }

    #[inline(always)]
    fn sub(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        // SAFETY: `self` proves NEON.
        unsafe { vsubq_f32(a, b) }
    }

    #[inline(always)]
    fn mul(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        // SAFETY: `self` proves NEON.
        unsafe { vmulq_f32(a, b) }
    }

    #[inline(always)]
    fn div(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        // SAFETY: `self` proves NEON.
        unsafe { vdivq_f32(a, b) }
    }

    #[inline(always)]
    fn multiply_add(self, a: float32x4_t, b: float32x4_t, c: float32x4_t) -> float32x4_t {
        // SAFETY: `self` proves NEON. The sum comes first here.
        unsafe { vfmaq_f32(c, a, b) }
    }

    // Not `vmaxq_f32`, which is NaN where either is.
    #[inline(always)]
    fn max(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        // SAFETY: `self` proves NEON.
        unsafe { vbslq_f32(vcgtq_f32(a, b), a, b) }
    }

    #[inline(always)]
    fn select_below(
        self,
        a: float32x4_t,
        b: float32x4_t,
        yes: float32x4_t,
        no: float32x4_t,
    ) -> float32x4_t {
        // SAFETY: `self` proves NEON.
        unsafe { vbslq_f32(vcltq_f32(a, b), yes, no) }
    }

    #[inline(always)]
    fn any_above(self, a: float32x4_t, b: float32x4_t) -> bool {
        // SAFETY: `self` proves NEON.
        unsafe { vmaxvq_u32(vcgtq_f32(a, b)) != 0 }
    }

    #[inline(always)]
    fn xor(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        // SAFETY: `self` proves NEON.
        unsafe {
            let bits = veorq_u32(vreinterpretq_u32_f32(a), vreinterpretq_u32_f32(b));
            vreinterpretq_f32_u32(bits)
        }
    }

    #[inline(always)]
    fn shift_right(self, a: float32x4_t, bits: u32) -> float32x4_t {
        // SAFETY: `self` proves NEON. The instruction shifts left; a negative number shifts right.
        unsafe {
            let bits = vdupq_n_s32(-(bits as i32));
            vreinterpretq_f32_u32(vshlq_u32(vreinterpretq_u32_f32(a), bits))
        }
    }

    #[inline(always)]
    fn shift_left(self, a: float32x4_t, bits: u32) -> float32x4_t {
        // SAFETY: `self` proves NEON.
        unsafe {
            let bits = vdupq_n_s32(bits as i32);
            vreinterpretq_f32_u32(vshlq_u32(vreinterpretq_u32_f32(a), bits))
        }
    }

    #[inline(always)]
    fn multiply_bits(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        // SAFETY: `self` proves NEON.
        unsafe {
            let product = vmulq_u32(vreinterpretq_u32_f32(a), vreinterpretq_u32_f32(b));
            vreinterpretq_f32_u32(product)
        }
    }

    #[inline(always)]
    fn integer_to_number(self, a: float32x4_t) -> float32x4_t {
        // SAFETY: `self` proves NEON.
        unsafe { vcvtq_f32_u32(vreinterpretq_u32_f32(a)) }
    }

    #[inline(always)]
    fn sum(self, a: float32x4_t) -> f32 {
        // SAFETY: `self` proves NEON.
        unsafe { vaddv_f32(vadd_f32(vget_low_f32(a), vget_high_f32(a))) }
    }

    #[inline(always)]
    fn transpose(self, from: &[f32], from_row: usize, to: &mut [f32], to_row: usize) {
        let row = |r: usize| self.load(&from[r * from_row..]);
        let rows = [row(0), row(1), row(2), row(3)];
        // SAFETY: `self` proves NEON.
        let columns = unsafe { transposed(rows) };
        for (c, column) in columns.into_iter().enumerate() {
            self.store(column, &mut to[c * to_row..]);
        }
    }

    #[inline(always)]
    unsafe fn load_at(self, from: *const f32) -> float32x4_t {
        // SAFETY: `self` proves NEON; the caller promises `LANES` readable numbers.
        unsafe { vld1q_f32(from) }
    }

    #[inline(always)]
    unsafe fn store_at(self, vector: float32x4_t, to: *mut f32) {
        // SAFETY: `self` proves NEON; the caller promises `LANES` writable numbers.
        unsafe { vst1q_f32(to, vector) }
    }
}

/// Rows to columns: pairs of rows are interleaved, then the halves of pairs are put together.
#[inline]
#[target_feature(enable = "neon")]
fn transposed(r: [float32x4_t; 4]) -> [float32x4_t; 4] {
    let even = |i: usize| vreinterpretq_f64_f32(vtrn1q_f32(r[i], r[i + 1])); // columns 0 | 2 of two rows
    let odd = |i: usize| vreinterpretq_f64_f32(vtrn2q_f32(r[i], r[i + 1])); // columns 1 | 3
    [
        vreinterpretq_f32_f64(vtrn1q_f64(even(0), even(2))),
        vreinterpretq_f32_f64(vtrn1q_f64(odd(0), odd(2))),
        vreinterpretq_f32_f64(vtrn2q_f64(even(0), even(2))),
        vreinterpretq_f32_f64(vtrn2q_f64(odd(0), odd(2))),
    ]
}
