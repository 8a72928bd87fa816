//! The attention family: how a query scores a key, one file each.
//!
//! Every mechanism turns scores into weights by softmax over the visible keys and mixes the values with them. They differ
//! in the score only:
//!
//! | mechanism | score of query u and key v | parameters |
//! |---|---|---|
//! | [`Dot`] | u · v | none |
//! | [`ScaledDot`] | u · v / √dim | none |
//! | [`General`] | uᵀ W v | W |
//! | [`Additive`] | wᵀ tanh(U u + V v) | U, V, w |
//! | [`Cosine`] | s · u · v / (\|u\| \|v\|) | none, or the sharpness s |
//! | [`LearnedQuery`] | q · v, with q learned | q |
//!
//! ```
//! use burn::tensor::{Device, Tensor};
//! use regard_nn::mechanisms::{Dot, Input};
//!
//! let device = Device::flex();
//! let query = Tensor::<3>::from_floats([[[1.0, 0.0]]], &device);
//! let words = Tensor::<3>::from_floats([[[2.0, 0.0], [0.0, 5.0]]], &device);
//! let (out, weights) = Dot.forward_with_weights(Input::new(query, words.clone(), words));
//! let weights: Vec<f32> = weights.into_data().iter::<f32>().collect();
//! assert!((weights[0] - 1.0 / (1.0 + (-2.0_f32).exp())).abs() < 1e-6); // e² / (e² + e⁰)
//! ```

mod additive;
mod cosine;
mod dot;
mod general;
mod learned_query;
mod scaled_dot;

pub use additive::{Additive, AdditiveConfig};
pub use cosine::{Cosine, CosineConfig};
pub use dot::Dot;
pub use general::{General, GeneralConfig};
pub use learned_query::LearnedQuery;
pub use scaled_dot::ScaledDot;

use burn::tensor::Tensor;

use crate::operation::{AttentionOptions, attention, attention_weights};

/// What attends to what.
#[derive(Clone, Debug)]
pub struct Input {
    queries: Tensor<3>,
    keys: Tensor<3>,
    values: Tensor<3>,
    visible_keys: Option<Vec<usize>>,
}

impl Input {
    /// # Shapes
    /// - `queries`: `[batch, queries, query_dim]`
    /// - `keys`: `[batch, keys, key_dim]`; `key_dim = query_dim` for the mechanisms without parameters
    /// - `values`: `[batch, keys, value_dim]`
    pub fn new(queries: Tensor<3>, keys: Tensor<3>, values: Tensor<3>) -> Self {
        Self {
            queries,
            keys,
            values,
            visible_keys: None,
        }
    }

    /// Per batch row: the keys `0..n` are visible, the others are padding. A row without any gives 0.
    pub fn visible_keys(self, visible_keys: Vec<usize>) -> Self {
        Self {
            visible_keys: Some(visible_keys),
            ..self
        }
    }
}

/// Mixes the values by dot products times `scale`: `[batch, queries, value_dim]`.
fn mix(input: Input, scale: f32) -> Tensor<3> {
    let options = options(scale, input.visible_keys);
    let head = |x: Tensor<3>| x.unsqueeze_dim::<4>(1); // [batch, 1, …]: one head
    attention(
        head(input.queries),
        head(input.keys),
        head(input.values),
        &options,
    )
    .squeeze_dim(1)
}

/// As [`mix`], with the weights: `[batch, queries, keys]`.
fn mix_with_weights(input: Input, scale: f32) -> (Tensor<3>, Tensor<3>) {
    let options = options(scale, input.visible_keys.clone());
    let (queries, keys) = (
        input.queries.clone().unsqueeze_dim::<4>(1),
        input.keys.clone().unsqueeze_dim::<4>(1),
    );
    let weights = attention_weights(queries, keys, &options).squeeze_dim(1);
    (mix(input, scale), weights)
}

fn options(scale: f32, visible_keys: Option<Vec<usize>>) -> AttentionOptions {
    AttentionOptions {
        scale: Some(scale),
        visible_keys,
        ..AttentionOptions::default()
    }
}
