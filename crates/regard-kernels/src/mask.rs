//! Which pairs of query and key are visible.
//!
//! Two kinds of rule. A rule of *position* (causal, window, prefix, visible keys) says for each query which keys it
//! sees, as a prefix and a range whose ends never fall from one query to the next: so whole tiles are known to be empty
//! or full without looking at their pairs. A rule of *content* (documents, blocks, a boolean mask) has to be read, and
//! it is read by the tile too: a tile that shows nothing is not computed.

use std::ops::Range;

use ndarray::{ArrayView2, ArrayView4};

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

/// A mask that is given by blocks of pairs instead of pair by pair: what is hidden costs nothing.
#[derive(Debug, Clone, Copy)]
pub struct Blocks<'a> {
    /// `true` = its pairs may attend. `[batch, heads, ⌈queries / size.0⌉, ⌈keys / size.1⌉]`; `batch` and `heads` may be 1.
    pub visible: ArrayView4<'a, bool>,
    /// How many queries and how many keys a block has; those at the end may have fewer.
    pub size: (usize, usize),
}

impl Blocks<'_> {
    /// The same, for as long as this is borrowed.
    pub(crate) fn view(&self) -> Blocks<'_> {
        Blocks {
            visible: self.visible.view(),
            size: self.size,
        }
    }

    /// Whether the block that this pair lies in is visible.
    ///
    /// # Panics
    /// Where the pair lies in no block.
    pub fn shows(&self, batch: usize, head: usize, query: usize, key: usize) -> bool {
        let (batches, heads, _, _) = self.visible.dim();
        self.visible[[
            if batches == 1 { 0 } else { batch },
            if heads == 1 { 0 } else { head },
            query / self.size.0,
            key / self.size.1,
        ]]
    }

    /// What is known of the pairs `queries` × `keys` (neither is empty).
    fn tile(&self, batch: usize, head: usize, queries: &Range<usize>, keys: &Range<usize>) -> Tile {
        let mut tile = None;
        for i in queries.start / self.size.0..=(queries.end - 1) / self.size.0 {
            for j in keys.start / self.size.1..=(keys.end - 1) / self.size.1 {
                let (query, key) = (i * self.size.0, j * self.size.1);
                let block = Tile::of(self.shows(batch, head, query, key));
                tile = Some(tile.map_or(block, |tile: Tile| tile.beside(block)));
            }
        }
        tile.unwrap_or(Tile::Empty)
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

impl Tile {
    fn of(visible: bool) -> Self {
        if visible { Tile::Full } else { Tile::Empty }
    }

    /// Of two blocks together.
    fn beside(self, other: Self) -> Self {
        if self == other { self } else { Tile::Partial }
    }

    /// Of one block under two rules: a pair is visible where both show it.
    fn and(self, other: Self) -> Self {
        match (self, other) {
            (Tile::Empty, _) | (_, Tile::Empty) => Tile::Empty,
            (Tile::Full, Tile::Full) => Tile::Full,
            _ => Tile::Partial,
        }
    }
}

/// The rules that hold for one call, broadcast to `[batch, heads, queries, keys]`.
#[derive(Clone, Copy)]
pub(crate) struct Visibility<'a> {
    pub(crate) keys: usize,
    /// Query `i` stands at key `i + diagonal`,
    pub(crate) diagonal: isize,
    /// or at `i + offsets[batch]`.
    pub(crate) offsets: Option<&'a [isize]>,
    /// How many keys before that it sees; all of them if there is no number.
    pub(crate) left: Option<usize>,
    /// How many keys after that it sees: 0 if it is causal.
    pub(crate) right: Option<usize>,
    /// Per batch row: the keys `0..n` are visible to all, whatever `left` and `right` are.
    pub(crate) prefix: Option<&'a [usize]>,
    /// Per batch row: the keys `0..n` are visible, no others.
    pub(crate) visible_keys: Option<&'a [usize]>,
    /// The document of each query and of each key, `[batch, queries]` and `[batch, keys]`: a query sees its own only.
    pub(crate) documents: Option<(ArrayView2<'a, i32>, ArrayView2<'a, i32>)>,
    pub(crate) blocks: Option<Blocks<'a>>,
    /// `true` = may attend.
    pub(crate) mask: Option<ArrayView4<'a, bool>>,
}

impl Visibility<'_> {
    /// By their position, the `queries` (not none) see keys of these two ranges only, the first of which lies before the
    /// second: of the prefix, and around the keys that they stand at. Either may be empty.
    pub(crate) fn ranges(&self, batch: usize, queries: &Range<usize>) -> [Range<usize>; 2] {
        let prefix = self.prefix(batch);
        let end = self.limit(batch, queries.end - 1).max(prefix);
        let start = self.start(batch, queries.start).min(end);
        [0..prefix.min(start), start..end]
    }

    /// The part of `keys` from the first to the last that some of the `queries` see by their position.
    pub(crate) fn part(
        &self,
        batch: usize,
        queries: &Range<usize>,
        keys: &Range<usize>,
    ) -> Range<usize> {
        let [prefix, around] = self.ranges(batch, queries).map(|seen| {
            let start = seen.start.max(keys.start);
            start..seen.end.min(keys.end).max(start)
        });
        match (prefix.is_empty(), around.is_empty()) {
            (true, _) => around,
            (false, true) => prefix,
            (false, false) => prefix.start..around.end,
        }
    }

    /// How many keys at the front everyone sees.
    pub(crate) fn prefix(&self, batch: usize) -> usize {
        let prefix = self.prefix.map_or(0, |prefix| prefix[batch]);
        prefix.min(self.visible(batch))
    }

    /// By its position, `query` sees the keys `start..limit`, if there are any, and the prefix: this is the start.
    pub(crate) fn start(&self, batch: usize, query: usize) -> usize {
        self.left.map_or(0, |left| {
            let stands_at = self.key_of(batch, query);
            stands_at.saturating_sub_unsigned(left).max(0) as usize
        })
    }

    /// By its position, `query` sees the keys `start..limit`, if there are any, and the prefix: this is the limit.
    pub(crate) fn limit(&self, batch: usize, query: usize) -> usize {
        let limit = self.visible(batch);
        self.right.map_or(limit, |right| {
            let stands_at = self.key_of(batch, query);
            let end = stands_at.saturating_add_unsigned(right).saturating_add(1);
            limit.min(end.max(0) as usize)
        })
    }

    /// Whether every query sees all keys that are no padding.
    pub(crate) fn shows_all_but_padding(&self) -> bool {
        self.left.is_none()
            && self.right.is_none()
            && self.documents.is_none()
            && self.blocks.is_none()
            && self.mask.is_none()
    }

    /// How many keys are no padding.
    pub(crate) fn visible(&self, batch: usize) -> usize {
        self.visible_keys
            .map_or(self.keys, |visible| visible[batch].min(self.keys))
    }

    /// The key that `query` stands at; there may be none with this number.
    pub(crate) fn key_of(&self, batch: usize, query: usize) -> isize {
        let diagonal = self.offsets.map_or(self.diagonal, |offsets| offsets[batch]);
        diagonal.saturating_add_unsigned(query)
    }

    /// Whether `query` may attend to `key`.
    pub(crate) fn sees(&self, batch: usize, head: usize, query: usize, key: usize) -> bool {
        (key < self.prefix(batch)
            || (self.start(batch, query)..self.limit(batch, query)).contains(&key))
            && self
                .documents
                .is_none_or(|(of_query, of_key)| of_query[[batch, query]] == of_key[[batch, key]])
            && self
                .blocks
                .is_none_or(|blocks| blocks.shows(batch, head, query, key))
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
        let mut tile = self.tile_by_position(batch, &queries, &keys);
        if tile != Tile::Empty
            && let Some((of_query, of_key)) = self.documents
        {
            let bounds = |documents: ArrayView2<'_, i32>, range: &Range<usize>| {
                let documents = documents.row(batch);
                let first = documents[range.start];
                documents
                    .slice(ndarray::s![range.clone()])
                    .iter()
                    .fold((first, first), |(low, high), &of| {
                        (low.min(of), high.max(of))
                    })
            };
            let (of_queries, of_keys) = (bounds(of_query, &queries), bounds(of_key, &keys));
            tile = tile.and(if of_queries.1 < of_keys.0 || of_keys.1 < of_queries.0 {
                Tile::Empty
            } else if of_queries == of_keys && of_keys.0 == of_keys.1 {
                Tile::Full
            } else {
                Tile::Partial
            });
        }
        if tile != Tile::Empty
            && let Some(blocks) = &self.blocks
        {
            tile = tile.and(blocks.tile(batch, head, &queries, &keys));
        }
        if tile != Tile::Empty
            && let Some(mask) = self.mask
        {
            // A mask that is the same for all queries (padding) is read once.
            let rows = if mask.strides()[2] == 0 {
                queries.start..queries.start + 1
            } else {
                queries
            };
            let (mut any, mut all) = (false, true);
            for row in mask
                .slice(ndarray::s![batch, head, rows, keys])
                .outer_iter()
            {
                match row.to_slice() {
                    Some(row) => row.iter().for_each(|&visible| {
                        any |= visible;
                        all &= visible;
                    }),
                    None => row.iter().for_each(|&visible| {
                        any |= visible;
                        all &= visible;
                    }),
                }
            }
            tile = tile.and(match (any, all) {
                (false, _) => Tile::Empty,
                (true, true) => Tile::Full,
                (true, false) => Tile::Partial,
            });
        }
        tile
    }

    fn tile_by_position(&self, batch: usize, queries: &Range<usize>, keys: &Range<usize>) -> Tile {
        if self.part(batch, queries, keys).is_empty() {
            return Tile::Empty;
        }
        // Start and limit never fall with the query, so the first and the last query bound the block.
        let beyond_prefix = keys.start.max(self.prefix(batch))..keys.end;
        let full = beyond_prefix.is_empty()
            || (beyond_prefix.start >= self.start(batch, queries.end - 1)
                && beyond_prefix.end <= self.limit(batch, queries.start));
        if full { Tile::Full } else { Tile::Partial }
    }
}
