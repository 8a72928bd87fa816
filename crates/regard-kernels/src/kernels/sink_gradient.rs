//! The gradient of the sinks: a number a head, summed over all queries of the head.

use rayon::prelude::*;

use super::backward::Known;
use crate::problem::Problem;

/// `dsink_h = −Σ_bi exp(sink_h − lse_bhi) · D_bhi`, with `D_i = ⟨do_i, o_i⟩ − dlse_i`; zeros without sinks.
///
/// In the forward pass the sink was one more key, with the score `sink` and the value 0. So its weight is
/// `exp(sink − lse)`, the gradient of that weight is 0, and `ds = w (dw − D)` is what stands above. The sum is one
/// task's, in f64: a head has many queries, and their terms cancel.
pub(super) fn sink_gradient(problem: &Problem<'_>, known: &Known<'_, f32>) -> Vec<f32> {
    let [batch, heads, queries, value_dim] = problem.out_shape();
    let sinks = problem.sinks.unwrap_or_default();
    let of_head = |head: usize| {
        let mut sum = 0.0;
        let (mut out, mut d_out) = (vec![0.0; value_dim], vec![0.0; value_dim]);
        for b in 0..batch {
            for i in 0..queries {
                let lse = known.log_sum_exp[[b, head, i]];
                if lse == f32::NEG_INFINITY {
                    continue; // it sees nothing, and its sink is −∞
                }
                known
                    .out
                    .head(b, head)
                    .copy_part(i, 0..value_dim, 1.0, &mut out);
                known
                    .d_out
                    .head(b, head)
                    .copy_part(i, 0..value_dim, 1.0, &mut d_out);
                let mean: f64 = d_out
                    .iter()
                    .zip(&out)
                    .map(|(&d_out, &out)| f64::from(d_out) * f64::from(out))
                    .sum();
                let d_lse = known.d_log_sum_exp.map_or(0.0, |d_lse| d_lse[[b, head, i]]);
                sum -= (f64::from(sinks[head]) - f64::from(lse)).exp() * (mean - f64::from(d_lse));
            }
        }
        sum as f32
    };
    (0..heads.min(sinks.len()))
        .into_par_iter()
        .map(of_head)
        .collect()
}
