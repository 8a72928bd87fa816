//! Rows mapped to some heads each, by several maps as one product.

use ndarray::ArrayView2;
use regard_kernels::PackedMatrix;

use super::kept::{Weight, packed};
use super::linear::{by_weight_and_bias, times};
use super::memory::{give_back, give_back_array, take};
use super::rotary::Turn;
use super::storage::{FlexTensor, elements, from_vec, matrix, shape};

/// Several maps of the same input as one: weights and biases side by side.
#[derive(Clone, Debug, Default)]
struct Joined {
    inputs: usize,
    outputs: Vec<usize>,
    weight: Vec<f32>,
}

impl Joined {
    fn new(weights: &[&FlexTensor]) -> Self {
        let weights: Vec<FlexTensor> = weights
            .iter()
            .map(|weight| weight.to_contiguous())
            .collect();
        let outputs: Vec<usize> = weights.iter().map(|weight| shape(weight)[1]).collect();
        let inputs = shape(&weights[0])[0];
        let mut joined = take(inputs * outputs.iter().sum::<usize>());
        let mut rest = joined.as_mut_slice();
        for row in 0..inputs {
            for (weight, width) in weights.iter().zip(&outputs) {
                let (to, behind) = rest.split_at_mut(*width);
                to.copy_from_slice(&elements(weight)[row * width..][..*width]);
                rest = behind;
            }
        }
        Self {
            inputs,
            outputs,
            weight: joined,
        }
    }

    fn width(&self) -> usize {
        self.outputs.iter().sum()
    }

    fn matrix(&self) -> ArrayView2<'_, f32> {
        matrix(&self.weight, self.inputs, self.width())
    }

    /// Gradients of each weight and each bias.
    fn split(&self, d_weight: FlexTensor, d_bias: &FlexTensor) -> Vec<[FlexTensor; 2]> {
        let (width, mut first) = (self.width(), 0);
        let mut parts = Vec::with_capacity(self.outputs.len());
        for outputs in &self.outputs {
            let mut of_weight = take(self.inputs * outputs);
            let rows = of_weight.chunks_exact_mut((*outputs).max(1));
            for (to, from) in rows.zip(elements(&d_weight).chunks_exact(width.max(1))) {
                to.copy_from_slice(&from[first..][..*outputs]);
            }
            let of_bias = elements(d_bias)[first..][..*outputs].to_vec();
            parts.push([
                from_vec(of_weight, vec![self.inputs, *outputs]),
                from_vec(of_bias, vec![*outputs]),
            ]);
            first += outputs;
        }
        give_back(d_weight);
        parts
    }
}

/// Some heads of each row of a matrix.
#[derive(Clone, Debug)]
pub(super) struct Projected {
    maps: Joined,
    turn: Option<Turn>,
    /// `[rows, heads, head_dim]`
    pub(super) values: Vec<f32>,
}

impl Projected {
    /// Heads are turned by their position, as `turn` says, while they are in the cache. For an answer the maps are packed
    /// once, and not kept here.
    pub(super) fn new(
        x: &ArrayView2<'_, f32>,
        [weights, biases]: [&[&FlexTensor]; 2],
        turn: Option<Turn>,
        for_answer: bool,
    ) -> Self {
        let bias: Vec<f32> = biases
            .iter()
            .flat_map(|bias| elements(&bias.to_contiguous()).to_vec())
            .collect();
        let join = || Joined::new(weights);
        let pack = || {
            let maps = join();
            let packed = PackedMatrix::new(maps.matrix());
            give_back_array(maps.weight);
            packed
        };
        let packed = for_answer.then(|| packed(weights, pack)).flatten();
        let maps = match packed {
            Some(_) => Joined::default(),
            None => join(),
        };
        let weight = match &packed {
            Some(packed) => Weight::Packed(packed.clone()),
            None => Weight::Lying(maps.matrix()),
        };
        let width = weight.columns();
        let mut values = take(x.nrows() * width);
        let turned = |first: usize, rows: &mut [f32], _: &mut [f32]| {
            if let Some(turn) = &turn {
                turn.forward(first, rows, width);
            }
        };
        weight.product_then(x, Some(&bias), &mut values, &mut [], turned);
        Self { maps, turn, values }
    }

    /// Gradients of `x`, if it is wanted, and of the maps, from that of `values`.
    pub(super) fn backward(
        self,
        x: &ArrayView2<'_, f32>,
        mut d_values: Vec<f32>,
        of_x: bool,
    ) -> (Option<Vec<f32>>, Vec<[FlexTensor; 2]>) {
        let Self { maps, turn, values } = self;
        give_back_array(values);
        let width = maps.width();
        if let Some(turn) = turn {
            turn.backward(&mut d_values, width);
        }
        let gradient = matrix(&d_values, x.nrows(), width);
        let [d_weight, d_bias] = by_weight_and_bias(x, &gradient);
        let dx = of_x.then(|| times(&gradient, &maps.matrix().t(), None));
        let gradients = maps.split(d_weight, &d_bias);
        give_back_array(d_values);
        give_back_array(maps.weight);
        (dx, gradients)
    }

    pub(super) fn give_back(self) {
        give_back_array(self.maps.weight);
        give_back_array(self.values);
    }
}
