//! Where a vector stands in its sequence: learned or sinusoidal vectors to add; see [`rotary`](crate::operation::rotary)
//! for turning queries and keys instead.

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor, TensorData};

use super::normal;
use crate::Noise;

/// A learned vector for each position, added to what stands there.
#[derive(Module, Debug)]
pub struct LearnedPositions {
    /// `[longest, width]`
    pub weight: Param<Tensor<2>>,
}

impl LearnedPositions {
    /// Normal numbers with standard deviation 0.02.
    pub fn new(longest: usize, width: usize, noise: &mut Noise, device: &Device) -> Self {
        Self {
            weight: normal([longest, width], 0.02, noise, device),
        }
    }

    /// `[batch, sequence, width]` → the same
    ///
    /// # Panics
    ///
    /// If the sequence is longer than there are positions.
    pub fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let sequence = x.dims()[1];
        let longest = self.weight.dims()[0];
        assert!(
            sequence <= longest,
            "a sequence of {sequence} positions, expected at most {longest}"
        );
        x + self.weight.val().narrow(0, 0, sequence).unsqueeze()
    }
}

/// Vectors of sines and cosines of falling frequency, `[sequence, width]` (Vaswani et al. 2017):
/// `p[i, 2c] = sin(i / 10000^(2c / width))`, `p[i, 2c + 1] = cos(…)`.
pub fn sinusoidal(sequence: usize, width: usize, device: &Device) -> Tensor<2> {
    let mut values = Vec::with_capacity(sequence * width);
    for position in 0..sequence {
        for c in 0..width {
            let angle = position as f64 / 10_000_f64.powf((c - c % 2) as f64 / width as f64);
            values.push(if c % 2 == 0 { angle.sin() } else { angle.cos() } as f32);
        }
    }
    Tensor::from_data(TensorData::new(values, [sequence, width]), device)
}

/// The same for a grid, `[rows · columns, width]`, row after row: the first half of a vector is [`sinusoidal`] of the row, the
/// second of the column.
pub fn sinusoidal_grid([rows, columns]: [usize; 2], width: usize, device: &Device) -> Tensor<2> {
    let half = width / 2;
    let expand = |x: Tensor<2>, axis: usize, width: usize| {
        let x: Tensor<3> = x.unsqueeze_dim(axis);
        x.expand([rows, columns, width])
            .reshape([rows * columns, width])
    };
    let row = expand(sinusoidal(rows, half, device), 1, half);
    let column = expand(sinusoidal(columns, width - half, device), 0, width - half);
    Tensor::cat(vec![row, column], 1)
}
