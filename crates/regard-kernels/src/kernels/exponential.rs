//! 2ˣ for a vector.

use crate::simd::Simd;

/// 2ʳ = 1 + r·(c₁ + r·(c₂ + …)) for |r| ≤ ½, by Remez' exchange on the relative error, which is below 2.2e-8. The
/// constant term is exactly 1, so 2⁰ is, and a query that sees one key has exactly the weight 1.
const COEFFICIENTS: [f32; 6] = [
    0.693_147_24,
    0.240_226_52,
    0.055_503_103,
    0.009_617_693,
    0.001_340_664_3,
    0.000_155_946_76,
];

/// Likewise, with a relative error below 2.9e-6: a seven-hundredth of what rounding to bf16 (2⁻⁹) may add.
const SHORT: [f32; 4] = [0.693_124_2, 0.240_241, 0.055_906_426, 0.009_582_853];

/// 2ˣ with an error of at most 2 units in the last place; 0 below −126.5, NaN for NaN. Right for `x` up to 127.
#[inline(always)]
pub(super) fn exp2<S: Simd>(simd: S, x: S::Vector) -> S::Vector {
    power(simd, x, COEFFICIENTS)
}

/// As [`exp2`] with a relative error of 3e-6: for weights that are rounded to bf16.
#[inline(always)]
pub(super) fn exp2_short<S: Simd>(simd: S, x: S::Vector) -> S::Vector {
    power(simd, x, SHORT)
}

#[inline(always)]
fn power<S: Simd, const DEGREE: usize>(
    simd: S,
    x: S::Vector,
    coefficients: [f32; DEGREE],
) -> S::Vector {
    let (whole, r) = simd.whole_and_rest(x);
    let mut sum = simd.splat(coefficients[DEGREE - 1]);
    for i in (0..DEGREE - 1).rev() {
        sum = simd.multiply_add(sum, r, simd.splat(coefficients[i]));
    }
    sum = simd.multiply_add(sum, r, simd.splat(1.0));
    simd.times_power(sum, whole)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Isa;
    use crate::simd::{Kernel, run};

    struct Exp2<'a>(&'a mut [f32]);

    impl Kernel for Exp2<'_> {
        type Output = ();
        #[inline(always)]
        fn call<S: Simd>(self, simd: S) {
            for x in self.0.chunks_exact_mut(S::LANES) {
                let y = exp2(simd, simd.load(x));
                simd.store(y, x);
            }
        }
    }

    fn exp2_of(isa: Isa, x: &[f32]) -> Vec<f32> {
        let mut y = x.to_vec();
        y.resize(x.len().next_multiple_of(16), 0.0);
        run(isa, Exp2(&mut y));
        y.truncate(x.len());
        y
    }

    #[test]
    fn it_is_within_two_units_in_the_last_place() {
        let x: Vec<f32> = (0..1_000_000)
            .map(|i| -126.0 + i as f32 * (134.0 / 1e6))
            .collect();
        for isa in Isa::available() {
            let worst = exp2_of(isa, &x)
                .iter()
                .zip(&x)
                .map(|(&y, &x)| {
                    let exact = f64::from(x).exp2();
                    let unit = (exact.log2().floor() - 23.0).exp2();
                    (f64::from(y) - exact).abs() / unit
                })
                .fold(0.0, f64::max);
            assert!(worst <= 2.0, "{isa}: {worst} units in the last place");
        }
    }

    #[test]
    fn its_odd_values_are_right() {
        let x = [0.0, 1.0, 8.0, -1.0, f32::NEG_INFINITY, -200.0, f32::NAN];
        for isa in Isa::available() {
            let y = exp2_of(isa, &x);
            assert_eq!(y[..6], [1.0, 2.0, 256.0, 0.5, 0.0, 0.0], "{isa}");
            assert!(y[6].is_nan(), "{isa}");
        }
    }
}
