//! The definition, in f64 and in the plainest code that is right. Everything fast is compared with it.
//!
//! ```text
//! c_ij = scale · ⟨q_i, k_j⟩                 with a softcap: cap · tanh(scale · ⟨q_i, k_j⟩ / cap)
//! s_ij = c_ij + b_ij − slope · |p_i − j|    for the pairs that are visible; query i stands at key p_i
//! w_ij = exp(s_ij) / Z_i                    0 for the others
//! Z_i  = Σ_j exp(s_ij)                      with a sink: + exp(sink), a key that everyone sees and whose value is 0
//! o_i  = Σ_j w_ij r_ij v_j                  r_ij is 1; with dropout, 0 or 1/(1 − p)
//! lse_i = ln Z_i
//! ```
//!
//! A bias of −∞ hides its pair as a mask does. A query that sees nothing has weights and output 0 and a log-sum-exp
//! of −∞.

use ndarray::{Array3, Array4, ArrayView2, ArrayView3, ArrayView4};

use crate::{Blocks, Causal, Dropout};

/// The same choices as [`Attention`](crate::Attention) has, in f64.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options<'a> {
    /// What the scores are multiplied by; 1/√head_dim if it is not given.
    pub scale: Option<f64>,
    /// Which keys come before a query.
    pub causal: Option<Causal>,
    /// Per batch row, how far along the keys the queries stand; it takes the place of the offset of `causal`.
    pub offsets: Option<&'a [isize]>,
    /// Per batch row: the keys `0..n` are visible whatever causal and window say.
    pub prefix: Option<&'a [usize]>,
    /// How many neighbours a query sees before and after the key that it stands at; no limit where there is no number.
    pub window: (Option<usize>, Option<usize>),
    /// Per batch row: the keys `0..n` are visible.
    pub visible_keys: Option<&'a [usize]>,
    /// `true` = may attend; broadcasts to `[batch, heads, queries, keys]`.
    pub mask: Option<ArrayView4<'a, bool>>,
    /// The document of each query and of each key, `[batch, queries]` and `[batch, keys]`: a query sees its own only.
    pub documents: Option<(ArrayView2<'a, i32>, ArrayView2<'a, i32>)>,
    /// Which blocks of pairs are visible.
    pub blocks: Option<Blocks<'a>>,
    /// Added to the scaled scores; broadcasts to `[batch, heads, queries, keys]`.
    pub bias: Option<ArrayView4<'a, f64>>,
    /// Per head, what the score falls by with each key between a pair.
    pub slopes: Option<&'a [f64]>,
    /// The bound of the scaled scores.
    pub softcap: Option<f64>,
    /// Per head, the score of a key that has the value 0 and that every query sees.
    pub sinks: Option<&'a [f64]>,
    /// Which weights are dropped.
    pub dropout: Option<Dropout>,
}

/// What [`forward`] gives.
#[derive(Debug, Clone)]
pub struct Forward {
    /// `[batch, heads, queries, value_dim]`.
    pub out: Array4<f64>,
    /// Natural logarithm, `[batch, heads, queries]`.
    pub log_sum_exp: Array3<f64>,
}

/// What [`backward`] gives.
#[derive(Debug, Clone)]
pub struct Gradients {
    /// As `q`.
    pub q: Array4<f64>,
    /// As `k`: summed over the query heads that share a key head.
    pub k: Array4<f64>,
    /// As `v`: summed likewise.
    pub v: Array4<f64>,
    /// As the bias was given: summed over what it was broadcast over.
    pub bias: Option<Array4<f64>>,
    /// One number a head.
    pub sinks: Option<Vec<f64>>,
    /// One number a head.
    pub slopes: Option<Vec<f64>>,
}

/// The weights `w` of every query over all keys, `[batch, heads, queries, keys]`.
///
/// # Panics
/// Shapes that do not fit: the door ([`Attention`](crate::Attention)) is where they are checked.
pub fn weights(
    q: ArrayView4<'_, f64>,
    k: ArrayView4<'_, f64>,
    options: &Options<'_>,
) -> Array4<f64> {
    softmax(&visible_scores(q, k, options), options.sinks).0
}

/// Attention by the definition.
///
/// # Panics
/// Shapes that do not fit.
pub fn forward(
    q: ArrayView4<'_, f64>,
    k: ArrayView4<'_, f64>,
    v: ArrayView4<'_, f64>,
    options: &Options<'_>,
) -> Forward {
    let scores = visible_scores(q, k, options);
    let (weights, log_sum_exp) = softmax(&scores, options.sinks);
    let (batch, heads, queries, keys) = weights.dim();
    let group = group(heads, v.dim().1);
    let mut out = Array4::zeros((batch, heads, queries, v.dim().3));
    for ((b, h, i, c), out) in out.indexed_iter_mut() {
        // out_ic = Σ_j w_ij v_jc, over the keys that i may see
        for j in (0..keys).filter(|&j| scores[[b, h, i, j]].is_some()) {
            *out += weights[[b, h, i, j]] * rest(options, b, h, i, j) * v[[b, h / group, j, c]];
        }
    }
    Forward { out, log_sum_exp }
}

/// The gradients of a loss with respect to everything that it can be derived by, from its gradient `d_out` with
/// respect to the output and, if it depends on it, `d_log_sum_exp` with respect to the log-sum-exp.
///
/// # Panics
/// Shapes that do not fit.
pub fn backward(
    q: ArrayView4<'_, f64>,
    k: ArrayView4<'_, f64>,
    v: ArrayView4<'_, f64>,
    d_out: ArrayView4<'_, f64>,
    d_log_sum_exp: Option<ArrayView3<'_, f64>>,
    options: &Options<'_>,
) -> Gradients {
    let scores = visible_scores(q, k, options);
    let (weights, log_sum_exp) = softmax(&scores, options.sinks);
    let (batch, heads, queries, keys) = weights.dim();
    let (head_dim, value_dim) = (q.dim().3, v.dim().3);
    let group = group(heads, v.dim().1);
    let scale = scale(options, head_dim);
    let (mut dq, mut dk, mut dv) = (
        Array4::zeros(q.dim()),
        Array4::zeros(k.dim()),
        Array4::zeros(v.dim()),
    );
    let mut d_sinks = options.sinks.map(|sinks| vec![0.0; sinks.len()]);
    let mut d_slopes = options.slopes.map(|slopes| vec![0.0; slopes.len()]);
    let mut d_bias = options.bias.map(|bias| Array4::zeros(bias.dim()));

    for b in 0..batch {
        for h in 0..heads {
            let kv = h / group;
            for i in 0..queries {
                let visible: Vec<usize> = (0..keys)
                    .filter(|&j| scores[[b, h, i, j]].is_some())
                    .collect();
                let w = |j: usize| weights[[b, h, i, j]];

                // in the forward pass this was:
                // out_ic = Σ_j w_ij r_ij v_jc
                // so now we have, for the values and for the weights:
                let mut dw = vec![0.0; keys];
                for &j in &visible {
                    let r = rest(options, b, h, i, j);
                    for c in 0..value_dim {
                        dv[[b, kv, j, c]] += w(j) * r * d_out[[b, h, i, c]];
                        dw[j] += r * d_out[[b, h, i, c]] * v[[b, kv, j, c]];
                    }
                }

                // in the forward pass this was:
                // w_ij = exp(s_ij) / Σ_j exp(s_ij)
                // lse_i = ln Σ_j exp(s_ij)
                // whose derivatives are ∂w_ij/∂s_it = w_ij (δ_jt − w_it) and ∂lse_i/∂s_ij = w_ij, so now we have:
                // ds_ij = w_ij (dw_ij − Σ_t w_it dw_it + dlse_i)
                let d_lse = d_log_sum_exp.map_or(0.0, |d_lse| d_lse[[b, h, i]]);
                let mean: f64 = visible.iter().map(|&t| w(t) * dw[t]).sum::<f64>() - d_lse;
                if let (Some(d_sinks), Some(sinks)) = (&mut d_sinks, options.sinks) {
                    // The sink is one more key, whose value is 0: for it, dw = 0.
                    let lse = log_sum_exp[[b, h, i]];
                    if lse > f64::NEG_INFINITY {
                        d_sinks[h] -= (sinks[h] - lse).exp() * mean;
                    }
                }
                for &j in &visible {
                    let ds = w(j) * (dw[j] - mean);

                    // in the forward pass this was:
                    // s_ij = cap · tanh(scale · Σ_c q_ic k_jc / cap) + b_ij − slope · |p_i − j|
                    // (without the cap: scale · Σ_c q_ic k_jc)
                    // and tanh' = 1 − tanh², so now we have:
                    let ds_bias = ds;
                    if let Some(d_slopes) = &mut d_slopes {
                        let ahead = ahead(options, (queries, keys), b, i, j);
                        d_slopes[h] -= ds * ahead.unsigned_abs() as f64;
                    }
                    let ds = options.softcap.map_or(ds, |cap| {
                        let score: f64 = (0..head_dim)
                            .map(|c| scale * q[[b, h, i, c]] * k[[b, kv, j, c]])
                            .sum();
                        ds / (score / cap).cosh().powi(2)
                    });
                    for c in 0..head_dim {
                        dq[[b, h, i, c]] += scale * ds * k[[b, kv, j, c]];
                        dk[[b, kv, j, c]] += scale * ds * q[[b, h, i, c]];
                    }
                    if let Some(d_bias) = &mut d_bias {
                        // An axis of length 1 was read at 0 for every index, so its gradients meet there.
                        let dim = d_bias.dim();
                        d_bias[[
                            b.min(dim.0 - 1),
                            h.min(dim.1 - 1),
                            i.min(dim.2 - 1),
                            j.min(dim.3 - 1),
                        ]] += ds_bias;
                    }
                }
            }
        }
    }
    Gradients {
        q: dq,
        k: dk,
        v: dv,
        bias: d_bias,
        sinks: d_sinks,
        slopes: d_slopes,
    }
}

/// How far key `j` lies ahead of the key that query `i` stands at.
fn ahead(
    options: &Options<'_>,
    (queries, keys): (usize, usize),
    b: usize,
    i: usize,
    j: usize,
) -> i128 {
    let diagonal = match options.offsets {
        Some(offsets) => offsets[b],
        None => options
            .causal
            .map_or(0, |causal| causal.offset(queries, keys)),
    };
    j as i128 - (i as i128 + diagonal as i128)
}

/// What is left of a weight by dropout.
fn rest(options: &Options<'_>, b: usize, h: usize, i: usize, j: usize) -> f64 {
    options.dropout.map_or(1.0, |dropout| {
        if dropout.keeps(b, h, i, j) {
            1.0 / (1.0 - f64::from(dropout.probability))
        } else {
            0.0
        }
    })
}

/// The scores `s` of every query and key, −∞ where a pair is not visible, `[batch, heads, queries, keys]`.
///
/// # Panics
/// Shapes that do not fit.
pub fn scores(
    q: ArrayView4<'_, f64>,
    k: ArrayView4<'_, f64>,
    options: &Options<'_>,
) -> Array4<f64> {
    visible_scores(q, k, options).mapv(|score| score.unwrap_or(f64::NEG_INFINITY))
}

/// `s`, or `None` where the pair is not visible.
fn visible_scores(
    q: ArrayView4<'_, f64>,
    k: ArrayView4<'_, f64>,
    options: &Options<'_>,
) -> Array4<Option<f64>> {
    let (batch, heads, queries, head_dim) = q.dim();
    let keys = k.dim().2;
    let shape = (batch, heads, queries, keys);
    let group = group(heads, k.dim().1);
    let scale = scale(options, head_dim);
    let mask = options.mask.as_ref().map(|mask| {
        mask.broadcast(shape)
            .expect("`mask` broadcasts to the scores")
    });
    let bias = options.bias.as_ref().map(|bias| {
        bias.broadcast(shape)
            .expect("`bias` broadcasts to the scores")
    });
    let causal = options.causal.is_some();
    let (left, right) = options.window;
    Array4::from_shape_fn(shape, |(b, h, i, j)| {
        let ahead = ahead(options, (queries, keys), b, i, j);
        let too_far = (causal && ahead > 0)
            || left.is_some_and(|left| -ahead > left as i128)
            || right.is_some_and(|right| ahead > right as i128);
        let in_prefix = options.prefix.is_some_and(|prefix| j < prefix[b]);
        let hidden = options.visible_keys.is_some_and(|visible| j >= visible[b])
            || (too_far && !in_prefix)
            || mask.is_some_and(|mask| !mask[[b, h, i, j]])
            || options
                .documents
                .is_some_and(|(of_query, of_key)| of_query[[b, i]] != of_key[[b, j]])
            || options
                .blocks
                .is_some_and(|blocks| !blocks.shows(b, h, i, j))
            || bias.is_some_and(|bias| bias[[b, h, i, j]] == f64::NEG_INFINITY);
        (!hidden).then(|| {
            let dot: f64 = (0..head_dim)
                .map(|c| q[[b, h, i, c]] * k[[b, h / group, j, c]])
                .sum();
            let score = options
                .softcap
                .map_or(scale * dot, |cap| cap * (scale * dot / cap).tanh());
            let distance = ahead.unsigned_abs() as f64;
            score + bias.map_or(0.0, |bias| bias[[b, h, i, j]])
                - options.slopes.map_or(0.0, |slopes| slopes[h] * distance)
        })
    })
}

/// `w` and `lse`, row by row.
fn softmax(scores: &Array4<Option<f64>>, sinks: Option<&[f64]>) -> (Array4<f64>, Array3<f64>) {
    let (batch, heads, queries, keys) = scores.dim();
    let mut weights = Array4::zeros((batch, heads, queries, keys));
    let mut log_sum_exp = Array3::from_elem((batch, heads, queries), f64::NEG_INFINITY);
    for ((b, h, i), lse) in log_sum_exp.indexed_iter_mut() {
        let row = |j: usize| scores[[b, h, i, j]].unwrap_or(f64::NEG_INFINITY);
        // The maximum is subtracted only so that exp does not overflow. A NaN is no number to subtract: it makes the
        // sum NaN below, and with it the whole row.
        let sink = sinks.map_or(f64::NEG_INFINITY, |sinks| sinks[h]);
        let max = (0..keys).map(row).fold(sink, f64::max);
        let shift = if max == f64::NEG_INFINITY { 0.0 } else { max };
        let sum = (0..keys).map(|j| (row(j) - shift).exp()).sum::<f64>() + (sink - shift).exp();
        if sum == 0.0 {
            continue; // nothing is seen: weights 0, log-sum-exp −∞
        }
        *lse = shift + sum.ln();
        for j in (0..keys).filter(|&j| scores[[b, h, i, j]].is_some()) {
            weights[[b, h, i, j]] = (row(j) - shift).exp() / sum;
        }
    }
    (weights, log_sum_exp)
}

fn scale(options: &Options<'_>, head_dim: usize) -> f64 {
    options
        .scale
        .unwrap_or_else(|| 1.0 / (head_dim.max(1) as f64).sqrt())
}

/// How many query heads read one key head.
fn group(heads: usize, kv_heads: usize) -> usize {
    (heads / kv_heads.max(1)).max(1)
}
