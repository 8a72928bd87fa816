//! The backward pass in pairs of bf16: the formulas of [`backward`](super::backward), in blocks that suit the tiles.
//!
//! Weights and gradients of scores exist in f32 for 32 queries at a time. From there they go, rounded, into the two layouts of
//! the products: of two queries a word on the left of `dv` and `dk`, of two keys a word on the right of `dq`.

mod panel;
mod queries;

use std::ops::Range;

use panel::{Pairs, Panel, Sums};
use queries::QueryBlock;

use super::arithmetic::{Arithmetic, Left, PAIRED, multiply, rows_room, turned_room};
use super::backward::Known;
use super::scores::Block;
use super::tiles::{
    RowsMut, blocks, from, from_mut, lines, outer, split, take, transpose, with_room,
};
use super::words;
use crate::mask::Tile;
use crate::problem::Problem;
use crate::results::GradientsMut;
use crate::simd::{self, Kernel, Simd, Unit};
use crate::{Element, Isa};

/// Queries of a block: with them a sum of `dk` or `dv` is loaded and stored once for 256 steps. With 128, 8 heads of 2,048
/// keys took 55 ms instead of 47.
const QUERIES: usize = 256;
/// Keys of a block; the last may have [`PAIRED`] more.
const KEYS: usize = 64;
const MOST_KEYS: usize = KEYS + PAIRED;
/// Queries whose pairs exist in f32 at a time: with their gradients 16 KiB.
const PANEL: usize = PAIRED;

/// Numbers that the sums of a head's `dk` and `dv` may take on a thread: 4 MiB.
const SUMS: usize = 1 << 20;
/// With as many heads as this, or so few keys, a head is a task; see [`backward`](super::backward).
const HEADS_ENOUGH: usize = 8;
const FEW_KEYS: usize = 512;

/// Whether each thread has room for the sums of a whole head, so that results of other numbers need no f32 beside them.
pub(super) fn holds_a_head(problem: &Problem<'_>) -> bool {
    let (batch, _, _, head_dim) = problem.q.dim();
    let (_, kv_heads, keys, value_dim) = problem.v.dim();
    let enough = batch * kv_heads >= HEADS_ENOUGH || keys <= FEW_KEYS;
    enough && keys * (head_dim + value_dim) <= SUMS
}

/// Fills `into` with the gradients of `q`, `k` and `v`, a head of keys and values a task.
pub(super) fn backward<'p, E: Element<Sum = f32>>(
    isa: Isa,
    problem: &Problem<'p>,
    known: &Known<'p, f32>,
    into: GradientsMut<'_, E>,
) {
    let (batch, heads, queries, head_dim) = problem.q.dim();
    let (_, _, keys, value_dim) = problem.v.dim();
    let group = problem.group().max(1);
    let mut tasks = Vec::new();
    let of_batch = outer(into.q).zip(outer(into.k)).zip(outer(into.v));
    for (b, ((dq, dk), dv)) in of_batch.enumerate() {
        let of_head = split(dq, group).into_iter().zip(outer(dk)).zip(outer(dv));
        for (kv_head, ((dq, dk), dv)) in of_head.enumerate() {
            let dq: Vec<_> = outer(dq).map(E::rows_mut).collect();
            tasks.push((b, kv_head, dq, E::rows_mut(dk), E::rows_mut(dv)));
        }
    }
    let sums = keys * (head_dim + value_dim);
    let operations = 4 * batch * heads * queries * keys * (head_dim + value_dim);
    super::for_each(tasks, operations, |(batch, kv_head, dq, dk, dv)| {
        with_room(lines(sums) + room(problem), |all| {
            let (sums, room) = all.split_at_mut(lines(sums));
            let (dk_sums, dv_sums) =
                sums[..keys * (head_dim + value_dim)].split_at_mut(keys * head_dim);
            let unit = Unit::of(isa);
            let head = KeyHead {
                problem,
                known,
                batch,
                kv_head,
                keys: 0..keys,
                queries: 0..queries,
                begin: true,
                dk: dk_sums,
                dv: dv_sums,
            };
            let kernel = InPairs {
                unit: &unit,
                head,
                dq,
                finished: Some((dk, dv)),
                room,
            };
            simd::run_pairs(isa, kernel);
        });
    });
}

/// Some keys of one head, and the queries that read them.
pub(super) struct KeyHead<'a, 'p> {
    pub(super) problem: &'a Problem<'p>,
    pub(super) known: &'a Known<'p, f32>,
    pub(super) batch: usize,
    pub(super) kv_head: usize,
    pub(super) keys: Range<usize>,
    pub(super) queries: Range<usize>,
    /// Whether `dk` and `dv` begin at 0; they are added to otherwise.
    pub(super) begin: bool,
    pub(super) dk: &'a mut [f32],
    pub(super) dv: &'a mut [f32],
}

/// In room for [`room`] numbers.
pub(super) struct InPairs<'r, 'a, 'o, 'p> {
    pub(super) unit: &'r Unit,
    pub(super) head: KeyHead<'a, 'p>,
    /// Of each head of queries; none if there are no queries.
    pub(super) dq: Vec<RowsMut<'o>>,
    /// Where the sums of `dk` and `dv` go in the end, if they do not stay where they are.
    pub(super) finished: Option<(RowsMut<'o>, RowsMut<'o>)>,
    pub(super) room: &'r mut [f32],
}

/// How many numbers of room a part takes.
pub(super) fn room(problem: &Problem<'_>) -> usize {
    sizes(problem).into_iter().map(lines).sum()
}

fn sizes(problem: &Problem<'_>) -> [usize; 19] {
    let (head_dim, value_dim) = (problem.q.dim().3, problem.v.dim().3);
    let wide = head_dim.max(value_dim);
    [
        QUERIES / 2 * lines(head_dim),     // q, of two queries a word
        QUERIES * words::width(head_dim),  // q transposed, of two columns a word
        QUERIES / 2 * lines(value_dim),    // do, likewise
        QUERIES * words::width(value_dim), // do transposed, likewise
        QUERIES,                           // lse
        QUERIES,                           // D
        QUERIES * lines(wide),             // rows of out, of do, of words
        QUERIES * lines(wide),             // rows of do, later of dq
        words::spare(wide),                // for numbers that are not bf16
        QUERIES * lines(head_dim),         // dq, transposed
        MOST_KEYS * PANEL,                 // weights
        MOST_KEYS * PANEL,                 // gradients of the scores
        problem.softcap.map_or(0, |_| MOST_KEYS * PANEL), // the slopes of the cap
        MOST_KEYS * QUERIES / 2,           // weights, of two queries a word
        MOST_KEYS * QUERIES / 2,           // gradients, likewise
        MOST_KEYS / 2 * PANEL,             // gradients, of two keys a word
        rows_room(KEYS, head_dim),         // keys
        turned_room(KEYS, head_dim),       // keys, transposed
        rows_room(KEYS, value_dim),        // values
    ]
}

impl Kernel for InPairs<'_, '_, '_, '_> {
    type Output = ();

    #[inline(always)]
    fn call<S: Simd>(self, simd: S) {
        let InPairs {
            unit,
            mut head,
            dq,
            finished,
            mut room,
        } = self;
        let problem = head.problem;
        let (head_dim, value_dim) = (problem.q.dim().3, problem.v.dim().3);
        let (group, q_width) = (problem.group(), lines(head_dim));
        let [
            q,
            q_t,
            d_out,
            d_out_t,
            lse,
            mean,
            rows,
            d_rows,
            spare,
            dq_t,
            rest @ ..,
        ] = sizes(problem).map(|size| take(&mut room, size));
        let mut room = Room::of(rest);
        if head.begin {
            head.dk.fill(0.0);
            head.dv.fill(0.0);
        }
        for (h, mut dq) in dq.into_iter().enumerate() {
            for queries in blocks(head.queries.clone(), QUERIES) {
                let first = queries.start - head.queries.start;
                let width = queries.len().next_multiple_of(PANEL);
                let dq_t = &mut dq_t[..q_width * width];
                dq_t.fill(0.0);
                let seen = problem.visibility.part(head.batch, &queries, &head.keys);
                let count = queries.len();
                if !seen.is_empty() {
                    let block = QueryBlock::pack(
                        simd,
                        &head,
                        (head.kv_head * group + h, queries),
                        [
                            &mut *q,
                            &mut *q_t,
                            &mut *d_out,
                            &mut *d_out_t,
                            &mut *lse,
                            &mut *mean,
                        ],
                        [&mut *rows, &mut *d_rows, &mut *spare],
                    );
                    head.meet(simd, unit, &block, dq_t, &mut room);
                }
                for lane in (0..width).step_by(PANEL) {
                    let of = from(dq_t, lane * q_width);
                    let into = from_mut(d_rows, lane * q_width);
                    transpose(simd, of, PANEL, (q_width, PANEL), into, q_width);
                }
                for (i, row) in d_rows.chunks(q_width.max(1)).take(count).enumerate() {
                    dq.write(first + i, &row[..head_dim], 1.0);
                }
            }
        }
        if let Some((mut dk, mut dv)) = finished {
            for j in 0..head.keys.len() {
                dk.write(j, &head.dk[j * head_dim..][..head_dim], 1.0);
                dv.write(j, &head.dv[j * value_dim..][..value_dim], 1.0);
            }
        }
    }
}

/// What a block of keys needs.
struct Room<'r> {
    pairs: Pairs<'r>,
    k: &'r mut [f32],
    k_t: &'r mut [f32],
    v: &'r mut [f32],
}

impl<'r> Room<'r> {
    fn of(parts: [&'r mut [f32]; 9]) -> Self {
        let [
            weights,
            gradients,
            slopes,
            of_weights,
            of_gradients,
            below,
            k,
            k_t,
            v,
        ] = parts;
        Room {
            pairs: Pairs {
                weights,
                gradients,
                slopes,
                of_weights,
                of_gradients,
                below,
            },
            k,
            k_t,
            v,
        }
    }
}

impl KeyHead<'_, '_> {
    /// A block of queries meets the keys.
    #[inline(always)]
    fn meet<S: Simd>(
        &mut self,
        simd: S,
        unit: &Unit,
        block: &QueryBlock<'_>,
        dq_t: &mut [f32],
        room: &mut Room<'_>,
    ) {
        let arithmetic = Arithmetic::Pairs(unit);
        let problem = self.problem;
        let (head_dim, value_dim) = (problem.q.dim().3, problem.v.dim().3);
        let (q_width, out_width) = (lines(head_dim), lines(value_dim));
        let k = problem.k.head(self.batch, self.kv_head);
        let v = problem.v.head(self.batch, self.kv_head);
        let own = self.keys.clone();
        let seen = problem.visibility.ranges(self.batch, &block.queries);
        let seen = seen.into_iter().map(|seen| {
            let start = seen.start.max(own.start);
            start..seen.end.min(own.end).max(start)
        });
        for keys in seen.flat_map(|seen| arithmetic.blocks(seen, KEYS)) {
            let k_t = arithmetic.turned(simd, &k, keys.clone(), room.k_t);
            let v = arithmetic.rows(simd, &v, keys.clone(), room.v);
            let k = arithmetic.rows(simd, &k, keys.clone(), room.k);
            let finite = block.finite
                && k_t.is_finite(arithmetic, head_dim, keys.len())
                && v.is_finite(arithmetic, keys.len(), value_dim);
            let skipped = keys.start - own.start;
            let dk = &mut self.dk[skipped * head_dim..][..keys.len() * head_dim];
            let dv = &mut self.dv[skipped * value_dim..][..keys.len() * value_dim];
            let mut any = false;
            for lane in (0..block.queries.len()).step_by(PANEL) {
                let first = block.queries.start + lane;
                let queries = first..block.queries.end.min(first + PANEL);
                let seen = problem.visibility.part(self.batch, &queries, &keys);
                let seen = arithmetic.whole_steps(seen, &keys);
                let skipped = seen.start.max(keys.start) - keys.start;
                let mut tile = Tile::Empty;
                if !seen.is_empty() {
                    tile = simd.run(Panel {
                        unit,
                        queries: block,
                        problem,
                        block: Block {
                            batch: self.batch,
                            head: block.head,
                            queries: queries.clone(),
                            keys: seen.clone(),
                        },
                        k: k.rows_from(skipped),
                        v: v.rows_from(skipped),
                        lane,
                        skipped,
                        pairs: &mut room.pairs,
                        finite,
                    });
                }
                let filled = match tile {
                    Tile::Empty => 0..0,
                    _ => skipped..skipped + seen.len(),
                };
                room.pairs.clear_all_but(filled, lane, keys.len());
                if tile == Tile::Empty {
                    continue;
                }
                any = true;
                let dq_t = from_mut(dq_t, lane * q_width);
                if !finite {
                    let k = k.rows_from(skipped);
                    let sums = Sums { dk, dv, dq_t };
                    room.pairs.add_visible(
                        problem,
                        block,
                        (queries, seen),
                        skipped,
                        (arithmetic, k),
                        sums,
                    );
                    continue;
                }
                // dq_i += scale · Σ_j ds_ij k_j
                multiply(
                    simd,
                    arithmetic,
                    [head_dim, PANEL, seen.len()],
                    k_t.steps_from(arithmetic, skipped),
                    (&*room.pairs.below, PANEL),
                    (dq_t, PANEL),
                    true,
                );
            }
            if !any || !finite {
                continue;
            }
            // dv_j += Σ_i w_ij r_ij do_i        dk_j += scale · Σ_i ds_ij q_i
            let depth = block.queries.len();
            let row = QUERIES / 2;
            multiply(
                simd,
                arithmetic,
                [keys.len(), value_dim, depth],
                Left::rows(room.pairs.of_weights, row),
                (block.d_out, out_width),
                (dv, value_dim),
                true,
            );
            multiply(
                simd,
                arithmetic,
                [keys.len(), head_dim, depth],
                Left::rows(room.pairs.of_gradients, row),
                (block.q, q_width),
                (dk, head_dim),
                true,
            );
        }
    }
}
