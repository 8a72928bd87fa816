//! A linear map with its bias in the same pass.

use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, Flex, backend_extension};
use burn::tensor::Tensor;
use rayon::prelude::*;
use regard_kernels::{PackedMatrix, product};

use super::storage::{FlexTensor, elements, flex, from_array, from_vec, shape, unflex, view2};
use super::vectors::widest;
use super::{composed, is_fused};

/// `out = x weight + bias`.
///
/// On the CPU the sums of the product begin with the bias, and nothing is transposed or copied for the gradients; Burn's
/// own product is given zeroed memory by one thread, which also adds the bias and sums its gradient.
///
/// # Shapes
/// - `x`: `[rows, inputs]`
/// - `weight`: `[inputs, outputs]`
/// - `bias`: `[outputs]`
/// - out: `[rows, outputs]`
///
/// # Panics
///
/// If the shapes do not fit.
pub fn linear(x: Tensor<2>, weight: Tensor<2>, bias: Tensor<1>) -> Tensor<2> {
    let ([_, inputs], [expected, outputs]) = (x.dims(), weight.dims());
    assert_eq!(inputs, expected, "linear: x, last axis, and weight, first");
    assert_eq!(bias.dims(), [outputs], "linear: bias");
    if !is_fused(&x) || !is_fused(&weight) {
        return composed::linear(x, weight, bias);
    }
    Tensor::from_dispatch(<Dispatch as FusedLinear>::fused_linear(
        x.into_dispatch(),
        weight.into_dispatch(),
        bias.into_dispatch(),
    ))
}

/// `h · tableᵀ`: the scores of every row of a table. Without automatic differentiation, on the CPU, by our own product; the
/// loss of such scores and its gradient are [`cross_entropy`](super::cross_entropy).
///
/// # Shapes
/// - `h`: `[rows, width]`, `table`: `[classes, width]`
/// - out: `[rows, classes]`
///
/// # Panics
///
/// If the widths differ.
pub fn table_scores(h: Tensor<2>, table: Tensor<2>) -> Tensor<2> {
    ScoreTable::new(table).scores(h)
}

/// A table that is asked for scores again and again, as in writing a text: packed for the product once.
#[derive(Clone, Debug)]
pub struct ScoreTable {
    table: Tensor<2>,
    packed: Option<PackedMatrix>,
}

impl ScoreTable {
    /// Packs the `[classes, width]` of a CPU tensor without automatic differentiation; keeps others as they are.
    pub fn new(table: Tensor<2>) -> Self {
        let cpu = is_fused(&table).then(|| flex(table.clone())).flatten();
        Self {
            table,
            packed: cpu.map(|table| PackedMatrix::new(view2(&table).reversed_axes())),
        }
    }

    /// [`table_scores`] of `[rows, width]`.
    ///
    /// # Panics
    ///
    /// If the widths differ.
    pub fn scores(&self, h: Tensor<2>) -> Tensor<2> {
        if is_fused(&h)
            && let (Some(packed), Some(h)) = (&self.packed, flex(h.clone()))
        {
            return unflex(from_array(packed.product(view2(&h), None)));
        }
        h.matmul(self.table.clone().transpose())
    }
}

/// Rows of one partial sum of the bias' gradient: the same for any number of threads.
const ROWS: usize = 128;

fn forward(x: &FlexTensor, weight: &FlexTensor, bias: &FlexTensor) -> FlexTensor {
    let bias = bias.to_contiguous();
    from_array(product(view2(x), view2(weight), Some(elements(&bias))))
}

/// d_bias = Σ_rows d_out
fn sum_of_rows(d_out: &FlexTensor) -> FlexTensor {
    let width = shape(d_out)[1];
    let partial: Vec<Vec<f32>> = elements(d_out)
        .par_chunks(ROWS * width.max(1))
        .map(|rows| {
            let mut sums = vec![0.0_f32; width];
            widest(|| {
                for row in rows.chunks_exact(width) {
                    sums.iter_mut().zip(row).for_each(|(sum, x)| *sum += x);
                }
            });
            sums
        })
        .collect();
    let mut sums = vec![0.0; width];
    for partial in partial {
        sums.iter_mut()
            .zip(partial)
            .for_each(|(sum, partial)| *sum += partial);
    }
    from_vec(sums, vec![width])
}

#[backend_extension(Autodiff, Flex)]
trait FusedLinear: Backend {
    fn fused_linear(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
    ) -> FloatTensor<Self>;
}

impl FusedLinear for Flex {
    fn fused_linear(x: FlexTensor, weight: FlexTensor, bias: FlexTensor) -> FlexTensor {
        forward(&x, &weight, &bias)
    }
}

#[derive(Debug)]
struct LinearBackward;

impl Backward<Flex, 3> for LinearBackward {
    /// `x` and `weight`.
    type State = [FlexTensor; 2];

    fn backward(
        self,
        ops: Ops<Self::State, 3>,
        grads: &mut Gradients,
        _checkpointer: &mut Checkpointer,
    ) {
        let d_out = grads.consume::<Flex>(&ops.node).to_contiguous();
        let ([of_x, of_weight, of_bias], [x, weight]) = (ops.parents, ops.state);
        // out = x weight + bias
        if let Some(parent) = of_bias {
            grads.register::<Flex>(parent.id, sum_of_rows(&d_out));
        }
        if let Some(parent) = of_weight {
            let d_weight = product(view2(&x).t(), view2(&d_out), None);
            grads.register::<Flex>(parent.id, from_array(d_weight));
        }
        if let Some(parent) = of_x {
            let dx = product(view2(&d_out), view2(&weight).t(), None);
            grads.register::<Flex>(parent.id, from_array(dx));
        }
    }
}

impl<C: CheckpointStrategy> FusedLinear for Autodiff<Flex, C> {
    fn fused_linear(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        let nodes = [x.node(), weight.node(), bias.node()];
        let (x, weight) = (x.into_primitive(), weight.into_primitive());
        let out = forward(&x, &weight, bias.primitive());
        match LinearBackward
            .prepare::<C>(nodes)
            .compute_bound()
            .stateful()
        {
            OpsKind::Tracked(prep) => prep.finish([x, weight], out),
            OpsKind::UnTracked(prep) => prep.finish(out),
        }
    }
}
