//! Additive attention (Bahdanau, Cho & Bengio 2015, "Neural Machine Translation by Jointly Learning to Align and
//! Translate").

use burn::module::{Module, Param};
use burn::tensor::activation::softmax;
use burn::tensor::{Bool, Device, Tensor, TensorData};

use super::Input;
use crate::Noise;
use crate::layers::{Linear, uniform};

/// Sizes of an [`Additive`] mechanism.
#[derive(Clone, Debug, PartialEq)]
pub struct AdditiveConfig {
    /// Length of the queries.
    pub query_dim: usize,
    /// Length of the keys.
    pub key_dim: usize,
    /// Length inside the tanh.
    pub hidden: usize,
}

/// `score(u, v) = wᵀ tanh(U u + V v + b)`: a small network looks at each pair. It stores `[batch, queries, keys, hidden]`.
#[derive(Module, Debug)]
pub struct Additive {
    /// U and b, `query_dim → hidden`
    pub query: Linear,
    /// V, `[key_dim, hidden]`
    pub key: Param<Tensor<2>>,
    /// w, `[hidden]`
    pub score: Param<Tensor<1>>,
}

impl AdditiveConfig {
    /// Weights uniform in ±1/√inputs.
    pub fn init(&self, noise: &mut Noise, device: &Device) -> Additive {
        let bound = |inputs: usize| 1.0 / (inputs.max(1) as f32).sqrt();
        Additive {
            query: Linear::new(self.query_dim, self.hidden, noise, device),
            key: uniform(
                [self.key_dim, self.hidden],
                bound(self.key_dim),
                noise,
                device,
            ),
            score: uniform([self.hidden], bound(self.hidden), noise, device),
        }
    }
}

impl Additive {
    /// `[batch, queries, value_dim]`
    pub fn forward(&self, input: Input) -> Tensor<3> {
        self.forward_with_weights(input).0
    }

    /// The output, and the weights `[batch, queries, keys]`.
    pub fn forward_with_weights(&self, input: Input) -> (Tensor<3>, Tensor<3>) {
        let [batch, queries, _] = input.queries.dims();
        let [_, keys, key_dim] = input.keys.dims();
        let hidden = self.score.dims()[0];
        let query = self
            .query
            .forward(input.queries)
            .reshape([batch, queries, 1, hidden]);
        let flat: Tensor<2> = input.keys.reshape([batch * keys, key_dim]);
        let key = flat
            .matmul(self.key.val())
            .reshape([batch, 1, keys, hidden]);
        let inner = (query + key).tanh(); // [batch, queries, keys, hidden]
        let scores = (inner * self.score.val().unsqueeze())
            .sum_dim(3)
            .squeeze_dim::<3>(3);
        let weights = masked_softmax(scores, input.visible_keys.as_deref());
        (weights.clone().matmul(input.values), weights)
    }
}

/// Softmax over the visible keys; 0 everywhere where none is. `[batch, queries, keys]` → the same
fn masked_softmax(scores: Tensor<3>, visible_keys: Option<&[usize]>) -> Tensor<3> {
    let Some(visible_keys) = visible_keys else {
        return softmax(scores, 2);
    };
    let [batch, queries, keys] = scores.dims();
    assert_eq!(
        visible_keys.len(),
        batch,
        "`visible_keys` has one number per batch row"
    );
    let hidden: Vec<bool> = visible_keys
        .iter()
        .flat_map(|visible| (0..keys).map(move |key| key >= *visible))
        .collect();
    let hidden =
        Tensor::<3, Bool>::from_data(TensorData::new(hidden, [batch, 1, keys]), &scores.device())
            .expand([batch, queries, keys]);
    // A finite stand-in for −∞ keeps a row that sees nothing from 0/0; multiplying by `visible` makes it 0.
    let visible = hidden.clone().bool_not().float();
    softmax(scores.mask_fill(hidden, f32::MIN / 2.0), 2) * visible
}
