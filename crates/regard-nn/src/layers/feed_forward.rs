//! The feed-forward part of a layer.

use burn::module::Module;
use burn::tensor::{Device, Tensor};

use super::{LayerNorm, Linear};
use crate::Noise;
use crate::operation::{Activation, FeedForwardRules, Residual, feed_forward};

/// Sizes and kind of a [`FeedForward`].
#[derive(Clone, Debug, PartialEq)]
pub struct FeedForwardConfig {
    /// Length of the vectors.
    pub width: usize,
    /// Length inside.
    pub inner: usize,
    /// Between the two maps.
    pub activation: Activation,
    /// Probability that an inner element is dropped.
    pub dropout: f64,
}

/// `part(n) = outer(dropout(activation(inner(n))))`, each position for itself.
#[derive(Module, Debug)]
pub struct FeedForward {
    /// `width → inner`
    pub inner: Linear,
    /// `inner → width`, starts at zero: the layer around it starts as the identity.
    pub outer: Linear,
    #[module(skip)]
    activation: Activation,
    dropout: f64,
}

impl FeedForwardConfig {
    /// A layer whose output is zero until it has learned.
    pub fn init(&self, noise: &mut Noise, device: &Device) -> FeedForward {
        FeedForward {
            inner: Linear::new(self.width, self.inner, noise, device),
            outer: Linear::normal(self.inner, self.width, 0.0, noise, device),
            activation: self.activation,
            dropout: self.dropout,
        }
    }
}

impl FeedForward {
    /// `x + residual(part(norm(x)))`, `[tokens, width]` → the same
    pub fn added_to(
        &self,
        x: Tensor<2>,
        norm: &LayerNorm,
        residual: Residual,
        noise: &mut Noise,
    ) -> Tensor<2> {
        let [inner, outer] = [&self.inner, &self.outer].map(Linear::map);
        let rules = FeedForwardRules {
            activation: self.activation,
            mask: noise.mask(self.dropout),
            residual,
        };
        feed_forward(x, norm.parameters(), inner, outer, rules)
    }
}
