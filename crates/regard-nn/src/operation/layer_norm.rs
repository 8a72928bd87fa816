//! Layer normalisation.

use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, Flex, backend_extension};
use burn::tensor::Tensor;
use rayon::prelude::*;

use super::memory::{give_back, take};
use super::storage::{FlexTensor, contiguous, elements, from_vec, shape};
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

/// Rows of one task: fixed, because the gradients of weight and bias are summed task by task.
const ROWS: usize = 64;

/// Sums side by side: two registers of sixteen, or four of eight, so that none waits for the one before.
const LANES: usize = 32;

/// `Σ f(i)` in interleaved sums, so that the compiler can use wide registers.
#[inline(always)]
fn sum(length: usize, f: impl Fn(usize) -> f32) -> f32 {
    let mut sums = [0.0_f32; LANES];
    let whole = length / LANES * LANES;
    for start in (0..whole).step_by(LANES) {
        for (lane, sum) in sums.iter_mut().enumerate() {
            *sum += f(start + lane);
        }
    }
    let rest: f32 = (whole..length).map(&f).sum();
    sums.iter().sum::<f32>() + rest
}

/// The output, and per row the mean and 1/√(variance + epsilon).
fn forward(
    x: &FlexTensor,
    weight: &FlexTensor,
    bias: &FlexTensor,
    epsilon: f32,
) -> (FlexTensor, Vec<[f32; 2]>) {
    let (weight, bias) = (elements(weight), elements(bias));
    let values = elements(x);
    let width = weight.len();
    let mut out = take(values.len());
    let mut moments = vec![[0.0; 2]; values.len() / width.max(1)];
    out.par_chunks_mut(ROWS * width.max(1))
        .zip(values.par_chunks(ROWS * width.max(1)))
        .zip(moments.par_chunks_mut(ROWS))
        .for_each(|((out, values), moments)| {
            widest(|| {
                let rows = out
                    .chunks_exact_mut(width)
                    .zip(values.chunks_exact(width))
                    .zip(moments);
                for ((out, x), moments) in rows {
                    let mean = sum(width, |i| x[i]) / width as f32;
                    let variance = sum(width, |i| (x[i] - mean) * (x[i] - mean)) / width as f32;
                    let inverse = 1.0 / (variance + epsilon).sqrt();
                    for (((out, x), weight), bias) in out.iter_mut().zip(x).zip(weight).zip(bias) {
                        *out = (x - mean) * inverse * weight + bias;
                    }
                    *moments = [mean, inverse];
                }
            });
        });
    (from_vec(out, shape(x)), moments)
}

/// What the backward pass needs.
#[derive(Clone, Debug)]
struct Saved {
    x: FlexTensor,
    weight: FlexTensor,
    moments: Vec<[f32; 2]>,
}

impl Saved {
    /// With x̂ = (x − mean) · inverse and g = d_out · weight:
    /// dx = inverse · (g − mean(g) − x̂ · mean(g x̂)), d_weight = Σ d_out x̂, d_bias = Σ d_out.
    fn backward(&self, d_out: &FlexTensor) -> [FlexTensor; 3] {
        let (values, gradient, weight) =
            (elements(&self.x), elements(d_out), elements(&self.weight));
        let width = weight.len();
        let mut dx = take(values.len());
        let partial: Vec<Vec<f32>> = dx
            .par_chunks_mut(ROWS * width.max(1))
            .zip(values.par_chunks(ROWS * width.max(1)))
            .zip(gradient.par_chunks(ROWS * width.max(1)))
            .zip(self.moments.par_chunks(ROWS))
            .map(|(((dx, values), gradient), moments)| {
                let mut sums = vec![0.0; 2 * width];
                let (d_weight, d_bias) = sums.split_at_mut(width);
                widest(|| {
                    let rows = dx.chunks_exact_mut(width).zip(values.chunks_exact(width));
                    for (((dx, x), d_out), [mean, inverse]) in
                        rows.zip(gradient.chunks_exact(width)).zip(moments)
                    {
                        let (x, d_out, weight) = (&x[..width], &d_out[..width], &weight[..width]);
                        let g = sum(width, |i| d_out[i] * weight[i]) / width as f32;
                        let gx = sum(width, |i| d_out[i] * weight[i] * (x[i] - mean)) * inverse
                            / width as f32;
                        for i in 0..width {
                            let normal = (x[i] - mean) * inverse;
                            dx[i] = inverse * (d_out[i] * weight[i] - g - normal * gx);
                            d_weight[i] += d_out[i] * normal;
                            d_bias[i] += d_out[i];
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
        [
            from_vec(dx, shape(&self.x)),
            from_vec(sums, vec![width]),
            from_vec(d_bias, vec![width]),
        ]
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
        let x = contiguous(x);
        let out = forward(&x, &weight, &bias, epsilon).0;
        give_back(x);
        out
    }
}

#[derive(Debug)]
struct LayerNormBackward;

impl Backward<Flex, 3> for LayerNormBackward {
    type State = Saved;

    fn backward(self, ops: Ops<Saved, 3>, grads: &mut Gradients, _checkpointer: &mut Checkpointer) {
        let d_out = contiguous(grads.consume::<Flex>(&ops.node));
        for (parent, gradient) in ops.parents.iter().zip(ops.state.backward(&d_out)) {
            if let Some(parent) = parent {
                grads.register::<Flex>(parent.id, gradient);
            }
        }
        give_back(d_out);
        give_back(ops.state.x);
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
        let (x, weight) = (contiguous(x.into_primitive()), weight.into_primitive());
        let (out, moments) = forward(&x, &weight, bias.primitive(), epsilon);
        match LayerNormBackward
            .prepare::<C>(nodes)
            .compute_bound()
            .stateful()
        {
            OpsKind::Tracked(prep) => prep.finish(Saved { x, weight, moments }, out),
            OpsKind::UnTracked(prep) => prep.finish(out),
        }
    }
}
