//! Scaled dot-product attention (Vaswani et al. 2017, "Attention Is All You Need").

use burn::tensor::Tensor;

use super::{Input, mix, mix_with_weights};

/// `score(u, v) = u · v / √dim`: the dot product of vectors with unit variance has variance `dim`, which the root takes
/// out, so that softmax does not start saturated.
#[derive(Clone, Copy, Debug, Default)]
pub struct ScaledDot;

impl ScaledDot {
    /// `[batch, queries, value_dim]`
    pub fn forward(&self, input: Input) -> Tensor<3> {
        let scale = scale(&input);
        mix(input, scale)
    }

    /// The output, and the weights `[batch, queries, keys]`.
    pub fn forward_with_weights(&self, input: Input) -> (Tensor<3>, Tensor<3>) {
        let scale = scale(&input);
        mix_with_weights(input, scale)
    }
}

fn scale(input: &Input) -> f32 {
    1.0 / (input.queries.dims()[2].max(1) as f32).sqrt()
}
