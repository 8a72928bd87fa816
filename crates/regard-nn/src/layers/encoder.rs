//! An encoder layer that normalises first (Xiong et al. 2020, "On Layer Normalization in the Transformer Architecture").

use burn::module::Module;
use burn::tensor::{Device, Tensor};

use super::{
    FeedForward, FeedForwardConfig, LayerNorm, MultiHead, MultiHeadConfig, MultiHeadInput,
};
use crate::{ConfigError, Noise};

/// Sizes and kind of an [`EncoderLayer`].
#[derive(Clone, Debug, PartialEq)]
pub struct EncoderLayerConfig {
    /// The attention inside; its width is the layer's.
    pub attention: MultiHeadConfig,
    /// Inner length of the feed-forward part.
    pub feed_forward: usize,
    /// Probability that an element of a part's output is dropped.
    pub dropout: f64,
    /// Probability that a row of the batch skips a part ([`Noise::skip_rows`]).
    pub stochastic_depth: f64,
}

/// ```text
/// y   = x + dropout(attention(norm(x)))
/// out = y + dropout(feed_forward(norm(y)))
/// ```
///
/// Both parts start at zero, so that the layer starts as the identity and needs no long warm-up.
#[derive(Module, Debug)]
pub struct EncoderLayer {
    /// Before the attention.
    pub attention_norm: LayerNorm,
    /// What mixes the positions.
    pub attention: MultiHead,
    /// Before the feed-forward part.
    pub feed_forward_norm: LayerNorm,
    /// What each position computes for itself.
    pub feed_forward: FeedForward,
    dropout: f64,
    stochastic_depth: f64,
}

impl EncoderLayerConfig {
    /// A layer that passes its input through until it has learned.
    ///
    /// # Errors
    ///
    /// As [`MultiHeadConfig::validate`].
    pub fn init(&self, noise: &mut Noise, device: &Device) -> Result<EncoderLayer, ConfigError> {
        let width = self.attention.width;
        let feed_forward = FeedForwardConfig {
            width,
            inner: self.feed_forward,
            dropout: 0.0,
        };
        Ok(EncoderLayer {
            attention_norm: LayerNorm::new(width, device),
            attention: self.attention.init(noise, device)?,
            feed_forward_norm: LayerNorm::new(width, device),
            feed_forward: feed_forward.init(noise, device),
            dropout: self.dropout,
            stochastic_depth: self.stochastic_depth,
        })
    }
}

impl EncoderLayer {
    /// `[batch, sequence, width]` → the same. `visible` counts the positions of each row that are not padding.
    pub fn forward(&self, x: Tensor<3>, visible: Option<&[usize]>, noise: &mut Noise) -> Tensor<3> {
        let mixed = self.attention.forward(self.input(x.clone(), visible));
        let x = self.joined(x, mixed, noise);
        let computed = self
            .feed_forward
            .forward(self.feed_forward_norm.forward(x.clone()), noise);
        self.joined(x, computed, noise)
    }

    /// What passes through and what a part adds to it.
    fn joined(&self, x: Tensor<3>, part: Tensor<3>, noise: &mut Noise) -> Tensor<3> {
        let part = noise.skip_rows(part, self.stochastic_depth);
        noise.add_dropped(x, part, self.dropout)
    }

    /// The attention's weights for the same `x`, `[batch, heads, sequence, sequence]`.
    pub fn weights(&self, x: Tensor<3>, visible: Option<&[usize]>) -> Tensor<4> {
        self.attention.weights(self.input(x, visible))
    }

    fn input(&self, x: Tensor<3>, visible: Option<&[usize]>) -> MultiHeadInput {
        let input = MultiHeadInput::self_attention(self.attention_norm.forward(x));
        match visible {
            Some(visible) => input.visible_keys(visible.to_vec()),
            None => input,
        }
    }
}
