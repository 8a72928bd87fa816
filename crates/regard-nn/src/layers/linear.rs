//! A linear map with a bias.

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor};

use super::{constant, normal, uniform};
use crate::Noise;
use crate::operation::{Map, linear};

/// `out = x weight + bias`.
#[derive(Module, Debug)]
pub struct Linear {
    /// `[inputs, outputs]`
    pub weight: Param<Tensor<2>>,
    /// `[outputs]`
    pub bias: Param<Tensor<1>>,
}

impl Linear {
    /// Weights uniform in ±1/√inputs, which keeps the size of what passes through; bias 0.
    pub fn new(inputs: usize, outputs: usize, noise: &mut Noise, device: &Device) -> Self {
        let bound = 1.0 / (inputs.max(1) as f32).sqrt();
        Self {
            weight: uniform([inputs, outputs], bound, noise, device),
            bias: constant([outputs], 0.0, device),
        }
    }

    /// Weights normal with that standard deviation (0: all zero); bias 0.
    pub fn normal(
        inputs: usize,
        outputs: usize,
        deviation: f32,
        noise: &mut Noise,
        device: &Device,
    ) -> Self {
        Self {
            weight: normal([inputs, outputs], deviation, noise, device),
            bias: constant([outputs], 0.0, device),
        }
    }

    /// Weight and bias.
    pub(super) fn map(&self) -> Map {
        (self.weight.val(), self.bias.val())
    }

    /// `[…, inputs]` → `[…, outputs]`
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        let mut shape = x.dims();
        let [inputs, outputs] = self.weight.dims();
        let rows = shape[..D - 1].iter().product::<usize>();
        shape[D - 1] = outputs;
        // One product of two matrices: a batch of them would also make a batch of gradients of the weight.
        let x: Tensor<2> = x.reshape([rows, inputs]);
        linear(x, self.weight.val(), self.bias.val()).reshape(shape)
    }
}
