//! The soft cap: scores go through `cap · tanh(s / cap)`, so that none is larger than `cap`.

use std::f32::consts::LOG2_E;

use super::exponential::exp2;
use crate::simd::Simd;

/// tanh z = z + z³·(c₀ + z²·(c₁ + …)) for |z| < 0.625, where 1 − 2/(e^2z + 1) loses digits to the subtraction. The
/// coefficients are those of `tanhf` in the Cephes library (S. L. Moshier, 1989), whose relative error is 1.3e-7.
const COEFFICIENTS: [f32; 5] = [
    -0.333_332_8,
    0.133_314_42,
    -0.053_739_715,
    0.020_639_09,
    -0.005_704_988_7,
];
const SMALL: f32 = 0.625;
/// Beyond this, tanh is 1 in f32, and e^2z has still room.
const LARGE: f32 = 20.0;

/// Caps the first `rows` rows of `scores`, which are `step` apart and `width` numbers (whole vectors) long. Both the
/// scores and the result are in units of log₂. With `slopes`, the derivative of each is written there.
#[inline(always)]
pub(super) fn soft_cap<S: Simd>(
    simd: S,
    cap: f32,
    (rows, width): (usize, usize),
    (scores, step): (&mut [f32], usize),
    mut slopes: Option<&mut [f32]>,
) {
    let cap = LOG2_E * cap;
    let (into_cap, out_of_cap) = (simd.splat(1.0 / cap), simd.splat(cap));
    for row in 0..rows {
        for lane in (row * step..row * step + width).step_by(S::LANES) {
            let score = &mut scores[lane..];
            let (tanh, slope) = tanh(simd, simd.mul(simd.load(score), into_cap));
            simd.store(simd.mul(tanh, out_of_cap), score);
            if let Some(slopes) = &mut slopes {
                simd.store(slope, &mut slopes[lane..]);
            }
        }
    }
}

/// tanh z, and its derivative 1 − tanh² z.
#[inline(always)]
fn tanh<S: Simd>(simd: S, z: S::Vector) -> (S::Vector, S::Vector) {
    let (zero, one, two) = (simd.splat(0.0), simd.splat(1.0), simd.splat(2.0));
    let size = simd.max(z, simd.sub(zero, z));
    // 1 − tanh |z| = 2 / (e^2|z| + 1): exact to the last digits where tanh is close to 1. A NaN stays one.
    let bounded = simd.select_below(simd.splat(LARGE), size, simd.splat(LARGE), size);
    let power = exp2(simd, simd.mul(bounded, simd.splat(2.0 * LOG2_E)));
    let rest = simd.div(two, simd.add(power, one));
    // 1 − tanh² = (1 − tanh)(1 + tanh)
    let slope = simd.mul(rest, simd.sub(two, rest));
    let large = simd.sub(one, rest);
    let large = simd.select_below(z, zero, simd.sub(zero, large), large);

    let square = simd.mul(z, z);
    let mut sum = simd.splat(COEFFICIENTS[4]);
    for i in (0..4).rev() {
        sum = simd.multiply_add(sum, square, simd.splat(COEFFICIENTS[i]));
    }
    let small = simd.multiply_add(simd.mul(sum, square), z, z);
    (
        simd.select_below(size, simd.splat(SMALL), small, large),
        slope,
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Isa;
    use crate::simd::{Kernel, run};

    /// Numbers in; their tanh and its derivative out.
    struct Tanh<'a>(&'a mut [f32], &'a mut [f32]);

    impl Kernel for Tanh<'_> {
        type Output = ();
        #[inline(always)]
        fn call<S: Simd>(self, simd: S) {
            for (x, slope) in self
                .0
                .chunks_exact_mut(S::LANES)
                .zip(self.1.chunks_exact_mut(S::LANES))
            {
                let (y, d) = tanh(simd, simd.load(x));
                simd.store(y, x);
                simd.store(d, slope);
            }
        }
    }

    #[test]
    fn tanh_and_its_slope_are_right_to_the_last_digits() {
        let x: Vec<f32> = (0..400_000).map(|i| -25.0 + i as f32 * 1.25e-4).collect();
        for isa in Isa::available() {
            let (mut y, mut slope) = (x.clone(), x.clone());
            run(isa, Tanh(&mut y, &mut slope));
            for (i, &x) in x.iter().enumerate() {
                let x = f64::from(x);
                let wrong = (f64::from(y[i]) - x.tanh()).abs() / x.tanh().abs().max(1e-30);
                assert!(wrong < 3e-7, "{isa}: tanh {x} is {}", y[i]);
                let exact = x.cosh().powi(-2);
                // Where tanh is 1 to the last digit, the derivative is nothing beside it.
                let wrong = (f64::from(slope[i]) - exact).abs();
                assert!(
                    wrong < 2e-6 * exact + 1e-16,
                    "{isa}: tanh' {x} is {}",
                    slope[i]
                );
            }
        }
    }

    #[test]
    fn tanh_of_nan_is_nan_and_of_infinity_one() {
        for isa in Isa::available() {
            let mut y = [0.0; 16];
            y[..3].copy_from_slice(&[f32::NAN, f32::INFINITY, f32::NEG_INFINITY]);
            run(isa, Tanh(&mut y, &mut [0.0; 16]));
            assert!(y[0].is_nan(), "{isa}");
            assert_eq!(y[1..4], [1.0, -1.0, 0.0], "{isa}");
        }
    }
}
