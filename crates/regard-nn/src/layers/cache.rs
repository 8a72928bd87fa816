//! Keys and values of a sequence that grows by a position at a time.

use burn::tensor::{Device, Int, Tensor, TensorData};

use crate::operation::{flex, is_fused, unflex};

/// What self-attention has seen so far.
///
/// The positions of a row lie one behind the other. There is room for all that may come from the beginning, so that growing
/// copies nothing; a system like Linux gives memory to what is written only. Rows that are chosen anew, as beam search does
/// after every position, share most of what they have seen: only what differs is copied. Fewer rows stay in the same memory:
/// whenever a sentence of a batch ends there are fewer, and memory of another size each time piles up in an allocator.
#[derive(Clone, Debug)]
pub struct KeyValueCache {
    /// `[at least rows, room, width]`
    keys: Tensor<3>,
    values: Tensor<3>,
    rows: usize,
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
            rows,
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
        let (at, rows) = (self.length(), self.rows);
        let [_, room, width] = self.keys.dims();
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
        let [places, room, width] = self.keys.dims();
        let view = |all: &Tensor<3>| {
            all.clone()
                .reshape([places, room, self.heads, width / self.heads])
                .narrow(0, 0, self.rows)
                .narrow(1, 0, self.length())
                .permute([0, 2, 1, 3])
        };
        (view(&self.keys), view(&self.values))
    }

    /// Keeps these rows, in this order; a row may be taken more than once.
    pub fn select(&mut self, rows: &[usize]) {
        for all in [&mut self.keys, &mut self.values] {
            *all = if rows.len() <= self.rows && is_fused(all) {
                // Taken out and put back: memory with one owner is written in place.
                let none = Tensor::zeros([0, 0, 0], &all.device());
                moved(std::mem::replace(all, none), &self.writers, rows)
            } else {
                chosen(all, self.writers.len(), rows)
            };
        }
        for writers in &mut self.writers {
            *writers = rows.iter().map(|row| writers[*row]).collect();
        }
        self.rows = rows.len();
    }
}

/// The tensor with its rows taken over, in its own memory: no more than there were.
fn moved(all: Tensor<3>, writers: &[Vec<u32>], rows: &[usize]) -> Tensor<3> {
    let [_, room, width] = all.dims();
    let Some(mut flex) = flex(all) else {
        unreachable!("the CPU's tensors are the fused ones");
    };
    let storage = flex.storage_mut::<f32>();
    let at = |row: usize, position: usize| (row * room + position) * width;
    let mut taken = Vec::new();
    for (position, writers) in writers.iter().enumerate() {
        let rows = rows.iter().enumerate();
        let differ = rows.filter(|(to, from)| writers[*to] != writers[**from]);
        // Read before anything is written: a row may be taken over and take over.
        taken.clear();
        for (_, from) in differ.clone() {
            taken.extend_from_slice(&storage[at(*from, position)..][..width]);
        }
        for ((to, _), taken) in differ.zip(taken.chunks_exact(width.max(1))) {
            storage[at(to, position)..][..width].copy_from_slice(taken);
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    const WIDTH: usize = 2;

    /// The next position of every row, also for the naive twin: a list of all numbers for each row.
    fn push(cache: &mut KeyValueCache, twin: &mut [Vec<f32>]) {
        let next = (0..).map(|at| (100 * cache.length() + at) as f32);
        let next: Vec<f32> = next.take(twin.len() * WIDTH).collect();
        for (row, numbers) in twin.iter_mut().zip(next.chunks(WIDTH)) {
            row.extend(numbers);
        }
        let shape = [twin.len(), 1, WIDTH];
        let keys = Tensor::<3>::from_data(TensorData::new(next, shape), &Device::flex());
        cache.push(keys.clone(), keys.neg());
    }

    #[test]
    fn rows_that_leave_or_are_taken_over_are_as_if_each_were_copied() {
        let mut cache = KeyValueCache::new(4, 6, WIDTH, 1, &Device::flex());
        let mut twin = vec![Vec::new(); 4];
        push(&mut cache, &mut twin);
        let choices: [&[usize]; 5] = [&[1, 0, 3, 2], &[3, 1, 1], &[2, 0, 0], &[1, 2], &[1, 1, 0]];
        for rows in choices {
            push(&mut cache, &mut twin);
            cache.select(rows);
            twin = rows.iter().map(|row| twin[*row].clone()).collect();
            let (keys, values) = cache.seen();
            assert_eq!(keys.dims(), [rows.len(), 1, cache.length(), WIDTH]);
            for (found, sign) in [(keys, 1.0), (values, -1.0)] {
                let found: Vec<f32> = found.into_data().iter::<f32>().collect();
                let expected: Vec<f32> = twin.concat().iter().map(|x| sign * x).collect();
                assert_eq!(found, expected, "{rows:?}");
            }
        }
    }
}
