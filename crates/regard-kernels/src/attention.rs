//! The door: options, checks, and what is handed to the kernels.

use ndarray::{Array3, Array4, ArrayView3, ArrayView4, ArrayViewMut3, ArrayViewMut4};

use crate::kernels::{self, Upstream, Wanted};
use crate::mask::Visibility;
use crate::{Causal, Error, Isa, reference};

/// What [`Attention::forward`] gives.
#[derive(Debug, Clone, PartialEq)]
pub struct Forward {
    /// The mixed values, `[batch, heads, queries, value_dim]`.
    pub out: Array4<f32>,
    /// `ln Σ_j exp(s_ij)`, `[batch, heads, queries]`; −∞ for a query that sees nothing.
    pub log_sum_exp: Array3<f32>,
}

/// What [`Attention::backward`] gives.
#[derive(Debug, Clone, PartialEq)]
pub struct Gradients {
    /// As `q`.
    pub q: Array4<f32>,
    /// As `k`: summed over the query heads that share a key head.
    pub k: Array4<f32>,
    /// As `v`: summed likewise.
    pub v: Array4<f32>,
    /// As the bias was given, summed over what it was broadcast over; only where
    /// [`Attention::bias_gradient`] asked for it.
    pub bias: Option<Array4<f32>>,
    /// One number a head, summed over the queries; only where [`Attention::sinks_gradient`] asked for it.
    pub sinks: Option<Vec<f32>>,
}

/// Attention of every query over the keys that it may see: `out = softmax(cap(q kᵀ · scale) + bias) v`.
///
/// The scores are never stored: memory grows with the length of the sequences, not with its square, forward and
/// backward. What is given composes, in this order: scale, soft cap, bias; then a pair counts where causal, window,
/// visible keys and mask all permit it. What the position of a pair rules out is not computed: causal attention costs
/// half, a window costs its width.
///
/// # Shapes
/// - `q`: `[batch, heads, queries, head_dim]`
/// - `k`: `[batch, kv_heads, keys, head_dim]`; `kv_heads` divides `heads`, head `h` reads `h / (heads / kv_heads)`
/// - `v`: `[batch, kv_heads, keys, value_dim]`
/// - `out`: `[batch, heads, queries, value_dim]`
///
/// Any strides are accepted, zero and negative ones included; any axis may have length zero.
///
/// # Odd cases
/// A query that sees nothing gives 0, its log-sum-exp is −∞, its gradients are 0. A bias of −∞ hides its pair. A NaN
/// reaches only the rows that see it. The result does not depend on the number of threads, to the last bit.
///
/// # Example
/// ```
/// use ndarray::Array4;
/// use regard_kernels::{Attention, Causal};
///
/// let x = Array4::from_shape_fn((2, 4, 10, 16), |(b, h, i, c)| ((b + 3 * h + 5 * i + 7 * c) % 11) as f32 / 11.0);
/// let attention = Attention::new().causal(Causal::TopLeft);
/// let forward = attention.forward(x.view(), x.view(), x.view())?;
/// // The first position sees only itself.
/// assert_eq!(forward.out[[1, 2, 0, 3]], x[[1, 2, 0, 3]]);
///
/// let d_out = Array4::ones(forward.out.dim());
/// let gradients =
///     attention.backward(x.view(), x.view(), x.view(), forward.out.view(), forward.log_sum_exp.view(), d_out.view())?;
/// assert_eq!(gradients.k.dim(), x.dim());
/// # Ok::<(), regard_kernels::Error>(())
/// ```
#[derive(Debug, Clone, Default)]
pub struct Attention<'a> {
    scale: Option<f32>,
    causal: Option<Causal>,
    window: (Option<usize>, Option<usize>),
    visible_keys: Option<&'a [usize]>,
    mask: Option<ArrayView4<'a, bool>>,
    softcap: Option<f32>,
    bias: Option<ArrayView4<'a, f32>>,
    bias_gradient: bool,
    sinks: Option<&'a [f32]>,
    sinks_gradient: bool,
    isa: Option<Isa>,
}

impl<'a> Attention<'a> {
    /// Every query sees every key; the scale is 1/√head_dim.
    pub fn new() -> Self {
        Self::default()
    }

    /// What the dot products are multiplied by; 1/√head_dim if it is not given.
    pub fn scale(self, scale: f32) -> Self {
        Self {
            scale: Some(scale),
            ..self
        }
    }

    /// A query sees only the keys that come before it, and its own.
    pub fn causal(self, causal: Causal) -> Self {
        Self {
            causal: Some(causal),
            ..self
        }
    }

    /// A query sees at most `left` neighbours before the key that it stands at, and `right` after it; `None` is no limit.
    ///
    /// Query `i` stands at key `i + offset`, with the offset of [`causal`](Self::causal), and at key `i` without it.
    /// Causal rules out what comes after, whatever `right` is: `causal` with a window `(left, None)` is the sliding
    /// window of a language model, `left + 1` keys wide (Beltagy et al. 2020, "Longformer").
    pub fn window(self, left: Option<usize>, right: Option<usize>) -> Self {
        Self {
            window: (left, right),
            ..self
        }
    }

    /// Per batch row: the keys `0..n` are visible, the others are padding.
    pub fn visible_keys(self, visible_keys: &'a [usize]) -> Self {
        Self {
            visible_keys: Some(visible_keys),
            ..self
        }
    }

    /// `true` = may attend. Broadcasts to `[batch, heads, queries, keys]`: an axis of length 1 stands for all.
    pub fn mask(self, mask: ArrayView4<'a, bool>) -> Self {
        Self {
            mask: Some(mask),
            ..self
        }
    }

    /// The scaled scores `s` become `cap · tanh(s / cap)`, before the bias is added, so that none exceeds `cap`
    /// (Gemma Team 2024, "Gemma 2").
    pub fn softcap(self, cap: f32) -> Self {
        Self {
            softcap: Some(cap),
            ..self
        }
    }

    /// Added to the scaled scores. Broadcasts to `[batch, heads, queries, keys]`: an axis of length 1 stands for all.
    pub fn bias(self, bias: ArrayView4<'a, f32>) -> Self {
        Self {
            bias: Some(bias),
            ..self
        }
    }

    /// Whether [`backward`](Self::backward) gives the gradient of the bias too. It costs a second pass over the scores.
    pub fn bias_gradient(self, wanted: bool) -> Self {
        Self {
            bias_gradient: wanted,
            ..self
        }
    }

    /// Per head, the score of one key more, which every query sees and whose value is 0: it takes its share of the
    /// weight, so that a query need not attend to anything (Xiao et al. 2023, "Efficient Streaming Language Models with
    /// Attention Sinks"). It is not scaled, and counts in the log-sum-exp; a query that sees nothing else gives 0.
    pub fn sinks(self, sinks: &'a [f32]) -> Self {
        Self {
            sinks: Some(sinks),
            ..self
        }
    }

    /// Whether [`backward`](Self::backward) gives the gradient of the sinks too.
    pub fn sinks_gradient(self, wanted: bool) -> Self {
        Self {
            sinks_gradient: wanted,
            ..self
        }
    }

    /// The instruction set to use; [`Isa::chosen`] if it is not given.
    pub fn isa(self, isa: Isa) -> Self {
        Self {
            isa: Some(isa),
            ..self
        }
    }

    /// The output, and the log-sum-exp that [`backward`](Self::backward) needs.
    ///
    /// # Errors
    /// Shapes or options that do not fit; the message names the argument, what was found, and what was expected.
    pub fn forward(
        &self,
        q: ArrayView4<'_, f32>,
        k: ArrayView4<'_, f32>,
        v: ArrayView4<'_, f32>,
    ) -> Result<Forward, Error> {
        let (batch, heads, queries, _) = q.dim();
        let mut out = Array4::zeros((batch, heads, queries, v.dim().3));
        let mut log_sum_exp = Array3::zeros((batch, heads, queries));
        self.forward_into(q, k, v, out.view_mut(), log_sum_exp.view_mut())?;
        Ok(Forward { out, log_sum_exp })
    }

    /// As [`forward`](Self::forward), written where the caller says.
    ///
    /// # Errors
    /// As [`forward`](Self::forward); nothing is written then.
    pub fn forward_into(
        &self,
        q: ArrayView4<'_, f32>,
        k: ArrayView4<'_, f32>,
        v: ArrayView4<'_, f32>,
        out: ArrayViewMut4<'_, f32>,
        log_sum_exp: ArrayViewMut3<'_, f32>,
    ) -> Result<(), Error> {
        let isa = self.chosen_isa()?;
        let problem = self.check(q, k, v)?;
        expect_shape(
            "out",
            out.shape(),
            &problem.out_shape(),
            "[batch, heads, queries, value_dim]",
        )?;
        expect_shape(
            "log_sum_exp",
            log_sum_exp.shape(),
            &problem.out_shape()[..3],
            "[batch, heads, queries]",
        )?;
        kernels::forward(isa, &problem, out, log_sum_exp);
        Ok(())
    }

    /// The gradients of a loss from its gradient `d_out` with respect to the output. `out` and `log_sum_exp` are what
    /// [`forward`](Self::forward) gave for the same `q`, `k`, `v` and options.
    ///
    /// # Errors
    /// Shapes or options that do not fit; a gradient of the bias without a bias, or of the sinks without sinks.
    pub fn backward(
        &self,
        q: ArrayView4<'_, f32>,
        k: ArrayView4<'_, f32>,
        v: ArrayView4<'_, f32>,
        out: ArrayView4<'_, f32>,
        log_sum_exp: ArrayView3<'_, f32>,
        d_out: ArrayView4<'_, f32>,
    ) -> Result<Gradients, Error> {
        let isa = self.chosen_isa()?;
        let problem = self.check(q, k, v)?;
        let shape = problem.out_shape();
        expect_shape(
            "out",
            out.shape(),
            &shape,
            "[batch, heads, queries, value_dim]",
        )?;
        expect_shape(
            "log_sum_exp",
            log_sum_exp.shape(),
            &shape[..3],
            "[batch, heads, queries]",
        )?;
        expect_shape(
            "d_out",
            d_out.shape(),
            &shape,
            "[batch, heads, queries, value_dim]",
        )?;
        if self.bias_gradient && self.bias.is_none() {
            return Err(Error::NoBias);
        }
        if self.sinks_gradient && self.sinks.is_none() {
            return Err(Error::NoSinks);
        }
        let bias = self
            .bias
            .filter(|_| self.bias_gradient)
            .map(|bias| bias.dim());
        Ok(kernels::backward(
            isa,
            &problem,
            &Upstream {
                out,
                log_sum_exp,
                d_out,
            },
            Wanted {
                bias,
                sinks: self.sinks.filter(|_| self.sinks_gradient),
            },
        ))
    }

    /// The weights themselves, by the definition: `[batch, heads, queries, keys]`, computed in f64. This is the one
    /// function whose memory grows with the square of the length.
    ///
    /// # Errors
    /// As [`forward`](Self::forward).
    pub fn weights(
        &self,
        q: ArrayView4<'_, f32>,
        k: ArrayView4<'_, f32>,
    ) -> Result<Array4<f32>, Error> {
        self.check(q, k, k)?;
        let bias = self.bias.map(|bias| bias.mapv(f64::from));
        let sinks: Option<Vec<f64>> = self
            .sinks
            .map(|sinks| sinks.iter().copied().map(f64::from).collect());
        let weights = reference::weights(
            q.mapv(f64::from).view(),
            k.mapv(f64::from).view(),
            &self.in_f64(bias.as_ref(), sinks.as_deref()),
        );
        Ok(weights.mapv(|weight| weight as f32))
    }

    fn chosen_isa(&self) -> Result<Isa, Error> {
        match self.isa {
            Some(isa) => isa.require().map(|()| isa),
            None => Isa::chosen(),
        }
    }

    /// The same options for the definition.
    fn in_f64<'b>(
        &'b self,
        bias: Option<&'b Array4<f64>>,
        sinks: Option<&'b [f64]>,
    ) -> reference::Options<'b> {
        reference::Options {
            scale: self.scale.map(f64::from),
            causal: self.causal,
            visible_keys: self.visible_keys,
            mask: self.mask,
            bias: bias.map(|bias| bias.view()),
            window: self.window,
            softcap: self.softcap.map(f64::from),
            sinks,
        }
    }

    /// Everything that the kernels may then take for granted.
    fn check<'b>(
        &'b self,
        q: ArrayView4<'b, f32>,
        k: ArrayView4<'b, f32>,
        v: ArrayView4<'b, f32>,
    ) -> Result<Problem<'b>, Error> {
        let (batch, heads, queries, head_dim) = q.dim();
        let (_, kv_heads, keys, _) = k.dim();
        expect_shape(
            "k",
            k.shape(),
            &[batch, kv_heads, keys, head_dim],
            "the batch and head_dim of `q`",
        )?;
        expect_shape(
            "v",
            v.shape(),
            &[batch, kv_heads, keys, v.dim().3],
            "the batch, heads and keys of `k`",
        )?;
        if (kv_heads == 0 && heads != 0) || (kv_heads != 0 && heads % kv_heads != 0) {
            return Err(Error::Heads { heads, kv_heads });
        }
        if let Some(visible) = self.visible_keys {
            if visible.len() != batch {
                return Err(Error::Length {
                    name: "visible_keys",
                    found: visible.len(),
                    expected: batch,
                });
            }
            if let Some((row, &found)) =
                visible.iter().enumerate().find(|&(_, &found)| found > keys)
            {
                return Err(Error::VisibleKeys { row, found, keys });
            }
        }
        if let Some(cap) = self.softcap
            && !(cap > 0.0 && cap.is_finite())
        {
            return Err(Error::Softcap {
                found: cap.to_string(),
            });
        }
        if let Some(sinks) = self.sinks
            && sinks.len() != heads
        {
            return Err(Error::Sinks {
                found: sinks.len(),
                heads,
            });
        }
        let (left, right) = self.window;
        let scores = [batch, heads, queries, keys];
        let mask = self
            .mask
            .as_ref()
            .map(|mask| broadcast("mask", mask, scores))
            .transpose()?;
        let bias = self
            .bias
            .as_ref()
            .map(|bias| broadcast("bias", bias, scores))
            .transpose()?;
        Ok(Problem {
            q,
            k,
            v,
            scale: self
                .scale
                .unwrap_or_else(|| 1.0 / (head_dim.max(1) as f32).sqrt()),
            visibility: Visibility {
                keys,
                diagonal: self.causal.map_or(0, |causal| causal.offset(queries, keys)),
                advance: 1,
                left,
                right: self.causal.map_or(right, |_| Some(0)),
                visible_keys: self.visible_keys,
                mask,
            },
            softcap: self.softcap,
            bias,
            sinks: self.sinks,
        })
    }
}

/// One checked call: shapes fit, the mask and the bias are broadcast to `[batch, heads, queries, keys]`.
#[derive(Clone, Copy)]
pub(crate) struct Problem<'a> {
    pub(crate) q: ArrayView4<'a, f32>,
    pub(crate) k: ArrayView4<'a, f32>,
    pub(crate) v: ArrayView4<'a, f32>,
    pub(crate) scale: f32,
    pub(crate) visibility: Visibility<'a>,
    pub(crate) softcap: Option<f32>,
    pub(crate) bias: Option<ArrayView4<'a, f32>>,
    pub(crate) sinks: Option<&'a [f32]>,
}

impl Problem<'_> {
    /// The sink of a query, if there are sinks.
    pub(crate) fn sink(&self, head: usize, query: usize) -> Option<f32> {
        let queries = self.q.dim().2;
        self.sinks.map(|sinks| match self.visibility.advance {
            0 => sinks[head * queries + query], // the queries are heads
            _ => sinks[head],
        })
    }

    fn out_shape(&self) -> [usize; 4] {
        let (batch, heads, queries, _) = self.q.dim();
        [batch, heads, queries, self.v.dim().3]
    }
}

fn expect_shape(
    name: &'static str,
    found: &[usize],
    expected: &[usize],
    reason: &'static str,
) -> Result<(), Error> {
    if found == expected {
        return Ok(());
    }
    Err(Error::Shape {
        name,
        found: found.to_vec(),
        expected: expected.to_vec(),
        reason,
    })
}

fn broadcast<'b, T>(
    name: &'static str,
    array: &'b ArrayView4<'_, T>,
    shape: [usize; 4],
) -> Result<ArrayView4<'b, T>, Error> {
    array.broadcast(shape).ok_or_else(|| Error::Broadcast {
        name,
        found: array.shape().to_vec(),
        expected: shape.to_vec(),
    })
}
