//! ALL the unsafe code of this crate: the few vector operations that the kernels need, once per instruction set, and
//! the matrix product that they spend their time in.
//!
//! A kernel is safe Rust, generic over [`Simd`]. The token it is given (`Portable`, `Avx2`, `Avx512`, `Neon`) is the proof that
//! the processor has the instructions: tokens are made by detection and by nothing else. So the obligations are
//! discharged in three places only: in `detect`, for every instruction; in the assertions at the top of
//! [`Product`](product::Product) and of the rows of a [`matrix`], for every pointer.
#![expect(
    unsafe_code,
    reason = "instructions and pointers are audited here, and nowhere else"
)]

#[cfg(target_arch = "x86_64")]
mod amx;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod block;
mod clock;
mod dots;
mod lines;
mod matrix;
#[cfg(target_arch = "aarch64")]
mod neon;
mod pairs;
mod panels;
mod product;
mod rounded;
mod rounded_blocks;
mod rounded_rows;
mod rows;
mod scalar;
mod weighted;

#[cfg(target_arch = "x86_64")]
pub(crate) use amx::is_available as has_amx;
pub use clock::product_time;
pub(crate) use dots::{Dots, Stored};
pub(crate) use matrix::{Finish, Right, Start, Then, multiply, multiply_and_sum, product};
pub(crate) use pairs::{BLOCK, PairProduct, Unit, word};
pub(crate) use panels::{Means, Panels, Side};
pub(crate) use product::Product;
pub(crate) use weighted::Weighted;

use half::bf16;

use crate::Isa;

/// 1.5 · 2²³ + 127: adding it rounds a number to an integer and leaves that integer, with the bias of an exponent, in
/// the lowest bits.
const ROUND: f32 = 12_582_912.0 + 127.0;

/// A computation that is written once, for every instruction set.
///
/// `call`, and every generic function below it, is `#[inline(always)]`: that is what compiles it with the
/// instructions that `simd` stands for. A closure is a function too, and cannot be made so: one that loads a vector, given to
/// `map`, calls a function for every instruction (ten times slower; `nm -C` of a release build lists them as `core_arch`).
pub(crate) trait Kernel {
    type Output;
    fn call<S: Simd>(self, simd: S) -> Self::Output;
}

/// Runs a kernel with an instruction set that the door has found on this processor.
pub(crate) fn run<K: Kernel>(isa: Isa, kernel: K) -> K::Output {
    match isa {
        Isa::Scalar => scalar::Portable::<4, 6>.run(kernel),
        #[cfg(test)]
        Isa::Wide | Isa::WidePairs => scalar::Portable::<16, 14>.run(kernel),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => avx2::Avx2::detect()
            .expect("the door has found it")
            .run(kernel),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 | Isa::Avx512Bf16 | Isa::Amx => avx512::Avx512::<false>::detect()
            .expect("the door has found it")
            .run(kernel),
        #[cfg(not(target_arch = "x86_64"))]
        Isa::Avx2 | Isa::Avx512 | Isa::Avx512Bf16 | Isa::Amx => {
            unreachable!("the door has not found it")
        }
        #[cfg(target_arch = "aarch64")]
        Isa::Neon => neon::Neon::detect()
            .expect("the door has found it")
            .run(kernel),
        #[cfg(not(target_arch = "aarch64"))]
        Isa::Neon => unreachable!("the door has not found it"),
    }
}

/// Runs a kernel that works on pairs of bf16, with what an instruction set has for them.
pub(crate) fn run_pairs<K: Kernel>(isa: Isa, kernel: K) -> K::Output {
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512Bf16 | Isa::Amx => avx512::Avx512::<true>::detect()
            .expect("the door has found it")
            .run(kernel),
        _ => run(isa, kernel),
    }
}

/// `LANES` numbers at a time, and the operations that attention needs on them.
pub(crate) trait Simd: Copy + Send + Sync {
    /// Numbers in a vector.
    const LANES: usize;
    /// Rows of the register tile of [`Product`]: with two vectors a row, what the registers hold.
    const ROWS: usize;
    /// Whether [`Simd::times_power`] takes the floor of any number itself, so that nothing has to be made whole for it, and what
    /// lies above 2¹²⁷ becomes ∞.
    const FLOORS: bool = false;
    type Vector: Copy;

    /// Compiles `kernel` with these instructions, and runs it.
    fn run<K: Kernel>(self, kernel: K) -> K::Output;

    fn splat(self, value: f32) -> Self::Vector;
    /// The first `LANES` numbers of `from`, which has as many.
    fn load(self, from: &[f32]) -> Self::Vector;
    /// Writes the first `LANES` numbers of `to`, which has as many.
    fn store(self, vector: Self::Vector, to: &mut [f32]);

    fn add(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    fn sub(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    fn mul(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    fn div(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// `a · b + c`, rounded once where the processor can, twice with `Scalar`.
    fn multiply_add(self, a: Self::Vector, b: Self::Vector, c: Self::Vector) -> Self::Vector;
    /// The larger one; `b` where either is NaN.
    fn max(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// `yes` where `a < b`, `no` elsewhere (also where either is NaN).
    fn select_below(
        self,
        a: Self::Vector,
        b: Self::Vector,
        yes: Self::Vector,
        no: Self::Vector,
    ) -> Self::Vector;
    /// Whether `a > b` anywhere.
    fn any_above(self, a: Self::Vector, b: Self::Vector) -> bool;
    /// The bits of each number and those of the other, exclusive or.
    fn xor(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// The bits of each number, shifted right by `bits` (below 32); zeros come in.
    fn shift_right(self, a: Self::Vector, bits: u32) -> Self::Vector;
    /// The bits of each number, shifted left by `bits` (below 32); zeros come in.
    fn shift_left(self, a: Self::Vector, bits: u32) -> Self::Vector;
    /// The lower half of the product of the bits, as integers of 32 bits.
    fn multiply_bits(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// The bits as an integer below 2²⁴, made a number.
    fn integer_to_number(self, a: Self::Vector) -> Self::Vector;
    /// The sum of the numbers, by halves: the upper half is added to the lower until one is left.
    fn sum(self, a: Self::Vector) -> f32;

    /// `2 · LANES` neighbours as `LANES` words, the earlier one of two in the lower half.
    #[inline(always)]
    fn load_words(self, from: &[bf16]) -> Self::Vector {
        assert!(from.len() >= 2 * Self::LANES);
        let mut words = [0.0; 16];
        for (word, pair) in words[..Self::LANES].iter_mut().zip(from.as_chunks::<2>().0) {
            *word = pairs::word(pair[0], pair[1]);
        }
        self.load(&words)
    }

    /// As [`Simd::load`], of bf16.
    #[inline(always)]
    fn widen(self, from: &[bf16]) -> Self::Vector {
        assert!(from.len() >= Self::LANES);
        // SAFETY: asserted above.
        unsafe { self.widen_at(from.as_ptr()) }
    }

    /// The largest number, by halves as [`Simd::sum`] does; of NaN it is not said what becomes.
    #[inline(always)]
    fn largest(self, a: Self::Vector) -> f32 {
        let mut numbers = [0.0; 16];
        self.store(a, &mut numbers);
        let mut count = Self::LANES / 2;
        while count > 0 {
            let (low, high) = numbers.split_at_mut(count);
            for (low, &high) in low.iter_mut().zip(&*high) {
                *low = if high > *low { high } else { *low };
            }
            count /= 2;
        }
        numbers[0]
    }

    /// The first `LANES` numbers of `low` and of `high`, a word for each two.
    #[inline(always)]
    fn load_pairs(self, low: &[bf16], high: &[bf16]) -> Self::Vector {
        let (low, high) = (self.widen(low), self.widen(high));
        self.xor(self.shift_right(low, 16), high)
    }

    /// Transposes a block of `LANES × LANES`: `to[c · to_row + r] = from[r · from_row + c]`.
    fn transpose(self, from: &[f32], from_row: usize, to: &mut [f32], to_row: usize);

    /// As [`Simd::transpose`], of words of two neighbours each: an even number of them from one row to the next.
    #[inline(always)]
    fn transpose_words(self, from: &[bf16], from_row: usize, to: &mut [f32], to_row: usize) {
        let mut words = [0.0; 16 * 16];
        for (r, words) in words
            .chunks_exact_mut(Self::LANES)
            .enumerate()
            .take(Self::LANES)
        {
            self.store(self.load_words(&from[r * from_row..]), words);
        }
        self.transpose(&words, Self::LANES, to, to_row);
    }

    /// `x` as an integer, in the form that [`Simd::times_power`] takes, and what is left of it: from −½ to ½, or, with
    /// [`Simd::FLOORS`], from 0 to 1. What lies below −127 counts as −127; a NaN is left over.
    #[inline(always)]
    fn whole_and_rest(self, x: Self::Vector) -> (Self::Vector, Self::Vector) {
        // `max` gives its second argument where either is NaN, so a NaN stays one.
        let x = self.max(self.splat(-127.0), x);
        let shifted = self.add(x, self.splat(ROUND));
        (shifted, self.sub(x, self.sub(shifted, self.splat(ROUND))))
    }

    /// `a · 2^whole`; 0 below 2⁻¹²⁶, and, without [`Simd::FLOORS`], anything above 2¹²⁷.
    #[inline(always)]
    fn times_power(self, a: Self::Vector, whole: Self::Vector) -> Self::Vector {
        self.mul(a, self.shift_left(whole, 23))
    }

    /// Each number of `low` and the one of `high`, rounded to bf16: a word for each lane.
    #[inline(always)]
    fn pair(self, low: Self::Vector, high: Self::Vector) -> Self::Vector {
        pairs::pair(self, low, high)
    }

    /// The numbers of `first`, then those of `second`, rounded to bf16: a word for each two neighbours.
    #[inline(always)]
    fn narrow(self, first: Self::Vector, second: Self::Vector) -> Self::Vector {
        pairs::narrow(self, first, second)
    }

    /// Asks for the cache line at `at`, which is never read: any address will do.
    #[inline(always)]
    fn prefetch(self, _at: *const f32) {}

    /// # Safety
    /// `from` is valid for reads of `LANES` numbers.
    unsafe fn load_at(self, from: *const f32) -> Self::Vector;
    /// As [`Simd::load_at`], of bf16: the upper halves of the numbers.
    ///
    /// # Safety
    /// As [`Simd::load_at`].
    #[inline(always)]
    unsafe fn widen_at(self, from: *const bf16) -> Self::Vector {
        let mut wide = [0.0; 16];
        for (i, wide) in wide.iter_mut().enumerate().take(Self::LANES) {
            // SAFETY: the caller's promise.
            *wide = unsafe { *from.add(i) }.to_f32();
        }
        self.load(&wide)
    }
    /// # Safety
    /// `to` is valid for writes of `LANES` numbers.
    unsafe fn store_at(self, vector: Self::Vector, to: *mut f32);
}

/// Whether a block of `LANES × LANES` lies in so many numbers, its rows `row` apart.
#[cfg(target_arch = "x86_64")]
fn holds_block<S: Simd>(_: S, numbers: usize, row: usize) -> bool {
    let rest = numbers.checked_sub(S::LANES);
    rest.is_some_and(|rest| row <= rest / (S::LANES - 1))
}
