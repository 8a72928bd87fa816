//! The feed-forward half of a layer as one operation.

use std::sync::Arc;

use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, Flex, backend_extension};
use burn::tensor::Tensor;
use regard_kernels::product_then;

use super::kept::Weight;
use super::layer_norm::{Moments, Norm};
use super::linear::{Map, by_weight_and_bias, times};
use super::memory::{give_back, give_back_array, take};
use super::storage::{FlexTensor, contiguous, elements, from_vec, matrix, register, shape, view2};
use super::vectors::widest;
use super::{Activation, Normalisation, Residual, composed, is_fused};
use crate::noise::DropoutMask;

/// What [`feed_forward`] is told beside its tensors.
#[derive(Clone, Debug, Default)]
pub struct FeedForwardRules {
    /// Between the two maps.
    pub activation: Activation,
    pub(crate) mask: Option<DropoutMask>,
    /// How the part is added to what passes it by.
    pub residual: Residual,
}

/// `out = x + residual(dropout(activation(norm(x) W₁ + b₁)) W₂ + b₂)`: half of a layer that normalises first.
///
/// On the CPU rows of the first product are activated while they are in the cache, and rows of the second one are added to
/// `x` there; so are, in the backward pass, the gradients of the activation, and both ways that lead to the gradient of `x`.
/// What is kept for the backward pass is `x`, which the layer before made, and what the first map gave: the normalised rows
/// and the activated ones, the largest array of a layer, are computed again.
///
/// # Shapes
/// - `x`, out: `[rows, width]`, `inner`: `width → length`, `outer`: `length → width`
///
/// # Panics
///
/// If the shapes do not fit.
pub fn feed_forward(
    x: Tensor<2>,
    norm: Normalisation,
    inner: Map,
    outer: Map,
    rules: FeedForwardRules,
) -> Tensor<2> {
    let width = x.dims()[1];
    let length = inner.0.dims()[1];
    for ((weight, bias), [inputs, outputs]) in
        [(&inner, [width, length]), (&outer, [length, width])]
    {
        assert_eq!(weight.dims(), [inputs, outputs], "feed-forward: a weight");
        assert_eq!(bias.dims(), [outputs], "feed-forward: a bias");
    }
    assert_eq!(norm.weight.dims(), [width], "feed-forward: the norm");
    if !is_fused(&x) || !is_fused(&inner.0) {
        return composed::feed_forward(x, norm, inner, outer, &rules);
    }
    let rules = Rules {
        epsilon: norm.epsilon as f32,
        of_part: rules,
    };
    Tensor::from_dispatch(<Dispatch as FusedFeedForward>::fused_feed_forward(
        x.into_dispatch(),
        norm.weight.into_dispatch(),
        norm.bias.into_dispatch(),
        inner.0.into_dispatch(),
        inner.1.into_dispatch(),
        outer.0.into_dispatch(),
        outer.1.into_dispatch(),
        Arc::new(rules),
    ))
}

#[derive(Debug)]
struct Rules {
    epsilon: f32,
    of_part: FeedForwardRules,
}

/// What the backward pass needs.
#[derive(Clone, Debug)]
struct Saved {
    x: FlexTensor,
    norm: Norm,
    moments: Moments,
    weights: [FlexTensor; 2],
    /// What the first map gave.
    before: Vec<f32>,
    rules: Arc<Rules>,
}

/// The output, and what the backward pass needs; nothing of that where it is an answer, whose weights stay packed.
fn forward(
    x: FlexTensor,
    norm: Norm,
    [inner, outer]: [FlexTensor; 2],
    [inner_bias, outer_bias]: [&FlexTensor; 2],
    rules: Arc<Rules>,
    for_answer: bool,
) -> (FlexTensor, Option<Saved>) {
    let x = contiguous(x);
    let (rows, width) = (shape(&x)[0], shape(&x)[1]);
    let FeedForwardRules {
        activation,
        mask,
        residual,
    } = &rules.of_part;
    let (normed, moments) = norm.forward(elements(&x));
    let weight = Weight::new(&inner, for_answer);
    let length = weight.columns();
    let mut before = take(rows * length);
    let mut after = match for_answer {
        true => Vec::new(),
        false => take(rows * length),
    };
    let bias = inner_bias.to_contiguous();
    weight.product_then(
        &matrix(&normed, rows, width),
        Some(elements(&bias)),
        &mut before,
        &mut after,
        |first, before, after| {
            let after = match after.is_empty() {
                true => before,
                false => {
                    after.copy_from_slice(before);
                    after
                }
            };
            activation.forward(after);
            if let Some(mask) = mask {
                widest!(mask.apply_to(first * length, after));
            }
        },
    );
    give_back_array(normed);
    let mut out = take(rows * width);
    let bias = outer_bias.to_contiguous();
    let activated = if for_answer { &before } else { &after };
    Weight::new(&outer, for_answer).product_then(
        &matrix(activated, rows, length),
        Some(elements(&bias)),
        &mut out,
        &mut [],
        |first, out, _| residual.add(elements(&x), first, out, width),
    );
    give_back_array(after);
    let out = from_vec(out, vec![rows, width]);
    if for_answer {
        give_back_array(before);
        give_back(x);
        return (out, None);
    }
    let saved = Saved {
        x,
        norm,
        moments,
        weights: [inner, outer],
        before,
        rules,
    };
    (out, Some(saved))
}

#[allow(
    clippy::too_many_arguments,
    reason = "tensors of an operation are arguments, and the macro repeats them"
)]
#[backend_extension(Autodiff, Flex)]
trait FusedFeedForward: Backend {
    fn fused_feed_forward(
        x: FloatTensor<Self>,
        norm: FloatTensor<Self>,
        norm_bias: FloatTensor<Self>,
        inner: FloatTensor<Self>,
        inner_bias: FloatTensor<Self>,
        outer: FloatTensor<Self>,
        outer_bias: FloatTensor<Self>,
        rules: Arc<Rules>,
    ) -> FloatTensor<Self>;
}

impl FusedFeedForward for Flex {
    fn fused_feed_forward(
        x: FlexTensor,
        norm: FlexTensor,
        norm_bias: FlexTensor,
        inner: FlexTensor,
        inner_bias: FlexTensor,
        outer: FlexTensor,
        outer_bias: FlexTensor,
        rules: Arc<Rules>,
    ) -> FlexTensor {
        let norm = Norm {
            weight: norm,
            bias: norm_bias,
            epsilon: rules.epsilon,
        };
        let biases = [&inner_bias, &outer_bias];
        forward(x, norm, [inner, outer], biases, rules, true).0
    }
}

#[derive(Debug)]
struct FeedForwardBackward;

impl Backward<Flex, 7> for FeedForwardBackward {
    type State = Saved;

    fn backward(self, ops: Ops<Saved, 7>, grads: &mut Gradients, _checkpointer: &mut Checkpointer) {
        let d_out = contiguous(grads.consume::<Flex>(&ops.node));
        let parents = ops.parents.map(|node| node.map(|node| node.id));
        let [of_x, of_norm, of_norm_bias, of_maps @ ..] = parents;
        let [of_inner, of_inner_bias, of_outer, of_outer_bias] = of_maps;
        let Saved {
            x,
            norm,
            moments,
            weights: [inner, outer],
            before,
            rules,
        } = ops.state;
        let FeedForwardRules {
            activation,
            mask,
            residual,
        } = &rules.of_part;
        let (rows, width) = (shape(&x)[0], shape(&x)[1]);
        let length = shape(&inner)[1];
        // out = x + residual(after W₂ + b₂)
        let scaled = residual.backward(elements(&d_out), width);
        let d_part = matrix(scaled.as_deref().unwrap_or(elements(&d_out)), rows, width);
        // after = mask · f(before), so d_before = mask · f'(before) · (d_part W₂ᵀ); `before` becomes `after`.
        let mut after = before;
        let mut d_before = take(rows * length);
        product_then(
            d_part.view(),
            view2(&outer).t(),
            None,
            &mut d_before,
            &mut after,
            |first, d_before, after| {
                activation.backward(after, d_before);
                if let Some(mask) = mask {
                    widest!({
                        mask.apply_to(first * length, d_before);
                        mask.apply_to(first * length, after);
                    });
                }
            },
        );
        let gradients = by_weight_and_bias(&matrix(&after, rows, length), &d_part);
        register(grads, [of_outer, of_outer_bias], gradients);
        give_back_array(after);
        scaled.into_iter().for_each(give_back_array);
        // before = norm(x) W₁ + b₁
        let normed = norm.again(elements(&x), &moments);
        let gradient = matrix(&d_before, rows, length);
        let gradients = by_weight_and_bias(&matrix(&normed, rows, width), &gradient);
        register(grads, [of_inner, of_inner_bias], gradients);
        give_back_array(normed);
        let d_normed = times(&gradient, &view2(&inner).t(), None);
        give_back_array(d_before);
        let passed = Some(elements(&d_out));
        let (dx, of_norms) = norm.backward(elements(&x), &moments, d_normed, passed);
        register(grads, [of_norm, of_norm_bias], of_norms);
        register(grads, [of_x], [from_vec(dx, shape(&x))]);
        give_back(d_out);
        give_back(x);
    }
}

impl<C: CheckpointStrategy> FusedFeedForward for Autodiff<Flex, C> {
    fn fused_feed_forward(
        x: FloatTensor<Self>,
        norm: FloatTensor<Self>,
        norm_bias: FloatTensor<Self>,
        inner: FloatTensor<Self>,
        inner_bias: FloatTensor<Self>,
        outer: FloatTensor<Self>,
        outer_bias: FloatTensor<Self>,
        rules: Arc<Rules>,
    ) -> FloatTensor<Self> {
        let tensors = [
            &x,
            &norm,
            &norm_bias,
            &inner,
            &inner_bias,
            &outer,
            &outer_bias,
        ];
        let nodes = tensors.map(|tensor| tensor.node());
        let norm = Norm {
            weight: norm.into_primitive(),
            bias: norm_bias.into_primitive(),
            epsilon: rules.epsilon,
        };
        let weights = [inner.into_primitive(), outer.into_primitive()];
        let biases = [inner_bias.primitive(), outer_bias.primitive()];
        let (out, saved) = forward(x.into_primitive(), norm, weights, biases, rules, false);
        let prepared = FeedForwardBackward.prepare::<C>(nodes).compute_bound();
        match (prepared.stateful(), saved) {
            (OpsKind::Tracked(prep), Some(saved)) => prep.finish(saved, out),
            (OpsKind::UnTracked(prep), _) => prep.finish(out),
            (_, None) => unreachable!("only answers keep nothing"),
        }
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, TensorData};

    use super::*;
    use crate::{Noise, Sequences};

    type Op = fn(Tensor<2>, Normalisation, Map, Map, FeedForwardRules) -> Tensor<2>;

    const ROWS: usize = 150;
    const WIDTH: usize = 9;
    /// A length that no group of four fits.
    const LENGTH: usize = 37;

    fn random<const D: usize>(shape: [usize; D], step: u64, device: &Device) -> Tensor<D> {
        let values = Noise::at(4, step).normal(shape.iter().product());
        Tensor::from_data(TensorData::new(values, shape), device)
    }

    fn values<const D: usize>(x: &Tensor<D>) -> Vec<f32> {
        x.clone().inner().into_data().iter::<f32>().collect()
    }

    fn arguments(device: &Device) -> (Tensor<2>, Normalisation, Map, Map) {
        let map = |inputs, outputs, step| {
            let weight = random([inputs, outputs], step, device);
            (weight, random([outputs], step + 1, device))
        };
        let norm = Normalisation {
            weight: random([WIDTH], 6, device),
            bias: random([WIDTH], 7, device),
            epsilon: 1e-5,
        };
        let x = random([ROWS, WIDTH], 1, device);
        (x, norm, map(WIDTH, LENGTH, 2), map(LENGTH, WIDTH, 4))
    }

    /// Output and gradients of everything.
    fn run(compute: Op, rules: FeedForwardRules) -> Vec<Vec<f32>> {
        let (x, norm, inner, outer) = arguments(&Device::flex().autodiff());
        let wanted = |x: Tensor<1>| x.require_grad();
        let map = |(weight, bias): Map| (weight.require_grad(), wanted(bias));
        let (x, inner, outer) = (x.require_grad(), map(inner), map(outer));
        let norm = Normalisation {
            weight: wanted(norm.weight),
            bias: wanted(norm.bias),
            ..norm
        };
        let out = compute(x.clone(), norm.clone(), inner.clone(), outer.clone(), rules);
        let seed = random(out.dims(), 8, &out.device());
        let gradients = (out.clone() * seed).sum().backward();
        let mut found = vec![values(&out), values(&x.grad(&gradients).unwrap())];
        for bias in [&norm.weight, &norm.bias, &inner.1, &outer.1] {
            found.push(values(&bias.grad(&gradients).unwrap()));
        }
        for weight in [inner.0, outer.0] {
            found.push(values(&weight.grad(&gradients).unwrap()));
        }
        found
    }

    #[expect(
        clippy::needless_pass_by_value,
        reason = "it stands where the operation does"
    )]
    fn plain(
        x: Tensor<2>,
        norm: Normalisation,
        inner: Map,
        outer: Map,
        rules: FeedForwardRules,
    ) -> Tensor<2> {
        composed::feed_forward(x, norm, inner, outer, &rules)
    }

    fn all_rules() -> Vec<FeedForwardRules> {
        let noise = &mut Noise::at(1, 1);
        let residual = noise.residual(0.2, 0.5, &Sequences::new([100, 50]));
        let noisy = FeedForwardRules {
            activation: Activation::Gelu,
            mask: noise.mask(0.3),
            residual,
        };
        let relu = FeedForwardRules {
            activation: Activation::Relu,
            ..noisy.clone()
        };
        vec![FeedForwardRules::default(), noisy, relu]
    }

    #[test]
    fn one_operation_is_what_it_is_composed_of() {
        for rules in all_rules() {
            let (fused, plain) = (run(feed_forward, rules.clone()), run(plain, rules));
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
        for rules in all_rules() {
            // The second time the weights are packed.
            let (x, norm, inner, outer) = arguments(&Device::flex());
            for _ in 0..2 {
                let [inner, outer] = [inner.clone(), outer.clone()];
                let found = feed_forward(x.clone(), norm.clone(), inner, outer, rules.clone());
                assert_eq!(values(&found), run(feed_forward, rules.clone())[0]);
            }
        }
    }
}
