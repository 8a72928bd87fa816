//! A call, what the definition says of it, and whether ours agrees.

use std::fmt;

use ndarray::{Array2, Array3, Array4, ArrayView4};
use regard_kernels::{Attention, Blocks, Causal, Dropout, Isa, Upstream, reference};

use crate::numbers::{Layout, Numbers};
use crate::tolerance::{close, tolerance};

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
