//! Which pairs of query and key are visible.
//!
//! Two kinds of rule. A rule of *position* (causal, window, visible keys) says for each query which range of keys it
//! sees: neither end of it ever falls from one query to the next, so whole tiles are known to be empty or full without
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
    /// Query `i` stands at key `i · advance + diagonal`.
    pub(crate) diagonal: isize,
    /// 1; or 0 where the queries are heads that all stand at the same key.
    pub(crate) advance: usize,
    /// How many keys before that it sees; all of them if there is no number.
    pub(crate) left: Option<usize>,
    /// How many keys after that it sees: 0 if it is causal.
    pub(crate) right: Option<usize>,
    /// Per batch row: the keys `0..n` are visible.
    pub(crate) visible_keys: Option<&'a [usize]>,
    /// `true` = may attend.
    pub(crate) mask: Option<ArrayView4<'a, bool>>,
}

impl Visibility<'_> {
    /// By their position, the `queries` (not none) see keys of this range only, and the first and the last key of it are
    /// seen by some: it may be empty.
    pub(crate) fn range(&self, batch: usize, queries: &Range<usize>) -> Range<usize> {
        let end = self.limit(batch, queries.end - 1);
        self.start(queries.start).min(end)..end
    }

    /// By its position, `query` sees the keys `start..limit`, if there are any: this is the start.
    pub(crate) fn start(&self, query: usize) -> usize {
        self.left.map_or(0, |left| {
            self.key_of(query).saturating_sub_unsigned(left).max(0) as usize
        })
    }

    /// By its position, `query` sees the keys `start..limit`, if there are any: this is the limit.
    pub(crate) fn limit(&self, batch: usize, query: usize) -> usize {
        let mut limit = self.keys;
        if let Some(visible) = self.visible_keys {
            limit = limit.min(visible[batch]);
        }
        if let Some(right) = self.right {
            let end = self
                .key_of(query)
                .saturating_add_unsigned(right)
                .saturating_add(1);
            limit = limit.min(end.max(0) as usize);
        }
        limit
    }

    /// The key that `query` stands at; there may be none with this number.
    fn key_of(&self, query: usize) -> isize {
        self.diagonal.saturating_add_unsigned(query * self.advance)
    }

    /// Whether `query` may attend to `key`.
    pub(crate) fn sees(&self, batch: usize, head: usize, query: usize, key: usize) -> bool {
        (self.start(query)..self.limit(batch, query)).contains(&key)
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
        // Start and limit never fall with the query, so the first and the last query bound the block.
        let some = self.range(batch, &queries);
        if keys.start >= some.end || keys.end <= some.start {
            return Tile::Empty;
        }
        let full = keys.start >= self.start(queries.end - 1)
            && keys.end <= self.limit(batch, queries.start);
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
