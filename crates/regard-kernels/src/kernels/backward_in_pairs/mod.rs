//! The backward pass in pairs of bf16: the formulas of [`backward`](super::backward), in blocks that suit the tiles.
//!
//! Weights and gradients of scores exist in f32 for 32 queries at a time. From there they go, rounded, into the two layouts of
//! the products: of two queries a word on the left of `dv` and `dk`, of two keys a word on the right of `dq`.

mod panel;
mod queries;

use panel::{Pairs, Panel, Sums};
use queries::QueryBlock;

use super::arithmetic::{
    Arithmetic, Left, PAIRED, blocks_of_steps, multiply, rows, rows_room, turned, turned_room,
    whole_steps,
};
use super::part::Part;
use super::scores::Block;
use super::tiles::{blocks, from, from_mut, lines, take, transpose};
use super::words;
use crate::mask::Tile;
use crate::problem::Problem;
use crate::simd::{Kernel, Simd, Unit};

/// Queries of a block: with them a sum of `dk` or `dv` is loaded and stored once for 256 steps. With 128, 8 heads of 2,048
/// keys took 55 ms instead of 47.
const QUERIES: usize = 256;
/// Keys of a block; the last may have [`PAIRED`] more.
const KEYS: usize = 64;
const MOST_KEYS: usize = KEYS + PAIRED;
/// Queries whose pairs exist in f32 at a time: with their gradients 16 KiB.
const PANEL: usize = PAIRED;

/// In room for [`room`] numbers.
pub(super) struct InPairs<'r, 'a, 'o, 'p> {
    pub(super) unit: &'r Unit,
    pub(super) part: Part<'a, 'o, 'p>,
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
            mut part,
            mut room,
        } = self;
        let problem = part.problem;
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
        let any_dq = !part.of_queries.dq.is_empty();
        if let Some(sums) = &mut part.of_keys {
            sums.start();
        }
        for h in 0..group {
            for queries in blocks(part.queries.clone(), QUERIES) {
                let (first, count) = (queries.start - part.queries.start, queries.len());
                let width = count.next_multiple_of(PANEL);
                let dq_t = &mut dq_t[..q_width * width];
                dq_t.fill(0.0);
                let seen = problem.visibility.part(part.batch, &queries, &part.keys);
                if !seen.is_empty() {
                    let block = QueryBlock::pack(
                        simd,
                        &part,
                        (part.kv_head * group + h, queries),
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
                    let dq_t = any_dq.then_some(&mut *dq_t);
                    meet(simd, unit, &mut part, &block, dq_t, &mut room);
                }
                if !any_dq {
                    continue;
                }
                for lane in (0..width).step_by(PANEL) {
                    let of = from(dq_t, lane * q_width);
                    let into = from_mut(d_rows, lane * q_width);
                    transpose(simd, of, PANEL, (q_width, PANEL), into, q_width);
                }
                let rows = (&*d_rows, q_width, head_dim);
                part.of_queries.put(h, (first, count), rows, 1.0);
            }
        }
        if let Some(sums) = part.of_keys {
            sums.finish(part.keys.len(), (head_dim, value_dim));
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

/// A block of queries meets the keys.
#[inline(always)]
fn meet<S: Simd>(
    simd: S,
    unit: &Unit,
    part: &mut Part<'_, '_, '_>,
    block: &QueryBlock<'_>,
    mut dq_t: Option<&mut [f32]>,
    room: &mut Room<'_>,
) {
    let arithmetic = Arithmetic::Pairs(unit);
    let problem = part.problem;
    let (head_dim, value_dim) = (problem.q.dim().3, problem.v.dim().3);
    let (q_width, out_width) = (lines(head_dim), lines(value_dim));
    let k = problem.k.head(part.batch, part.kv_head);
    let v = problem.v.head(part.batch, part.kv_head);
    let own = part.keys.clone();
    let seen = problem.visibility.ranges(part.batch, &block.queries);
    let seen = seen.into_iter().map(|seen| {
        let start = seen.start.max(own.start);
        start..seen.end.min(own.end).max(start)
    });
    for keys in seen.flat_map(|seen| blocks_of_steps(seen, KEYS)) {
        let k_t = turned(simd, &k, keys.clone(), room.k_t);
        let v = rows(simd, &v, keys.clone(), room.v);
        let k = rows(simd, &k, keys.clone(), room.k);
        let finite = block.finite
            && k_t.is_finite(head_dim, keys.len())
            && v.is_finite(keys.len(), value_dim);
        let mut sums = part
            .of_keys
            .as_mut()
            .map(|sums| sums.rows(keys.start - own.start, keys.len(), (head_dim, value_dim)));
        let mut any = false;
        for lane in (0..block.queries.len()).step_by(PANEL) {
            let first = block.queries.start + lane;
            let queries = first..block.queries.end.min(first + PANEL);
            let seen = problem.visibility.part(part.batch, &queries, &keys);
            let seen = whole_steps(seen, &keys);
            let skipped = seen.start.max(keys.start) - keys.start;
            let mut tile = Tile::Empty;
            if !seen.is_empty() {
                tile = simd.run(Panel {
                    unit,
                    queries: block,
                    problem,
                    block: Block {
                        batch: part.batch,
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
            let mut dq_t = dq_t
                .as_deref_mut()
                .map(|dq_t| from_mut(dq_t, lane * q_width));
            if !finite {
                let k = k.rows_from(skipped);
                let (dk, dv) = match &mut sums {
                    Some((dk, dv)) => (Some(&mut **dk), Some(&mut **dv)),
                    None => (None, None),
                };
                let sums = Sums { dk, dv, dq_t };
                room.pairs
                    .add_visible(problem, block, (queries, seen), skipped, k, sums);
                continue;
            }
            // dq_i += scale · Σ_j ds_ij k_j
            let Some(dq_t) = &mut dq_t else { continue };
            multiply(
                simd,
                arithmetic,
                [head_dim, PANEL, seen.len()],
                k_t.steps_from(skipped),
                (&*room.pairs.below, PANEL),
                (dq_t, PANEL),
                true,
            );
        }
        let Some((dk, dv)) = sums.filter(|_| any && finite) else {
            continue;
        };
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
