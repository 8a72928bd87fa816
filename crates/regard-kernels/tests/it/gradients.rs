//! The gradients of the definition are those of the definition: finite differences, in f64, along random directions.

use ndarray::Array4;
use regard_kernels::Causal;
use regard_kernels::reference::{Options, backward, forward};

use crate::case::random;

const H: f64 = 1e-5;

/// q, k, v, the bias and the sinks.
type Point = [Array4<f64>; 5];

fn moved(point: &Point, step: f64, direction: &Point) -> Point {
    std::array::from_fn(|i| &point[i] + &(&direction[i] * step))
}

fn check(
    options: &Options<'_>,
    heads: usize,
    kv_heads: usize,
    bias_shape: (usize, usize, usize, usize),
) {
    let (batch, queries, keys, head_dim, value_dim) = (2, 5, 7, 4, 3);
    let double = |shape, seed| random(shape, seed).mapv(f64::from);
    let shapes = [
        (batch, heads, queries, head_dim),
        (batch, kv_heads, keys, head_dim),
        (batch, kv_heads, keys, value_dim),
        bias_shape,
        (1, heads, 1, 1),
    ];
    let point: Point = std::array::from_fn(|i| double(shapes[i], i as u64));
    let d_out = double((batch, heads, queries, value_dim), 9);
    let loss = |point: &Point| {
        let options = Options {
            bias: Some(point[3].view()),
            sinks: options.sinks.and(point[4].as_slice()),
            ..*options
        };
        (forward(point[0].view(), point[1].view(), point[2].view(), &options).out * &d_out).sum()
    };
    let with_bias = Options {
        bias: Some(point[3].view()),
        sinks: options.sinks.and(point[4].as_slice()),
        ..*options
    };
    let found = backward(
        point[0].view(),
        point[1].view(),
        point[2].view(),
        d_out.view(),
        &with_bias,
    );
    let gradient = [
        found.q,
        found.k,
        found.v,
        found.bias.expect("there is a bias"),
        found.sinks.map_or_else(
            || Array4::zeros(shapes[4]),
            |sinks| Array4::from_shape_vec(shapes[4], sinks).expect("one a head"),
        ),
    ];
    for trial in 0..4 {
        let direction: Point =
            std::array::from_fn(|i| double(shapes[i], 100 * (trial + 1) + i as u64));
        // (f(x + h·u) − f(x − h·u)) / 2h = ⟨∇f(x), u⟩
        let slope = (loss(&moved(&point, H, &direction)) - loss(&moved(&point, -H, &direction)))
            / (2.0 * H);
        let inner: f64 = gradient
            .iter()
            .zip(&direction)
            .map(|(g, u)| (g * u).sum())
            .sum();
        assert!(
            (slope - inner).abs() < 1e-8,
            "{slope} along the direction, {inner} by the gradient"
        );
    }
}

#[test]
fn the_gradient_is_the_slope_in_every_direction() {
    check(&Options::default(), 2, 2, (2, 2, 5, 7));
}

#[test]
fn so_it_is_with_grouped_heads_masks_and_a_shared_bias() {
    let mask = random((2, 1, 5, 7), 7).mapv(|x| x < 0.6);
    let options = Options {
        scale: Some(0.7),
        causal: Some(Causal::BottomRight),
        visible_keys: Some(&[7, 5]),
        mask: Some(mask.view()),
        ..Options::default()
    };
    check(&options, 4, 2, (1, 4, 1, 7));
    check(&options, 4, 1, (2, 1, 5, 1));
}

#[test]
fn so_it_is_with_a_window_a_soft_cap_and_sinks() {
    let options = Options {
        causal: Some(Causal::Offset(1)),
        window: (Some(2), None),
        softcap: Some(0.8),
        sinks: Some(&[]), // the point has them
        ..Options::default()
    };
    check(&options, 4, 2, (1, 4, 1, 7));
    // Queries that see nothing but the sink.
    let options = Options {
        window: (Some(1), Some(1)),
        visible_keys: Some(&[7, 0]),
        ..options
    };
    check(&options, 4, 2, (2, 4, 5, 7));
}
