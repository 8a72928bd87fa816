//! Where a vector stands in its sequence: learned or sinusoidal vectors to add; see [`rotary`](crate::operation::rotary)
//! for turning queries and keys instead.

use std::sync::{Arc, Mutex, PoisonError};

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
    let values = Table::of(sequence, width)[..sequence * width].to_vec();
    Tensor::from_data(TensorData::new(values, [sequence, width]), device)
}

/// The vectors of the longest sequence so far, of one width.
struct Table {
    width: usize,
    values: Arc<Vec<f32>>,
}

impl Table {
    /// At least those of `sequence` positions. Every pass of a model asks for the same: for one sentence of 64 positions and its
    /// translation they took 1.3 of 28 ms.
    fn of(sequence: usize, width: usize) -> Arc<Vec<f32>> {
        static KEPT: Mutex<Option<Table>> = Mutex::new(None);
        let mut kept = KEPT.lock().unwrap_or_else(PoisonError::into_inner);
        match &*kept {
            Some(table) if table.width == width && table.values.len() >= sequence * width => {
                table.values.clone()
            }
            _ => {
                let values = Arc::new(sines(sequence, width));
                *kept = Some(Table {
                    width,
                    values: values.clone(),
                });
                values
            }
        }
    }
}

fn sines(sequence: usize, width: usize) -> Vec<f32> {
    let period = |c: usize| 10_000_f64.powf((c - c % 2) as f64 / width as f64);
    let periods: Vec<f64> = (0..width).map(period).collect();
    let of_position = |position: usize| {
        periods.iter().enumerate().map(move |(c, period)| {
            let angle = position as f64 / period;
            (if c % 2 == 0 { angle.sin() } else { angle.cos() }) as f32
        })
    };
    (0..sequence).flat_map(of_position).collect()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_sequence_and_another_width_after_a_long_one_have_the_vectors_of_the_formula() {
        for (sequence, width) in [(9, 6), (4, 6), (12, 6), (5, 8), (3, 6)] {
            let found = sinusoidal(sequence, width, &Device::flex()).into_data();
            let expected = (0..sequence).flat_map(|position| {
                (0..width).map(move |c| {
                    let angle =
                        position as f64 / 10_000_f64.powf((c - c % 2) as f64 / width as f64);
                    (if c % 2 == 0 { angle.sin() } else { angle.cos() }) as f32
                })
            });
            assert!(found.iter::<f32>().eq(expected), "{sequence} × {width}");
        }
    }
}
