//! Layer normalisation with its parameters.

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor};

use super::constant;
use crate::operation::{Normalisation, layer_norm};

/// [`layer_norm`] with a learned scale and shift.
#[derive(Module, Debug)]
pub struct LayerNorm {
    /// `[width]`, starts at 1.
    pub weight: Param<Tensor<1>>,
    /// `[width]`, starts at 0.
    pub bias: Param<Tensor<1>>,
}

impl LayerNorm {
    /// Added to the variance, as in PyTorch.
    pub const EPSILON: f64 = 1e-5;

    /// Leaves normalised vectors as they are.
    pub fn new(width: usize, device: &Device) -> Self {
        Self {
            weight: constant([width], 1.0, device),
            bias: constant([width], 0.0, device),
        }
    }

    /// For an operation that begins with it.
    pub(super) fn parameters(&self) -> Normalisation {
        Normalisation {
            weight: self.weight.val(),
            bias: self.bias.val(),
            epsilon: Self::EPSILON,
        }
    }

    /// `[…, width]` → `[…, width]`
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        layer_norm(x, self.weight.val(), self.bias.val(), Self::EPSILON)
    }
}
