//! Which pairs of query and key are visible.
//!
//! Two kinds of rule. A rule of *position* (causal, visible keys) says for each query how many of the first keys it
//! sees: a number that never falls from one query to the next, so whole tiles are known to be empty or full without
//! looking at their pairs. A rule of *content* (a boolean mask) has to be read.

use std::ops::Range;

use ndarray::ArrayView4;

/// Which keys come before a query: where the diagonal lies when there are not as many queries as keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Causal {
    /// Query `i` sees the keys `j ≤ i`: queries and keys start together.
    TopLeft,
    /// Query `i` sees the keys `j ≤ i + keys − queries`: they end together, as with a cache of earlier keys.
    BottomRight,
    /// Query `i` sees the keys `j ≤ i + offset`.
    Offset(isize),
}

impl Causal {
    /// The `offset` in "query `i` sees the keys `j ≤ i + offset`".
    pub fn offset(self, queries: usize, keys: usize) -> isize {
        match self {
            Causal::TopLeft => 0,
            Causal::BottomRight => keys as isize - queries as isize,
            Causal::Offset(offset) => offset,
        }
    }
}

/// What is known of a block of pairs before any score is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tile {
    /// No pair is visible: the block is skipped.
    Empty,
    /// Every pair is visible: nothing has to be hidden.
    Full,
    /// Some are.
    Partial,
}

/// The rules that hold for one call, broadcast to `[batch, heads, queries, keys]`.
#[derive(Clone, Copy)]
pub(crate) struct Visibility<'a> {
    pub(crate) keys: usize,
    /// `offset` of "query `i` sees the keys `j ≤ i + offset`".
    pub(crate) causal: Option<isize>,
    /// Per batch row: the keys `0..n` are visible.
    pub(crate) visible_keys: Option<&'a [usize]>,
    /// `true` = may attend.
    pub(crate) mask: Option<ArrayView4<'a, bool>>,
}

impl Visibility<'_> {
    /// By its position, `query` sees the keys `0..limit`.
    pub(crate) fn limit(&self, batch: usize, query: usize) -> usize {
        let mut limit = self.keys;
        if let Some(visible) = self.visible_keys {
            limit = limit.min(visible[batch]);
        }
        if let Some(offset) = self.causal {
            limit = limit.min(
                (query as isize)
                    .saturating_add(offset)
                    .saturating_add(1)
                    .max(0) as usize,
            );
        }
        limit
    }

    /// Whether `query` may attend to `key`.
    pub(crate) fn sees(&self, batch: usize, head: usize, query: usize, key: usize) -> bool {
        key < self.limit(batch, query)
            && self.mask.is_none_or(|mask| mask[[batch, head, query, key]])
    }

    /// What is known of the block `queries` × `keys` (neither is empty).
    pub(crate) fn tile(
        &self,
        batch: usize,
        head: usize,
        queries: Range<usize>,
        keys: Range<usize>,
    ) -> Tile {
        // The limit never falls with the query, so the first and the last query bound the block.
        if keys.start >= self.limit(batch, queries.end - 1) {
            return Tile::Empty;
        }
        let full = keys.end <= self.limit(batch, queries.start);
        let Some(mask) = self.mask else {
            return if full { Tile::Full } else { Tile::Partial };
        };
        // A mask that is the same for all queries (padding) is read once.
        let rows = if mask.strides()[2] == 0 {
            queries.start..queries.start + 1
        } else {
            queries
        };
        let mask = mask.slice(ndarray::s![batch, head, rows, keys]);
        let (mut any, mut all) = (false, true);
        for &visible in mask {
            any |= visible;
            all &= visible;
        }
        match (any, all && full) {
            (false, _) => Tile::Empty,
            (true, true) => Tile::Full,
            (true, false) => Tile::Partial,
        }
    }
}
