//! Attention over all keys from attention over two parts of them.

use ndarray::{ArrayView3, ArrayView4};

use crate::memory::filled;
use crate::problem::expect_shape;
use crate::{Element, Error, Forward};

/// What attention over two sets of keys gives, from what it gives over each: `out` and log-sum-exp of both, for the same
/// queries and disjoint sets of keys, as when a long cache lies in several places.
///
/// ```text
/// lse = ln(exp(lse_a) + exp(lse_b))          out = exp(lse_a − lse) out_a + exp(lse_b − lse) out_b
/// ```
///
/// A query that has seen nothing in one set has there an output of 0 and a log-sum-exp of −∞, and adds nothing. Sinks
/// count in the log-sum-exp: give them to one part only. (Dao et al. 2023, "Flash-Decoding".)
///
/// # Errors
/// Shapes that are not the same, or not `[batch, heads, queries, value_dim]` and `[batch, heads, queries]`.
pub fn merge<E: Element>(
    (out_a, lse_a): (ArrayView4<'_, E>, ArrayView3<'_, E::Sum>),
    (out_b, lse_b): (ArrayView4<'_, E>, ArrayView3<'_, E::Sum>),
) -> Result<Forward<E>, Error> {
    let shape = out_a.dim();
    expect_shape("out_b", out_b.shape(), out_a.shape(), "that of `out_a`")?;
    let rows = &out_a.shape()[..3];
    let reason = "[batch, heads, queries] of `out_a`";
    expect_shape("lse_a", lse_a.shape(), rows, reason)?;
    expect_shape("lse_b", lse_b.shape(), rows, reason)?;
    let mut out = filled("out", shape, E::default())?;
    let mut log_sum_exp = filled(
        "log_sum_exp",
        (shape.0, shape.1, shape.2),
        E::Sum::default(),
    )?;
    for ((b, h, i), lse) in log_sum_exp.indexed_iter_mut() {
        let (a, b_) = (lse_a[[b, h, i]].to_f64(), lse_b[[b, h, i]].to_f64());
        // The larger one is subtracted only so that exp does not overflow; a NaN makes the row NaN.
        let shift = if a > b_ { a } else { b_ };
        let sum = (a - shift).exp() + (b_ - shift).exp();
        if shift == f64::NEG_INFINITY {
            *lse = E::Sum::from_f64(a + b_); // nothing is seen: out stays 0 (and a NaN stays one)
            continue;
        }
        *lse = E::Sum::from_f64(shift + sum.ln());
        let (of_a, of_b) = ((a - shift).exp() / sum, (b_ - shift).exp() / sum);
        for c in 0..shape.3 {
            let at = [b, h, i, c];
            // A part that adds nothing is not touched: 0 · ∞ is NaN.
            let part = |of: f64, out: E| if of == 0.0 { 0.0 } else { of * out.to_f64() };
            out[at] = E::from_f64(part(of_a, out_a[at]) + part(of_b, out_b[at]));
        }
    }
    Ok(Forward { out, log_sum_exp })
}
