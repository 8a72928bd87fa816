//! The feed-forward part of a layer: two linear maps and what lies between them.

use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, Flex, backend_extension};
use burn::tensor::Tensor;
use regard_kernels::product_then;

use super::kept::Weight;
use super::linear::{Map, answer, by_weight_and_bias, times};
use super::memory::{give_back, take};
use super::storage::{FlexTensor, contiguous, elements, from_vec, register, shape, view2};
use super::vectors::widest;
use super::{composed, gelu, is_fused};
use crate::noise::DropoutMask;

/// `out = dropout(gelu(x W₁ + b₁)) W₂ + b₂`.
///
/// On the CPU the rows of the first product are activated while they are in the cache, and so are, in the backward pass,
/// the gradients of the activation: what lies between the maps is the largest array of a layer.
///
/// # Shapes
/// - `x`: `[rows, width]`, `inner`: `width → length`, `outer`: `length → outputs`
/// - out: `[rows, outputs]`
///
/// # Panics
///
/// If the shapes do not fit.
pub(crate) fn feed_forward(
    x: Tensor<2>,
    inner: Map,
    outer: Map,
    mask: Option<DropoutMask>,
) -> Tensor<2> {
    for (inputs, (weight, bias)) in [(x.dims()[1], &inner), (inner.0.dims()[1], &outer)] {
        let [expected, outputs] = weight.dims();
        assert_eq!(inputs, expected, "feed-forward: inputs of a map");
        assert_eq!(bias.dims(), [outputs], "feed-forward: bias of a map");
    }
    if !is_fused(&x) || !is_fused(&inner.0) {
        return composed::feed_forward(x, inner, outer, mask);
    }
    Tensor::from_dispatch(<Dispatch as FusedFeedForward>::fused_feed_forward(
        x.into_dispatch(),
        inner.0.into_dispatch(),
        inner.1.into_dispatch(),
        outer.0.into_dispatch(),
        outer.1.into_dispatch(),
        mask,
    ))
}

/// What the backward pass needs: `x`, both weights, what the first map gave, and that activated.
#[derive(Clone, Debug)]
struct Saved {
    x: FlexTensor,
    weights: [FlexTensor; 2],
    before: FlexTensor,
    after: FlexTensor,
    mask: Option<DropoutMask>,
}

/// The first map, and that activated.
fn activated(
    x: &FlexTensor,
    weight: &FlexTensor,
    bias: &FlexTensor,
    mask: Option<DropoutMask>,
) -> [FlexTensor; 2] {
    let (x, weight, bias) = (view2(x), view2(weight), bias.to_contiguous());
    let (rows, length) = (x.nrows(), weight.ncols());
    let (mut before, mut after) = (take(rows * length), take(rows * length));
    product_then(
        x,
        weight,
        Some(elements(&bias)),
        &mut before,
        &mut after,
        |first, before, after| {
            widest(|| {
                for (after, before) in after.iter_mut().zip(before) {
                    *after = gelu::value(*before);
                }
            });
            if let Some(mask) = mask {
                widest(|| mask.apply_to(first * length, after));
            }
        },
    );
    [before, after].map(|values| from_vec(values, vec![rows, length]))
}

/// The first map activated in its place, for answers.
fn only_activated(x: &FlexTensor, weight: &FlexTensor, bias: &FlexTensor) -> FlexTensor {
    let (weight, bias) = (Weight::of(weight), bias.to_contiguous());
    let shape = vec![shape(x)[0], weight.columns()];
    let mut out = take(shape[0] * shape[1]);
    let activate = |_: usize, out: &mut [f32], _: &mut [f32]| {
        widest(|| out.iter_mut().for_each(|x| *x = gelu::value(*x)));
    };
    let bias = Some(elements(&bias));
    weight.product_then(&view2(x), bias, &mut out, &mut [], activate);
    from_vec(out, shape)
}

fn outer_map(x: &FlexTensor, weight: &FlexTensor, bias: &FlexTensor) -> FlexTensor {
    let bias = bias.to_contiguous();
    let (x, weight) = (view2(x), view2(weight));
    let shape = vec![x.nrows(), weight.ncols()];
    from_vec(times(&x, &weight, Some(elements(&bias))), shape)
}

#[backend_extension(Autodiff, Flex)]
trait FusedFeedForward: Backend {
    fn fused_feed_forward(
        x: FloatTensor<Self>,
        inner: FloatTensor<Self>,
        inner_bias: FloatTensor<Self>,
        outer: FloatTensor<Self>,
        outer_bias: FloatTensor<Self>,
        mask: Option<DropoutMask>,
    ) -> FloatTensor<Self>;
}

impl FusedFeedForward for Flex {
    fn fused_feed_forward(
        x: FlexTensor,
        inner: FlexTensor,
        inner_bias: FlexTensor,
        outer: FlexTensor,
        outer_bias: FlexTensor,
        mask: Option<DropoutMask>,
    ) -> FlexTensor {
        let after = match mask {
            None => only_activated(&x, &inner, &inner_bias),
            Some(_) => {
                let [before, after] = activated(&x, &inner, &inner_bias, mask);
                give_back(before);
                after
            }
        };
        give_back(x);
        answer(after, &outer, &outer_bias)
    }
}

#[derive(Debug)]
struct FeedForwardBackward;

impl Backward<Flex, 5> for FeedForwardBackward {
    type State = Saved;

    fn backward(self, ops: Ops<Saved, 5>, grads: &mut Gradients, _checkpointer: &mut Checkpointer) {
        let d_out = contiguous(grads.consume::<Flex>(&ops.node));
        let [of_x, of_inner, of_inner_bias, of_outer, of_outer_bias] =
            ops.parents.map(|node| node.map(|node| node.id));
        let Saved {
            x,
            weights: [inner, outer],
            before,
            after,
            mask,
        } = ops.state;
        // out = after W₂ + b₂
        let gradients = by_weight_and_bias(&view2(&after), &view2(&d_out));
        register(grads, [of_outer, of_outer_bias], gradients);
        give_back(after);
        // after = mask · gelu(before), so d_before = mask · gelu'(before) · (d_out W₂ᵀ)
        let (rows, length) = (shape(&before)[0], shape(&before)[1]);
        let mut d_before = take(rows * length);
        product_then(
            view2(&d_out),
            view2(&outer).t(),
            None,
            &mut d_before,
            &mut [],
            |first, d_before, _| {
                let before = &elements(&before)[first * length..][..d_before.len()];
                widest(|| {
                    for (d_before, before) in d_before.iter_mut().zip(before) {
                        *d_before *= gelu::slope(*before);
                    }
                });
                if let Some(mask) = mask {
                    widest(|| mask.apply_to(first * length, d_before));
                }
            },
        );
        give_back(d_out);
        give_back(before);
        let d_before = from_vec(d_before, vec![rows, length]);
        // before = x W₁ + b₁
        let gradients = by_weight_and_bias(&view2(&x), &view2(&d_before));
        register(grads, [of_inner, of_inner_bias], gradients);
        if let Some(parent) = of_x {
            let dx = times(&view2(&d_before), &view2(&inner).t(), None);
            grads.register::<Flex>(parent, from_vec(dx, shape(&x)));
        }
        give_back(d_before);
        give_back(x);
    }
}

impl<C: CheckpointStrategy> FusedFeedForward for Autodiff<Flex, C> {
    fn fused_feed_forward(
        x: FloatTensor<Self>,
        inner: FloatTensor<Self>,
        inner_bias: FloatTensor<Self>,
        outer: FloatTensor<Self>,
        outer_bias: FloatTensor<Self>,
        mask: Option<DropoutMask>,
    ) -> FloatTensor<Self> {
        let nodes = [&x, &inner, &inner_bias, &outer, &outer_bias].map(|tensor| tensor.node());
        let x = x.into_primitive();
        let (inner, outer) = (inner.into_primitive(), outer.into_primitive());
        let [before, after] = activated(&x, &inner, inner_bias.primitive(), mask);
        let out = outer_map(&after, &outer, outer_bias.primitive());
        match FeedForwardBackward
            .prepare::<C>(nodes)
            .compute_bound()
            .stateful()
        {
            OpsKind::Tracked(prep) => {
                let saved = Saved {
                    x,
                    weights: [inner, outer],
                    before,
                    after,
                    mask,
                };
                prep.finish(saved, out)
            }
            OpsKind::UnTracked(prep) => prep.finish(out),
        }
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, TensorData};

    use super::*;
    use crate::Noise;

    fn random<const D: usize>(shape: [usize; D], step: u64, device: &Device) -> Tensor<D> {
        let values = Noise::at(4, step).normal(shape.iter().product());
        Tensor::from_data(TensorData::new(values, shape), device)
    }

    fn values<const D: usize>(x: &Tensor<D>) -> Vec<f32> {
        x.clone().inner().into_data().iter::<f32>().collect()
    }

    /// Output and gradients of everything.
    fn run(
        compute: fn(Tensor<2>, Map, Map, Option<DropoutMask>) -> Tensor<2>,
        mask: Option<DropoutMask>,
    ) -> Vec<Vec<f32>> {
        let device = Device::flex().autodiff();
        let x = random([150, 9], 1, &device).require_grad();
        let map = |inputs, outputs, step| {
            let weight = random([inputs, outputs], step, &device).require_grad();
            (weight, random([outputs], step + 1, &device).require_grad())
        };
        // A length that no group of four fits.
        let (inner, outer) = (map(9, 37, 2), map(37, 5, 4));
        let out = compute(x.clone(), inner.clone(), outer.clone(), mask);
        let seed = random(out.dims(), 6, &device);
        let gradients = (out.clone() * seed).sum().backward();
        let mut found = vec![values(&out), values(&x.grad(&gradients).unwrap())];
        for (weight, bias) in [inner, outer] {
            found.push(values(&weight.grad(&gradients).unwrap()));
            found.push(values(&bias.grad(&gradients).unwrap()));
        }
        found
    }

    #[test]
    fn one_operation_is_what_it_is_composed_of() {
        for mask in [None, Noise::at(1, 1).mask(0.3)] {
            let (fused, plain) = (run(feed_forward, mask), run(composed::feed_forward, mask));
            for (part, (fused, plain)) in fused.iter().zip(&plain).enumerate() {
                let largest = plain
                    .iter()
                    .fold(1.0_f32, |largest, x| largest.max(x.abs()));
                for (fused, plain) in fused.iter().zip(plain) {
                    let difference = (fused - plain).abs();
                    assert!(difference <= 6e-6 * largest, "part {part}: {fused} {plain}");
                }
            }
        }
    }

    #[test]
    fn without_gradients_it_gives_the_same() {
        let device = Device::flex();
        let x = random([150, 9], 1, &device);
        let map = |inputs, outputs, step| {
            (
                random([inputs, outputs], step, &device),
                random([outputs], step + 1, &device),
            )
        };
        let (inner, outer) = (map(9, 37, 2), map(37, 5, 4));
        for mask in [None, Noise::at(1, 1).mask(0.3)] {
            let found = feed_forward(x.clone(), inner.clone(), outer.clone(), mask);
            assert_eq!(values(&found), run(feed_forward, mask)[0]);
        }
    }
}
