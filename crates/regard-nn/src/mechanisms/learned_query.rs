//! Attention pooling (Yang et al. 2016, "Hierarchical Attention Networks"; Lin et al. 2017, "A Structured Self-Attentive
//! Sentence Embedding").

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor};

use crate::Noise;
use crate::layers::normal;
use crate::operation::{AttentionOptions, attention, attention_weights};

/// `score(v) = scale · q · v`, with the query q learned: which words matter for the task, whatever the text. Several
/// queries ("heads") look for several things.
#[derive(Module, Debug)]
pub struct LearnedQuery {
    /// `[heads, width]`
    pub queries: Param<Tensor<2>>,
    scale: f32,
}

impl LearnedQuery {
    /// Queries near 0: the weights start nearly uniform. Where the vectors are short, a `scale` above 1 lets the queries
    /// learn to tell them apart as fast as the rest of the model learns.
    pub fn new(heads: usize, width: usize, scale: f32, noise: &mut Noise, device: &Device) -> Self {
        Self {
            queries: normal([heads, width], 0.02, noise, device),
            scale,
        }
    }

    /// `[batch, sequence, width]` → `[batch, heads, width]`. `visible` counts the positions of each row that are not padding.
    pub fn forward(&self, x: Tensor<3>, visible: Option<&[usize]>) -> Tensor<3> {
        let (queries, x, options) = self.prepare(x, visible);
        attention(queries, x.clone(), x, &options).squeeze_dim(1)
    }

    /// `[batch, heads, sequence]`
    pub fn weights(&self, x: Tensor<3>, visible: Option<&[usize]>) -> Tensor<3> {
        let (queries, x, options) = self.prepare(x, visible);
        attention_weights(queries, x, &options).squeeze_dim(1)
    }

    /// The output and the weights.
    pub fn forward_with_weights(
        &self,
        x: Tensor<3>,
        visible: Option<&[usize]>,
    ) -> (Tensor<3>, Tensor<3>) {
        (self.forward(x.clone(), visible), self.weights(x, visible))
    }

    /// The learned queries stand where a text's queries would: `[batch, 1, heads, width]`, one matrix for all rows.
    fn prepare(
        &self,
        x: Tensor<3>,
        visible: Option<&[usize]>,
    ) -> (Tensor<4>, Tensor<4>, AttentionOptions) {
        let [heads, width] = self.queries.dims();
        let batch = x.dims()[0];
        let queries = self
            .queries
            .val()
            .unsqueeze::<4>()
            .expand([batch, 1, heads, width]);
        let visible_keys = visible.map(<[usize]>::to_vec);
        let options = AttentionOptions {
            scale: Some(self.scale),
            visible_keys,
            ..AttentionOptions::default()
        };
        (queries, x.unsqueeze_dim(1), options)
    }
}
