//! Keys and values of a sequence that grows by a position at a time.

use burn::tensor::{Device, Int, Tensor, TensorData};

use crate::operation::{flex, is_fused, unflex};

/// What self-attention has seen so far.
///
/// The positions of a row lie one behind the other. There is room for all that may come from the beginning, so that growing
/// copies nothing; a system like Linux gives memory to what is written only. Rows that are chosen anew, as beam search does
/// after every position, share most of what they have seen: only what differs is copied.
#[derive(Clone, Debug)]
pub struct KeyValueCache {
    /// `[rows, room, width]`
    keys: Tensor<3>,
    values: Tensor<3>,
    /// For every position and row, the row that wrote it: equal rows at a position hold the same there.
    writers: Vec<Vec<u32>>,
    heads: usize,
}

impl KeyValueCache {
    /// Nothing seen by `rows` sequences of at most so many `positions`, whose vectors have `width` = heads · head_dim numbers.
    pub fn new(rows: usize, positions: usize, width: usize, heads: usize, device: &Device) -> Self {
        let room = || Tensor::zeros([rows, positions, width], device);
        Self {
            keys: room(),
            values: room(),
            writers: Vec::new(),
            heads,
        }
    }

    /// Positions written.
    pub fn length(&self) -> usize {
        self.writers.len()
    }

    /// Writes the next position: `[rows, 1, width]` each.
    ///
    /// # Panics
    ///
    /// If all positions are written.
    pub fn push(&mut self, keys: Tensor<3>, values: Tensor<3>) {
        let at = self.length();
        let [rows, room, width] = self.keys.dims();
        assert!(at < room, "a cache of {room} positions is full");
        for (all, new) in [(&mut self.keys, keys), (&mut self.values, values)] {
            // Taken out and put back: memory with one owner is written in place.
            let old = std::mem::replace(all, new.clone());
            *all = old.slice_assign([0..rows, at..at + 1, 0..width], new);
        }
        self.writers.push((0..rows as u32).collect());
    }

    /// Keys and values of all positions written, `[rows, heads, positions, head_dim]`: views, nothing is copied.
    pub fn seen(&self) -> (Tensor<4>, Tensor<4>) {
        let [rows, room, width] = self.keys.dims();
        let view = |all: &Tensor<3>| {
            all.clone()
                .reshape([rows, room, self.heads, width / self.heads])
                .narrow(1, 0, self.length())
                .permute([0, 2, 1, 3])
        };
        (view(&self.keys), view(&self.values))
    }

    /// Keeps these rows, in this order; a row may be taken more than once.
    pub fn select(&mut self, rows: &[usize]) {
        let moves = self.moves(rows);
        for writers in &mut self.writers {
            *writers = rows.iter().map(|row| writers[*row]).collect();
        }
        for all in [&mut self.keys, &mut self.values] {
            *all = match &moves {
                // Taken out and put back: memory with one owner is written in place.
                Some(moves) if is_fused(all) => {
                    let none = Tensor::zeros([0, 0, 0], &all.device());
                    moved(std::mem::replace(all, none), moves)
                }
                _ => chosen(all, self.writers.len(), rows),
            };
        }
    }

    /// What must be copied where the number of rows stays.
    fn moves(&self, rows: &[usize]) -> Option<Vec<Move>> {
        if rows.len() != self.keys.dims()[0] {
            return None;
        }
        let differ = self
            .writers
            .iter()
            .enumerate()
            .flat_map(|(position, writers)| {
                let rows = rows.iter().enumerate();
                rows.filter(|(to, from)| writers[*to] != writers[**from])
                    .map(move |(to, from)| Move {
                        position,
                        from: *from,
                        to,
                    })
            });
        Some(differ.collect())
    }
}

/// A row takes over what another has seen at a position.
struct Move {
    position: usize,
    from: usize,
    to: usize,
}

/// The tensor with its rows taken over, in its own memory.
fn moved(all: Tensor<3>, moves: &[Move]) -> Tensor<3> {
    let [_, room, width] = all.dims();
    let Some(mut flex) = flex(all) else {
        unreachable!("the CPU's tensors are the fused ones");
    };
    let storage = flex.storage_mut::<f32>();
    let at = |row: usize, position: usize| (row * room + position) * width;
    // Read before anything is written: a row may be taken over and take over.
    let mut taken = Vec::with_capacity(moves.len() * width);
    for one in moves {
        taken.extend_from_slice(&storage[at(one.from, one.position)..][..width]);
    }
    for (one, taken) in moves.iter().zip(taken.chunks_exact(width.max(1))) {
        storage[at(one.to, one.position)..][..width].copy_from_slice(taken);
    }
    unflex(flex)
}

/// The rows in memory of their own, as far as they are written.
fn chosen(all: &Tensor<3>, written: usize, rows: &[usize]) -> Tensor<3> {
    let [_, room, width] = all.dims();
    let count = rows.len();
    let rows: Vec<i32> = rows.iter().map(|row| *row as i32).collect();
    let rows = Tensor::<1, Int>::from_data(TensorData::new(rows, [count]), &all.device());
    let kept = all.clone().narrow(1, 0, written).select(0, rows);
    Tensor::zeros([count, room, width], &all.device())
        .slice_assign([0..count, 0..written, 0..width], kept)
}
