//! Dot-product attention (Luong, Pham & Manning 2015, "Effective Approaches to Attention-based Neural Machine Translation").

use burn::tensor::Tensor;

use super::{Input, mix, mix_with_weights};

/// `score(u, v) = u · v`, `out = Σ_j softmax_j(score(u, v_j)) x_j`: the textbook's.
#[derive(Clone, Copy, Debug, Default)]
pub struct Dot;

impl Dot {
    /// `[batch, queries, value_dim]`
    pub fn forward(&self, input: Input) -> Tensor<3> {
        mix(input, 1.0)
    }

    /// The output, and the weights `[batch, queries, keys]`.
    pub fn forward_with_weights(&self, input: Input) -> (Tensor<3>, Tensor<3>) {
        mix_with_weights(input, 1.0)
    }
}
