//! The attention family against the definition, computed by hand in double precision.

use burn::tensor::{Device, Tensor};
use regard_nn::Noise;
use regard_nn::mechanisms::{
    AdditiveConfig, CosineConfig, Dot, GeneralConfig, Input, LearnedQuery, ScaledDot,
};

use crate::closeness::{assert_close, values};
use crate::gradients::random;

const LENGTHS: [usize; 2] = [5, 2];

/// Softmax of `score(query, key)` over the visible keys, for every row and query: `[2, queries, 5]`.
fn expected(
    q: &[f32],
    k: &[f32],
    query_dim: usize,
    key_dim: usize,
    score: impl Fn(&[f32], &[f32]) -> f64,
) -> Vec<f32> {
    let mut weights = Vec::new();
    for (row, (q, k)) in q.chunks(q.len() / 2).zip(k.chunks(k.len() / 2)).enumerate() {
        for q in q.chunks(query_dim) {
            let scores = k
                .chunks(key_dim)
                .take(LENGTHS[row])
                .map(|k| score(q, k).exp());
            let scores: Vec<f64> = scores.collect();
            let sum: f64 = scores.iter().sum();
            weights.extend(
                (0..5).map(|key| scores.get(key).map_or(0.0, |score| (score / sum) as f32)),
            );
        }
    }
    weights
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter()
        .zip(b)
        .map(|(a, b)| f64::from(*a) * f64::from(*b))
        .sum()
}

fn tensors(query_dim: usize, key_dim: usize) -> [Tensor<3>; 3] {
    let device = Device::flex();
    [
        random([2, 3, query_dim], 1, &device),
        random([2, 5, key_dim], 2, &device),
        random([2, 5, 4], 3, &device),
    ]
}

fn check(
    [q, k, v]: [Tensor<3>; 3],
    forward: impl Fn(Input) -> (Tensor<3>, Tensor<3>),
    alone: impl Fn(Input) -> Tensor<3>,
    score: impl Fn(&[f32], &[f32]) -> f64,
) {
    let input = Input::new(q.clone(), k.clone(), v.clone()).visible_keys(LENGTHS.to_vec());
    let (out, weights) = forward(input.clone());
    let expected = expected(&values(&q), &values(&k), q.dims()[2], k.dims()[2], score);
    assert_close(&values(&weights), &expected, "weights");
    assert_close(
        &values(&out),
        &values(&weights.matmul(v)),
        "output is the weighted sum",
    );
    assert_close(
        &values(&alone(input)),
        &values(&out),
        "with and without weights",
    );
}

#[test]
fn every_mechanism_weighs_by_the_softmax_of_its_score() {
    let (noise, device) = (&mut Noise::at(2, 2), &Device::flex());
    check(
        tensors(6, 6),
        |x| Dot.forward_with_weights(x),
        |x| Dot.forward(x),
        dot,
    );
    let scaled = |q: &[f32], k: &[f32]| dot(q, k) / 6_f64.sqrt();
    check(
        tensors(6, 6),
        |x| ScaledDot.forward_with_weights(x),
        |x| ScaledDot.forward(x),
        scaled,
    );
    let cosine = CosineConfig { sharpness: 3.0 }.init();
    let score = |q: &[f32], k: &[f32]| 3.0 * dot(q, k) / (dot(q, q) * dot(k, k)).sqrt();
    check(
        tensors(6, 6),
        |x| cosine.forward_with_weights(x),
        |x| cosine.forward(x),
        score,
    );
    let general = GeneralConfig {
        query_dim: 6,
        key_dim: 3,
    }
    .init(noise, device);
    let w = values(&general.weight.val());
    let score = |q: &[f32], k: &[f32]| {
        q.iter()
            .zip(w.chunks(3))
            .map(|(q, w)| f64::from(*q) * dot(w, k))
            .sum()
    };
    check(
        tensors(6, 3),
        |x| general.forward_with_weights(x),
        |x| general.forward(x),
        score,
    );
    let additive = AdditiveConfig {
        query_dim: 6,
        key_dim: 3,
        hidden: 7,
    }
    .init(noise, device);
    let (u, v) = (
        values(&additive.query.weight.val()),
        values(&additive.key.val()),
    );
    let w = values(&additive.score.val());
    let score = |q: &[f32], k: &[f32]| {
        let inner = |h: usize| {
            let from_query: f64 = (0..6).map(|i| f64::from(q[i] * u[7 * i + h])).sum();
            from_query + (0..3).map(|i| f64::from(k[i] * v[7 * i + h])).sum::<f64>()
        };
        (0..7).map(|h| f64::from(w[h]) * inner(h).tanh()).sum()
    };
    check(
        tensors(6, 3),
        |x| additive.forward_with_weights(x),
        |x| additive.forward(x),
        score,
    );
}

#[test]
fn a_learned_query_weighs_each_text_alike() {
    let device = Device::flex();
    let learned = LearnedQuery::new(3, 6, 1.0, &mut Noise::at(2, 3), &device);
    let x = random::<3>([2, 5, 6], 1, &device);
    let queries = values(&learned.queries.val()).repeat(2);
    let (out, weights) = learned.forward_with_weights(x.clone(), Some(&LENGTHS));
    assert_close(
        &values(&weights),
        &expected(&queries, &values(&x), 6, 6, dot),
        "weights",
    );
    assert_close(
        &values(&out),
        &values(&weights.matmul(x)),
        "output is the weighted sum",
    );
}

#[test]
fn a_row_without_visible_keys_gives_zero() {
    let device = Device::flex();
    let additive = AdditiveConfig {
        query_dim: 6,
        key_dim: 6,
        hidden: 7,
    }
    .init(&mut Noise::at(2, 4), &device);
    let input = || {
        let [q, k, v] = tensors(6, 6);
        Input::new(q, k, v).visible_keys(vec![0, 5])
    };
    for out in [additive.forward(input()), Dot.forward(input())] {
        let out = values(&out);
        assert!(
            out[..12].iter().all(|value| *value == 0.0)
                && out[12..].iter().all(|value| value.is_finite())
        );
    }
}

#[test]
fn a_vector_of_zeros_has_cosine_zero_with_all() {
    let device = Device::flex();
    let zeros = Tensor::<3>::zeros([1, 1, 6], &device);
    let keys = random::<3>([1, 4, 6], 1, &device);
    let cosine = CosineConfig { sharpness: 5.0 }.init();
    let (_, weights) = cosine.forward_with_weights(Input::new(zeros, keys.clone(), keys));
    assert_close(&values(&weights), &[0.25; 4], "weights");
}
