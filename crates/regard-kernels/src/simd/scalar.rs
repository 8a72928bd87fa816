//! No special instruction: arrays that the compiler turns into whatever every processor of its target has.

use super::{Kernel, Simd};

/// Needs no proof. In tests it also stands in for the longer vectors of processors that are not at hand.
#[derive(Clone, Copy)]
pub(crate) struct Portable<const LANES: usize, const ROWS: usize>;

impl<const LANES: usize, const ROWS: usize> Portable<LANES, ROWS> {
    #[inline(always)]
    fn map2(a: [f32; LANES], b: [f32; LANES], f: impl Fn(f32, f32) -> f32) -> [f32; LANES] {
        std::array::from_fn(|i| f(a[i], b[i]))
    }
}

impl<const LANES: usize, const ROWS: usize> Simd for Portable<LANES, ROWS> {
    const LANES: usize = LANES;
    const ROWS: usize = ROWS;
    type Vector = [f32; LANES];

    #[inline(always)]
    fn run<K: Kernel>(self, kernel: K) -> K::Output {
        // Out of line, as with the others: a product is compiled once, not at every place that needs one.
        #[inline(never)]
        fn enter<S: Simd, K: Kernel>(simd: S, kernel: K) -> K::Output {
            kernel.call(simd)
        }
        enter(self, kernel)
    }

    #[inline(always)]
    fn splat(self, value: f32) -> Self::Vector {
        [value; LANES]
    }

    #[inline(always)]
    fn load(self, from: &[f32]) -> Self::Vector {
        *from.first_chunk().expect("`from` holds a vector")
    }

    #[inline(always)]
    fn store(self, vector: Self::Vector, to: &mut [f32]) {
        to[..LANES].copy_from_slice(&vector);
    }

    #[inline(always)]
    fn add(self, a: Self::Vector, b: Self::Vector) -> Self::Vector {
        Self::map2(a, b, |a, b| a + b)
    }

    #[inline(always)]
    fn sub(self, a: Self::Vector, b: Self::Vector) -> Self::Vector {
        Self::map2(a, b, |a, b| a - b)
    }

    #[inline(always)]
    fn mul(self, a: Self::Vector, b: Self::Vector) -> Self::Vector {
        Self::map2(a, b, |a, b| a * b)
    }

    #[inline(always)]
    fn div(self, a: Self::Vector, b: Self::Vector) -> Self::Vector {
        Self::map2(a, b, |a, b| a / b)
    }

    // Not `f32::mul_add`: without the instruction that is a call into the mathematical library.
    #[inline(always)]
    fn multiply_add(self, a: Self::Vector, b: Self::Vector, c: Self::Vector) -> Self::Vector {
        self.add(self.mul(a, b), c)
    }

    #[inline(always)]
    fn max(self, a: Self::Vector, b: Self::Vector) -> Self::Vector {
        Self::map2(a, b, |a, b| if a > b { a } else { b })
    }

    #[inline(always)]
    fn select_below(
        self,
        a: Self::Vector,
        b: Self::Vector,
        yes: Self::Vector,
        no: Self::Vector,
    ) -> Self::Vector {
        std::array::from_fn(|i| if a[i] < b[i] { yes[i] } else { no[i] })
    }

    #[inline(always)]
    fn any_above(self, a: Self::Vector, b: Self::Vector) -> bool {
        (0..LANES).any(|i| a[i] > b[i])
    }

    #[inline(always)]
    fn xor(self, a: Self::Vector, b: Self::Vector) -> Self::Vector {
        Self::map2(a, b, |a, b| f32::from_bits(a.to_bits() ^ b.to_bits()))
    }

    #[inline(always)]
    fn shift_right(self, a: Self::Vector, bits: u32) -> Self::Vector {
        a.map(|a| f32::from_bits(a.to_bits() >> bits))
    }

    #[inline(always)]
    fn shift_left(self, a: Self::Vector, bits: u32) -> Self::Vector {
        a.map(|a| f32::from_bits(a.to_bits() << bits))
    }

    #[inline(always)]
    fn multiply_bits(self, a: Self::Vector, b: Self::Vector) -> Self::Vector {
        Self::map2(a, b, |a, b| {
            f32::from_bits(a.to_bits().wrapping_mul(b.to_bits()))
        })
    }

    #[inline(always)]
    fn integer_to_number(self, a: Self::Vector) -> Self::Vector {
        a.map(|a| a.to_bits() as f32)
    }

    #[inline(always)]
    fn sum(self, mut a: Self::Vector) -> f32 {
        let mut count = LANES / 2;
        while count > 0 {
            for i in 0..count {
                a[i] += a[i + count];
            }
            count /= 2;
        }
        a[0]
    }

    #[inline(always)]
    fn transpose(self, from: &[f32], from_row: usize, to: &mut [f32], to_row: usize) {
        for r in 0..LANES {
            for c in 0..LANES {
                to[c * to_row + r] = from[r * from_row + c];
            }
        }
    }

    #[inline(always)]
    unsafe fn load_at(self, from: *const f32) -> Self::Vector {
        // SAFETY: the caller promises `LANES` readable numbers; an array of f32 needs no more alignment than f32,
        // and `read_unaligned` none.
        unsafe { from.cast::<Self::Vector>().read_unaligned() }
    }

    #[inline(always)]
    unsafe fn store_at(self, vector: Self::Vector, to: *mut f32) {
        // SAFETY: the caller promises `LANES` writable numbers.
        unsafe { to.cast::<Self::Vector>().write_unaligned(vector) }
    }
}
