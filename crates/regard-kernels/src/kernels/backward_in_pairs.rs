//! The backward pass in pairs of bf16: the formulas of [`backward`](super::backward), in blocks that suit the tiles.
//!
//! Weights and gradients of scores exist in f32 for 32 queries at a time. From there they go, rounded, into the two layouts of
//! the products: of two queries a word on the left of `dv` and `dk`, of two keys a word on the right of `dq`.

use std::f32::consts::LOG2_E;
use std::ops::Range;

use ndarray::s;

use super::arithmetic::{Arithmetic, Left, PAIRED, multiply, rows_room, turned_room};
use super::backward::Known;
use super::exponential::{exp2, exp2_short};
use super::scores::Block;
use super::tiles::{
    RowsMut, blocks, dot, from, from_mut, lines, outer, split, take, transpose, with_room,
};
use super::words;
use crate::mask::Tile;
use crate::numbers::Head;
use crate::problem::Problem;
use crate::results::GradientsMut;
use crate::simd::{self, Kernel, Simd, Unit};
use crate::{Element, Isa};

/// Queries of a block: with them a sum of `dk` or `dv` is loaded and stored once for 128 steps.
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

/// The pairs of query and key of a panel, and the words they become.
struct Pairs<'r> {
    /// `[keys, PANEL]`: scores, then weights.
    weights: &'r mut [f32],
    /// Gradients of the weights, then of the scores, times the scale.
    gradients: &'r mut [f32],
    /// With a softcap.
    slopes: &'r mut [f32],
    /// `[keys, QUERIES / 2]`, of all panels of the block.
    of_weights: &'r mut [f32],
    of_gradients: &'r mut [f32],
    /// `[keys / 2, PANEL]`.
    below: &'r mut [f32],
}

/// Queries of one head, as the products want them.
struct QueryBlock<'r> {
    batch: usize,
    head: usize,
    queries: Range<usize>,
    /// `[queries / 2, lines(head_dim)]`.
    q: &'r [f32],
    /// For [`PANEL`] queries after the other: `[panel][head_dim / 2][PANEL]`.
    q_t: &'r [f32],
    d_out: &'r [f32],
    d_out_t: &'r [f32],
    /// −log₂e · lse; −∞ for a query that sees nothing, whose weights are then 2^−∞ = 0.
    minus_lse: &'r [f32],
    /// −scale · D_i, D_i = ⟨do_i, o_i⟩ − dlse_i.
    minus_mean: &'r [f32],
    finite: bool,
}

impl<'r> QueryBlock<'r> {
    #[inline(always)]
    fn pack<S: Simd>(
        simd: S,
        of: &KeyHead<'_, '_>,
        (head, queries): (usize, Range<usize>),
        [q, q_t, d_out, d_out_t, minus_lse, minus_mean]: [&'r mut [f32]; 6],
        [rows, d_rows, spare]: [&mut [f32]; 3],
    ) -> Self {
        let (problem, known, batch) = (of.problem, of.known, of.batch);
        let scale = problem.scale as f32;
        let out_width = lines(problem.v.dim().3);
        let of_d_out = known.d_out.head(batch, head);

        // D_i = ⟨do_i, o_i⟩ − dlse_i
        let count = queries.len();
        let (out, d_rows) = (
            &mut rows[..count * out_width],
            &mut d_rows[..count * out_width],
        );
        known
            .out
            .head(batch, head)
            .copy_rows(queries.clone(), 1.0, out, out_width);
        of_d_out.copy_rows(queries.clone(), 1.0, d_rows, out_width);
        minus_mean.fill(0.0);
        for (i, mean) in minus_mean[..count].iter_mut().enumerate() {
            let row = i * out_width..(i + 1) * out_width;
            *mean = -scale * dot(&d_rows[row.clone()], &out[row]);
        }
        if let Some(d_lse) = known.d_log_sum_exp {
            let d_lse = d_lse.slice_move(s![batch, head, queries.clone()]);
            for (mean, d_lse) in minus_mean.iter_mut().zip(d_lse) {
                *mean += scale * d_lse;
            }
        }
        minus_lse.fill(f32::NEG_INFINITY);
        let lse = known.log_sum_exp.slice(s![batch, head, queries.clone()]);
        for (into, &lse) in minus_lse.iter_mut().zip(lse) {
            if lse != f32::NEG_INFINITY {
                *into = -LOG2_E * lse;
            }
        }

        let of_q = problem.q.head(batch, head);
        let in_words = (&mut *rows, &mut *spare);
        let q = pack(simd, &of_q, &queries, (&mut *q, &mut *q_t), in_words);
        let d_out = pack(
            simd,
            &of_d_out,
            &queries,
            (&mut *d_out, &mut *d_out_t),
            (rows, spare),
        );
        let finite = words::all_finite(q) && words::all_finite(d_out);
        Self {
            batch,
            head,
            queries,
            q,
            q_t,
            d_out,
            d_out_t,
            minus_lse,
            minus_mean,
            finite,
        }
    }
}

/// Rows of a head in both layouts of the right side; gives the first.
#[inline(always)]
fn pack<'r, S: Simd>(
    simd: S,
    head: &Head<'_>,
    queries: &Range<usize>,
    (into, into_t): (&'r mut [f32], &mut [f32]),
    (rows, spare): (&mut [f32], &mut [f32]),
) -> &'r [f32] {
    let (width, pairs) = (lines(head.width()), words::width(head.width()));
    let count = queries.len().next_multiple_of(PANEL);
    let rows = &mut rows[..count * pairs];
    words::rows(simd, head, queries.clone(), rows, pairs, spare);
    for lane in (0..count).step_by(PANEL) {
        let (rows, into) = (from(rows, lane * pairs), from_mut(into_t, lane * pairs));
        transpose(simd, rows, pairs, (PANEL, pairs), into, PANEL);
    }
    let into = &mut into[..count / 2 * width];
    words::pairs_of_rows(simd, head, queries.clone(), into, width, spare);
    into
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
                    let sides = (k.rows_from(skipped), (&mut *dk, &mut *dv, dq_t));
                    room.pairs.add_visible(
                        arithmetic,
                        problem,
                        block,
                        (queries, seen),
                        skipped,
                        sides,
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

impl Pairs<'_> {
    /// Zeros the words of a panel of queries for the keys that are not `filled`.
    fn clear_all_but(&mut self, filled: Range<usize>, lane: usize, keys: usize) {
        for j in (0..filled.start).chain(filled.end..keys) {
            let row = j * (QUERIES / 2) + lane / 2;
            self.of_weights[row..][..PANEL / 2].fill(0.0);
            self.of_gradients[row..][..PANEL / 2].fill(0.0);
        }
    }

    /// The three products pair by pair, for the visible pairs only: 0 · NaN is NaN, and what is not seen must not reach a
    /// gradient.
    fn add_visible(
        &self,
        arithmetic: Arithmetic<'_>,
        problem: &Problem<'_>,
        block: &QueryBlock<'_>,
        (queries, keys): (Range<usize>, Range<usize>),
        skipped: usize,
        (k, (dk, dv, dq_t)): (Left<'_>, (&mut [f32], &mut [f32], &mut [f32])),
    ) {
        let (head_dim, value_dim) = (problem.q.dim().3, problem.v.dim().3);
        for (j, key) in keys.enumerate() {
            for (i, query) in queries.clone().enumerate() {
                if !problem.sees(block.batch, block.head, query, key) {
                    continue;
                }
                let (weight, gradient) =
                    (self.weights[j * PANEL + i], self.gradients[j * PANEL + i]);
                let at = query - block.queries.start;
                let word = |words: &[f32], width: usize, c: usize| {
                    words::half(words[at / 2 * lines(width) + c], at % 2)
                };
                for (c, dv) in dv[(skipped + j) * value_dim..][..value_dim]
                    .iter_mut()
                    .enumerate()
                {
                    *dv += weight * word(block.d_out, value_dim, c);
                }
                for (c, dk) in dk[(skipped + j) * head_dim..][..head_dim]
                    .iter_mut()
                    .enumerate()
                {
                    *dk += gradient * word(block.q, head_dim, c);
                    dq_t[c * PANEL + i] += gradient * k.at(arithmetic, j, c);
                }
            }
        }
    }
}

/// The pairs of [`PANEL`] queries, from a lane of the block on, and some keys. Out of line, as a product is.
struct Panel<'r, 'w, 'p> {
    unit: &'r Unit,
    queries: &'r QueryBlock<'r>,
    problem: &'r Problem<'p>,
    block: Block,
    k: Left<'r>,
    v: Left<'r>,
    lane: usize,
    /// Keys before those of `block`, in the rows of words.
    skipped: usize,
    pairs: &'r mut Pairs<'w>,
    finite: bool,
}

impl Kernel for Panel<'_, '_, '_> {
    type Output = Tile;

    #[inline(always)]
    fn call<S: Simd>(self, simd: S) -> Tile {
        let Panel {
            unit,
            queries,
            problem,
            block,
            k,
            v,
            lane,
            skipped,
            pairs,
            finite,
        } = self;
        let arithmetic = Arithmetic::Pairs(unit);
        let (head_dim, value_dim) = (problem.q.dim().3, problem.v.dim().3);
        let keys = block.keys.len();
        let q_t = from(queries.q_t, lane * words::width(head_dim));
        let tile = block.scores(
            simd,
            arithmetic,
            problem,
            k,
            (q_t, PANEL),
            (&mut *pairs.weights, PANEL, PANEL),
            problem.softcap.map(|_| &mut *pairs.slopes),
        );
        if tile == Tile::Empty {
            return tile;
        }
        // dw_ij = ⟨do_i, v_j⟩
        let d_out_t = from(queries.d_out_t, lane * words::width(value_dim));
        multiply(
            simd,
            arithmetic,
            [keys, PANEL, value_dim],
            v,
            (d_out_t, PANEL),
            (&mut *pairs.gradients, PANEL),
            false,
        );
        let of = Weigh {
            factor: simd.splat(arithmetic.factor(problem)),
            scale: simd.splat(problem.scale as f32),
            minus_lse: [0, S::LANES].map(|v| simd.load(&queries.minus_lse[lane + v..])),
            minus_mean: [0, S::LANES].map(|v| simd.load(&queries.minus_mean[lane + v..])),
        };
        let words = skipped * (QUERIES / 2) + lane / 2;
        if finite && problem.dropout.is_none() && problem.softcap.is_none() {
            of.into_words(simd, keys, pairs, words);
            return tile;
        }
        of.in_place(simd, problem, &block, pairs);
        if problem.softcap.is_some() {
            // in the forward pass this was: s_ij = cap · tanh(c_ij / cap); so now we have: dc_ij = ds_ij (1 − tanh²)
            let gradients = pairs.gradients[..keys * PANEL].chunks_exact_mut(S::LANES);
            for (gradients, slopes) in gradients.zip(pairs.slopes.chunks_exact(S::LANES)) {
                let gradient = simd.mul(simd.load(gradients), simd.load(slopes));
                simd.store(gradient, gradients);
            }
        }
        if tile == Tile::Partial {
            // The weights are 0 there; their gradients are, unless a value that is not seen made them NaN.
            block.hide(simd, problem, PANEL, (&mut *pairs.weights, PANEL), 0.0);
            block.hide(simd, problem, PANEL, (&mut *pairs.gradients, PANEL), 0.0);
        }
        let weights = pairs.weights[..keys * PANEL].chunks_exact(PANEL);
        let gradients = pairs.gradients[..keys * PANEL].chunks_exact(PANEL);
        for (j, (weights, gradients)) in weights.zip(gradients).enumerate() {
            let at = words + j * (QUERIES / 2);
            words::narrow_row(simd, 1.0, weights, &mut pairs.of_weights[at..][..PANEL / 2]);
            words::narrow_row(
                simd,
                1.0,
                gradients,
                &mut pairs.of_gradients[at..][..PANEL / 2],
            );
        }
        words::of_block(simd, keys, PANEL, pairs.gradients, pairs.below);
        tile
    }
}

/// What turns scores and the gradients of weights into weights and the gradients of scores: of two vectors of queries.
struct Weigh<S: Simd> {
    factor: S::Vector,
    scale: S::Vector,
    minus_lse: [S::Vector; 2],
    minus_mean: [S::Vector; 2],
}

impl<S: Simd> Weigh<S> {
    /// w_ij = exp(s_ij − lse_i) and scale · ds_ij = w_ij (scale · dw_ij − scale · D_i), rounded, into words.
    #[inline(always)]
    fn into_words(&self, simd: S, keys: usize, pairs: &mut Pairs<'_>, words: usize) {
        let below = &mut pairs.below[..words::width(keys) * PANEL];
        for (j, below) in below.chunks_exact_mut(PANEL).enumerate() {
            let mut gradients = [[simd.splat(0.0); 2]; 2];
            for (half, gradient) in gradients.iter_mut().enumerate() {
                let key = 2 * j + half;
                if key >= keys {
                    continue;
                }
                let mut weights = [simd.splat(0.0); 2];
                for v in 0..2 {
                    let at = key * PANEL + v * S::LANES;
                    let score = simd.load(&pairs.weights[at..]);
                    let x = simd.multiply_add(self.factor, score, self.minus_lse[v]);
                    weights[v] = exp2_short(simd, x);
                    let d_weight = simd.load(&pairs.gradients[at..]);
                    let d_score = simd.multiply_add(self.scale, d_weight, self.minus_mean[v]);
                    gradient[v] = simd.mul(weights[v], d_score);
                }
                let at = words + key * (QUERIES / 2);
                let narrow = simd.narrow(weights[0], weights[1]);
                simd.store(narrow, &mut pairs.of_weights[at..]);
                let narrow = simd.narrow(gradient[0], gradient[1]);
                simd.store(narrow, &mut pairs.of_gradients[at..]);
            }
            let [low, high] = gradients;
            for v in 0..2 {
                simd.store(simd.pair(low[v], high[v]), &mut below[v * S::LANES..]);
            }
        }
    }

    /// Likewise in f32, with dropout: what is used of a weight is w_ij r_ij, and dw_ij = r_ij ⟨do_i, v_j⟩.
    #[inline(always)]
    fn in_place(&self, simd: S, problem: &Problem<'_>, block: &Block, pairs: &mut Pairs<'_>) {
        for v in 0..2 {
            let lane = v * S::LANES;
            let draws = problem
                .dropout
                .map(|dropout| block.draws(simd, problem, dropout, lane));
            for (j, key) in block.keys.clone().enumerate() {
                let weights = &mut pairs.weights[j * PANEL + lane..];
                let gradients = &mut pairs.gradients[j * PANEL + lane..];
                let score = simd.load(weights);
                let weight = exp2(
                    simd,
                    simd.multiply_add(self.factor, score, self.minus_lse[v]),
                );
                let (mut used, mut d_weight) = (weight, simd.load(gradients));
                if let Some(draws) = &draws {
                    let rest = draws.rest(simd, key);
                    d_weight = simd.mul(d_weight, rest);
                    used = simd.mul(weight, rest);
                }
                let d_score = simd.multiply_add(self.scale, d_weight, self.minus_mean[v]);
                simd.store(used, weights);
                simd.store(simd.mul(weight, d_score), gradients);
            }
        }
    }
}
