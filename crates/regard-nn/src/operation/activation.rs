//! What lies between the two maps of a feed-forward part.

use burn::tensor::Tensor;
use burn::tensor::activation::relu;

use super::gelu;
use super::gelu::{value, value_and_slope};
use super::vectors::widest;

/// A function of each number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Activation {
    /// `x · Φ(x)`: [`gelu`](super::gelu()).
    #[default]
    Gelu,
    /// `max(x, 0)`, whose slope at 0 is 0.
    Relu,
}

impl Activation {
    /// The same, composed of Burn's operations.
    pub(super) fn composed(self, x: Tensor<2>) -> Tensor<2> {
        match self {
            Self::Gelu => gelu(x),
            Self::Relu => relu(x),
        }
    }

    /// `x ← f(x)`
    pub(super) fn forward(self, values: &mut [f32]) {
        widest!(multiply_add => match self {
            Self::Gelu => {
                for x in values {
                    *x = value(multiply_add, *x);
                }
            }
            Self::Relu => {
                for x in values {
                    *x = positive(*x);
                }
            }
        });
    }

    /// `d ← d · f'(x)` and `x ← f(x)`: the derivative computes the value on the way.
    pub(super) fn backward(self, values: &mut [f32], gradients: &mut [f32]) {
        let both = gradients.iter_mut().zip(values);
        widest!(multiply_add => match self {
            Self::Gelu => {
                for (d, x) in both {
                    let (value, slope) = value_and_slope(multiply_add, *x);
                    *d *= slope;
                    *x = value;
                }
            }
            Self::Relu => {
                for (d, x) in both {
                    *d = if *x > 0.0 { *d } else { 0.0 };
                    *x = positive(*x);
                }
            }
        });
    }
}

/// What is no number stays none: `max` would make it 0, and nobody would hear of it.
#[inline(always)]
fn positive(x: f32) -> f32 {
    if x < 0.0 { 0.0 } else { x }
}
