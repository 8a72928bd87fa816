//! The gradients of the definition are those of the definition: finite differences, in f64, along random directions.

use ndarray::{Array4, Axis, aview2};
use regard_kernels::reference::{Options, backward, forward};
use regard_kernels::{Blocks, Causal, Dropout};

use crate::numbers::random;

const H: f64 = 1e-5;

/// q, k, v, the bias, the sinks and the slopes.
type Point = [Array4<f64>; 6];

fn moved(point: &Point, step: f64, direction: &Point) -> Point {
    std::array::from_fn(|i| &point[i] + &(&direction[i] * step))
}

/// The options with the bias of a point, and with its sinks and slopes if they have any.
fn at<'a>(options: &'a Options<'_>, point: &'a Point) -> Options<'a> {
    Options {
        scale: options.scale,
        causal: options.causal,
        offsets: options.offsets,
        prefix: options.prefix,
        window: options.window,
        visible_keys: options.visible_keys,
        mask: options.mask.as_ref().map(|mask| mask.view()),
        documents: options
            .documents
            .as_ref()
            .map(|(of_query, of_key)| (of_query.view(), of_key.view())),
        blocks: options.blocks.as_ref().map(|blocks| Blocks {
            visible: blocks.visible.view(),
            size: blocks.size,
        }),
        bias: Some(point[3].view()),
        slopes: options.slopes.and(point[5].as_slice()),
        softcap: options.softcap,
        sinks: options.sinks.and(point[4].as_slice()),
        dropout: options.dropout,
    }
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
        (1, heads, 1, 1),
    ];
    let point: Point = std::array::from_fn(|i| double(shapes[i], i as u64));
    let d_out = double((batch, heads, queries, value_dim), 9);
    // A loss of the log-sum-exp too, of those that are numbers.
    let d_lse = double((batch, heads, queries, 1), 10).remove_axis(Axis(3));
    let loss = |point: &Point| {
        let options = at(options, point);
        let found = forward(point[0].view(), point[1].view(), point[2].view(), &options);
        let lse = found
            .log_sum_exp
            .mapv(|lse| if lse.is_finite() { lse } else { 0.0 });
        (found.out * &d_out).sum() + (lse * &d_lse).sum()
    };
    let found = backward(
        point[0].view(),
        point[1].view(),
        point[2].view(),
        d_out.view(),
        Some(d_lse.view()),
        &at(options, &point),
    );
    let per_head = |list: Option<Vec<f64>>| {
        list.map_or_else(
            || Array4::zeros(shapes[4]),
            |list| Array4::from_shape_vec(shapes[4], list).expect("one a head"),
        )
    };
    let gradient = [
        found.q,
        found.k,
        found.v,
        found.bias.expect("there is a bias"),
        per_head(found.sinks),
        per_head(found.slopes),
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

#[test]
fn so_it_is_with_slopes_a_prefix_documents_blocks_and_dropout() {
    let options = Options {
        causal: Some(Causal::TopLeft),
        offsets: Some(&[2, -1]),
        window: (Some(3), None),
        prefix: Some(&[2, 1]),
        slopes: Some(&[]), // the point has them
        dropout: Some(Dropout {
            probability: 0.3,
            seed: 5,
        }),
        ..Options::default()
    };
    check(&options, 4, 2, (1, 4, 1, 7));
    let visible = Array4::from_shape_fn((1, 4, 3, 3), |(_, h, i, j)| (h + i + 2 * j) % 3 != 0);
    let options = Options {
        documents: Some((
            aview2(&[[0, 0, 1, 1, 1], [0, 1, 0, 1, 2]]),
            aview2(&[[0, 0, 0, 1, 1, 1, 1], [2, 1, 0, 1, 1, 0, 0]]),
        )),
        blocks: Some(Blocks {
            visible: visible.view(),
            size: (2, 3),
        }),
        ..Options::default()
    };
    check(&options, 4, 2, (2, 4, 5, 7));
}
