//! Sequences of different lengths, one after the other: what belongs to nobody is not there, so nothing is computed for it.

use std::sync::Arc;

use burn::tensor::{Device, Int, Tensor, TensorData};
use regard_kernels::Packed;

use crate::operation::embedding;

/// Where sequences that lie one after the other begin and end: of a tensor `[tokens, width]`, sequence `s` has the rows
/// `boundaries[s]..boundaries[s + 1]`. Known elsewhere as `cu_seqlens`.
#[derive(Clone, Debug, PartialEq)]
pub struct Sequences {
    boundaries: Arc<[usize]>,
}

impl Sequences {
    /// Sequences of these lengths.
    pub fn new(lengths: impl IntoIterator<Item = usize>) -> Self {
        let mut boundaries = vec![0];
        let mut end = 0;
        for length in lengths {
            end += length;
            boundaries.push(end);
        }
        Self {
            boundaries: boundaries.into(),
        }
    }

    /// So many sequences of one length.
    pub fn equal(count: usize, length: usize) -> Self {
        Self::new(std::iter::repeat_n(length, count))
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.boundaries.len() - 1
    }

    /// Rows of all together.
    pub fn tokens(&self) -> usize {
        self.boundaries[self.count()]
    }

    /// The length of each.
    pub fn lengths(&self) -> impl ExactSizeIterator<Item = usize> + Clone {
        self.boundaries.windows(2).map(|pair| pair[1] - pair[0])
    }

    /// The longest length; 0 without sequences.
    pub fn longest(&self) -> usize {
        self.lengths().max().unwrap_or(0)
    }

    /// The position of every row in its own sequence.
    pub fn positions(&self) -> impl Iterator<Item = usize> {
        self.lengths().flat_map(|length| 0..length)
    }

    /// Where the rows of `self` and of `keys` begin and end, for the kernels.
    pub(crate) fn attending<'a>(&'a self, keys: &'a Self) -> Packed<'a> {
        Packed {
            queries: &self.boundaries,
            keys: &keys.boundaries,
        }
    }

    /// Whether all are of one length, so that padding them adds nothing.
    pub(crate) fn are_equal(&self) -> bool {
        let longest = self.longest();
        self.lengths().all(|length| length == longest)
    }

    /// `[tokens, width]` → `[count, longest, width]`. Behind the end of a shorter sequence stand copies of the first row of
    /// all, which nobody may look at. Without a copy where all are of one length.
    ///
    /// # Panics
    ///
    /// If `x` has another number of rows.
    pub fn padded(&self, x: Tensor<2>) -> Tensor<3> {
        let [tokens, width] = x.dims();
        assert_eq!(tokens, self.tokens(), "rows of the sequences");
        let shape = [self.count(), self.longest(), width];
        if tokens == 0 {
            return Tensor::zeros(shape, &x.device());
        }
        if self.are_equal() {
            return x.reshape(shape);
        }
        let mut rows = Vec::with_capacity(shape[0] * shape[1]);
        for pair in self.boundaries.windows(2) {
            let padding = shape[1] - (pair[1] - pair[0]);
            rows.extend((pair[0]..pair[1]).map(|row| row as i32));
            rows.extend(std::iter::repeat_n(0, padding));
        }
        let device = x.device();
        embedding(x, numbers(rows, &device)).reshape(shape)
    }

    /// The inverse of [`padded`](Self::padded): `[count, longest, width]` → `[tokens, width]`.
    ///
    /// # Panics
    ///
    /// If `x` has another number of sequences or positions.
    pub fn packed(&self, x: Tensor<3>) -> Tensor<2> {
        let [count, longest, width] = x.dims();
        let expected = [self.count(), self.longest()];
        assert_eq!([count, longest], expected, "sequences and the longest");
        if self.tokens() == 0 {
            return Tensor::zeros([0, width], &x.device());
        }
        let x: Tensor<2> = x.reshape([count * longest, width]);
        if self.are_equal() {
            return x;
        }
        let rows = self.lengths().enumerate();
        let rows =
            rows.flat_map(|(row, length)| (0..length).map(move |at| (row * longest + at) as i32));
        let device = x.device();
        embedding(x, numbers(rows.collect(), &device))
    }
}

fn numbers(rows: Vec<i32>, device: &Device) -> Tensor<1, Int> {
    let count = rows.len();
    Tensor::from_data(TensorData::new(rows, [count]), device)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(count: usize) -> Tensor<2> {
        let values: Vec<f32> = (0..2 * count).map(|x| x as f32).collect();
        let data = TensorData::new(values, [count, 2]);
        Tensor::from_data(data, &Device::flex().autodiff())
    }

    #[test]
    fn padding_and_packing_are_inverse_and_so_are_their_gradients() {
        for lengths in [vec![2, 0, 3], vec![2, 2], vec![], vec![0, 1]] {
            let sequences = Sequences::new(lengths.clone());
            assert_eq!(sequences.tokens(), lengths.iter().sum::<usize>());
            let x = rows(sequences.tokens()).require_grad();
            let padded = sequences.padded(x.clone());
            assert_eq!(
                padded.dims(),
                [sequences.count(), sequences.longest(), 2],
                "{lengths:?}"
            );
            let again = sequences.packed(padded);
            assert_eq!(again.to_data(), x.to_data(), "{lengths:?}");
            if sequences.tokens() == 0 {
                continue;
            }
            let gradients = (again.clone() * again).sum().backward();
            let expected = x.clone().inner().mul_scalar(2.0);
            assert_eq!(
                x.grad(&gradients).unwrap().to_data(),
                expected.to_data(),
                "{lengths:?}"
            );
        }
    }

    #[test]
    fn every_row_knows_its_position() {
        let sequences = Sequences::new([2, 0, 3]);
        let positions: Vec<usize> = sequences.positions().collect();
        assert_eq!(positions, [0, 1, 0, 1, 2]);
    }
}
