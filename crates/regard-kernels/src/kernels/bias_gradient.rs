//! The gradient of the bias: that of the scores, summed over what the bias was broadcast over.
//!
//! It has a pass of its own. The other gradients are summed key by key, and two heads that share a bias would write to
//! the same place; here a task owns a part of the result and meets, in order, every head that reads it.

use std::ops::Range;

use ndarray::{Array4, ArrayViewMut2, s};

use super::backward::Upstream;
use super::pairs::{Into, KEYS, Pairs, QUERIES, QueryBlock};
use super::tiles::{dense_rows, lines, outer, split, take, with_room};
use crate::Isa;
use crate::attention::Problem;
use crate::simd::{self, Kernel, Simd};

/// `db = Σ ds`, in the shape that the bias was given in.
pub(super) fn bias_gradient<'p>(
    isa: Isa,
    problem: &Problem<'p>,
    upstream: &Upstream<'p>,
    shape: (usize, usize, usize, usize),
) -> Array4<f32> {
    let (batch, heads, queries, head_dim) = problem.q.dim();
    let (_, _, keys, value_dim) = problem.v.dim();
    let mut gradient = Array4::zeros(shape);
    // All of an axis meets in one element where the bias has length 1, so one task meets all of it.
    let of = |index: usize, length: usize, all: usize| {
        if length == 1 {
            0..all
        } else {
            index..index + 1
        }
    };
    let mut tasks = Vec::new();
    for (b, gradient) in outer(gradient.view_mut()).enumerate() {
        for (h, gradient) in outer(gradient).enumerate() {
            for (i, gradient) in split(gradient, QUERIES).into_iter().enumerate() {
                let first = i * QUERIES;
                tasks.push(Part {
                    problem,
                    upstream,
                    batches: of(b, shape.0, batch),
                    heads: of(h, shape.1, heads),
                    queries: if shape.2 == 1 {
                        0..queries
                    } else {
                        first..first + gradient.nrows()
                    },
                    gradient,
                });
            }
        }
    }
    let room = room_sizes(problem).into_iter().map(lines).sum();
    let operations = 2 * batch * heads * queries * keys * (head_dim + value_dim);
    super::for_each(tasks, operations, |part| {
        with_room(room, |room| simd::run(isa, (part, room)));
    });
    gradient
}

/// A part of the gradient, and the queries that read it.
struct Part<'a, 'p> {
    problem: &'a Problem<'p>,
    upstream: &'a Upstream<'p>,
    batches: Range<usize>,
    heads: Range<usize>,
    queries: Range<usize>,
    /// `[queries or 1, keys or 1]`.
    gradient: ArrayViewMut2<'a, f32>,
}

/// In room for [`room_sizes`].
impl Kernel for (Part<'_, '_>, &mut [f32]) {
    type Output = ();

    #[inline(always)]
    fn call<S: Simd>(self, simd: S) {
        let (mut part, mut room) = self;
        let problem = part.problem;
        let heads = problem.q.dim().1;
        let kv_heads = problem.v.dim().1;
        let [block, weights, scores, k_room, v_room] =
            room_sizes(problem).map(|size| take(&mut room, size));
        for (batch, head) in part
            .batches
            .clone()
            .flat_map(|b| part.heads.clone().map(move |h| (b, h)))
        {
            let kv_head = head / (heads / kv_heads);
            let k = problem.k.slice(s![batch, kv_head, .., ..]);
            let v = problem.v.slice(s![batch, kv_head, .., ..]);
            for first in part.queries.clone().step_by(QUERIES) {
                let queries = first..part.queries.end.min(first + QUERIES);
                let block = QueryBlock::pack(
                    simd,
                    problem,
                    part.upstream,
                    (batch, head),
                    queries,
                    &mut *block,
                );
                let seen = problem.visibility.range(batch, &block.queries);
                for start in seen.clone().step_by(KEYS) {
                    let keys = start..seen.end.min(start + KEYS);
                    let k = dense_rows(k, keys.clone(), k_room);
                    let v = dense_rows(v, keys.clone(), v_room);
                    let into = Into {
                        weights: &mut *weights,
                        gradients: &mut *scores,
                        slopes: None,
                    };
                    let pairs = block.pairs(simd, problem, keys.clone(), (k, v), into);
                    if pairs != Pairs::None {
                        add(
                            &mut part.gradient,
                            first - part.queries.start,
                            start,
                            scores,
                            &block,
                            keys.len(),
                        );
                    }
                }
            }
        }
    }
}

/// How much room each of these takes, with any instruction set.
fn room_sizes(problem: &Problem<'_>) -> [usize; 5] {
    [
        QueryBlock::room(problem),
        KEYS * QUERIES,           // weights
        KEYS * QUERIES,           // gradients of the scores
        KEYS * problem.k.dim().3, // keys, if they have to be copied
        KEYS * problem.v.dim().3, // values, likewise
    ]
}

/// Adds the block's `ds` from row `i` and column `j` on; an axis of length 1 takes all of it.
#[inline(always)]
fn add(
    into: &mut ArrayViewMut2<'_, f32>,
    i: usize,
    j: usize,
    scores: &[f32],
    block: &QueryBlock<'_>,
    keys: usize,
) {
    let (rows, columns) = into.dim();
    for query in 0..block.queries.len() {
        let mut row = into.row_mut(if rows == 1 { 0 } else { i + query });
        for key in 0..keys {
            row[if columns == 1 { 0 } else { j + key }] += scores[key * block.width + query];
        }
    }
}
