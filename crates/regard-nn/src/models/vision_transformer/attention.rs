//! What a vision transformer looked at: its weights, and how the answer depends on each of them.

use burn::tensor::Tensor;

use super::VisionTransformer;
use crate::Noise;
use crate::layers::MultiHeadInput;
use crate::operation::{AttentionOptions, Residual, attention_weights};

/// What [`VisionTransformer::forward_with_attention`] gives.
#[derive(Clone, Debug)]
pub struct Attended {
    /// `[batch, classes]`
    pub logits: Tensor<2>,
    /// The weights of each layer, `[batch, heads, tokens, tokens]`, the class token first where there is one.
    pub layers: Vec<Tensor<4>>,
    /// The pooling's weights, `[batch, 1, 1, tokens]`; none where nothing is pooled by attention.
    pub pooling: Option<Tensor<4>>,
    /// The zeros that were added to the weights, layers first, then the pooling: the gradients of a logit by them are the
    /// gradients by the weights, through all that comes after.
    pub probes: Vec<Tensor<4>>,
}

impl VisionTransformer {
    /// Logits without dropout, by the definition instead of the fused operation, and every weight on the way. On a device
    /// with automatic differentiation the gradients by the probes can be asked for.
    ///
    /// # Panics
    ///
    /// As [`forward`](Self::forward).
    pub fn forward_with_attention(&self, pictures: Tensor<4>) -> Attended {
        let noise = &mut Noise::off();
        let mut probes = Vec::new();
        let mut probed = |weights: Tensor<4>| {
            let device = weights.device();
            let zeros = Tensor::<4>::zeros(weights.dims(), &device);
            let probe = if device.is_autodiff() {
                zeros.require_grad()
            } else {
                zeros
            };
            probes.push(probe.clone());
            weights + probe
        };
        let mut x = self.tokens(pictures, noise);
        let mut layers = Vec::new();
        for layer in &self.encoder {
            let normed = layer.attention_norm.forward(x.clone());
            let attention = &layer.attention;
            let (query, key, options) =
                attention.prepare(MultiHeadInput::self_attention(normed.clone()));
            let weights = probed(attention_weights(query, key, &options));
            let (_, value) = attention.keys_and_values(normed);
            let mixed = weights.clone().matmul(value); // [batch, heads, tokens, head_dim]
            layers.push(weights);
            x = x.clone()
                + attention
                    .output
                    .forward(mixed.swap_dims(1, 2).reshape(x.dims()));
            let shape @ [batch, sequence, width] = x.dims();
            let rows = x.reshape([batch * sequence, width]);
            let (norm, residual) = (&layer.feed_forward_norm, Residual::default());
            x = layer
                .feed_forward
                .added_to(rows, norm, residual, noise)
                .reshape(shape);
        }
        let x = self.norm.forward(x);
        let Some(pooling) = &self.pooling else {
            let logits = self.classify(x, noise);
            return Attended {
                logits,
                layers,
                pooling: None,
                probes,
            };
        };
        let [batch, _, width] = x.dims();
        let query = pooling
            .queries
            .val()
            .unsqueeze::<4>()
            .expand([batch, 1, 1, width]);
        let keys: Tensor<4> = x.unsqueeze_dim(1);
        let options = AttentionOptions {
            scale: Some(1.0),
            ..AttentionOptions::default()
        };
        let weights = probed(attention_weights(query, keys.clone(), &options));
        let z: Tensor<2> = weights.clone().matmul(keys).reshape([batch, width]);
        Attended {
            logits: self.output.forward(z),
            layers,
            pooling: Some(weights),
            probes,
        }
    }
}
