//! The door: options, checks, and what is handed to the kernels.

use ndarray::{Array4, ArrayView2, ArrayView3, ArrayView4, ArrayViewMut3, ArrayViewMut4};

use crate::element::Element;
use crate::kernels::{Known, Wanted};
use crate::memory::{expect_room, filled};
use crate::numbers::Numbers;
use crate::problem::{InDouble, Problem, expect_shape, shape as shape_of};
use crate::results::{Forward, Gradients, GradientsMut, OptionGradients, Upstream};
use crate::{Blocks, Causal, Dropout, Error, Isa, reference};

/// Attention of every query over the keys that it may see: `out = softmax(cap(q kᵀ · scale) + bias) v`.
///
/// The scores are never stored: memory grows with the length of the sequences, not with its square, forward and
/// backward. What is given composes, in this order: scale, soft cap, bias and slopes; then a pair counts where causal
/// and window (or the prefix), visible keys, documents, blocks and mask all permit it; then the softmax, and dropout.
/// Blocks of pairs that show nothing are not computed: causal attention costs half, a window costs its width.
///
/// # Shapes
/// - `q`: `[batch, heads, queries, head_dim]`
/// - `k`: `[batch, kv_heads, keys, head_dim]`; `kv_heads` divides `heads`, head `h` reads `h / (heads / kv_heads)`
/// - `v`: `[batch, kv_heads, keys, value_dim]`
/// - `out`: `[batch, heads, queries, value_dim]`
///
/// Any strides are accepted, zero and negative ones included; any axis may have length zero. The numbers are f32, f64,
/// bf16 or f16 ([`Element`]).
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
    pub(crate) scale: Option<f64>,
    pub(crate) causal: Option<Causal>,
    pub(crate) offsets: Option<&'a [isize]>,
    pub(crate) window: (Option<usize>, Option<usize>),
    pub(crate) prefix: Option<&'a [usize]>,
    pub(crate) visible_keys: Option<&'a [usize]>,
    pub(crate) documents: Option<(ArrayView2<'a, i32>, ArrayView2<'a, i32>)>,
    pub(crate) blocks: Option<Blocks<'a>>,
    pub(crate) mask: Option<ArrayView4<'a, bool>>,
    pub(crate) softcap: Option<f64>,
    pub(crate) bias: Option<Numbers<'a>>,
    pub(crate) slopes: Option<&'a [f32]>,
    pub(crate) sinks: Option<&'a [f32]>,
    pub(crate) dropout: Option<Dropout>,
    bias_gradient: bool,
    slopes_gradient: bool,
    sinks_gradient: bool,
    pub(crate) isa: Option<Isa>,
}

impl<'a> Attention<'a> {
    /// Every query sees every key; the scale is 1/√head_dim.
    pub fn new() -> Self {
        Self::default()
    }

    /// What the dot products are multiplied by; 1/√head_dim if it is not given.
    pub fn scale(self, scale: impl Into<f64>) -> Self {
        Self {
            scale: Some(scale.into()),
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

    /// Per batch row, how far along the keys the queries stand: query `i` stands at key `i + offset`. It takes the place of
    /// the offset that [`causal`](Self::causal) has, for rows with caches of different lengths.
    pub fn offsets(self, offsets: &'a [isize]) -> Self {
        Self {
            offsets: Some(offsets),
            ..self
        }
    }

    /// A query sees at most `left` neighbours before the key that it stands at, and `right` after it; `None` is no limit.
    ///
    /// Query `i` stands at key `i + offset`, with the offset of [`causal`](Self::causal) or those of
    /// [`offsets`](Self::offsets), and at key `i` without both.
    /// Causal rules out what comes after, whatever `right` is: `causal` with a window `(left, None)` is the sliding
    /// window of a language model, `left + 1` keys wide (Beltagy et al. 2020, "Longformer").
    pub fn window(self, left: Option<usize>, right: Option<usize>) -> Self {
        Self {
            window: (left, right),
            ..self
        }
    }

    /// Per batch row: the keys `0..n` are visible to every query, whatever causal and window say, as in a prefix language
    /// model (Raffel et al. 2020, "Exploring the Limits of Transfer Learning").
    pub fn prefix(self, prefix: &'a [usize]) -> Self {
        Self {
            prefix: Some(prefix),
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

    /// The document that each query and each key belongs to, `[batch, queries]` and `[batch, keys]`: a query sees the keys
    /// of its own. Tiles in which no documents meet are skipped, so documents that lie one after the other cost what they
    /// cost alone.
    pub fn documents(self, of_query: ArrayView2<'a, i32>, of_key: ArrayView2<'a, i32>) -> Self {
        Self {
            documents: Some((of_query, of_key)),
            ..self
        }
    }

    /// A mask by blocks of pairs: those that are hidden are not computed.
    pub fn blocks(self, blocks: Blocks<'a>) -> Self {
        Self {
            blocks: Some(blocks),
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
    pub fn softcap(self, cap: impl Into<f64>) -> Self {
        Self {
            softcap: Some(cap.into()),
            ..self
        }
    }

    /// Added to the scaled scores. Broadcasts to `[batch, heads, queries, keys]`: an axis of length 1 stands for all.
    pub fn bias<B: Element>(self, bias: ArrayView4<'a, B>) -> Self {
        Self {
            bias: Some(B::numbers(bias)),
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

    /// Per head, what a score falls by with each key between the pair: `s_ij −= slope · |p_i − j|`, where query `i` stands
    /// at key `p_i` (see [`window`](Self::window)). Known as ALiBi (Press et al. 2022, "Train Short, Test Long").
    pub fn slopes(self, slopes: &'a [f32]) -> Self {
        Self {
            slopes: Some(slopes),
            ..self
        }
    }

    /// Whether [`backward`](Self::backward) gives the gradient of the slopes too. It costs a second pass over the scores.
    pub fn slopes_gradient(self, wanted: bool) -> Self {
        Self {
            slopes_gradient: wanted,
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

    /// Drops weights, after the softmax. [`backward`](Self::backward) with the same seed drops the same ones; the
    /// log-sum-exp is that of all weights.
    pub fn dropout(self, dropout: Dropout) -> Self {
        Self {
            dropout: Some(dropout),
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
    pub fn forward<E: Element>(
        &self,
        q: ArrayView4<'_, E>,
        k: ArrayView4<'_, E>,
        v: ArrayView4<'_, E>,
    ) -> Result<Forward<E>, Error> {
        let (batch, heads, queries, _) = q.dim();
        let mut out = filled("out", (batch, heads, queries, v.dim().3), E::default())?;
        let rows = (batch, heads, queries);
        let mut log_sum_exp = filled("log_sum_exp", rows, E::Sum::default())?;
        self.forward_into(q, k, v, out.view_mut(), log_sum_exp.view_mut())?;
        Ok(Forward { out, log_sum_exp })
    }

    /// As [`forward`](Self::forward), written where the caller says.
    ///
    /// # Errors
    /// As [`forward`](Self::forward); nothing is written then.
    pub fn forward_into<E: Element>(
        &self,
        q: ArrayView4<'_, E>,
        k: ArrayView4<'_, E>,
        v: ArrayView4<'_, E>,
        out: ArrayViewMut4<'_, E>,
        log_sum_exp: ArrayViewMut3<'_, E::Sum>,
    ) -> Result<(), Error> {
        let isa = self.chosen_isa()?;
        let problem = self.check(
            E::numbers(q.view()),
            E::numbers(k.view()),
            E::numbers(v.view()),
        )?;
        check_out(&problem, out.shape(), log_sum_exp.shape())?;
        E::forward(isa, &problem, out, log_sum_exp);
        Ok(())
    }

    /// The gradients of a loss from its gradient `d_out` with respect to the output. `out` and `log_sum_exp` are what
    /// [`forward`](Self::forward) gave for the same `q`, `k`, `v` and options.
    ///
    /// # Errors
    /// Shapes or options that do not fit; a gradient of the bias without a bias, of the sinks without sinks, of the slopes
    /// without slopes.
    pub fn backward<E: Element>(
        &self,
        q: ArrayView4<'_, E>,
        k: ArrayView4<'_, E>,
        v: ArrayView4<'_, E>,
        out: ArrayView4<'_, E>,
        log_sum_exp: ArrayView3<'_, E::Sum>,
        d_out: ArrayView4<'_, E>,
    ) -> Result<Gradients<E>, Error> {
        self.backward_with(
            q,
            k,
            v,
            &Upstream {
                out: out.view(),
                log_sum_exp: log_sum_exp.view(),
                d_out: d_out.view(),
                d_log_sum_exp: None,
            },
        )
    }

    /// As [`backward`](Self::backward), of a loss that may depend on the log-sum-exp too.
    ///
    /// # Errors
    /// As [`backward`](Self::backward).
    pub fn backward_with<E: Element>(
        &self,
        q: ArrayView4<'_, E>,
        k: ArrayView4<'_, E>,
        v: ArrayView4<'_, E>,
        upstream: &Upstream<'_, E>,
    ) -> Result<Gradients<E>, Error> {
        let zeros = |name, shape| filled(name, shape, E::default());
        let (mut dq, mut dk) = (zeros("dq", q.dim())?, zeros("dk", k.dim())?);
        let mut dv = zeros("dv", v.dim())?;
        let into = GradientsMut {
            q: dq.view_mut(),
            k: dk.view_mut(),
            v: dv.view_mut(),
        };
        let options = self.backward_into(q, k, v, upstream, into)?;
        Ok(Gradients {
            q: dq,
            k: dk,
            v: dv,
            bias: options.bias,
            sinks: options.sinks,
            slopes: options.slopes,
        })
    }

    /// As [`backward_with`](Self::backward_with), written where the caller says: memory that is used again costs no page
    /// faults, which can take as long as the computation.
    ///
    /// # Errors
    /// As [`backward`](Self::backward); nothing is written then.
    pub fn backward_into<E: Element>(
        &self,
        q: ArrayView4<'_, E>,
        k: ArrayView4<'_, E>,
        v: ArrayView4<'_, E>,
        upstream: &Upstream<'_, E>,
        into: GradientsMut<'_, E>,
    ) -> Result<OptionGradients<E>, Error> {
        let isa = self.chosen_isa()?;
        let problem = self.check(
            E::numbers(q.view()),
            E::numbers(k.view()),
            E::numbers(v.view()),
        )?;
        let Upstream {
            out,
            log_sum_exp,
            d_out,
            d_log_sum_exp,
        } = upstream;
        check_out(&problem, out.shape(), log_sum_exp.shape())?;
        let shape = problem.out_shape();
        let of_out = "[batch, heads, queries, value_dim]";
        expect_shape("d_out", d_out.shape(), &shape, of_out)?;
        if let Some(d_lse) = d_log_sum_exp {
            let of_rows = "[batch, heads, queries]";
            expect_shape("d_log_sum_exp", d_lse.shape(), &shape[..3], of_rows)?;
        }
        expect_shape("into.q", into.q.shape(), q.shape(), "that of `q`")?;
        expect_shape("into.k", into.k.shape(), k.shape(), "that of `k`")?;
        expect_shape("into.v", into.v.shape(), v.shape(), "that of `v`")?;
        self.check_wanted()?;
        let wanted = self.wanted();
        let bytes = size_of::<E::Sum>();
        if let Some((b, h, i, j)) = wanted.bias {
            expect_room("bias_gradient", &[b, h, i, j], bytes)?;
        }
        let known = Known {
            out: E::numbers(out.view()),
            log_sum_exp: log_sum_exp.view(),
            d_out: E::numbers(d_out.view()),
            d_log_sum_exp: d_log_sum_exp.as_ref().map(|d_lse| d_lse.view()),
        };
        Ok(E::backward(isa, &problem, &known, wanted, into))
    }

    /// The weights themselves, by the definition: `[batch, heads, queries, keys]`, computed in f64, before dropout. This
    /// is the one function whose memory grows with the square of the length; [`top_weights`](Self::top_weights) and
    /// [`key_sums`](Self::key_sums) say what most of them say.
    ///
    /// # Errors
    /// As [`forward`](Self::forward).
    pub fn weights<E: Element>(
        &self,
        q: ArrayView4<'_, E>,
        k: ArrayView4<'_, E>,
    ) -> Result<Array4<E::Sum>, Error> {
        self.by_definition(q, k, reference::weights)
    }

    /// The scores before the softmax, by the definition: `[batch, heads, queries, keys]`, −∞ where a pair is not visible;
    /// computed in f64. Its memory grows with the square of the length, as that of [`weights`](Self::weights).
    ///
    /// # Errors
    /// As [`forward`](Self::forward).
    pub fn scores<E: Element>(
        &self,
        q: ArrayView4<'_, E>,
        k: ArrayView4<'_, E>,
    ) -> Result<Array4<E::Sum>, Error> {
        self.by_definition(q, k, reference::scores)
    }

    fn by_definition<E: Element>(
        &self,
        q: ArrayView4<'_, E>,
        k: ArrayView4<'_, E>,
        of: impl Fn(ArrayView4<'_, f64>, ArrayView4<'_, f64>, &reference::Options<'_>) -> Array4<f64>,
    ) -> Result<Array4<E::Sum>, Error> {
        self.check(
            E::numbers(q.view()),
            E::numbers(k.view()),
            E::numbers(k.view()),
        )?;
        let (batch, heads, queries, _) = q.dim();
        // A score that may be none, a weight in f64, and the one that is handed over.
        let bytes = size_of::<Option<f64>>() + 2 * size_of::<f64>();
        let shape = [batch, heads, queries, k.dim().2];
        expect_room("weights", &shape, bytes)?;
        for (name, shape) in [("q", q.shape()), ("k", k.shape())] {
            expect_room(name, shape, size_of::<f64>())?;
        }
        if let Some(bias) = &self.bias {
            expect_room("bias", &shape_of(bias), size_of::<f64>())?;
        }
        let (q, k) = (q.mapv(E::to_f64), k.mapv(E::to_f64));
        let in_double = InDouble::of(self);
        Ok(of(q.view(), k.view(), &in_double.options(self)).mapv(E::Sum::from_f64))
    }

    pub(crate) fn check_wanted(&self) -> Result<(), Error> {
        for (gradient, option, wanted, given) in [
            (
                "bias_gradient",
                "bias",
                self.bias_gradient,
                self.bias.is_some(),
            ),
            (
                "sinks_gradient",
                "sinks",
                self.sinks_gradient,
                self.sinks.is_some(),
            ),
            (
                "slopes_gradient",
                "slopes",
                self.slopes_gradient,
                self.slopes.is_some(),
            ),
        ] {
            if wanted && !given {
                return Err(Error::NoGradient { gradient, option });
            }
        }
        Ok(())
    }

    pub(crate) fn wanted(&self) -> Wanted {
        let bias = self.bias.as_ref().filter(|_| self.bias_gradient);
        Wanted {
            bias: bias.map(Numbers::dim),
            sinks: self.sinks_gradient,
            slopes: self.slopes_gradient,
        }
    }

    pub(crate) fn chosen_isa(&self) -> Result<Isa, Error> {
        match self.isa {
            Some(isa) => isa.require().map(|()| isa),
            None => Isa::chosen(),
        }
    }
}

fn check_out(problem: &Problem<'_>, out: &[usize], log_sum_exp: &[usize]) -> Result<(), Error> {
    let shape = problem.out_shape();
    expect_shape("out", out, &shape, "[batch, heads, queries, value_dim]")?;
    expect_shape(
        "log_sum_exp",
        log_sum_exp,
        &shape[..3],
        "[batch, heads, queries]",
    )
}
