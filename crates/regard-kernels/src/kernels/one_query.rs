//! One query a head, as when a sequence is written token by token.
//!
//! Queries lie in the lanes of a vector, and one query would leave all lanes but one idle. So the heads of a group, which
//! read the same keys and values, become the queries of one head: the keys are read once for all of them. What is
//! rearranged (queries, outputs, a mask or a bias of one row) is small beside the keys.

use ndarray::{ArrayViewMut3, ArrayViewMut4};

use crate::Isa;
use crate::attention::Problem;
use crate::mask::Visibility;

/// As [`forward`](super::forward::forward), which it calls either way.
pub(crate) fn forward(
    isa: Isa,
    problem: &Problem<'_>,
    mut out: ArrayViewMut4<'_, f32>,
    mut log_sum_exp: ArrayViewMut3<'_, f32>,
) {
    let (batch, heads, queries, head_dim) = problem.q.dim();
    let (_, kv_heads, keys, value_dim) = problem.v.dim();
    let group = heads / kv_heads.max(1);
    if queries != 1 || group < 2 || batch == 0 {
        return super::forward::forward(isa, problem, out, log_sum_exp);
    }
    let fits = "the heads are kv_heads · group";
    let rows = (batch, kv_heads, group, keys);
    let q = problem
        .q
        .to_shape((batch, kv_heads, group, head_dim))
        .expect(fits);
    let mask = problem
        .visibility
        .mask
        .as_ref()
        .map(|mask| mask.to_shape(rows).expect(fits));
    let bias = problem
        .bias
        .as_ref()
        .map(|bias| bias.to_shape(rows).expect(fits));
    let Visibility {
        keys,
        diagonal,
        left,
        right,
        visible_keys,
        ..
    } = problem.visibility;
    let visibility = Visibility {
        keys,
        diagonal,
        advance: 0,
        left,
        right,
        visible_keys,
        mask: mask.as_ref().map(|mask| mask.view()),
    };
    let grouped = Problem {
        q: q.view(),
        k: problem.k.view(),
        v: problem.v.view(),
        scale: problem.scale,
        visibility,
        softcap: problem.softcap,
        bias: bias.as_ref().map(|bias| bias.view()),
        sinks: problem.sinks,
    };
    let mut grouped_out = ndarray::Array4::zeros((batch, kv_heads, group, value_dim));
    let mut grouped_lse = ndarray::Array3::zeros((batch, kv_heads, group));
    super::forward::forward(
        isa,
        &grouped,
        grouped_out.view_mut(),
        grouped_lse.view_mut(),
    );
    let grouped_out = grouped_out.to_shape(out.dim()).expect(fits);
    out.assign(&grouped_out);
    let grouped_lse = grouped_lse.to_shape(log_sum_exp.dim()).expect(fits);
    log_sum_exp.assign(&grouped_lse);
}
