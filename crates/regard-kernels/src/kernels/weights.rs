//! A second pass over the scores, for what the weights themselves say: they are made again block by block, as in the
//! backward pass, and each block is added up or searched before the next.

use std::cmp::Ordering;

use ndarray::{ArrayViewMut2, ArrayViewMut3, Axis, s};

use super::backward::Known;
use super::pairs::{Into, KEYS, Pairs, QUERIES, QueryBlock, STEP};
use super::tiles::{blocks, lines, outer, split, take, with_room};
use crate::Isa;
use crate::problem::Problem;
use crate::simd::{self, Kernel, Simd};
use crate::weights::TopWeights;

/// `sums[b, h, j] = Σ_i w_ij`; they are 0 before. A task adds up a head, in f32 within a block, so the order is fixed.
pub(crate) fn key_sums<'p>(
    isa: Isa,
    problem: &Problem<'p>,
    known: &Known<'p, f32>,
    sums: ArrayViewMut3<'_, f32>,
) {
    let queries = problem.q.dim().2;
    let mut tasks = Vec::new();
    for (batch, sums) in outer(sums).enumerate() {
        for (head, sums) in outer(sums).enumerate() {
            tasks.push(Part {
                problem,
                known,
                batch,
                head,
                first: 0,
                count: queries,
                gather: Gather::Sums(sums.into_slice().expect("made here, in standard layout")),
            });
        }
    }
    run(isa, problem, tasks);
}

/// Fills `top`, whose weights are 0 before.
pub(crate) fn top_weights<'p>(
    isa: Isa,
    problem: &Problem<'p>,
    known: &Known<'p, f32>,
    top: &mut TopWeights<f32>,
) {
    let mut tasks = Vec::new();
    let (keys, weights) = (top.keys.view_mut(), top.weights.view_mut());
    for (batch, (keys, weights)) in outer(keys).zip(outer(weights)).enumerate() {
        for (head, (keys, weights)) in outer(keys).zip(outer(weights)).enumerate() {
            let parts = split(keys, QUERIES)
                .into_iter()
                .zip(split(weights, QUERIES));
            for (i, (keys, weights)) in parts.enumerate() {
                tasks.push(Part {
                    problem,
                    known,
                    batch,
                    head,
                    first: i * QUERIES,
                    count: keys.nrows(),
                    gather: Gather::Top(keys, weights),
                });
            }
        }
    }
    run(isa, problem, tasks);
}

fn run(isa: Isa, problem: &Problem<'_>, tasks: Vec<Part<'_, '_>>) {
    let (batch, heads, queries, head_dim) = problem.q.dim();
    let room = room_sizes(problem).into_iter().map(lines).sum();
    let operations = 2 * batch * heads * queries * problem.k.dim().2 * head_dim.max(1);
    super::for_each(tasks, operations, |part| {
        with_room(room, |room| simd::run(isa, (part, room)));
    });
}

/// Some queries of one head, and where what their weights say goes.
struct Part<'a, 'p> {
    problem: &'a Problem<'p>,
    known: &'a Known<'p, f32>,
    batch: usize,
    head: usize,
    first: usize,
    count: usize,
    gather: Gather<'a>,
}

enum Gather<'a> {
    /// One number a key.
    Sums(&'a mut [f32]),
    /// Keys and weights, `[queries, count]`.
    Top(ArrayViewMut2<'a, usize>, ArrayViewMut2<'a, f32>),
}

impl Gather<'_> {
    /// `weights[j · STEP + i]` is that of the block's query `i` and the key `first + j`; `skipped` queries of the part lie
    /// before.
    fn add(&mut self, skipped: usize, queries: usize, first: usize, weights: &[f32]) {
        for (key, weights) in (first..).zip(weights.chunks(STEP)) {
            let weights = &weights[..queries];
            match self {
                Gather::Sums(sums) => sums[key] += weights.iter().sum::<f32>(),
                Gather::Top(keys, top) => {
                    for (i, &weight) in weights.iter().enumerate() {
                        let mut top = top.index_axis_mut(Axis(0), skipped + i);
                        let last = top.len() - 1;
                        // What is not larger than the last of the list does not enter it; 0 and NaN never do.
                        if weight.partial_cmp(&top[last]) != Some(Ordering::Greater) {
                            continue;
                        }
                        let mut keys = keys.slice_mut(s![skipped + i, ..]);
                        let mut at = last;
                        while at > 0 && weight > top[at - 1] {
                            (top[at], keys[at]) = (top[at - 1], keys[at - 1]);
                            at -= 1;
                        }
                        (top[at], keys[at]) = (weight, key);
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
        let [block, weights, scores, k_room] =
            room_sizes(problem).map(|size| take(&mut room, size));
        let k = problem.k.head(part.batch, part.head / problem.group());
        for queries in blocks(part.first..part.first + part.count, QUERIES) {
            let skipped = queries.start - part.first;
            let count = queries.len();
            let of = (part.batch, part.head);
            let block = QueryBlock::pack(simd, problem, part.known, of, queries, &mut *block);
            let seen = problem.visibility.ranges(part.batch, &block.queries);
            for keys in seen.into_iter().flat_map(|seen| blocks(seen, KEYS)) {
                let k = k.dense_rows(keys.clone(), k_room);
                let into = Into {
                    weights: &mut *weights,
                    gradients: &mut *scores,
                    slopes: None,
                };
                let pairs = block.pairs(simd, problem, keys.clone(), (k, &[]), into);
                if pairs != Pairs::None {
                    part.gather
                        .add(skipped, count, keys.start, &weights[..keys.len() * STEP]);
                }
            }
        }
    }
}

/// How much room each of these takes, with any instruction set.
fn room_sizes(problem: &Problem<'_>) -> [usize; 4] {
    [
        QueryBlock::room(problem),
        KEYS * STEP,              // weights
        KEYS * STEP,              // gradients of the scores, which are all 0
        KEYS * problem.k.dim().3, // keys, if they have to be copied
    ]
}
