//! Sequences of different lengths, packed one after the other without padding.

use ndarray::{
    Array2, Array3, ArrayView2, ArrayView3, ArrayView4, ArrayViewMut, ArrayViewMut2, ArrayViewMut3,
    ArrayViewMut4, Axis, Dimension, s,
};
use rayon::prelude::*;

use crate::attention::Attention;
use crate::kernels::{Known, Wanted};
use crate::memory::filled;
use crate::problem::expect_shape;
use crate::results::{GradientsMut, OptionGradients};
use crate::{Element, Error};

/// Where packed sequences begin and end: sequence `s` has the queries `queries[s]..queries[s + 1]` and the keys
/// `keys[s]..keys[s + 1]`. Known elsewhere as `cu_seqlens`.
#[derive(Debug, Clone, Copy)]
pub struct Packed<'a> {
    /// Starts at 0, never falls, ends with the number of queries.
    pub queries: &'a [usize],
    /// As many, for the keys.
    pub keys: &'a [usize],
}

/// What [`Attention::forward_packed`] gives.
#[derive(Debug, Clone, PartialEq)]
pub struct PackedForward<E: Element = f32> {
    /// `[queries, heads, value_dim]`.
    pub out: Array3<E>,
    /// `[heads, queries]`.
    pub log_sum_exp: Array2<E::Sum>,
}

/// What [`Attention::backward_packed`] gives, each as what it belongs to.
#[derive(Debug, Clone, PartialEq)]
pub struct PackedGradients<E: Element = f32> {
    /// `[queries, heads, head_dim]`.
    pub q: Array3<E>,
    /// `[keys, kv_heads, head_dim]`.
    pub k: Array3<E>,
    /// `[keys, kv_heads, value_dim]`.
    pub v: Array3<E>,
    /// One number a head; only where asked for.
    pub sinks: Option<Vec<E::Sum>>,
    /// One number a head; only where asked for.
    pub slopes: Option<Vec<E::Sum>>,
}

/// Where [`Attention::backward_packed_into`] writes the gradients of `q`, `k` and `v`; what was there does not matter.
#[derive(Debug)]
pub struct PackedGradientsMut<'a, E> {
    /// As `q`.
    pub q: ArrayViewMut3<'a, E>,
    /// As `k`.
    pub k: ArrayViewMut3<'a, E>,
    /// As `v`.
    pub v: ArrayViewMut3<'a, E>,
}

/// What [`Attention::backward_packed`] starts from.
#[derive(Debug)]
pub struct PackedUpstream<'a, E: Element = f32> {
    /// What [`Attention::forward_packed`] gave.
    pub out: ArrayView3<'a, E>,
    /// Likewise.
    pub log_sum_exp: ArrayView2<'a, E::Sum>,
    /// The gradient of the loss with respect to the output.
    pub d_out: ArrayView3<'a, E>,
}

impl Attention<'_> {
    /// Attention within each of several sequences that lie one after the other: `q` is `[queries, heads, head_dim]`,
    /// `k` and `v` are `[keys, kv_heads, …]`. Nothing is computed for padding, because there is none.
    ///
    /// Every option means what it means for a batch whose row `s` is sequence `s`. Those that are given pair by pair
    /// (mask, bias, documents, blocks) have no shape here.
    ///
    /// # Errors
    /// As [`forward`](Self::forward); boundaries that do not fit; an option that has no shape here.
    pub fn forward_packed<E: Element>(
        &self,
        q: ArrayView3<'_, E>,
        k: ArrayView3<'_, E>,
        v: ArrayView3<'_, E>,
        packed: Packed<'_>,
    ) -> Result<PackedForward<E>, Error> {
        self.check_packed(&q, &k, &v, packed)?;
        let (queries, heads, _) = q.dim();
        let mut out = filled("out", (queries, heads, v.dim().2), E::default())?;
        let mut log_sum_exp = filled("log_sum_exp", (heads, queries), E::Sum::default())?;
        self.forward_packed_into(q, k, v, packed, out.view_mut(), log_sum_exp.view_mut())?;
        Ok(PackedForward { out, log_sum_exp })
    }

    /// As [`forward_packed`](Self::forward_packed), written where the caller says.
    ///
    /// # Errors
    /// As [`forward_packed`](Self::forward_packed).
    pub fn forward_packed_into<E: Element>(
        &self,
        q: ArrayView3<'_, E>,
        k: ArrayView3<'_, E>,
        v: ArrayView3<'_, E>,
        packed: Packed<'_>,
        out: ArrayViewMut3<'_, E>,
        log_sum_exp: ArrayViewMut2<'_, E::Sum>,
    ) -> Result<(), Error> {
        let isa = self.chosen_isa()?;
        self.check_packed(&q, &k, &v, packed)?;
        check_packed_out(&q, &v, out.shape(), log_sum_exp.shape())?;
        let outs = cut(out, Axis(0), packed.queries);
        let lses = cut(log_sum_exp, Axis(1), packed.queries);
        let tasks: Vec<_> = outs.into_iter().zip(lses).enumerate().collect();
        tasks
            .into_par_iter()
            .try_for_each(|(sequence, (out, lse))| {
                let rows = Rows::of(self, packed, sequence);
                let options = rows.options(self);
                let mut problem = options.check(
                    E::numbers(batch_of_one(&q, packed.queries, sequence)),
                    E::numbers(batch_of_one(&k, packed.keys, sequence)),
                    E::numbers(batch_of_one(&v, packed.keys, sequence)),
                )?;
                problem.first_row = sequence;
                E::forward(isa, &problem, heads_first(out), lse.insert_axis(Axis(0)));
                Ok(())
            })
    }

    /// The gradients, from those of the output.
    ///
    /// # Errors
    /// As [`forward_packed`](Self::forward_packed), and as [`backward`](Self::backward).
    pub fn backward_packed<E: Element>(
        &self,
        q: ArrayView3<'_, E>,
        k: ArrayView3<'_, E>,
        v: ArrayView3<'_, E>,
        packed: Packed<'_>,
        upstream: &PackedUpstream<'_, E>,
    ) -> Result<PackedGradients<E>, Error> {
        self.check_packed(&q, &k, &v, packed)?;
        let zeros = |name, shape| filled(name, shape, E::default());
        let (mut dq, mut dk) = (zeros("dq", q.dim())?, zeros("dk", k.dim())?);
        let mut dv = zeros("dv", v.dim())?;
        let into = PackedGradientsMut {
            q: dq.view_mut(),
            k: dk.view_mut(),
            v: dv.view_mut(),
        };
        let options = self.backward_packed_into(q, k, v, packed, upstream, into)?;
        Ok(PackedGradients {
            q: dq,
            k: dk,
            v: dv,
            sinks: options.sinks,
            slopes: options.slopes,
        })
    }

    /// As [`backward_packed`](Self::backward_packed), written where the caller says.
    ///
    /// # Errors
    /// As [`backward_packed`](Self::backward_packed).
    pub fn backward_packed_into<E: Element>(
        &self,
        q: ArrayView3<'_, E>,
        k: ArrayView3<'_, E>,
        v: ArrayView3<'_, E>,
        packed: Packed<'_>,
        upstream: &PackedUpstream<'_, E>,
        into: PackedGradientsMut<'_, E>,
    ) -> Result<OptionGradients<E>, Error> {
        let isa = self.chosen_isa()?;
        self.check_packed(&q, &k, &v, packed)?;
        self.check_wanted()?;
        let heads = q.dim().1;
        check_packed_out(&q, &v, upstream.out.shape(), upstream.log_sum_exp.shape())?;
        let of_out = "[queries, heads, value_dim]";
        expect_shape(
            "d_out",
            upstream.d_out.shape(),
            upstream.out.shape(),
            of_out,
        )?;
        expect_shape("into.q", into.q.shape(), q.shape(), "that of `q`")?;
        expect_shape("into.k", into.k.shape(), k.shape(), "that of `k`")?;
        expect_shape("into.v", into.v.shape(), v.shape(), "that of `v`")?;
        let dqs = cut(into.q, Axis(0), packed.queries);
        let dks = cut(into.k, Axis(0), packed.keys);
        let dvs = cut(into.v, Axis(0), packed.keys);
        let tasks: Vec<_> = dqs.into_iter().zip(dks).zip(dvs).enumerate().collect();
        let options: Vec<_> = tasks
            .into_par_iter()
            .map(|(sequence, ((dq, dk), dv))| {
                let rows = Rows::of(self, packed, sequence);
                let options = rows.options(self);
                let mut problem = options.check(
                    E::numbers(batch_of_one(&q, packed.queries, sequence)),
                    E::numbers(batch_of_one(&k, packed.keys, sequence)),
                    E::numbers(batch_of_one(&v, packed.keys, sequence)),
                )?;
                problem.first_row = sequence;
                let range = packed.queries[sequence]..packed.queries[sequence + 1];
                let lse = upstream.log_sum_exp.slice(s![.., range]);
                let known = Known {
                    out: E::numbers(batch_of_one(&upstream.out, packed.queries, sequence)),
                    log_sum_exp: lse.insert_axis(Axis(0)),
                    d_out: E::numbers(batch_of_one(&upstream.d_out, packed.queries, sequence)),
                    d_log_sum_exp: None,
                };
                let wanted = Wanted {
                    bias: None,
                    ..self.wanted()
                };
                let into = GradientsMut {
                    q: heads_first(dq),
                    k: heads_first(dk),
                    v: heads_first(dv),
                };
                Ok(E::backward(isa, &problem, &known, wanted, into))
            })
            .collect::<Result<_, Error>>()?;
        // The sequences' parts of what they share, in order.
        let total = |parts: Vec<&Vec<E::Sum>>| -> Vec<E::Sum> {
            let sum = |h: usize| parts.iter().map(|part| part[h].to_f64()).sum::<f64>();
            (0..heads).map(|h| E::Sum::from_f64(sum(h))).collect()
        };
        let wanted = self.wanted();
        Ok(OptionGradients {
            bias: None,
            sinks: wanted
                .sinks
                .then(|| total(options.iter().filter_map(|of| of.sinks.as_ref()).collect())),
            slopes: wanted
                .slopes
                .then(|| total(options.iter().filter_map(|of| of.slopes.as_ref()).collect())),
        })
    }

    fn check_packed<E: Element>(
        &self,
        q: &ArrayView3<'_, E>,
        k: &ArrayView3<'_, E>,
        v: &ArrayView3<'_, E>,
        packed: Packed<'_>,
    ) -> Result<(), Error> {
        let (queries, _, head_dim) = q.dim();
        let (keys, kv_heads, _) = k.dim();
        let of_q = "the head_dim of `q`";
        expect_shape("k", k.shape(), &[keys, kv_heads, head_dim], of_q)?;
        let of_k = "the keys and heads of `k`";
        expect_shape("v", v.shape(), &[keys, kv_heads, v.dim().2], of_k)?;
        for (name, offsets, end) in [
            ("packed.queries", packed.queries, queries),
            ("packed.keys", packed.keys, keys),
        ] {
            let rising = offsets.windows(2).all(|pair| pair[0] <= pair[1]);
            if offsets.first() != Some(&0) || offsets.last() != Some(&end) || !rising {
                return Err(Error::Boundaries { name, end });
            }
        }
        if packed.queries.len() != packed.keys.len() {
            return Err(Error::Length {
                name: "packed.keys",
                found: packed.keys.len(),
                expected: packed.queries.len(),
                per: "boundary of `packed.queries`",
            });
        }
        for (name, given) in [
            ("mask", self.mask.is_some()),
            ("bias", self.bias.is_some()),
            ("documents", self.documents.is_some()),
            ("blocks", self.blocks.is_some()),
        ] {
            if given {
                return Err(Error::NotPacked { name });
            }
        }
        let sequences = packed.queries.len() - 1;
        for (name, found) in [
            ("visible_keys", self.visible_keys.map(<[usize]>::len)),
            ("prefix", self.prefix.map(<[usize]>::len)),
            ("offsets", self.offsets.map(<[isize]>::len)),
        ] {
            if let Some(found) = found
                && found != sequences
            {
                return Err(Error::Length {
                    name,
                    found,
                    expected: sequences,
                    per: "sequence",
                });
            }
        }
        Ok(())
    }
}

fn check_packed_out<E>(
    q: &ArrayView3<'_, E>,
    v: &ArrayView3<'_, E>,
    out: &[usize],
    log_sum_exp: &[usize],
) -> Result<(), Error> {
    let (queries, heads, _) = q.dim();
    let shape = [queries, heads, v.dim().2];
    expect_shape("out", out, &shape, "[queries, heads, value_dim]")?;
    let of_rows = "[heads, queries]";
    expect_shape("log_sum_exp", log_sum_exp, &[heads, queries], of_rows)
}

/// What the options say of one sequence.
struct Rows {
    offsets: Option<[isize; 1]>,
    visible_keys: Option<[usize; 1]>,
    prefix: Option<[usize; 1]>,
}

impl Rows {
    fn of(attention: &Attention<'_>, packed: Packed<'_>, sequence: usize) -> Self {
        let keys = packed.keys[sequence + 1] - packed.keys[sequence];
        Self {
            offsets: attention.offsets.map(|offsets| [offsets[sequence]]),
            visible_keys: attention
                .visible_keys
                .map(|visible| [visible[sequence].min(keys)]),
            prefix: attention.prefix.map(|prefix| [prefix[sequence].min(keys)]),
        }
    }

    fn options<'a>(&'a self, attention: &'a Attention<'_>) -> Attention<'a> {
        let mut options = Attention::new();
        options.scale = attention.scale;
        options.causal = attention.causal;
        options.offsets = self.offsets.as_ref().map(<[isize; 1]>::as_slice);
        options.window = attention.window;
        options.prefix = self.prefix.as_ref().map(<[usize; 1]>::as_slice);
        options.visible_keys = self.visible_keys.as_ref().map(<[usize; 1]>::as_slice);
        options.softcap = attention.softcap;
        options.slopes = attention.slopes;
        options.sinks = attention.sinks;
        options.dropout = attention.dropout;
        options
    }
}

/// One sequence as `[1, heads, length, width]`.
fn batch_of_one<'a, E>(
    tokens: &'a ArrayView3<'_, E>,
    boundaries: &[usize],
    sequence: usize,
) -> ArrayView4<'a, E> {
    tokens
        .slice(s![boundaries[sequence]..boundaries[sequence + 1], .., ..])
        .permuted_axes([1, 0, 2])
        .insert_axis(Axis(0))
}

fn heads_first<E>(tokens: ArrayViewMut3<'_, E>) -> ArrayViewMut4<'_, E> {
    tokens.permuted_axes([1, 0, 2]).insert_axis(Axis(0))
}

/// The parts of an array between boundaries along an axis.
fn cut<'a, E, D: Dimension>(
    array: ArrayViewMut<'a, E, D>,
    axis: Axis,
    boundaries: &[usize],
) -> Vec<ArrayViewMut<'a, E, D>> {
    let mut rest = array;
    let mut parts = Vec::new();
    for pair in boundaries.windows(2) {
        let (part, after) = rest.split_at(axis, pair[1] - pair[0]);
        parts.push(part);
        rest = after;
    }
    parts
}
