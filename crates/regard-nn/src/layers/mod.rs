//! The parts models are made of: config → init → forward. Initial values are a function of a [`Noise`] alone.

mod cache;
mod decoder;
mod embedding;
mod encoder;
mod feed_forward;
mod linear;
mod multi_head;
mod norm;
mod patches;
mod positions;

pub use cache::KeyValueCache;
pub use decoder::{DecoderLayer, DecoderLayerConfig, SourceKeys};
pub use embedding::Embedding;
pub use encoder::{EncoderLayer, EncoderLayerConfig};
pub use feed_forward::{FeedForward, FeedForwardConfig};
pub use linear::Linear;
pub use multi_head::{MultiHead, MultiHeadConfig, MultiHeadInput};
pub use norm::LayerNorm;
pub use patches::{Cut, PatchEmbedding};
pub use positions::{LearnedPositions, sinusoidal, sinusoidal_grid};

use burn::module::Param;
use burn::tensor::{Device, Tensor, TensorData};

use crate::Noise;

/// A parameter of normal numbers with standard deviation `deviation`; zeros for 0.
pub(crate) fn normal<const D: usize>(
    shape: [usize; D],
    deviation: f32,
    noise: &mut Noise,
    device: &Device,
) -> Param<Tensor<D>> {
    let count = shape.iter().product();
    let mut values = if deviation == 0.0 {
        vec![0.0; count]
    } else {
        noise.normal(count)
    };
    values.iter_mut().for_each(|value| *value *= deviation);
    parameter(values, shape, device)
}

/// A parameter of uniform numbers in `−bound..bound`.
pub(crate) fn uniform<const D: usize>(
    shape: [usize; D],
    bound: f32,
    noise: &mut Noise,
    device: &Device,
) -> Param<Tensor<D>> {
    let mut values = noise.uniform(shape.iter().product());
    values
        .iter_mut()
        .for_each(|value| *value = bound * (2.0 * *value - 1.0));
    parameter(values, shape, device)
}

/// A parameter with the same value everywhere.
pub(crate) fn constant<const D: usize>(
    shape: [usize; D],
    value: f32,
    device: &Device,
) -> Param<Tensor<D>> {
    parameter(vec![value; shape.iter().product()], shape, device)
}

fn parameter<const D: usize>(
    values: Vec<f32>,
    shape: [usize; D],
    device: &Device,
) -> Param<Tensor<D>> {
    Param::from_data(TensorData::new(values, shape), device)
}
