//! The Gaussian error linear unit, exact.

use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind, unary};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, Flex, backend_extension};
use burn::tensor::Tensor;
use rayon::prelude::*;

use super::memory::take;
use super::storage::{FlexTensor, elements, from_vec, shape};
use super::vectors::{MultiplyAdd, widest};
use super::{composed, is_fused};

/// `gelu(x) = x · Φ(x)`, Φ the normal distribution function (Hendrycks & Gimpel 2016); not the tanh approximation.
///
/// On the CPU within 2e-7 and a rounding of it, the derivative within 1e-6: polynomials, without an exponential and without
/// a division.
pub fn gelu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    if !is_fused(&x) {
        return composed::gelu(x);
    }
    Tensor::from_dispatch(<Dispatch as FusedGelu>::fused_gelu(x.into_dispatch()))
}

/// Elements of one task.
const CHUNK: usize = 1 << 13;

/// Where the tail ends: 5.75 · Q(5.75) is 2.6e-8, half a unit in the last place of what lies between .25 and .5.
const END: f32 = 5.75;

/// `Q(a) ≈ (END − a) · p(t)` with `t = 2a/END − 1`, made by `make_gelu.py`: `a` times it is off by at most 6.9e-8.
const TAIL: [f32; 16] = [
    7.026_559_2e-4,
    -5.695_615_4e-3,
    2.074_687e-2,
    -4.328_482e-2,
    5.260_904e-2,
    -2.665_847_5e-2,
    -2.315_61e-2,
    5.161_003_4e-2,
    -2.889_473e-2,
    -1.826_552_8e-2,
    3.317_719e-2,
    -6.197_533_4e-3,
    -1.414_866e-2,
    6.529_173_2e-3,
    2.442_42e-3,
    -1.515_097e-3,
];

/// The same of `Q(a) − a φ(a)`: off by at most 4.4e-7.
const SLOPE: [f32; 16] = [
    -5.695_618e-3,
    3.439_273_2e-2,
    -7.837_519e-2,
    4.907_824_3e-2,
    1.322_326_6e-1,
    -3.224_321_6e-1,
    2.251_264_3e-1,
    1.796_906_2e-1,
    -4.473_521e-1,
    1.718_844_9e-1,
    2.994_425_7e-1,
    -2.660_649e-1,
    -9.295_251e-2,
    1.373_924_9e-1,
    1.105_736_1e-2,
    -2.741_452e-2,
];

/// `|x|`, no more than [`END`], how far that is from it, and `t`. What is no number stays none.
#[inline(always)]
fn place(multiply_add: MultiplyAdd, x: f32) -> (f32, f32, f32) {
    let size = x.abs();
    let size = if END < size { END } else { size };
    (size, END - size, multiply_add.of(size, 2.0 / END, -1.0))
}

/// `x Φ(x) = max(x, 0) − |x| · Q(|x|)`, Q the tail of the normal distribution, `1 − Φ`.
///
/// The tail is a polynomial: one of erf would be a share of 1, whose rounding |x| then multiplies.
#[inline(always)]
pub(super) fn value(multiply_add: MultiplyAdd, x: f32) -> f32 {
    let (size, left, t) = place(multiply_add, x);
    let positive = if x > 0.0 { x } else { 0.0 };
    multiply_add.of(-size * left, multiply_add.polynomial(&TAIL, t), positive)
}

/// The same, and its derivative `Φ(x) + x φ(x)`: `s = Q(|x|) − |x| φ(|x|)` below 0, `1 − s` above.
#[inline(always)]
pub(super) fn value_and_slope(multiply_add: MultiplyAdd, x: f32) -> (f32, f32) {
    let (_, left, t) = place(multiply_add, x);
    let slope = left * multiply_add.polynomial(&SLOPE, t);
    let slope = if x < 0.0 { slope } else { 1.0 - slope };
    (value(multiply_add, x), slope)
}

fn forward(x: &FlexTensor) -> FlexTensor {
    let x = x.to_contiguous();
    let values = elements(&x);
    let mut out = take(values.len());
    out.par_chunks_mut(CHUNK)
        .zip(values.par_chunks(CHUNK))
        .for_each(|(out, values)| {
            widest!(multiply_add => {
                for (out, x) in out.iter_mut().zip(values) {
                    *out = value(multiply_add, *x);
                }
            });
        });
    from_vec(out, shape(&x))
}

/// dx = d_out · gelu'(x)
fn backward(x: &FlexTensor, d_out: &FlexTensor) -> FlexTensor {
    let (x, d_out) = (x.to_contiguous(), d_out.to_contiguous());
    let mut dx = take(elements(&x).len());
    dx.par_chunks_mut(CHUNK)
        .zip(elements(&x).par_chunks(CHUNK))
        .zip(elements(&d_out).par_chunks(CHUNK))
        .for_each(|((dx, x), d_out)| {
            widest!(multiply_add => {
                for ((dx, x), d_out) in dx.iter_mut().zip(x).zip(d_out) {
                    *dx = d_out * value_and_slope(multiply_add, *x).1;
                }
            });
        });
    from_vec(dx, shape(&x))
}

#[backend_extension(Autodiff, Flex)]
trait FusedGelu: Backend {
    fn fused_gelu(x: FloatTensor<Self>) -> FloatTensor<Self>;
}

impl FusedGelu for Flex {
    fn fused_gelu(x: FlexTensor) -> FlexTensor {
        forward(&x)
    }
}

#[derive(Debug)]
struct GeluBackward;

impl Backward<Flex, 1> for GeluBackward {
    type State = FlexTensor;

    fn backward(
        self,
        ops: Ops<FlexTensor, 1>,
        grads: &mut Gradients,
        _checkpointer: &mut Checkpointer,
    ) {
        unary::<Flex, _>(ops.parents, ops.node, grads, |d_out| {
            backward(&ops.state, &d_out)
        });
    }
}

impl<C: CheckpointStrategy> FusedGelu for Autodiff<Flex, C> {
    fn fused_gelu(x: FloatTensor<Self>) -> FloatTensor<Self> {
        let (x, node) = x.into_parts();
        let out = forward(&x);
        match GeluBackward.prepare::<C>([node]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish(x, out),
            OpsKind::UnTracked(prep) => prep.finish(out),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Q(a) in f64: the series of erf (Abramowitz & Stegun 7.1.6) below 3, the continued fraction of erfc (7.1.14) above.
    fn tail(a: f64) -> f64 {
        if a < 3.0 {
            let (mut term, mut sum) = (a, a);
            for n in 1..100 {
                term *= a * a / f64::from(2 * n + 1);
                sum += term;
            }
            return 0.5 - sum * density(a);
        }
        let fraction = (1..200)
            .rev()
            .fold(0.0, |below, n| f64::from(n) / (a + below));
        density(a) / (a + fraction)
    }

    fn density(a: f64) -> f64 {
        (-a * a / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt()
    }

    #[test]
    fn gelu_and_its_slope_are_right_to_two_and_ten_parts_in_ten_million() {
        for multiply_add in [MultiplyAdd::Fused, MultiplyAdd::Separate] {
            for step in -160_000..160_000 {
                let x = step as f32 * 5e-5;
                let (found, slope) = value_and_slope(multiply_add, x);
                let exact = f64::from(x);
                let (a, sign) = (exact.abs(), exact.signum());
                let of_tail = tail(a) - a * density(a);
                let expected = exact.max(0.0) - a * tail(a);
                let wrong = (f64::from(found) - expected).abs();
                assert!(wrong <= 2e-7 + 6e-8 * expected.abs(), "gelu({x}) = {found}");
                assert!(
                    wrong <= 2e-6 * expected.abs() || a > 0.5,
                    "gelu({x}) = {found}"
                );
                let expected = 0.5 + sign * (0.5 - of_tail);
                let wrong = (f64::from(slope) - expected).abs();
                assert!(wrong <= 1e-6, "gelu'({x}) = {slope}, expected {expected}");
            }
        }
    }
}
