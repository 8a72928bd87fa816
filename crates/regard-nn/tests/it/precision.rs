//! Models under `Precision::Bf16`: products are rounded forward and backward, and nothing else.

use burn::tensor::{Device, Int, Tensor, TensorData};
use regard_kernels::Precision;
use regard_nn::models::text_classifier::{Kind, TextBatch, TextClassifierConfig};
use regard_nn::operation::{Windows, convolution, has_own_products, linear};
use regard_nn::optimizer::{AdamW, AdamWConfig};
use regard_nn::{Noise, Sequences};

fn random<const D: usize>(shape: [usize; D], step: u64) -> Tensor<D> {
    let values = Noise::at(4, step).normal(shape.iter().product());
    let device = Device::flex().autodiff();
    Tensor::from_data(TensorData::new(values, shape), &device).require_grad()
}

fn values<const D: usize>(x: Tensor<D>) -> Vec<f32> {
    x.inner().into_data().iter::<f32>().collect()
}

/// The largest difference, as a share of the largest number.
fn apart(found: &[f32], expected: &[f32]) -> f32 {
    let largest = expected.iter().fold(0.0_f32, |most, x| most.max(x.abs()));
    let pairs = found.iter().zip(expected);
    pairs.fold(0.0_f32, |most, (a, b)| most.max((a - b).abs())) / largest
}

/// `compute` in bf16 is near what it is in f32, and not the same.
fn is_rounded(compute: impl Fn() -> Vec<Vec<f32>>) {
    // On a back end that is not ours there is nothing to see.
    if !has_own_products(&Device::flex()) {
        return;
    }
    let exact = compute();
    let rounded = Precision::Bf16.run(&compute);
    for (part, (rounded, exact)) in rounded.iter().zip(&exact).enumerate() {
        let apart = apart(rounded, exact);
        assert!((1e-4..0.02).contains(&apart), "part {part}: {apart}");
    }
    assert_eq!(compute(), exact, "a precision that is over");
}

#[test]
fn a_linear_map_and_the_gradients_of_its_sides_are_rounded() {
    is_rounded(|| {
        let (x, weight) = (random([70, 40], 1), random([40, 30], 2));
        let out = linear(x.clone(), weight.clone(), random([30], 3));
        let gradients = (out.clone() * random([70, 30], 4)).sum().backward();
        let of = [x, weight].map(|x| values(x.grad(&gradients).expect("it has one")));
        [vec![values(out)], of.to_vec()].concat()
    });
}

#[test]
fn convolution_hands_its_precision_to_the_threads_that_multiply() {
    is_rounded(|| {
        let (x, weight) = (random([20, 9, 9, 3], 1), random([27, 8], 2));
        let windows = Windows {
            size: 3,
            stride: 1,
            padding: 1,
        };
        let out = convolution(x.clone(), weight.clone(), windows);
        let gradients = (out.clone() * random(out.dims(), 4)).sum().backward();
        let of_x = values(x.grad(&gradients).expect("it has one"));
        let of_weight = values(weight.grad(&gradients).expect("it has one"));
        vec![values(out), of_x, of_weight]
    });
}

/// The losses of so many steps on 48 texts whose label is whether they begin with an even word.
fn losses(steps: u64) -> Vec<f32> {
    let config = TextClassifierConfig {
        kind: Kind::Transformer,
        vocabulary: 50,
        bigram_buckets: 0,
        classes: 2,
        width: 32,
        layers: 2,
        heads: 2,
        feed_forward: 64,
        pooling_heads: 1,
        max_tokens: 12,
        dropout: 0.0,
    };
    let device = Device::flex().autodiff();
    let mut model = config.init(1, &device);
    let mut optimizer = AdamW::new(AdamWConfig::default());
    let ids: Vec<i32> = (0..48 * 12).map(|at| at * 7919 % 50).collect();
    let wanted: Vec<i32> = ids.iter().step_by(12).map(|id| id % 2).collect();
    let wanted = Tensor::<2, Int>::from_data(TensorData::new(wanted, [48, 1]), &device);
    let mut losses = Vec::new();
    for _ in 0..steps {
        let texts = TextBatch {
            tokens: Tensor::from_data(TensorData::new(ids.clone(), [48 * 12]), &device),
            bigrams: None,
            texts: Sequences::equal(48, 12),
        };
        let logits = model.forward(&texts, &mut Noise::off());
        let chosen = burn::tensor::activation::log_softmax(logits, 1).gather(1, wanted.clone());
        let loss = chosen.mean().neg();
        losses.push(loss.clone().into_scalar::<f32>());
        model = optimizer.step(model, loss.backward(), 3e-3).0;
    }
    losses
}

#[test]
fn fifty_steps_in_bf16_learn_what_fifty_in_f32_do() {
    let (exact, rounded) = (losses(50), Precision::Bf16.run(|| losses(50)));
    assert!(exact[49] < 0.5 * exact[0], "{exact:?}");
    for (step, (rounded, exact_at)) in rounded.iter().zip(&exact).enumerate() {
        let apart = (rounded - exact_at).abs() / exact[0];
        assert!(apart < 0.05, "step {step}: {rounded}, {exact_at} in f32");
    }
    assert_eq!(
        rounded,
        Precision::Bf16.run(|| losses(50)),
        "the same bits every time"
    );
}
