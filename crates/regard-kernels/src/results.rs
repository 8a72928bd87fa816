//! What goes into a pass and what comes out of it.

use ndarray::{Array3, Array4, ArrayView3, ArrayView4, ArrayViewMut4};

#[cfg(doc)]
use crate::Attention;
use crate::Element;

/// What [`Attention::forward`] gives.
#[derive(Debug, Clone, PartialEq)]
pub struct Forward<E: Element = f32> {
    /// The mixed values, `[batch, heads, queries, value_dim]`.
    pub out: Array4<E>,
    /// `ln Σ_j exp(s_ij)`, `[batch, heads, queries]`; −∞ for a query that sees nothing. f32; f64 for f64.
    pub log_sum_exp: Array3<E::Sum>,
}

/// What [`Attention::backward`] gives. The gradients of what is not as long as the sequences are in f32; in f64 for f64.
#[derive(Debug, Clone, PartialEq)]
pub struct Gradients<E: Element = f32> {
    /// As `q`.
    pub q: Array4<E>,
    /// As `k`: summed over the query heads that share a key head.
    pub k: Array4<E>,
    /// As `v`: summed likewise.
    pub v: Array4<E>,
    /// As the bias was given, summed over what it was broadcast over; only where
    /// [`Attention::bias_gradient`] asked for it.
    pub bias: Option<Array4<E::Sum>>,
    /// One number a head, summed over the queries; only where [`Attention::sinks_gradient`] asked for it.
    pub sinks: Option<Vec<E::Sum>>,
    /// One number a head, summed over the pairs; only where [`Attention::slopes_gradient`] asked for it.
    pub slopes: Option<Vec<E::Sum>>,
}

/// The gradients that [`Attention::backward_into`] gives, because their shapes are the options'; as in [`Gradients`].
#[derive(Debug, Clone, PartialEq)]
pub struct OptionGradients<E: Element = f32> {
    /// As the bias was given.
    pub bias: Option<Array4<E::Sum>>,
    /// One number a head.
    pub sinks: Option<Vec<E::Sum>>,
    /// One number a head.
    pub slopes: Option<Vec<E::Sum>>,
}

/// Where [`Attention::backward_into`] writes the gradients of `q`, `k` and `v`; what was there does not matter.
#[derive(Debug)]
pub struct GradientsMut<'a, E> {
    /// As `q`.
    pub q: ArrayViewMut4<'a, E>,
    /// As `k`.
    pub k: ArrayViewMut4<'a, E>,
    /// As `v`.
    pub v: ArrayViewMut4<'a, E>,
}

/// What a backward pass starts from.
#[derive(Debug)]
pub struct Upstream<'a, E: Element = f32> {
    /// What [`Attention::forward`] gave for the same `q`, `k`, `v` and options.
    pub out: ArrayView4<'a, E>,
    /// Likewise.
    pub log_sum_exp: ArrayView3<'a, E::Sum>,
    /// The gradient of the loss with respect to the output.
    pub d_out: ArrayView4<'a, E>,
    /// With respect to the log-sum-exp, of a loss that depends on it.
    pub d_log_sum_exp: Option<ArrayView3<'a, E::Sum>>,
}
