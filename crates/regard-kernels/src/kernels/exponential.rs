//! 2ˣ for a vector.

use crate::simd::Simd;

/// 2ʳ = 1 + r·(c₁ + r·(c₂ + …)), by Remez' exchange on the relative error. The constant term is exactly 1, so 2⁰ is, and a query
/// that sees one key has exactly the weight 1.
struct Power<const DEGREE: usize> {
    /// For r from −½ to ½.
    nearest: [f32; DEGREE],
    /// For r from 0 to 1.
    floor: [f32; DEGREE],
}

/// The relative errors are below 2.2e-8 and 1.4e-8.
const LONG: Power<6> = Power {
    nearest: [
        0.693_147_24,
        0.240_226_52,
        0.055_503_103,
        0.009_617_693,
        0.001_340_664_3,
        0.000_155_946_76,
    ],
    floor: [
        0.693_147_06,
        0.240_229_31,
        0.055_485_282,
        0.009_675_452,
        0.001_246_784_7,
        0.000_216_129_15,
    ],
};

/// Likewise, below 2.9e-6 and 3e-6: a seven-hundredth of what rounding to bf16 (2⁻⁹) may add.
const SHORT: Power<4> = Power {
    nearest: [0.693_124_2, 0.240_241, 0.055_906_426, 0.009_582_853],
    floor: [0.693_044_84, 0.241_280_2, 0.052_242_473, 0.013_426_684],
};

/// 2ˣ with an error of at most 2 units in the last place; 0 below −126.5, NaN for NaN. Right for `x` up to 127.
#[inline(always)]
pub(super) fn exp2<S: Simd>(simd: S, x: S::Vector) -> S::Vector {
    power(simd, x, &LONG)
}

/// As [`exp2`] with a relative error of 3e-6: for weights that are rounded to bf16. Above 127 it is at least 2¹²⁶.
#[inline(always)]
pub(super) fn exp2_short<S: Simd>(simd: S, x: S::Vector) -> S::Vector {
    let largest = simd.splat(127.0);
    let x = match S::FLOORS {
        true => x,
        false => simd.select_below(largest, x, largest, x),
    };
    power(simd, x, &SHORT)
}

#[inline(always)]
fn power<S: Simd, const DEGREE: usize>(
    simd: S,
    x: S::Vector,
    coefficients: &Power<DEGREE>,
) -> S::Vector {
    let coefficients = match S::FLOORS {
        true => &coefficients.floor,
        false => &coefficients.nearest,
    };
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

    /// Numbers, and whether their powers are wanted short.
    struct Exp2<'a>(&'a mut [f32], bool);

    impl Kernel for Exp2<'_> {
        type Output = ();
        #[inline(always)]
        fn call<S: Simd>(self, simd: S) {
            for x in self.0.chunks_exact_mut(S::LANES) {
                let y = match self.1 {
                    false => exp2(simd, simd.load(x)),
                    true => exp2_short(simd, simd.load(x)),
                };
                simd.store(y, x);
            }
        }
    }

    fn powers(isa: Isa, x: &[f32], short: bool) -> Vec<f32> {
        let mut y = x.to_vec();
        y.resize(x.len().next_multiple_of(16), 0.0);
        run(isa, Exp2(&mut y, short));
        y.truncate(x.len());
        y
    }

    #[test]
    fn it_is_within_two_units_in_the_last_place() {
        let x: Vec<f32> = (0..1_000_000)
            .map(|i| -126.0 + i as f32 * (134.0 / 1e6))
            .collect();
        for isa in Isa::available() {
            let worst = powers(isa, &x, false)
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
    fn the_short_one_is_within_a_few_millionths() {
        let x: Vec<f32> = (0..1_000_000)
            .map(|i| -126.0 + i as f32 * (253.0 / 1e6))
            .collect();
        for isa in Isa::available() {
            for (&y, &x) in powers(isa, &x, true).iter().zip(&x) {
                let exact = f64::from(x).exp2();
                let wrong = (f64::from(y) - exact).abs() / exact;
                assert!(wrong < 3.2e-6, "{isa}: 2^{x} is {y}");
            }
        }
    }

    #[test]
    fn the_short_one_stays_large_beyond_the_largest() {
        let x = [127.5, 128.0, 200.0, 1e9, f32::MAX, f32::INFINITY, f32::NAN];
        for isa in Isa::available() {
            let y = powers(isa, &x, true);
            assert!(
                y[..6].iter().all(|&y| y >= 2.0f32.powi(126)),
                "{isa}: {y:?}"
            );
            assert!(y[6].is_nan(), "{isa}");
        }
    }

    #[test]
    fn odd_values_are_right() {
        let x = [0.0, 1.0, 8.0, -1.0, f32::NEG_INFINITY, -200.0, f32::NAN];
        for isa in Isa::available() {
            for short in [false, true] {
                let y = powers(isa, &x, short);
                assert_eq!(y[..6], [1.0, 2.0, 256.0, 0.5, 0.0, 0.0], "{isa}");
                assert!(y[6].is_nan(), "{isa}");
            }
        }
    }
}
