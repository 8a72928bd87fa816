//! A block of scores, `[keys, queries]`: the products, the cap, what is added, and what may not be seen.

use std::f32::consts::LOG2_E;
use std::ops::Range;

use ndarray::{ArrayView2, s};

use super::arithmetic::{Arithmetic, Left, multiply};
use super::softcap::soft_cap;
use super::tiles::LINE;
use crate::mask::Tile;
use crate::numbers::Head;
use crate::problem::Problem;
use crate::simd::{Kernel, Simd};

/// Which queries of which head meet which keys.
#[derive(Clone)]
pub(super) struct Block {
    pub(super) batch: usize,
    pub(super) head: usize,
    pub(super) queries: Range<usize>,
    pub(super) keys: Range<usize>,
}

impl Block {
    /// Writes the scores of the block, in units of log₂: `into[j · into_row + i] = log₂e · s_ij`, −∞ where a pair is
    /// not visible. An empty block is not written.
    ///
    /// `k` holds the keys of the block; `q_t` the queries, transposed, `[head_dim, step]`; `width` is the number of queries
    /// rounded up to whole vectors. In f32 the queries are already multiplied by scale · log₂e; in pairs they are as they
    /// came, and the scores are still to be multiplied by [`Arithmetic::factor`]. With a softcap, `slopes` gets the derivative of the cap at each score, laid
    /// out as `into`.
    #[inline(always)]
    pub(super) fn scores<S: Simd>(
        &self,
        simd: S,
        problem: &Problem<'_>,
        (arithmetic, k): (Arithmetic<'_>, Left<'_>),
        q_t: (&[f32], usize),
        into: (&mut [f32], usize, usize),
        slopes: Option<&mut [f32]>,
    ) -> Tile {
        simd.run(Scores {
            arithmetic,
            block: self,
            problem,
            k,
            q_t,
            into,
            slopes,
        })
    }

    /// The products of two sides, which are the keys and the queries or the other way round, `[rows, columns]`, with the scale if nobody
    /// multiplies by it later, and capped. Columns are whole vectors. An empty block is not written.
    #[inline(always)]
    #[expect(
        clippy::too_many_arguments,
        reason = "two sides, their result and its slopes"
    )]
    pub(super) fn products<S: Simd>(
        &self,
        simd: S,
        problem: &Problem<'_>,
        arithmetic: Arithmetic<'_>,
        (rows, columns): (usize, usize),
        (left, right): (Left<'_>, (&[f32], usize)),
        (into, step): (&mut [f32], usize),
        slopes: Option<&mut [f32]>,
    ) -> Tile {
        let (queries, keys) = (self.queries.clone(), self.keys.clone());
        let tile = problem
            .visibility
            .tile(self.batch, self.head, queries, keys);
        if tile == Tile::Empty {
            return tile;
        }
        if let Some(bias) = &problem.bias {
            self.ask_for(simd, &bias.head(self.batch, self.head));
        }
        let size = [rows, columns, problem.q.dim().3];
        let scores = (&mut *into, step);
        multiply(simd, arithmetic, size, left, right, scores, false);
        if matches!(arithmetic, Arithmetic::Pairs(_)) && arithmetic.factor(problem) == 1.0 {
            let factor = simd.splat(problem.scale as f32 * LOG2_E);
            for row in into.chunks_mut(step).take(rows) {
                for scores in row[..columns].chunks_exact_mut(S::LANES) {
                    simd.store(simd.mul(simd.load(scores), factor), scores);
                }
            }
        }
        if let Some(cap) = problem.softcap {
            soft_cap(simd, cap as f32, (rows, columns), (into, step), slopes);
        }
        tile
    }

    /// Asks for the bias of the block, which is read when its scores have been multiplied: a line of each of many rows, which no
    /// processor foresees. Waiting for it was a seventh of 384 × 384 with a bias.
    #[inline(always)]
    fn ask_for<S: Simd>(&self, simd: S, bias: &Head<'_>) {
        if let Some(rows) = bias.f32_rows(self.queries.clone()) {
            ask_for(simd, rows.slice_move(s![.., self.keys.clone()]));
        } else if let Some(rows) = bias.bf16_rows(self.queries.clone()) {
            ask_for(simd, rows.slice_move(s![.., self.keys.clone()]));
        }
    }

    /// `s_ij += b_ij`, in units of log₂ over `factor`; says whether some of it is −∞.
    #[inline(always)]
    fn add_bias<S: Simd>(
        &self,
        simd: S,
        (bias, factor): (Head<'_>, f32),
        width: usize,
        (into, into_row): (&mut [f32], usize),
    ) -> bool {
        let (factor, lowest) = (simd.splat(LOG2_E / factor), simd.splat(f32::MIN));
        let mut least = simd.splat(0.0);
        let mut columns = [0.0; LANES * LANES];
        for lane in (0..width).step_by(S::LANES) {
            let mut room;
            let rows = match Rows::in_place(simd, self, lane, &bias) {
                Some(rows) => rows,
                None => {
                    room = [0.0; LANES * KEYS];
                    Rows::copied(simd, self, lane, &bias, &mut room)
                }
            };
            for j in (0..self.keys.len()).step_by(S::LANES) {
                rows.turn(simd, j, &mut columns);
                for c in 0..S::LANES.min(self.keys.len() - j) {
                    let row = &mut into[(j + c) * into_row + lane..];
                    let bias = simd.load(&columns[c * S::LANES..]);
                    least = simd.select_below(bias, least, bias, least);
                    simd.store(simd.multiply_add(bias, factor, simd.load(row)), row);
                }
            }
        }
        simd.any_above(lowest, least)
    }

    /// `s_ij −= slope · |p_i − j|`, where query `i` stands at key `p_i`.
    #[inline(always)]
    fn add_slope<S: Simd>(
        &self,
        simd: S,
        problem: &Problem<'_>,
        slope: f32,
        width: usize,
        (into, into_row): (&mut [f32], usize),
    ) {
        let factor = simd.splat(-LOG2_E * slope);
        for lane in (0..width).step_by(S::LANES) {
            // Counted from the block's first key: small integers are exact in f32.
            let mut places = [0.0; 16];
            for (i, place) in places[..S::LANES].iter_mut().enumerate() {
                let query = self.queries.start + lane + i;
                let stands_at = problem.visibility.key_of(self.batch, query);
                *place = stands_at.saturating_sub_unsigned(self.keys.start) as f32;
            }
            let places = simd.load(&places);
            for j in 0..self.keys.len() {
                let row = &mut into[j * into_row + lane..];
                let ahead = simd.sub(places, simd.splat(j as f32));
                let distance = simd.max(ahead, simd.sub(simd.splat(0.0), ahead));
                simd.store(simd.multiply_add(factor, distance, simd.load(row)), row);
            }
        }
    }

    /// Writes `value` over the pairs of the block that are not visible.
    #[inline(always)]
    pub(super) fn hide<S: Simd>(
        &self,
        simd: S,
        problem: &Problem<'_>,
        width: usize,
        into: (&mut [f32], usize),
        value: f32,
    ) {
        simd.run(Hide {
            block: self,
            problem,
            width,
            into,
            value,
        });
    }

    /// By position, query i sees the keys from its start on and below its limit, and the prefix.
    #[inline(always)]
    fn hide_by_position<S: Simd>(
        &self,
        simd: S,
        problem: &Problem<'_>,
        width: usize,
        (into, into_row): (&mut [f32], usize),
        value: f32,
    ) {
        let visibility = &problem.visibility;
        let first = self.queries.start;
        // Counted from the block's first key: small integers are exact in f32.
        let count = self.keys.len();
        let of_block = |key: usize| key.clamp(self.keys.start, self.keys.end) - self.keys.start;
        let start = |query: usize| of_block(visibility.start(self.batch, query));
        let limit = |query: usize| of_block(visibility.limit(self.batch, query));
        let prefix = of_block(visibility.prefix(self.batch));
        // What all queries see needs no look.
        let (all_from, all_to) = (start(self.queries.end - 1), limit(first));
        if all_from == 0 && all_to >= count {
            return;
        }
        let (mut starts, mut limits) = ([0.0; 16], [0.0; 16]);
        for lane in (0..width).step_by(S::LANES) {
            for i in 0..S::LANES {
                let query = first + lane + i;
                (starts[i], limits[i]) = if query < self.queries.end {
                    (start(query) as f32, limit(query) as f32)
                } else {
                    (0.0, 0.0)
                };
            }
            let (starts, limits) = (simd.load(&starts), simd.load(&limits));
            let hidden = simd.splat(value);
            let rows = (prefix..all_from.min(count)).chain(all_to.max(all_from).max(prefix)..count);
            for j in rows {
                let row = &mut into[j * into_row + lane..];
                let key = simd.splat(j as f32);
                let kept = simd.select_below(key, limits, simd.load(row), hidden);
                let kept = simd.select_below(key, starts, hidden, kept);
                simd.store(kept, row);
            }
        }
    }

    /// Writes `value` over the pairs where `cells` is −∞.
    #[inline(always)]
    fn hide_below<S: Simd>(
        &self,
        simd: S,
        cells: impl Cells,
        width: usize,
        (into, into_row): (&mut [f32], usize),
        value: f32,
    ) {
        let (lowest, value) = (simd.splat(f32::MIN), simd.splat(value));
        let (mut room, mut columns) = ([0.0; LANES * KEYS], [0.0; LANES * LANES]);
        for lane in (0..width).step_by(S::LANES) {
            let rows = match Rows::in_place(simd, self, lane, &cells) {
                Some(rows) => rows,
                None => Rows::copied(simd, self, lane, &cells, &mut room),
            };
            for j in (0..self.keys.len()).step_by(S::LANES) {
                rows.turn(simd, j, &mut columns);
                for c in 0..S::LANES.min(self.keys.len() - j) {
                    let row = &mut into[(j + c) * into_row + lane..];
                    let cells = simd.load(&columns[c * S::LANES..]);
                    simd.store(simd.select_below(cells, lowest, value, simd.load(row)), row);
                }
            }
        }
    }
}

/// Asks for every line of every row.
#[inline(always)]
fn ask_for<S: Simd, T>(simd: S, rows: ArrayView2<'_, T>) {
    for row in rows.outer_iter().filter_map(|row| row.to_slice()) {
        for line in row.chunks(LINE * size_of::<f32>() / size_of::<T>()) {
            simd.prefetch(line.as_ptr().cast());
        }
    }
}

/// A call of [`Block::scores`]. Out of line, as a product is: it is compiled once for each instruction set.
struct Scores<'r, 'p> {
    arithmetic: Arithmetic<'r>,
    block: &'r Block,
    problem: &'r Problem<'p>,
    k: Left<'r>,
    q_t: (&'r [f32], usize),
    into: (&'r mut [f32], usize, usize),
    slopes: Option<&'r mut [f32]>,
}

impl Kernel for Scores<'_, '_> {
    type Output = Tile;

    #[inline(always)]
    fn call<S: Simd>(self, simd: S) -> Tile {
        let Scores {
            arithmetic,
            block,
            problem,
            k,
            q_t,
            into: (into, into_row, width),
            slopes,
        } = self;
        let size = (block.keys.len(), width);
        let scores = (&mut *into, into_row);
        let mut tile = block.products(simd, problem, arithmetic, size, (k, q_t), scores, slopes);
        if tile == Tile::Empty {
            return tile;
        }
        if let Some(bias) = problem.bias {
            let bias = (
                bias.head(block.batch, block.head),
                arithmetic.factor(problem),
            );
            if block.add_bias(simd, bias, width, (&mut *into, into_row)) {
                tile = Tile::Partial; // −∞ hides its pair, as a mask does
            }
        }
        if let Some(slopes) = problem.slopes {
            block.add_slope(
                simd,
                problem,
                slopes[block.head],
                width,
                (&mut *into, into_row),
            );
        }
        if tile == Tile::Partial {
            block.hide(simd, problem, width, (into, into_row), f32::NEG_INFINITY);
        }
        tile
    }
}

/// A call of [`Block::hide`], out of line likewise.
struct Hide<'r, 'p> {
    block: &'r Block,
    problem: &'r Problem<'p>,
    width: usize,
    into: (&'r mut [f32], usize),
    value: f32,
}

impl Kernel for Hide<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn call<S: Simd>(self, simd: S) {
        let Hide {
            block,
            problem,
            width,
            into: (into, into_row),
            value,
        } = self;
        block.hide_by_position(simd, problem, width, (&mut *into, into_row), value);
        let visibility = &problem.visibility;
        if let Some(mask) = visibility.mask {
            let mask = mask.slice_move(s![block.batch, block.head, .., ..]);
            block.hide_below(simd, mask, width, (&mut *into, into_row), value);
        }
        if let Some(bias) = problem.bias {
            let bias = bias.head(block.batch, block.head);
            block.hide_below(simd, bias, width, (&mut *into, into_row), value);
        }
        if visibility.documents.is_some() || visibility.blocks.is_some() {
            // At the edges of documents and blocks only: tiles inside of them are full, tiles outside empty.
            for (i, query) in block.queries.clone().enumerate() {
                for (j, key) in block.keys.clone().enumerate() {
                    if !visibility.sees(block.batch, block.head, query, key) {
                        into[j * into_row + i] = value;
                    }
                }
            }
        }
    }
}

/// A number for each pair, which lies in memory query by query.
pub(super) trait Cells: Copy {
    /// The part of some rows that belongs to `keys`, `step` apart; zeros behind it.
    fn copy(&self, queries: Range<usize>, keys: Range<usize>, into: &mut [f32], step: usize);

    /// All rows one after the other, and how far apart they are, if they lie so.
    fn in_memory(&self) -> Option<(&[f32], usize)>;
}

impl Cells for Head<'_> {
    #[inline(always)]
    fn copy(&self, queries: Range<usize>, keys: Range<usize>, into: &mut [f32], step: usize) {
        self.copy_block(queries, keys, 1.0, into, step);
    }

    #[inline(always)]
    fn in_memory(&self) -> Option<(&[f32], usize)> {
        Some((Head::in_memory(self)?, self.width()))
    }
}

/// −∞ where the mask is false, 0 where it is true.
impl Cells for ArrayView2<'_, bool> {
    #[inline(always)]
    fn copy(&self, queries: Range<usize>, keys: Range<usize>, into: &mut [f32], step: usize) {
        let hidden = |visible: bool| if visible { 0.0 } else { f32::NEG_INFINITY };
        let rows = self.slice(s![queries, keys]);
        for (row, into) in rows.outer_iter().zip(into.chunks_exact_mut(step)) {
            let (into, rest) = into.split_at_mut(row.len());
            match row.to_slice() {
                Some(row) => into
                    .iter_mut()
                    .zip(row)
                    .for_each(|(into, &cell)| *into = hidden(cell)),
                None => into
                    .iter_mut()
                    .zip(row)
                    .for_each(|(into, &cell)| *into = hidden(cell)),
            }
            rest.fill(0.0);
        }
    }

    #[inline(always)]
    fn in_memory(&self) -> Option<(&[f32], usize)> {
        None
    }
}

/// Keys of the largest block, and queries of the longest vector.
const KEYS: usize = 128;
const LANES: usize = 16;

/// The cells of a vector of queries and the keys of a block, query by query. Behind the keys of the block others may follow.
struct Rows<'a> {
    cells: &'a [f32],
    /// How far apart the rows are.
    step: usize,
}

impl<'a> Rows<'a> {
    /// From lane `lane` of the block on, where they lie, if they can be read there.
    #[inline(always)]
    fn in_place<S: Simd>(_: S, block: &Block, lane: usize, cells: &'a impl Cells) -> Option<Self> {
        let (all, step) = cells.in_memory()?;
        // Whole vectors are read, of keys and of queries; a vector that only fills a panel begins behind the last.
        let start = (block.queries.start + lane) * step + block.keys.start;
        let end = (S::LANES - 1) * step + block.keys.len().next_multiple_of(S::LANES);
        let cells = all.get(start..).filter(|cells| end <= cells.len())?;
        Some(Rows { cells, step })
    }

    /// Likewise, copied into `room`.
    #[inline(always)]
    fn copied<S: Simd>(
        _: S,
        block: &Block,
        lane: usize,
        cells: &impl Cells,
        room: &'a mut [f32; LANES * KEYS],
    ) -> Self {
        let first = block.queries.start + lane;
        let end = block.queries.end.min(first + S::LANES);
        let queries = first.min(end)..end; // none of a vector that only fills a panel
        let (filled, rest) = room[..S::LANES * KEYS].split_at_mut(queries.len() * KEYS);
        cells.copy(queries, block.keys.clone(), filled, KEYS);
        rest.fill(0.0);
        Rows {
            cells: room.as_slice(),
            step: KEYS,
        }
    }

    /// A vector of keys from `j` on, key by key as the scores lie, into room that is not cleared each time.
    #[inline(always)]
    fn turn<S: Simd>(&self, simd: S, j: usize, columns: &mut [f32; LANES * LANES]) {
        simd.transpose(&self.cells[j..], self.step, columns, S::LANES);
    }
}
