//! What a part of a layer adds to what passes it by.

use std::sync::Arc;

use burn::tensor::{Tensor, TensorData};
use rayon::prelude::*;

use super::dropout;
use super::memory::take;
use super::vectors::widest;
use crate::noise::DropoutMask;

/// What the output of a part is multiplied by before it is added: `out = x + part · factor · mask`, the factor of
/// stochastic depth one for each row, the mask of dropout one for each element. The default is `x + part`.
#[derive(Clone, Debug, Default)]
pub struct Residual {
    pub(crate) factors: Option<Arc<[f32]>>,
    pub(crate) mask: Option<DropoutMask>,
}

/// Rows of one task.
const ROWS: usize = 64;

impl Residual {
    /// The same, composed of Burn's operations.
    pub(super) fn joined(&self, x: Tensor<2>, part: Tensor<2>) -> Tensor<2> {
        let part = match &self.factors {
            Some(factors) => {
                let data = TensorData::new(factors.to_vec(), [factors.len(), 1]);
                let device = part.device();
                part * Tensor::<2>::from_data(data, &device)
            }
            None => part,
        };
        let part = match self.mask {
            Some(mask) => dropout(part, mask),
            None => part,
        };
        x + part
    }

    /// Adds `x` to rows of the part of which the first has the number `first`; `x` is all rows.
    pub(super) fn add(&self, x: &[f32], first: usize, part: &mut [f32], width: usize) {
        self.scale(first, part, width);
        let x = &x[first * width..][..part.len()];
        widest!({
            for (part, x) in part.iter_mut().zip(x) {
                *part += x;
            }
        });
    }

    /// The gradient of the part, from that of what it was added to; `None` where they are the same.
    pub(super) fn backward(&self, d_out: &[f32], width: usize) -> Option<Vec<f32>> {
        if self.factors.is_none() && self.mask.is_none() {
            return None;
        }
        let mut d_part = take(d_out.len());
        d_part
            .par_chunks_mut((ROWS * width).max(1))
            .zip(d_out.par_chunks((ROWS * width).max(1)))
            .enumerate()
            .for_each(|(task, (d_part, d_out))| {
                d_part.copy_from_slice(d_out);
                self.scale(task * ROWS, d_part, width);
            });
        Some(d_part)
    }

    fn scale(&self, first: usize, rows: &mut [f32], width: usize) {
        if let Some(factors) = &self.factors {
            let rows = rows.chunks_exact_mut(width.max(1));
            for (row, factor) in rows.zip(&factors[first..]) {
                row.iter_mut().for_each(|x| *x *= factor);
            }
        }
        if let Some(mask) = self.mask {
            widest!(mask.apply_to(first * width, rows));
        }
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;
    use crate::{Noise, Sequences};

    #[test]
    fn a_skipped_sequence_is_skipped_whole_and_the_mean_stays() {
        let sequences = Sequences::new((0..4000).map(|row| 1 + row % 3));
        let shape = [sequences.tokens(), 3];
        let residual = Noise::at(1, 1).residual(0.0, 0.25, &sequences);
        let (zeros, ones) = (vec![0.0; 3 * shape[0]], vec![1.0; 3 * shape[0]]);
        let mut out = ones.clone();
        residual.add(&zeros, 0, &mut out, 3);
        let mut rest = out.as_slice();
        for length in sequences.lengths() {
            let (of_sequence, behind) = rest.split_at(3 * length);
            assert!(of_sequence.iter().all(|value| *value == of_sequence[0]));
            rest = behind;
        }
        let mean = out.iter().sum::<f32>() / out.len() as f32;
        assert!((mean - 1.0).abs() < 0.05, "{mean}");
        assert_eq!(residual.backward(&ones, 3), Some(out.clone()));
        let device = Device::flex();
        let composed = residual.joined(Tensor::zeros(shape, &device), Tensor::ones(shape, &device));
        assert_eq!(composed.into_data().iter::<f32>().collect::<Vec<_>>(), out);
    }

    #[test]
    fn rows_from_the_middle_get_what_they_get_among_all() {
        let sequences = Sequences::new([5, 30, 70]);
        let residual = Noise::at(1, 2).residual(0.4, 0.5, &sequences);
        let x: Vec<f32> = (0..3 * 105).map(|at| at as f32).collect();
        let mut all = x.clone();
        residual.add(&x, 0, &mut all, 3);
        for first in [0, 1, 64, 104] {
            let mut rows = x[3 * first..].to_vec();
            residual.add(&x, first, &mut rows, 3);
            assert_eq!(rows, all[3 * first..], "from {first}");
        }
    }
}
