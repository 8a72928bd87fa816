//! Plain loops, compiled a second time for wider registers.

use std::sync::LazyLock;

use regard_kernels::Isa;

/// Computes a block compiled for the instruction set of [`Isa::chosen`]: AVX-512, AVX2 with fused multiply-add, or any CPU.
///
/// The loops in it are vectorised for the wider registers by the compiler. Nothing else changes: the same operations in the same
/// order, except that a block that asks for [`MultiplyAdd`], as `widest!(multiply_add => …)`, rounds once where the processor
/// does. What the block calls is compiled so only where it is inlined: mark it
/// `#[inline(always)]`, and write loops as `for`, not as `for_each`, whose closure becomes a function of its own.
///
/// A macro, since the block has to be inlined where its instructions are known. As a closure that was left to the compiler, which
/// kept one function of any CPU's instructions for all of them as soon as the block was long: layer norm, the activations' derivative
/// and half of the others.
macro_rules! widest {
    ($multiply_add:ident => $block:expr) => {
        $crate::operation::run_widest(
            #[inline(always)]
            |$multiply_add| $block,
        )
    };
    ($block:expr) => {
        $crate::operation::widest!(_multiply_add => $block)
    };
}
pub(crate) use widest;

/// What [`widest`] calls; `work` is always inlined.
#[inline(always)]
pub(crate) fn run_widest<R>(work: impl FnOnce(MultiplyAdd) -> R) -> R {
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
        fn avx512<R>(work: impl FnOnce(MultiplyAdd) -> R) -> R {
            work(MultiplyAdd::Fused)
        }
        #[target_feature(enable = "avx2,fma")]
        fn avx2<R>(work: impl FnOnce(MultiplyAdd) -> R) -> R {
            work(MultiplyAdd::Fused)
        }
        if matches!(*ISA, Isa::Avx512 | Isa::Avx512Bf16 | Isa::Amx) {
            #[expect(
                unsafe_code,
                reason = "entering a function that needs instructions found to be there"
            )]
            // SAFETY: the CPU has them: `ISA` is one of these only where all of them were found.
            return unsafe { avx512(work) };
        }
        if *ISA == Isa::Avx2 {
            #[expect(
                unsafe_code,
                reason = "entering a function that needs instructions found to be there"
            )]
            // SAFETY: the CPU has AVX2 and FMA: `Isa::chosen` gives `Avx2` only where they were found.
            return unsafe { avx2(work) };
        }
    }
    // The 64-bit processors of ARM all have the instruction.
    work(match cfg!(target_arch = "aarch64") {
        true => MultiplyAdd::Fused,
        false => MultiplyAdd::Separate,
    })
}

/// How `a · b + c` is computed where a block of [`widest`] runs.
///
/// `f32::mul_add` alone would be a call for each number where the processor has no such instruction: 20 times slower.
#[derive(Clone, Copy)]
pub(crate) enum MultiplyAdd {
    /// In one instruction, rounded once.
    Fused,
    /// In two, each rounded.
    Separate,
}

impl MultiplyAdd {
    /// `a · b + c`
    #[inline(always)]
    pub(super) fn of(self, a: f32, b: f32, c: f32) -> f32 {
        match self {
            Self::Fused => a.mul_add(b, c),
            Self::Separate => a * b + c,
        }
    }

    /// `Σ coefficients[n] · tⁿ` (Horner).
    #[inline(always)]
    pub(super) fn polynomial<const N: usize>(self, coefficients: &[f32; N], t: f32) -> f32 {
        let mut sum = coefficients[N - 1];
        for coefficient in coefficients[..N - 1].iter().rev() {
            sum = self.of(sum, t, *coefficient);
        }
        sum
    }
}

/// What `work` is compiled for, found once.
static ISA: LazyLock<Isa> = LazyLock::new(|| match Isa::chosen() {
    // AVX-512F alone, on the first processors that had it, is served by AVX2.
    Ok(Isa::Avx512 | Isa::Avx512Bf16 | Isa::Amx) if !has_all_of_avx512() => Isa::Avx2,
    Ok(isa) => isa,
    Err(error) => panic!("{error}"),
});

#[cfg(target_arch = "x86_64")]
fn has_all_of_avx512() -> bool {
    is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vl")
}

#[cfg(not(target_arch = "x86_64"))]
fn has_all_of_avx512() -> bool {
    false
}

/// `eˣ` for `x ≤ 0` to 2 units in the last place, in operations that the compiler can vectorise; e⁻⁸⁷, the least normal
/// number, below −87.
#[inline(always)]
pub(super) fn exp(x: f32) -> f32 {
    // x = n · ln 2 + r, |r| ≤ ln 2 / 2. Adding 1.5 · 2²³ rounds to a whole number, whose bits then end in n.
    const ROUND: f32 = 12_582_912.0;
    let x = x.max(-87.0);
    let rounded = x * std::f32::consts::LOG2_E + ROUND;
    let n = rounded - ROUND;
    // ln 2 in two parts: n times the first is exact.
    let r = x - n * 0.693_359_4 - n * -2.121_944_4e-4;
    // Taylor's polynomial with the coefficients of Cephes' expf, minimax on that interval.
    let p = 1.987_569_1e-4;
    let p = p * r + 1.398_199_9e-3;
    let p = p * r + 8.333_452e-3;
    let p = p * r + 4.166_579_6e-2;
    let p = p * r + 1.666_666_5e-1;
    let p = p * r + 0.5;
    let exponential = p * r * r + r + 1.0;
    // 2ⁿ: the shift leaves only the last nine bits. A cast of n to an integer would saturate, which is not vectorised.
    exponential * f32::from_bits(rounded.to_bits().wrapping_add(127) << 23)
}

/// The largest number; −∞ where there is none.
pub(super) fn largest(row: &[f32]) -> f32 {
    widest!({
        let mut lanes = [f32::NEG_INFINITY; 16];
        let (chunks, rest) = row.as_chunks::<16>();
        for chunk in chunks {
            for (lane, value) in lanes.iter_mut().zip(chunk) {
                *lane = if *value > *lane { *value } else { *lane };
            }
        }
        lanes
            .iter()
            .chain(rest)
            .copied()
            .fold(f32::NEG_INFINITY, f32::max)
    })
}

/// `log Σ exp(x)`; −∞ where there is no number above −∞.
pub(crate) fn log_sum_exp(row: &[f32]) -> f32 {
    let largest = largest(row);
    if largest == f32::NEG_INFINITY {
        return largest;
    }
    let sum = widest!({
        let mut lanes = [0.0_f32; 16];
        let (chunks, rest) = row.as_chunks::<16>();
        for chunk in chunks {
            for (lane, x) in lanes.iter_mut().zip(chunk) {
                *lane += exp(*x - largest);
            }
        }
        lanes.iter().sum::<f32>() + rest.iter().map(|x| exp(*x - largest)).sum::<f32>()
    });
    largest + sum.ln()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exponential_is_right_to_two_units_in_the_last_place() {
        for step in 0..870_000 {
            let x = -step as f32 * 1e-4;
            let (found, expected) = (f64::from(exp(x)), f64::from(x).exp());
            assert!(
                (found - expected).abs() <= 2.4e-7 * expected,
                "exp({x}) = {found}, expected {expected}"
            );
        }
    }
}
