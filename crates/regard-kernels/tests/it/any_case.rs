//! Random calls: shapes, strides, masks, numbers.

use ndarray::{Array2, Axis};
use proptest::prelude::*;
use regard_kernels::{Causal, Dropout};

use crate::case::Case;
use crate::numbers::{Layout, Numbers, random};

fn layout() -> impl Strategy<Value = Layout> {
    prop_oneof![
        3 => Just(Layout::Dense),
        3 => Just(Layout::HeadsInside),
        1 => Just(Layout::WidthOutside),
        1 => Just(Layout::Backwards),
        1 => Just(Layout::Gaps),
        1 => Just(Layout::Repeated),
    ]
}

/// Lengths around the edges of vectors, register tiles and blocks, and now and then none.
fn length(longest: usize) -> impl Strategy<Value = usize> {
    let edges = [
        0usize, 1, 5, 6, 7, 8, 9, 15, 16, 17, 31, 33, 63, 64, 65, 127, 128, 129,
    ];
    let edges: Vec<usize> = edges.into_iter().filter(|&edge| edge <= longest).collect();
    prop_oneof![1 => proptest::sample::select(edges), 1 => 1..=longest]
}

fn causal() -> impl Strategy<Value = Option<Causal>> {
    prop_oneof![
        2 => Just(None),
        1 => Just(Some(Causal::TopLeft)),
        1 => Just(Some(Causal::BottomRight)),
        1 => (-40isize..40).prop_map(|offset| Some(Causal::Offset(offset))),
    ]
}

/// One side of a window.
fn window() -> impl Strategy<Value = Option<usize>> {
    proptest::option::weighted(0.3, prop_oneof![4 => 0usize..80, 1 => Just(usize::MAX)])
}

/// Options that would leave nothing visible if they all came together often.
#[derive(Debug, Clone)]
struct Rarer {
    offsets: bool,
    prefix: bool,
    /// Whether they lie one after the other.
    documents: Option<bool>,
    blocks: Option<(usize, usize)>,
    slopes: bool,
    dropout: Option<f32>,
    d_log_sum_exp: bool,
}

fn rarer() -> impl Strategy<Value = Rarer> {
    let size = proptest::sample::select(vec![1usize, 7, 16, 64, 200]);
    (
        any::<[bool; 6]>(),
        any::<bool>(),
        (size.clone(), size),
        0.0f32..0.9,
        any::<bool>(),
    )
        .prop_map(
            |([a, b, c, d, e, f], sorted, size, probability, d_log_sum_exp)| Rarer {
                offsets: a && b,
                prefix: b && c,
                documents: (c && d).then_some(sorted),
                blocks: (d && e).then_some(size),
                slopes: e && f,
                dropout: (f && a).then_some(probability),
                d_log_sum_exp,
            },
        )
}

/// Any call that the door lets in.
pub(crate) fn any_case() -> impl Strategy<Value = Case> {
    let shape = (
        1usize..=3,
        1usize..=2,
        1usize..=3,
        length(140),
        length(300),
        length(72),
        length(72),
    );
    let layouts = [layout(), layout(), layout(), layout()];
    let options = (
        proptest::option::weighted(0.3, -1.0f32..1.0),
        causal(),
        any::<[bool; 3]>(),
        any::<[bool; 8]>(),
        (window(), window()),
        proptest::option::weighted(0.3, 0.2f32..4.0),
        any::<bool>(),
        rarer(),
    );
    (shape, layouts, options, any::<u64>()).prop_map(|(shape, layouts, options, seed)| {
        let (batch, kv_heads, group, queries, keys, head_dim, value_dim) = shape;
        let (scale, causal, [visible, mask, bias], broadcast, window, softcap, sinks, rarer) =
            options;
        let heads = kv_heads * group;
        let scores = [batch, heads, queries, keys];
        let axis = |i: usize, broadcast: bool| if broadcast { 1 } else { scores[i] };
        let shape_of = |b: &[bool]| (axis(0, b[0]), axis(1, b[1]), axis(2, b[2]), axis(3, b[3]));
        let unit = |shape, salt: u64| random(shape, seed ^ salt).mapv(|x| (x + 1.0) / 2.0);
        Case {
            q: Numbers::new((batch, heads, queries, head_dim), layouts[0], seed ^ 1),
            k: Numbers::new((batch, kv_heads, keys, head_dim), layouts[1], seed ^ 2),
            v: Numbers::new((batch, kv_heads, keys, value_dim), layouts[2], seed ^ 3),
            d_out: Numbers::new((batch, heads, queries, value_dim), layouts[3], seed ^ 4),
            scale,
            causal,
            window,
            softcap,
            sinks: sinks.then(|| random((1, heads, 1, 1), seed ^ 8).into_iter().collect()),
            offsets: rarer.offsets.then(|| {
                let offsets = random((batch, 1, 1, 1), seed ^ 9);
                offsets.iter().map(|x| (x * 60.0) as isize).collect()
            }),
            prefix: rarer.prefix.then(|| {
                let part = unit((batch, 1, 1, 1), 10);
                part.iter()
                    .map(|part| (part * 0.9 * keys as f32) as usize)
                    .collect()
            }),
            documents: rarer.documents.map(|sorted| {
                let of = |count: usize, salt: u64| {
                    let draws = unit((batch, count, 1, 1), salt);
                    Array2::from_shape_fn((batch, count), |(b, i)| {
                        if sorted {
                            (i / 37) as i32
                        } else {
                            (draws[[b, i, 0, 0]] * 3.0) as i32
                        }
                    })
                };
                (of(queries, 11), of(keys, 12))
            }),
            blocks: rarer.blocks.map(|(rows, columns)| {
                let shape = (
                    axis(0, broadcast[0]),
                    axis(1, broadcast[5]),
                    queries.div_ceil(rows),
                    keys.div_ceil(columns),
                );
                (unit(shape, 13).mapv(|x| x < 0.6), (rows, columns))
            }),
            slopes: rarer.slopes.then(|| {
                unit((1, heads, 1, 1), 14)
                    .into_iter()
                    .map(|x| x / 8.0)
                    .collect()
            }),
            dropout: rarer
                .dropout
                .map(|probability| Dropout { probability, seed }),
            d_log_sum_exp: rarer
                .d_log_sum_exp
                .then(|| random((batch, heads, queries, 1), seed ^ 15).remove_axis(Axis(3))),
            visible_keys: visible.then(|| {
                let part = unit((batch, 1, 1, 1), 5);
                part.iter()
                    .map(|part| (part * (keys + 1) as f32) as usize)
                    .map(|n| n.min(keys))
                    .collect()
            }),
            mask: mask.then(|| unit(shape_of(&broadcast[..4]), 6).mapv(|x| x < 0.7)),
            bias: bias.then(|| {
                unit(shape_of(&broadcast[4..]), 7).mapv(|x| {
                    if x < 0.1 {
                        f32::NEG_INFINITY
                    } else {
                        4.0 * x - 2.0
                    }
                })
            }),
        }
    })
}
