//! A table of vectors.

use burn::module::{Module, Param};
use burn::tensor::{Device, Int, Tensor};

use super::normal;
use crate::Noise;
use crate::operation::embedding;

/// A vector for each id.
#[derive(Module, Debug)]
pub struct Embedding {
    /// `[rows, width]`
    pub weight: Param<Tensor<2>>,
}

impl Embedding {
    /// Normal numbers with that standard deviation.
    pub fn new(
        rows: usize,
        width: usize,
        deviation: f32,
        noise: &mut Noise,
        device: &Device,
    ) -> Self {
        Self {
            weight: normal([rows, width], deviation, noise, device),
        }
    }

    /// `[tokens]` → `[tokens, width]`
    pub fn forward(&self, ids: Tensor<1, Int>) -> Tensor<2> {
        embedding(self.weight.val(), ids)
    }
}
