//! The gradients of what is added to the scores: the bias, and the slopes.
//!
//! They have a pass of their own. The other gradients are summed key by key, and two heads that share a bias would write
//! to the same place; here a task owns a part of the result and meets, in order, every head that reads it.

use std::ops::Range;

use ndarray::{Array4, ArrayViewMut2};

use super::backward::Known;
use super::pairs::{Into, KEYS, Pairs, QUERIES, QueryBlock, STEP};
use super::tiles::{blocks, lines, outer, split, take, with_room};
use crate::Isa;
use crate::problem::Problem;
use crate::simd::{self, Kernel, Simd};

/// `db = Σ ds`, in the shape that the bias was given in.
pub(super) fn of_bias<'p>(
    isa: Isa,
    problem: &Problem<'p>,
    known: &Known<'p, f32>,
    shape: (usize, usize, usize, usize),
) -> Array4<f32> {
    let (batch, heads, queries, _) = problem.q.dim();
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
                    known,
                    batches: of(b, shape.0, batch),
                    heads: of(h, shape.1, heads),
                    queries: if shape.2 == 1 {
                        0..queries
                    } else {
                        first..first + gradient.nrows()
                    },
                    sum: Sum::Bias(gradient),
                });
            }
        }
    }
    run(isa, problem, tasks);
    gradient
}

/// `dslope_h = −Σ_bij ds_bhij · |p_i − j|`, where query `i` stands at key `p_i`.
pub(super) fn of_slopes<'p>(isa: Isa, problem: &Problem<'p>, known: &Known<'p, f32>) -> Vec<f32> {
    let (batch, heads, queries, _) = problem.q.dim();
    // The terms cancel, so they are summed in f64: a number for each head of each batch row, and these in order.
    let mut sums = vec![0.0; batch * heads];
    let mut tasks = Vec::new();
    for (at, sum) in sums.iter_mut().enumerate() {
        let (b, h) = (at / heads, at % heads);
        tasks.push(Part {
            problem,
            known,
            batches: b..b + 1,
            heads: h..h + 1,
            queries: 0..queries,
            sum: Sum::Slope(sum),
        });
    }
    run(isa, problem, tasks);
    (0..heads)
        .map(|h| (0..batch).map(|b| sums[b * heads + h]).sum::<f64>() as f32)
        .collect()
}

fn run(isa: Isa, problem: &Problem<'_>, tasks: Vec<Part<'_, '_>>) {
    let (batch, heads, queries, head_dim) = problem.q.dim();
    let (_, _, keys, value_dim) = problem.v.dim();
    let room = room_sizes(problem).into_iter().map(lines).sum();
    let operations = 2 * batch * heads * queries * keys * (head_dim + value_dim);
    super::for_each(tasks, operations, |part| {
        with_room(room, |room| simd::run(isa, (part, room)));
    });
}

/// A part of the gradient, and the queries that it belongs to.
struct Part<'a, 'p> {
    problem: &'a Problem<'p>,
    known: &'a Known<'p, f32>,
    batches: Range<usize>,
    heads: Range<usize>,
    queries: Range<usize>,
    sum: Sum<'a>,
}

/// What the gradients of a block of scores are added to.
enum Sum<'a> {
    /// `[queries or 1, keys or 1]`.
    Bias(ArrayViewMut2<'a, f32>),
    Slope(&'a mut f64),
}

impl Sum<'_> {
    /// `scores[j · STEP + i]` is ds of the block's query `i` and key `j`; `skipped` queries of the part lie before.
    fn add(
        &mut self,
        problem: &Problem<'_>,
        block: &QueryBlock<'_>,
        skipped: usize,
        keys: Range<usize>,
        scores: &[f32],
    ) {
        match self {
            Sum::Bias(gradient) => {
                let (rows, columns) = gradient.dim();
                for query in 0..block.queries.len() {
                    let mut row = gradient.row_mut(if rows == 1 { 0 } else { skipped + query });
                    for (j, key) in keys.clone().enumerate() {
                        row[if columns == 1 { 0 } else { key }] += scores[j * STEP + query];
                    }
                }
            }
            Sum::Slope(sum) => {
                for (i, query) in block.queries.clone().enumerate() {
                    let stands_at = problem.visibility.key_of(block.batch(), query);
                    for (j, key) in keys.clone().enumerate() {
                        let distance = stands_at.abs_diff(key as isize) as f64;
                        **sum -= f64::from(scores[j * STEP + i]) * distance;
                    }
                }
            }
        }
    }
}

/// In room for [`room_sizes`].
impl Kernel for (Part<'_, '_>, &mut [f32]) {
    type Output = ();

    #[inline(always)]
    fn call<S: Simd>(self, simd: S) {
        let (mut part, mut room) = self;
        let problem = part.problem;
        let [block, weights, scores, k_room, v_room] =
            room_sizes(problem).map(|size| take(&mut room, size));
        for (batch, head) in part
            .batches
            .clone()
            .flat_map(|b| part.heads.clone().map(move |h| (b, h)))
        {
            let kv_head = head / problem.group();
            let k = problem.k.head(batch, kv_head);
            let v = problem.v.head(batch, kv_head);
            for queries in blocks(part.queries.clone(), QUERIES) {
                let skipped = queries.start - part.queries.start;
                let block = QueryBlock::pack(
                    simd,
                    problem,
                    part.known,
                    (batch, head),
                    queries,
                    &mut *block,
                );
                let seen = problem.visibility.ranges(batch, &block.queries);
                for keys in seen.into_iter().flat_map(|seen| blocks(seen, KEYS)) {
                    let k = k.dense_rows(keys.clone(), k_room);
                    let v = v.dense_rows(keys.clone(), v_room);
                    let into = Into {
                        weights: &mut *weights,
                        gradients: &mut *scores,
                        slopes: None,
                    };
                    let pairs = block.pairs(simd, problem, keys.clone(), (k, v), into);
                    if pairs != Pairs::None {
                        part.sum.add(problem, &block, skipped, keys, scores);
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
        KEYS * STEP,              // weights
        KEYS * STEP,              // gradients of the scores
        KEYS * problem.k.dim().3, // keys, if they have to be copied
        KEYS * problem.v.dim().3, // values, likewise
    ]
}
