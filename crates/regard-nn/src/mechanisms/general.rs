//! General, or bilinear, attention (Luong, Pham & Manning 2015).

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor};

use super::{Input, mix, mix_with_weights};
use crate::Noise;
use crate::layers::uniform;

/// Sizes of a [`General`] mechanism.
#[derive(Clone, Debug, PartialEq)]
pub struct GeneralConfig {
    /// Length of the queries.
    pub query_dim: usize,
    /// Length of the keys.
    pub key_dim: usize,
}

/// `score(u, v) = uᵀ W v`: queries and keys may have different lengths and meanings.
#[derive(Module, Debug)]
pub struct General {
    /// W, `[query_dim, key_dim]`
    pub weight: Param<Tensor<2>>,
}

impl GeneralConfig {
    /// W uniform in ±1/√query_dim.
    pub fn init(&self, noise: &mut Noise, device: &Device) -> General {
        let bound = 1.0 / (self.query_dim.max(1) as f32).sqrt();
        General {
            weight: uniform([self.query_dim, self.key_dim], bound, noise, device),
        }
    }
}

impl General {
    /// `[batch, queries, value_dim]`
    pub fn forward(&self, input: Input) -> Tensor<3> {
        mix(self.turned(input), 1.0)
    }

    /// The output, and the weights `[batch, queries, keys]`.
    pub fn forward_with_weights(&self, input: Input) -> (Tensor<3>, Tensor<3>) {
        mix_with_weights(self.turned(input), 1.0)
    }

    /// uᵀ W v is the dot product of Wᵀ u and v.
    fn turned(&self, input: Input) -> Input {
        let [batch, queries, query_dim] = input.queries.dims();
        let flat: Tensor<2> = input.queries.reshape([batch * queries, query_dim]);
        let key_dim = self.weight.dims()[1];
        Input {
            queries: flat
                .matmul(self.weight.val())
                .reshape([batch, queries, key_dim]),
            ..input
        }
    }
}
