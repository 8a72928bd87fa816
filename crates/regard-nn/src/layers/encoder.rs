//! An encoder layer that normalises first (Xiong et al. 2020, "On Layer Normalization in the Transformer Architecture").

use burn::module::Module;
use burn::tensor::{Device, Tensor};

use super::{
    FeedForward, FeedForwardConfig, LayerNorm, MultiHead, MultiHeadConfig, MultiHeadInput,
};
use crate::operation::Activation;
use crate::{ConfigError, Noise, Sequences};

/// Sizes and kind of an [`EncoderLayer`].
#[derive(Clone, Debug, PartialEq)]
pub struct EncoderLayerConfig {
    /// The attention inside; its width is the layer's.
    pub attention: MultiHeadConfig,
    /// Inner length of the feed-forward part.
    pub feed_forward: usize,
    /// Probability that an element of a part's output is dropped.
    pub dropout: f64,
    /// Probability that a sequence skips a part ([`Noise::residual`]).
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
            activation: Activation::Gelu,
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
    /// `[tokens, width]` → the same; each sequence attends to itself.
    pub fn forward(&self, x: Tensor<2>, sequences: &Sequences, noise: &mut Noise) -> Tensor<2> {
        let residual = noise.residual(self.dropout, self.stochastic_depth, sequences);
        let norm = &self.attention_norm;
        let x = self.attention.added_to(x, norm, sequences, None, residual);
        let residual = noise.residual(self.dropout, self.stochastic_depth, sequences);
        let norm = &self.feed_forward_norm;
        self.feed_forward.added_to(x, norm, residual, noise)
    }

    /// The attention's weights for the same `x`, `[sequences, heads, longest, longest]`.
    pub fn weights(&self, x: Tensor<2>, sequences: &Sequences) -> Tensor<4> {
        let normed = sequences.padded(self.attention_norm.forward(x));
        let input = MultiHeadInput::self_attention(normed);
        self.attention
            .weights(input.visible_keys(sequences.lengths().collect()))
    }
}
