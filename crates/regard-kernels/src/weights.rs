//! What the weights say, without storing them all.

use ndarray::{Array3, Array4, ArrayView4};

use crate::kernels::Known;
use crate::memory::filled;
use crate::problem::Problem;
use crate::{Attention, Element, Error, Isa};

/// What [`Attention::top_weights`] gives.
#[derive(Debug, Clone, PartialEq)]
pub struct TopWeights<S> {
    /// The keys with the largest weights of each query, largest first, of equal ones the earlier first:
    /// `[batch, heads, queries, count]`. `usize::MAX` where a query sees fewer.
    pub keys: Array4<usize>,
    /// Their weights; 0 where a query sees fewer.
    pub weights: Array4<S>,
}

impl Attention<'_> {
    /// The `count` largest weights of each query, and whose they are. Before dropout; memory grows with
    /// `queries · count`.
    ///
    /// # Errors
    /// As [`forward`](Self::forward).
    pub fn top_weights<E: Element>(
        &self,
        q: ArrayView4<'_, E>,
        k: ArrayView4<'_, E>,
        count: usize,
    ) -> Result<TopWeights<E::Sum>, Error> {
        let (batch, heads, queries, _) = q.dim();
        let mut top = TopWeights {
            keys: filled("keys", (batch, heads, queries, count), usize::MAX)?,
            weights: filled("weights", (batch, heads, queries, count), E::Sum::default())?,
        };
        if count > 0 {
            self.with_log_sum_exp(&q, &k, |isa, problem, known| {
                E::top_weights(isa, problem, known, &mut top);
            })?;
        }
        Ok(top)
    }

    /// What each key gets of the weight of all queries, `Σ_i w_ij`, `[batch, heads, keys]`: which keys of a cache are
    /// worth keeping (Zhang et al. 2023, "H2O: Heavy-Hitter Oracle"). Before dropout.
    ///
    /// # Errors
    /// As [`forward`](Self::forward).
    pub fn key_sums<E: Element>(
        &self,
        q: ArrayView4<'_, E>,
        k: ArrayView4<'_, E>,
    ) -> Result<Array3<E::Sum>, Error> {
        let (batch, heads, _, _) = q.dim();
        let mut sums = filled("key_sums", (batch, heads, k.dim().2), E::Sum::default())?;
        self.with_log_sum_exp(&q, &k, |isa, problem, known| {
            E::key_sums(isa, problem, known, sums.view_mut());
        })?;
        Ok(sums)
    }

    /// Runs `f` with what a second pass over the scores needs: attention to values of width 0 gives the log-sum-exp.
    fn with_log_sum_exp<E: Element>(
        &self,
        q: &ArrayView4<'_, E>,
        k: &ArrayView4<'_, E>,
        f: impl for<'p> FnOnce(Isa, &Problem<'p>, &Known<'p, E::Sum>),
    ) -> Result<(), Error> {
        let isa = self.chosen_isa()?;
        let (batch, heads, queries, _) = q.dim();
        let nothing = filled("v", (batch, k.dim().1, k.dim().2, 0), E::default())?;
        let mut problem = self.check(
            E::numbers(q.view()),
            E::numbers(k.view()),
            E::numbers(nothing.view()),
        )?;
        problem.dropout = None;
        let mut out = filled("out", (batch, heads, queries, 0), E::default())?;
        let mut lse = filled("log_sum_exp", (batch, heads, queries), E::Sum::default())?;
        E::forward(isa, &problem, out.view_mut(), lse.view_mut());
        let known = Known {
            out: E::numbers(out.view()),
            log_sum_exp: lse.view(),
            d_out: E::numbers(out.view()),
            d_log_sum_exp: None,
        };
        f(isa, &problem, &known);
        Ok(())
    }
}
