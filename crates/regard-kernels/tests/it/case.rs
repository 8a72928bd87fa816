//! Random calls: shapes, strides, masks, numbers; and how far from the definition a result may be.

use std::fmt;

use crate::numbers::{Layout, Numbers, random};
use ndarray::{Array2, Array3, Array4, ArrayD, ArrayView, ArrayView4, Axis, Dimension};
use proptest::prelude::*;
use regard_kernels::{Attention, Blocks, Causal, Dropout, Isa, Upstream, reference};

/// One call.
#[derive(Clone, Default)]
pub(crate) struct Case {
    pub(crate) q: Numbers,
    pub(crate) k: Numbers,
    pub(crate) v: Numbers,
    pub(crate) d_out: Numbers,
    pub(crate) scale: Option<f32>,
    pub(crate) causal: Option<Causal>,
    pub(crate) visible_keys: Option<Vec<usize>>,
    pub(crate) mask: Option<Array4<bool>>,
    pub(crate) bias: Option<Array4<f32>>,
    pub(crate) window: (Option<usize>, Option<usize>),
    pub(crate) softcap: Option<f32>,
    pub(crate) sinks: Option<Vec<f32>>,
    pub(crate) offsets: Option<Vec<isize>>,
    pub(crate) prefix: Option<Vec<usize>>,
    /// Of each query, and of each key.
    pub(crate) documents: Option<(Array2<i32>, Array2<i32>)>,
    pub(crate) blocks: Option<(Array4<bool>, (usize, usize))>,
    pub(crate) slopes: Option<Vec<f32>>,
    pub(crate) dropout: Option<Dropout>,
    pub(crate) d_log_sum_exp: Option<Array3<f32>>,
}

/// What describes a failure; the numbers follow from the seeds.
impl fmt::Debug for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shape = |numbers: &Numbers| (numbers.layout, numbers.view().shape().to_vec());
        f.debug_struct("Case")
            .field("q", &shape(&self.q))
            .field("k", &shape(&self.k))
            .field("v", &shape(&self.v))
            .field("d_out", &shape(&self.d_out))
            .field("scale", &self.scale)
            .field("causal", &self.causal)
            .field("window", &self.window)
            .field("visible_keys", &self.visible_keys)
            .field("softcap", &self.softcap)
            .field("sinks", &self.sinks)
            .field("offsets", &self.offsets)
            .field("prefix", &self.prefix)
            .field("documents", &self.documents)
            .field("blocks", &self.blocks)
            .field("slopes", &self.slopes)
            .field("dropout", &self.dropout)
            .field("d_log_sum_exp", &self.d_log_sum_exp.is_some())
            .field(
                "mask",
                &self.mask.as_ref().map(|mask| mask.shape().to_vec()),
            )
            .field(
                "bias",
                &self.bias.as_ref().map(|bias| bias.shape().to_vec()),
            )
            .finish()
    }
}

impl Case {
    pub(crate) fn attention(&self) -> Attention<'_> {
        let mut attention = Attention::new().window(self.window.0, self.window.1);
        if let Some(cap) = self.softcap {
            attention = attention.softcap(cap);
        }
        if let Some(sinks) = &self.sinks {
            attention = attention.sinks(sinks).sinks_gradient(true);
        }
        if let Some(scale) = self.scale {
            attention = attention.scale(scale);
        }
        if let Some(causal) = self.causal {
            attention = attention.causal(causal);
        }
        if let Some(visible_keys) = &self.visible_keys {
            attention = attention.visible_keys(visible_keys);
        }
        if let Some(mask) = &self.mask {
            attention = attention.mask(mask.view());
        }
        if let Some(bias) = &self.bias {
            attention = attention.bias(bias.view()).bias_gradient(true);
        }
        if let Some(offsets) = &self.offsets {
            attention = attention.offsets(offsets);
        }
        if let Some(prefix) = &self.prefix {
            attention = attention.prefix(prefix);
        }
        if let Some((of_query, of_key)) = &self.documents {
            attention = attention.documents(of_query.view(), of_key.view());
        }
        if let Some(blocks) = self.blocks() {
            attention = attention.blocks(blocks);
        }
        if let Some(slopes) = &self.slopes {
            attention = attention.slopes(slopes).slopes_gradient(true);
        }
        if let Some(dropout) = self.dropout {
            attention = attention.dropout(dropout);
        }
        attention
    }

    fn blocks(&self) -> Option<Blocks<'_>> {
        let (visible, size) = self.blocks.as_ref()?;
        Some(Blocks {
            visible: visible.view(),
            size: *size,
        })
    }

    /// Forward and backward by the definition.
    pub(crate) fn by_definition(&self) -> (reference::Forward, reference::Gradients) {
        let double = |view: ArrayView4<'_, f32>| view.mapv(f64::from);
        let (q, k, v, d_out) = (
            double(self.q.view()),
            double(self.k.view()),
            double(self.v.view()),
            double(self.d_out.view()),
        );
        let bias = self.bias.as_ref().map(|bias| double(bias.view()));
        let list = |list: &Option<Vec<f32>>| -> Option<Vec<f64>> {
            Some(list.as_ref()?.iter().copied().map(f64::from).collect())
        };
        let (sinks, slopes) = (list(&self.sinks), list(&self.slopes));
        let d_log_sum_exp = self
            .d_log_sum_exp
            .as_ref()
            .map(|d_lse| d_lse.mapv(f64::from));
        let options = reference::Options {
            scale: self.scale.map(f64::from),
            causal: self.causal,
            visible_keys: self.visible_keys.as_deref(),
            mask: self.mask.as_ref().map(|mask| mask.view()),
            bias: bias.as_ref().map(|bias| bias.view()),
            window: self.window,
            softcap: self.softcap.map(f64::from),
            sinks: sinks.as_deref(),
            offsets: self.offsets.as_deref(),
            prefix: self.prefix.as_deref(),
            documents: self
                .documents
                .as_ref()
                .map(|(of_query, of_key)| (of_query.view(), of_key.view())),
            blocks: self.blocks(),
            slopes: slopes.as_deref(),
            dropout: self.dropout,
        };
        (
            reference::forward(q.view(), k.view(), v.view(), &options),
            reference::backward(
                q.view(),
                k.view(),
                v.view(),
                d_out.view(),
                d_log_sum_exp.as_ref().map(|d_lse| d_lse.view()),
                &options,
            ),
        )
    }

    /// Both passes with one instruction set, compared with the definition.
    pub(crate) fn agrees(&self, isa: Isa) {
        let attention = self.attention().isa(isa);
        let (forward, gradients) = self.by_definition();
        let (q, k, v) = (self.q.view(), self.k.view(), self.v.view());
        let found = attention.forward(q, k, v).expect("a good call");
        let tolerance = tolerance(self.width());
        let summed = self.roundings();
        close(
            &format!("{isa} out"),
            found.out.view(),
            forward.out.view(),
            tolerance,
        );
        close(
            &format!("{isa} log_sum_exp"),
            found.log_sum_exp.view(),
            forward.log_sum_exp.view(),
            tolerance,
        );
        let found = attention
            .backward_with(
                q,
                k,
                v,
                &Upstream {
                    out: found.out.view(),
                    log_sum_exp: found.log_sum_exp.view(),
                    d_out: self.d_out.view(),
                    d_log_sum_exp: self.d_log_sum_exp.as_ref().map(|d_lse| d_lse.view()),
                },
            )
            .expect("a good call");
        close(
            &format!("{isa} dq"),
            found.q.view(),
            gradients.q.view(),
            tolerance,
        );
        close(
            &format!("{isa} dk"),
            found.k.view(),
            gradients.k.view(),
            tolerance * summed.dk,
        );
        close(
            &format!("{isa} dv"),
            found.v.view(),
            gradients.v.view(),
            tolerance,
        );
        if let Some(bias) = gradients.bias {
            let found = found.bias.expect("it was asked for");
            close(
                &format!("{isa} d_bias"),
                found.view(),
                bias.view(),
                tolerance * summed.d_bias,
            );
        }
        if let Some(sinks) = gradients.sinks {
            let found = found.sinks.expect("it was asked for");
            close(
                &format!("{isa} d_sinks"),
                ndarray::aview1(&found),
                ndarray::aview1(&sinks),
                tolerance * summed.d_sinks,
            );
        }
        if let Some(slopes) = gradients.slopes {
            let found = found.slopes.expect("it was asked for");
            close(
                &format!("{isa} d_slopes"),
                ndarray::aview1(&found),
                ndarray::aview1(&slopes),
                tolerance * summed.d_slopes,
            );
        }
    }

    /// The larger of `head_dim` and `value_dim`.
    pub(crate) fn width(&self) -> usize {
        self.q.view().dim().3.max(self.v.view().dim().3)
    }

    /// What the tolerance of gradients that are summed over queries or pairs is a multiple of. A sum of n terms that cancel keeps
    /// the rounding of √n of them.
    pub(crate) fn roundings(&self) -> Roundings {
        let (batch, heads, queries, _) = self.q.view().dim();
        let keys = self.k.view().dim().2;
        let pairs = batch * heads * queries * keys;
        let of_a_bias = self
            .bias
            .as_ref()
            .map_or(0, |bias| pairs / bias.len().max(1));
        let root = |terms: usize| (terms as f64).sqrt();
        Roundings {
            dk: self.roundings_of_dk(),
            d_bias: root(of_a_bias).max(1.0),
            d_sinks: root(batch * queries).max(1.0),
            // Each term is as large as its distance.
            d_slopes: (root(batch * queries * keys) * (queries + keys + 40) as f64).max(1.0),
        }
    }

    /// `dk` sums P (dP − D) q over the queries; where a query sees one key, dP and D cancel but for their rounding. A query puts a rounding into the gradient of a key in proportion to the
    /// weight that the key gets from it. Roundings of different queries add up as the root of the sum of their squares, which
    /// is at most the root of the weight that the key gets of all; those of one query, again and again, add up in full.
    fn roundings_of_dk(&self) -> f64 {
        let (q, k) = (self.q.view(), self.k.view());
        let (batch, kv_heads, keys, _) = k.dim();
        let sums = self.attention().key_sums(q, k).expect("a good call");
        let group = sums.dim().1 / kv_heads.max(1);
        let most = ndarray::indices((batch, kv_heads, keys))
            .into_iter()
            .map(|(b, h, j)| {
                let heads = h * group..(h + 1) * group;
                heads.map(|head| f64::from(sums[[b, head, j]])).sum()
            })
            .fold(1.0, f64::max);
        let same = |numbers: &Numbers| matches!(numbers.layout, Layout::Repeated);
        match same(&self.q) && same(&self.d_out) {
            true => most,
            false => most.sqrt(),
        }
    }
}

/// Multiples of the [`tolerance`].
pub(crate) struct Roundings {
    pub(crate) dk: f64,
    pub(crate) d_bias: f64,
    pub(crate) d_sinks: f64,
    pub(crate) d_slopes: f64,
}

/// How far a result may be from the definition, as a share of the largest number of the array (or of 1): the rounding
/// of a dot product of `width` terms grows with its square root, and the exponential makes of an error in the score
/// the same error in the weight.
pub(crate) fn tolerance(width: usize) -> f64 {
    f64::from(f32::EPSILON) * 4.0 * (4.0 + (width as f64).sqrt())
}

/// Equal where the definition is infinite or NaN, within `tolerance` elsewhere.
pub(crate) fn close<D: Dimension>(
    what: &str,
    found: ArrayView<'_, f32, D>,
    expected: ArrayView<'_, f64, D>,
    tolerance: f64,
) {
    assert_eq!(found.shape(), expected.shape(), "{what}");
    let finite = expected.iter().filter(|number| number.is_finite());
    let bound = tolerance * finite.fold(1.0, |largest: f64, number| largest.max(number.abs()));
    let (found, expected): (ArrayD<f32>, ArrayD<f64>) =
        (found.to_owned().into_dyn(), expected.to_owned().into_dyn());
    for ((at, &expected), &found) in expected.indexed_iter().zip(&found) {
        let found = f64::from(found);
        let same = if expected.is_finite() {
            (found - expected).abs() <= bound
        } else {
            found == expected || (found.is_nan() && expected.is_nan())
        };
        assert!(
            same,
            "{what} at {at:?}: found {found}, expected {expected} ± {bound:e}"
        );
    }
}

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
