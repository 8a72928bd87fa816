//! The gradient of the sinks: a number a head, summed over all queries of the head.

use ndarray::s;
use rayon::prelude::*;

use super::backward::Upstream;
use crate::attention::Problem;

/// `dsink_h = −Σ_bi exp(sink_h − lse_bhi) · D_bhi`, with `D_i = ⟨do_i, o_i⟩`.
///
/// In the forward pass the sink was one more key, with the score `sink` and the value 0. So its weight is
/// `exp(sink − lse)`, the gradient of that weight is 0, and `ds = w (dw − D)` is what stands above. The sum is one
/// task's, in f64: a head has many queries, and their terms cancel.
pub(super) fn sink_gradient(
    problem: &Problem<'_>,
    upstream: &Upstream<'_>,
    sinks: &[f32],
) -> Vec<f32> {
    let (batch, _, queries, _) = problem.q.dim();
    let of_head = |head: usize| {
        let mut sum = 0.0;
        for b in 0..batch {
            for i in 0..queries {
                let lse = upstream.log_sum_exp[[b, head, i]];
                if lse == f32::NEG_INFINITY {
                    continue; // it sees nothing, and its sink is −∞
                }
                let row = s![b, head, i, ..];
                let mean: f64 = upstream
                    .d_out
                    .slice(row)
                    .iter()
                    .zip(upstream.out.slice(row))
                    .map(|(&d_out, &out)| f64::from(d_out) * f64::from(out))
                    .sum();
                sum -= (f64::from(sinks[head]) - f64::from(lse)).exp() * mean;
            }
        }
        sum as f32
    };
    (0..sinks.len()).into_par_iter().map(of_head).collect()
}
