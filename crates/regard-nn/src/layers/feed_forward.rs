//! The feed-forward part of an encoder layer.

use burn::module::Module;
use burn::tensor::{Device, Tensor};

use super::Linear;
use crate::Noise;
use crate::operation::feed_forward;

/// Sizes of a [`FeedForward`].
#[derive(Clone, Debug, PartialEq)]
pub struct FeedForwardConfig {
    /// Length of the vectors.
    pub width: usize,
    /// Length inside.
    pub inner: usize,
    /// Probability that an inner element is dropped.
    pub dropout: f64,
}

/// `out = outer(dropout(gelu(inner(x))))`, each position for itself.
#[derive(Module, Debug)]
pub struct FeedForward {
    /// `width → inner`
    pub inner: Linear,
    /// `inner → width`, starts at zero: the layer around it starts as the identity.
    pub outer: Linear,
    dropout: f64,
}

impl FeedForwardConfig {
    /// A layer whose output is zero until it has learned.
    pub fn init(&self, noise: &mut Noise, device: &Device) -> FeedForward {
        FeedForward {
            inner: Linear::new(self.width, self.inner, noise, device),
            outer: Linear::normal(self.inner, self.width, 0.0, noise, device),
            dropout: self.dropout,
        }
    }
}

impl FeedForward {
    /// `[batch, sequence, width]` → the same
    pub fn forward(&self, x: Tensor<3>, noise: &mut Noise) -> Tensor<3> {
        let shape @ [batch, sequence, width] = x.dims();
        let [inner, outer] = [&self.inner, &self.outer].map(Linear::map);
        let x = x.reshape([batch * sequence, width]);
        feed_forward(x, inner, outer, noise.mask(self.dropout)).reshape(shape)
    }
}
