//! Cosine attention (Graves, Wayne & Danihelka 2014, "Neural Turing Machines", content-based addressing).

use burn::tensor::Tensor;

use super::{Input, mix, mix_with_weights};

/// How sharp a [`Cosine`] mechanism is.
#[derive(Clone, Debug, PartialEq)]
pub struct CosineConfig {
    /// What the cosine is multiplied by: without it, softmax of numbers within ±1 stays nearly flat.
    pub sharpness: f32,
}

/// `score(u, v) = s · u · v / (|u| |v|)`: only directions count, not lengths. A vector of zeros has cosine 0 with all.
#[derive(Clone, Copy, Debug)]
pub struct Cosine {
    sharpness: f32,
}

impl CosineConfig {
    /// The mechanism.
    pub fn init(&self) -> Cosine {
        Cosine {
            sharpness: self.sharpness,
        }
    }
}

impl Cosine {
    /// `[batch, queries, value_dim]`
    pub fn forward(&self, input: Input) -> Tensor<3> {
        mix(directions(input), self.sharpness)
    }

    /// The output, and the weights `[batch, queries, keys]`.
    pub fn forward_with_weights(&self, input: Input) -> (Tensor<3>, Tensor<3>) {
        mix_with_weights(directions(input), self.sharpness)
    }
}

fn directions(input: Input) -> Input {
    // Added under the root, so that the gradient at a vector of zeros is 0 and not 0/0.
    let direction = |x: Tensor<3>| x.clone() / (x.square().sum_dim(2) + 1e-12).sqrt();
    Input {
        queries: direction(input.queries),
        keys: direction(input.keys),
        ..input
    }
}
