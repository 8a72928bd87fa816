//! Some keys of one key head meet queries: the block of work that every backward pass is cut into. The formulas are those of
//! [`backward`](super::backward); `dk` and `dv` are summed over the queries one after the other, `dq` over the keys.

use std::ops::Range;

use super::arithmetic::Arithmetic;
use super::backward::Known;
use super::backward_in_pairs::{self, InPairs};
use super::pairs::{Into, KEYS, Pairs, QUERIES, QueryBlock, STEP};
use super::tiles::{RowsMut, all_finite, blocks, lines, take};
use crate::Isa;
use crate::problem::Problem;
use crate::simd::{self, Kernel, Product, Simd, Unit};

/// Some keys of one key head, the queries that read it, and where the gradients of both go.
pub(super) struct Part<'a, 'o, 'p> {
    pub(super) problem: &'a Problem<'p>,
    pub(super) known: &'a Known<'p, f32>,
    pub(super) batch: usize,
    pub(super) kv_head: usize,
    pub(super) keys: Range<usize>,
    pub(super) queries: Range<usize>,
    /// None where nobody asks for them.
    pub(super) of_queries: OfQueries<'o>,
    /// None where nobody asks for them.
    pub(super) of_keys: Option<OfKeys<'a, 'o>>,
}

/// Where `dq` goes, of each head of the group: `[queries, head_dim]`.
pub(super) struct OfQueries<'o> {
    /// Whether it is written; it is added to otherwise.
    pub(super) begin: bool,
    pub(super) dq: Vec<RowsMut<'o>>,
}

impl OfQueries<'_> {
    /// The rows of a head from the query `first` on, so many of them; nothing where nobody asks for them.
    #[inline(always)]
    pub(super) fn put(
        &mut self,
        head: usize,
        (first, count): (usize, usize),
        (rows, row, head_dim): (&[f32], usize, usize),
        factor: f32,
    ) {
        let Some(dq) = self.dq.get_mut(head) else {
            return;
        };
        for (i, row) in rows.chunks(row.max(1)).take(count).enumerate() {
            match self.begin {
                true => dq.write(first + i, &row[..head_dim], factor),
                false => dq.add(first + i, &row[..head_dim], factor),
            }
        }
    }
}

/// The sums of `dk` and `dv` of some keys, one row behind the other.
pub(super) struct OfKeys<'a, 'o> {
    /// Whether they begin at 0; they are added to otherwise.
    pub(super) begin: bool,
    pub(super) dk: &'a mut [f32],
    pub(super) dv: &'a mut [f32],
    /// Where they go in the end, if they do not stay where they are.
    pub(super) into: Option<[RowsMut<'o>; 2]>,
}

impl OfKeys<'_, '_> {
    #[inline(always)]
    pub(super) fn start(&mut self) {
        if self.begin {
            self.dk.fill(0.0);
            self.dv.fill(0.0);
        }
    }

    /// Those of `count` keys from the key `first` on.
    #[inline(always)]
    pub(super) fn rows(
        &mut self,
        first: usize,
        count: usize,
        (head_dim, value_dim): (usize, usize),
    ) -> (&mut [f32], &mut [f32]) {
        (
            &mut self.dk[first * head_dim..][..count * head_dim],
            &mut self.dv[first * value_dim..][..count * value_dim],
        )
    }

    #[inline(always)]
    pub(super) fn finish(self, keys: usize, (head_dim, value_dim): (usize, usize)) {
        let Some([mut dk, mut dv]) = self.into else {
            return;
        };
        for j in 0..keys {
            dk.write(j, &self.dk[j * head_dim..][..head_dim], 1.0);
            dv.write(j, &self.dv[j * value_dim..][..value_dim], 1.0);
        }
    }
}

/// How much room [`run`] takes.
pub(super) fn room(isa: Isa, problem: &Problem<'_>) -> usize {
    match Arithmetic::is_in_pairs(isa, problem) {
        false => room_sizes(problem).into_iter().map(lines).sum(),
        true => backward_in_pairs::room(problem),
    }
}

/// Lets the queries of a part meet its keys, with the widest products that the instruction set has for them.
pub(super) fn run(isa: Isa, part: Part<'_, '_, '_>, room: &mut [f32]) {
    if Arithmetic::is_in_pairs(isa, part.problem) {
        let unit = &Unit::of(isa);
        simd::run_pairs(isa, InPairs { unit, part, room });
    } else {
        simd::run(isa, (part, room));
    }
}

/// In room for [`room_sizes`].
impl Kernel for (Part<'_, '_, '_>, &mut [f32]) {
    type Output = ();

    #[inline(always)]
    fn call<S: Simd>(self, simd: S) {
        let (mut part, mut room) = self;
        let problem = part.problem;
        let (head_dim, value_dim) = (problem.q.dim().3, problem.v.dim().3);
        let group = problem.group();
        let q_width = head_dim.next_multiple_of(S::LANES);
        let [block, dq, weights, scores, slopes, k, k_whole, v] =
            room_sizes(problem).map(|size| take(&mut room, size));
        let any_dq = !part.of_queries.dq.is_empty();
        if let Some(sums) = &mut part.of_keys {
            sums.start();
        }
        for h in 0..group {
            for queries in blocks(part.queries.clone(), QUERIES) {
                let (first, count) = (queries.start - part.queries.start, queries.len());
                let seen = problem.visibility.part(part.batch, &queries, &part.keys);
                let dq = &mut dq[..count * q_width];
                dq.fill(0.0);
                if !seen.is_empty() {
                    let head = part.kv_head * group + h;
                    let block = QueryBlock::pack(
                        simd,
                        problem,
                        part.known,
                        (part.batch, head),
                        queries,
                        &mut *block,
                    );
                    part.meet(
                        simd,
                        &block,
                        any_dq.then_some(&mut *dq),
                        (&mut *weights, &mut *scores),
                        problem.softcap.map(|_| &mut *slopes),
                        (&mut *k, &mut *k_whole, &mut *v),
                    );
                }
                let rows = (&*dq, q_width, head_dim);
                let scale = problem.scale as f32;
                part.of_queries.put(h, (first, count), rows, scale);
            }
        }
        if let Some(sums) = part.of_keys {
            sums.finish(part.keys.len(), (head_dim, value_dim));
        }
    }
}

/// How much room each of these takes, with any instruction set.
fn room_sizes(problem: &Problem<'_>) -> [usize; 8] {
    let (head_dim, value_dim) = (problem.q.dim().3, problem.v.dim().3);
    [
        QueryBlock::room(problem),
        QUERIES * lines(head_dim),                  // dq
        KEYS * STEP,                                // weights
        KEYS * STEP,                                // their gradients
        problem.softcap.map_or(0, |_| KEYS * STEP), // the slopes of the cap
        KEYS * head_dim,                            // keys, if they have to be copied
        KEYS * lines(head_dim),                     // keys, if their rows are no whole vectors
        KEYS * value_dim,                           // values, as the first of keys
    ]
}

impl Part<'_, '_, '_> {
    /// A block of queries meets the keys of the part.
    #[inline(always)]
    fn meet<S: Simd>(
        &mut self,
        simd: S,
        block: &QueryBlock<'_>,
        mut dq: Option<&mut [f32]>,
        (weights, scores): (&mut [f32], &mut [f32]),
        mut slopes: Option<&mut [f32]>,
        (k_room, k_whole, v_room): (&mut [f32], &mut [f32], &mut [f32]),
    ) {
        let problem = self.problem;
        let (head_dim, value_dim) = (problem.q.dim().3, problem.v.dim().3);
        let rows = problem.k.head(self.batch, self.kv_head);
        let v = problem.v.head(self.batch, self.kv_head);
        let q_width = block.q_width;
        let own = self.keys.clone();
        let seen = problem
            .visibility
            .ranges(self.batch, &block.queries)
            .map(|seen| {
                let start = seen.start.max(own.start);
                start..seen.end.min(own.end).max(start)
            });
        for keys in seen.into_iter().flat_map(|seen| blocks(seen, KEYS)) {
            let k = rows.dense_rows(keys.clone(), k_room);
            let v = v.dense_rows(keys.clone(), v_room);
            let pairs = block.pairs(
                simd,
                problem,
                keys.clone(),
                (k, v),
                Into {
                    weights: &mut *weights,
                    gradients: &mut *scores,
                    slopes: slopes.as_deref_mut(),
                },
            );
            if pairs == Pairs::None {
                continue;
            }
            if let Some(sums) = &mut self.of_keys {
                let rows = sums.rows(keys.start - own.start, keys.len(), (head_dim, value_dim));
                let of_pairs = (&*weights, &*scores, pairs);
                add_to_keys(simd, problem, block, keys.clone(), of_pairs, rows);
            }

            // in the forward pass this was:
            // s_ij = scale · ⟨q_i, k_j⟩
            // so now we have (its scale comes at the end):
            // dq_i += Σ_j ds_ij k_j
            let Some(dq) = &mut dq else { continue };
            if pairs == Pairs::All || all_finite(k) {
                // Keys are the right side, which is read in whole vectors.
                let right = if head_dim == q_width {
                    k
                } else {
                    rows.copy_rows(keys.clone(), 1.0, &mut *k_whole, q_width);
                    &*k_whole
                };
                simd.run(Product {
                    rows: block.queries.len(),
                    columns: head_dim,
                    depth: keys.len(),
                    left: scores,
                    left_row: 1,
                    left_step: STEP,
                    right,
                    right_step: q_width,
                    into: dq,
                    into_row: q_width,
                    add: true,
                });
            } else {
                block.visible_pairs(problem, keys.clone(), |i, j| {
                    let row = &mut dq[i * q_width..][..head_dim];
                    add_scaled(row, scores[j * STEP + i], &k[j * head_dim..]);
                });
            }
        }
    }
}

/// What a block of queries adds to `dk` and `dv` of some keys.
#[inline(always)]
fn add_to_keys<S: Simd>(
    simd: S,
    problem: &Problem<'_>,
    block: &QueryBlock<'_>,
    keys: Range<usize>,
    (weights, scores, pairs): (&[f32], &[f32], Pairs),
    (dk, dv): (&mut [f32], &mut [f32]),
) {
    let (head_dim, value_dim) = (problem.q.dim().3, problem.v.dim().3);
    let safe = |finite: bool| pairs == Pairs::All || finite;

    // in the forward pass this was:
    // o_i += Σ_j w_ij r_ij v_j
    // so now we have:
    // dv_j += Σ_i w_ij r_ij do_i
    if safe(block.d_out_finite) {
        simd.run(Product {
            rows: keys.len(),
            columns: value_dim,
            depth: block.queries.len(),
            left: weights,
            left_row: STEP,
            left_step: 1,
            right: block.d_out,
            right_step: block.out_width,
            into: dv,
            into_row: value_dim,
            add: true,
        });
    } else {
        let step = block.out_width;
        block.visible_pairs(problem, keys.clone(), |i, j| {
            add_scaled(
                &mut dv[j * value_dim..][..value_dim],
                weights[j * STEP + i],
                &block.d_out[i * step..],
            );
        });
    }

    // in the forward pass this was:
    // s_ij = scale · ⟨q_i, k_j⟩
    // so now we have (its scale is in `block.q`):
    // dk_j += Σ_i ds_ij q_i
    if safe(block.q_finite) {
        simd.run(Product {
            rows: keys.len(),
            columns: head_dim,
            depth: block.queries.len(),
            left: scores,
            left_row: STEP,
            left_step: 1,
            right: block.q,
            right_step: block.q_width,
            into: dk,
            into_row: head_dim,
            add: true,
        });
    } else {
        let step = block.q_width;
        block.visible_pairs(problem, keys, |i, j| {
            add_scaled(
                &mut dk[j * head_dim..][..head_dim],
                scores[j * STEP + i],
                &block.q[i * step..],
            );
        });
    }
}

fn add_scaled(into: &mut [f32], factor: f32, row: &[f32]) {
    into.iter_mut()
        .zip(row)
        .for_each(|(into, &number)| *into += factor * number);
}
