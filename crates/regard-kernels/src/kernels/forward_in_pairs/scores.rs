//! What becomes of a product of queries and keys before it is weighed: what is added, and what may not be seen, in a row for each query.

use std::f32::consts::LOG2_E;

use half::bf16;
use ndarray::{Axis, s};

use super::MOST_KEYS;
use super::panel::STEP;
use crate::kernels::arithmetic::PAIRED;
use crate::kernels::scores::Block;
use crate::kernels::tiles::LINE;
use crate::mask::Tile;
use crate::numbers::Head;
use crate::problem::Problem;
use crate::simd::Simd;

impl Block {
    /// Makes [products](Self::products) of queries and keys, `[queries, STEP]`, scores: in units of log₂ once they are multiplied by `factor`, −∞ where a
    /// pair is not visible and from the last key up to whole steps. A bias may make the tile a partial one.
    #[inline(always)]
    pub(super) fn finish_rows<S: Simd>(
        &self,
        simd: S,
        problem: &Problem<'_>,
        factor: f32,
        scores: &mut [f32],
        tile: &mut Tile,
    ) {
        let keys = self.keys.len();
        let padded = keys.next_multiple_of(PAIRED);
        let scores = &mut scores[..self.queries.len() * STEP];
        if let Some(bias) = problem.bias {
            let bias = bias.head(self.batch, self.head);
            if self.add_bias_in_rows(simd, &bias, LOG2_E / factor, scores) {
                *tile = Tile::Partial; // −∞ hides its pair, as a mask does
            }
        }
        if let Some(slopes) = problem.slopes {
            self.add_slope_in_rows(simd, problem, slopes[self.head], scores);
        }
        if *tile == Tile::Partial {
            self.hide_in_rows(problem, scores);
        }
        if keys < padded {
            for row in scores.chunks_exact_mut(STEP) {
                row[keys..padded].fill(f32::NEG_INFINITY);
            }
        }
    }

    /// `s_ij += factor · b_ij`; says whether some of it is −∞.
    #[inline(always)]
    fn add_bias_in_rows<S: Simd>(
        &self,
        simd: S,
        bias: &Head<'_>,
        factor: f32,
        scores: &mut [f32],
    ) -> bool {
        let factor = simd.splat(factor);
        let mut least = simd.splat(0.0);
        let (queries, keys) = (self.queries.clone(), self.keys.clone());
        let in_f32 = bias.f32_rows(queries.clone());
        let in_f32 = in_f32.map(|cells| cells.slice_move(s![.., keys.clone()]));
        let in_bf16 = bias.bf16_rows(queries.clone());
        let in_bf16 = in_bf16.map(|cells| cells.slice_move(s![.., keys.clone()]));
        let mut room = [0.0; MOST_KEYS];
        let rows = scores.chunks_exact_mut(STEP);
        for ((i, query), row) in queries.enumerate().zip(rows) {
            if let Some(cells) = in_bf16 {
                let cells = cells.index_axis_move(Axis(0), i).to_slice();
                let cells = cells.expect("neighbours lie side by side");
                least = add_row(simd, cells, factor, row, least);
                continue;
            }
            let cells = match in_f32 {
                Some(cells) => cells.index_axis_move(Axis(0), i).to_slice(),
                None => None,
            };
            let cells = match cells {
                Some(cells) => cells,
                None => {
                    let room = &mut room[..keys.len()];
                    bias.copy_part(query, keys.clone(), 1.0, room);
                    room
                }
            };
            least = add_row(simd, cells, factor, row, least);
        }
        simd.any_above(simd.splat(f32::MIN), least)
    }

    /// `s_ij −= slope · |p_i − j|`, where query `i` stands at key `p_i`.
    #[inline(always)]
    fn add_slope_in_rows<S: Simd>(
        &self,
        simd: S,
        problem: &Problem<'_>,
        slope: f32,
        scores: &mut [f32],
    ) {
        let factor = simd.splat(-LOG2_E * slope);
        // Counted from the block's first key: small integers are exact in f32.
        let lanes: [f32; LINE] = std::array::from_fn(|lane| lane as f32);
        for (query, row) in self.queries.clone().zip(scores.chunks_exact_mut(STEP)) {
            let stands_at = problem.visibility.key_of(self.batch, query);
            let place = stands_at.saturating_sub_unsigned(self.keys.start) as f32;
            let place = simd.sub(simd.splat(place), simd.load(&lanes));
            let vectors =
                row[..self.keys.len().next_multiple_of(PAIRED)].chunks_exact_mut(S::LANES);
            for (at, row) in vectors.enumerate() {
                let ahead = simd.sub(place, simd.splat((at * S::LANES) as f32));
                let distance = simd.max(ahead, simd.sub(simd.splat(0.0), ahead));
                simd.store(simd.multiply_add(factor, distance, simd.load(row)), row);
            }
        }
    }

    /// Writes −∞ over the pairs that are not visible.
    #[inline(always)]
    fn hide_in_rows(&self, problem: &Problem<'_>, scores: &mut [f32]) {
        let visibility = &problem.visibility;
        let keys = self.keys.len();
        let of_block = |key: usize| key.clamp(self.keys.start, self.keys.end) - self.keys.start;
        let prefix = of_block(visibility.prefix(self.batch));
        let mask = visibility.mask.map(|mask| {
            let of = s![
                self.batch,
                self.head,
                self.queries.clone(),
                self.keys.clone()
            ];
            mask.slice_move(of)
        });
        let bias = problem.bias.map(|bias| bias.head(self.batch, self.head));
        let mut room = [0.0; MOST_KEYS];
        let rows = scores.chunks_exact_mut(STEP);
        for ((i, query), row) in self.queries.clone().enumerate().zip(rows) {
            let row = &mut row[..keys];
            // By position, a query sees the keys from its start on and below its limit, and the prefix.
            let start = of_block(visibility.start(self.batch, query)).max(prefix);
            let limit = of_block(visibility.limit(self.batch, query)).max(start);
            row[prefix..start].fill(f32::NEG_INFINITY);
            row[limit..].fill(f32::NEG_INFINITY);
            if let Some(mask) = mask {
                hide_where(row, mask.row(i).iter().map(|&visible| !visible));
            }
            if let Some(bias) = &bias {
                let cells = &mut room[..keys];
                bias.copy_part(query, self.keys.clone(), 1.0, &mut *cells);
                hide_where(row, cells.iter().map(|&cell| cell == f32::NEG_INFINITY));
            }
            if visibility.documents.is_some() || visibility.blocks.is_some() {
                // At the edges of documents and blocks only: tiles inside of them are full, tiles outside empty.
                let key = |key| visibility.sees(self.batch, self.head, query, key);
                hide_where(row, self.keys.clone().map(|at| !key(at)));
            }
        }
    }
}

fn hide_where(row: &mut [f32], hidden: impl Iterator<Item = bool>) {
    for (score, hidden) in row.iter_mut().zip(hidden) {
        *score = if hidden { f32::NEG_INFINITY } else { *score };
    }
}

/// A number of a bias.
trait Cell: Copy + Default {
    fn vector<S: Simd>(simd: S, cells: &[Self]) -> S::Vector;
}

impl Cell for f32 {
    #[inline(always)]
    fn vector<S: Simd>(simd: S, cells: &[Self]) -> S::Vector {
        simd.load(cells)
    }
}

impl Cell for bf16 {
    #[inline(always)]
    fn vector<S: Simd>(simd: S, cells: &[Self]) -> S::Vector {
        simd.widen(cells)
    }
}

/// `row += factor · cells`; the least that was added, of each lane, where it is below `least`.
#[inline(always)]
fn add_row<S: Simd, N: Cell>(
    simd: S,
    cells: &[N],
    factor: S::Vector,
    row: &mut [f32],
    mut least: S::Vector,
) -> S::Vector {
    let mut rows = row.chunks_exact_mut(S::LANES);
    let vectors = cells.chunks_exact(S::LANES);
    let rest = vectors.remainder();
    for (cells, row) in vectors.zip(&mut rows) {
        let cells = N::vector(simd, cells);
        simd.store(simd.multiply_add(cells, factor, simd.load(row)), row);
        least = simd.select_below(cells, least, cells, least);
    }
    if let (false, Some(row)) = (rest.is_empty(), rows.next()) {
        let mut last = [N::default(); LINE];
        last[..rest.len()].copy_from_slice(rest);
        let cells = N::vector(simd, &last);
        simd.store(simd.multiply_add(cells, factor, simd.load(row)), row);
        least = simd.select_below(cells, least, cells, least);
    }
    least
}
