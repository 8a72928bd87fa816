//! Keys and values of a sequence that grows by a position at a time.

use burn::tensor::{Device, Int, Tensor};

/// What self-attention has seen so far: room for all positions is taken at the start, and a new one is written where it
/// lies. The positions are the outermost axis, so that what is seen is always one piece of memory.
#[derive(Clone, Debug)]
pub struct KeyValueCache {
    /// `[positions, rows, width]`
    keys: Tensor<3>,
    values: Tensor<3>,
    length: usize,
    heads: usize,
}

impl KeyValueCache {
    /// Room for `positions` vectors of `width` = heads · head_dim numbers for each of `rows` sequences.
    pub fn new(positions: usize, rows: usize, width: usize, heads: usize, device: &Device) -> Self {
        Self {
            keys: Tensor::zeros([positions, rows, width], device),
            values: Tensor::zeros([positions, rows, width], device),
            length: 0,
            heads,
        }
    }

    /// Positions written.
    pub fn length(&self) -> usize {
        self.length
    }

    /// Writes the next position: `[rows, 1, width]` each.
    ///
    /// # Panics
    ///
    /// If there is no room for another position.
    pub fn push(&mut self, keys: Tensor<3>, values: Tensor<3>) {
        let [positions, rows, width] = self.keys.dims();
        assert!(
            self.length < positions,
            "the cache has room for {positions} positions, and all are written"
        );
        let at = self.length;
        for (all, new) in [(&mut self.keys, keys), (&mut self.values, values)] {
            let new = new.reshape([1, rows, width]);
            // Taken out and put back: memory with one owner is written in place.
            let old = std::mem::replace(all, new.clone());
            *all = old.slice_assign([at..at + 1, 0..rows, 0..width], new);
        }
        self.length += 1;
    }

    /// Keys and values of all positions written, `[rows, heads, positions, head_dim]`: views, nothing is copied.
    pub fn seen(&self) -> (Tensor<4>, Tensor<4>) {
        let [_, rows, width] = self.keys.dims();
        let view = |all: &Tensor<3>| {
            all.clone()
                .narrow(0, 0, self.length)
                .reshape([self.length, rows, self.heads, width / self.heads])
                .permute([1, 2, 0, 3])
        };
        (view(&self.keys), view(&self.values))
    }

    /// Keeps these rows, in this order; a row may be taken more than once.
    pub fn select(&mut self, rows: &Tensor<1, Int>) {
        let [positions, _, width] = self.keys.dims();
        let kept = rows.dims()[0];
        for all in [&mut self.keys, &mut self.values] {
            let chosen = all
                .clone()
                .narrow(0, 0, self.length)
                .select(1, rows.clone());
            let device = all.device();
            let room = Tensor::zeros([positions, kept, width], &device);
            *all = room.slice_assign([0..self.length, 0..kept, 0..width], chosen);
        }
    }
}
