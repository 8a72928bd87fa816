//! Layer normalisation.

use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, Flex, backend_extension};
use burn::tensor::Tensor;
use rayon::prelude::*;

use super::memory::{give_back, owned, take};
use super::storage::{FlexTensor, contiguous, elements, from_vec, register, shape};
use super::vectors::widest;
use super::{composed, is_fused};

/// `out = (x − mean) / √(variance + epsilon) · weight + bias` over the last axis (Ba, Kiros & Hinton 2016).
///
/// # Shapes
/// - `x`, out: any, the last axis has the length of `weight` and `bias`
pub fn layer_norm<const D: usize>(
    x: Tensor<D>,
    weight: Tensor<1>,
    bias: Tensor<1>,
    epsilon: f64,
) -> Tensor<D> {
    assert_eq!(
        x.dims()[D - 1],
        weight.dims()[0],
        "layer norm: the last axis is as long as the weight"
    );
    if !is_fused(&x) {
        return composed::layer_norm(x, weight, bias, epsilon);
    }
    Tensor::from_dispatch(<Dispatch as FusedLayerNorm>::fused_layer_norm(
        x.into_dispatch(),
        weight.into_dispatch(),
        bias.into_dispatch(),
        epsilon as f32,
    ))
}

/// The arguments of [`layer_norm`] beside `x`, where an operation begins with one.
#[derive(Clone, Debug)]
pub struct Normalisation {
    /// `[width]`
    pub weight: Tensor<1>,
    /// `[width]`
    pub bias: Tensor<1>,
    /// Added to the variance.
    pub epsilon: f64,
}

/// Rows of one task: fixed, because the gradients of weight and bias are summed task by task.
const ROWS: usize = 64;

/// Sums side by side: two registers of sixteen, or four of eight, so that none waits for the one before.
const LANES: usize = 32;

/// `Σ f(x)` in interleaved sums, so that the compiler can use wide registers.
#[inline(always)]
fn sum(x: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    let mut sums = [0.0_f32; LANES];
    let (chunks, rest) = x.as_chunks::<LANES>();
    for chunk in chunks {
        for (sum, x) in sums.iter_mut().zip(chunk) {
            *sum += f(*x);
        }
    }
    total(sums) + rest.iter().map(|x| f(*x)).sum::<f32>()
}

/// The sum of the sums, in halves: one after the other they took as long as a row of 192 numbers.
#[inline(always)]
fn total(mut sums: [f32; LANES]) -> f32 {
    let mut half = LANES / 2;
    while half > 0 {
        for lane in 0..half {
            sums[lane] += sums[lane + half];
        }
        half /= 2;
    }
    sums[0]
}

/// `Σ d_out · weight` and `Σ d_out · weight · (x − mean)`, likewise.
#[inline(always)]
fn sums_of_gradients(d_out: &[f32], weight: &[f32], x: &[f32], mean: f32) -> [f32; 2] {
    let (mut of_g, mut of_gx) = ([0.0_f32; LANES], [0.0_f32; LANES]);
    let (d_chunks, d_rest) = d_out.as_chunks::<LANES>();
    let (weight_chunks, weight_rest) = weight.as_chunks::<LANES>();
    let (x_chunks, x_rest) = x.as_chunks::<LANES>();
    for ((d_out, weight), x) in d_chunks.iter().zip(weight_chunks).zip(x_chunks) {
        for lane in 0..LANES {
            let g = d_out[lane] * weight[lane];
            of_g[lane] += g;
            of_gx[lane] += g * (x[lane] - mean);
        }
    }
    let (mut rest_of_g, mut rest_of_gx) = (0.0, 0.0);
    for ((d_out, weight), x) in d_rest.iter().zip(weight_rest).zip(x_rest) {
        let g = d_out * weight;
        rest_of_g += g;
        rest_of_gx += g * (x - mean);
    }
    [total(of_g) + rest_of_g, total(of_gx) + rest_of_gx]
}

/// Weight and bias of a normalisation, and what is added to the variance.
#[derive(Clone, Debug)]
pub(super) struct Norm {
    pub(super) weight: FlexTensor,
    pub(super) bias: FlexTensor,
    pub(super) epsilon: f32,
}

/// Per row the mean and 1/√(variance + epsilon).
pub(super) type Moments = Vec<[f32; 2]>;

impl Norm {
    /// The normalised rows, and their moments.
    pub(super) fn forward(&self, values: &[f32]) -> (Vec<f32>, Moments) {
        let (weight, bias) = (elements(&self.weight), elements(&self.bias));
        let width = weight.len();
        let mut out = take(values.len());
        let mut moments = vec![[0.0; 2]; values.len() / width.max(1)];
        out.par_chunks_mut(ROWS * width.max(1))
            .zip(values.par_chunks(ROWS * width.max(1)))
            .zip(moments.par_chunks_mut(ROWS))
            .for_each(|((out, values), moments)| {
                widest!({
                    let rows = out.chunks_exact_mut(width).zip(values.chunks_exact(width));
                    for ((out, x), moments) in rows.zip(moments) {
                        let mean = sum(x, |x| x) / width as f32;
                        let variance = sum(x, |x| (x - mean) * (x - mean)) / width as f32;
                        *moments = [mean, 1.0 / (variance + self.epsilon).sqrt()];
                        normalise(out, x, *moments, weight, bias);
                    }
                });
            });
        (out, moments)
    }

    /// The normalised rows once more: to compute them costs less than to keep them.
    pub(super) fn again(&self, values: &[f32], moments: &Moments) -> Vec<f32> {
        let (weight, bias) = (elements(&self.weight), elements(&self.bias));
        let width = weight.len();
        let mut out = take(values.len());
        out.par_chunks_mut(ROWS * width.max(1))
            .zip(values.par_chunks(ROWS * width.max(1)))
            .zip(moments.par_chunks(ROWS))
            .for_each(|((out, values), moments)| {
                widest!({
                    let rows = out.chunks_exact_mut(width).zip(values.chunks_exact(width));
                    for ((out, x), moments) in rows.zip(moments) {
                        normalise(out, x, *moments, weight, bias);
                    }
                });
            });
        out
    }

    /// With x̂ = (x − mean) · inverse and g = d_out · weight:
    /// dx = inverse · (g − mean(g) − x̂ · mean(g x̂)) (+ passed), d_weight = Σ d_out x̂, d_bias = Σ d_out.
    ///
    /// dx is written over d_out. What `passed` by the normalisation, on the other way of a residual, is added on the way.
    pub(super) fn backward(
        &self,
        values: &[f32],
        moments: &Moments,
        d_out: Vec<f32>,
        passed: Option<&[f32]>,
    ) -> (Vec<f32>, [FlexTensor; 2]) {
        let weight = elements(&self.weight);
        let width = weight.len();
        let mut dx = d_out;
        let partial: Vec<Vec<f32>> = dx
            .par_chunks_mut(ROWS * width.max(1))
            .zip(values.par_chunks(ROWS * width.max(1)))
            .zip(moments.par_chunks(ROWS))
            .enumerate()
            .map(|(task, ((dx, values), moments))| {
                let mut sums = vec![0.0; 2 * width];
                let (d_weight, d_bias) = sums.split_at_mut(width);
                let passed = passed.map(|passed| &passed[task * ROWS * width..][..dx.len()]);
                widest!({
                    let rows = dx.chunks_exact_mut(width).zip(values.chunks_exact(width));
                    for (row, ((d_out, x), [mean, inverse])) in rows.zip(moments).enumerate() {
                        let (x, d_out, weight) =
                            (&x[..width], &mut d_out[..width], &weight[..width]);
                        let [g, gx] = sums_of_gradients(d_out, weight, x, *mean);
                        let (g, gx) = (g / width as f32, gx * inverse / width as f32);
                        for i in 0..width {
                            let normal = (x[i] - mean) * inverse;
                            d_weight[i] += d_out[i] * normal;
                            d_bias[i] += d_out[i];
                            d_out[i] = inverse * (d_out[i] * weight[i] - g - normal * gx);
                        }
                        if let Some(passed) = passed {
                            let passed = &passed[row * width..][..width];
                            for (dx, d) in d_out.iter_mut().zip(passed) {
                                *dx += d;
                            }
                        }
                    }
                });
                sums
            })
            .collect();
        let mut sums = vec![0.0; 2 * width];
        for partial in partial {
            sums.iter_mut()
                .zip(partial)
                .for_each(|(sum, partial)| *sum += partial);
        }
        let d_bias = sums.split_off(width);
        let gradients = [sums, d_bias].map(|values| from_vec(values, vec![width]));
        (dx, gradients)
    }
}

/// One row.
#[inline(always)]
fn normalise(out: &mut [f32], x: &[f32], moments: [f32; 2], weight: &[f32], bias: &[f32]) {
    let [mean, inverse] = moments;
    for (((out, x), weight), bias) in out.iter_mut().zip(x).zip(weight).zip(bias) {
        *out = (x - mean) * inverse * weight + bias;
    }
}

#[backend_extension(Autodiff, Flex)]
trait FusedLayerNorm: Backend {
    fn fused_layer_norm(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        epsilon: f32,
    ) -> FloatTensor<Self>;
}

impl FusedLayerNorm for Flex {
    fn fused_layer_norm(
        x: FlexTensor,
        weight: FlexTensor,
        bias: FlexTensor,
        epsilon: f32,
    ) -> FlexTensor {
        let norm = Norm {
            weight,
            bias,
            epsilon,
        };
        let x = contiguous(x);
        let out = from_vec(norm.forward(elements(&x)).0, shape(&x));
        give_back(x);
        out
    }
}

/// What the backward pass needs.
#[derive(Clone, Debug)]
struct Saved {
    x: FlexTensor,
    norm: Norm,
    moments: Moments,
}

#[derive(Debug)]
struct LayerNormBackward;

impl Backward<Flex, 3> for LayerNormBackward {
    type State = Saved;

    fn backward(self, ops: Ops<Saved, 3>, grads: &mut Gradients, _checkpointer: &mut Checkpointer) {
        let d_out = owned(grads.consume::<Flex>(&ops.node));
        let Saved { x, norm, moments } = ops.state;
        let (dx, [d_weight, d_bias]) = norm.backward(elements(&x), &moments, d_out, None);
        let gradients = [from_vec(dx, shape(&x)), d_weight, d_bias];
        let parents = ops.parents.map(|node| node.map(|node| node.id));
        register(grads, parents, gradients);
        give_back(x);
    }
}

impl<C: CheckpointStrategy> FusedLayerNorm for Autodiff<Flex, C> {
    fn fused_layer_norm(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        epsilon: f32,
    ) -> FloatTensor<Self> {
        let nodes = [x.node(), weight.node(), bias.node()];
        let x = contiguous(x.into_primitive());
        let norm = Norm {
            weight: weight.into_primitive(),
            bias: bias.into_primitive(),
            epsilon,
        };
        let (out, moments) = norm.forward(elements(&x));
        let out = from_vec(out, shape(&x));
        match LayerNormBackward
            .prepare::<C>(nodes)
            .compute_bound()
            .stateful()
        {
            OpsKind::Tracked(prep) => prep.finish(Saved { x, norm, moments }, out),
            OpsKind::UnTracked(prep) => prep.finish(out),
        }
    }
}
