//! A linear map with its bias in the same pass.

use std::sync::Arc;

use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, Flex, backend_extension};
use burn::tensor::Tensor;
use ndarray::ArrayView2;
use regard_kernels::{PackedMatrix, product_and_sums, product_then};

use super::kept::{Weight, turned_table};
use super::memory::{give_back, take};
use super::storage::{
    FlexTensor, contiguous, elements, flex, from_vec, numbers, register, shape, unflex, view2,
};
use super::{composed, is_fused};

/// Weight and bias of a linear map, `[inputs, outputs]` and `[outputs]`.
pub type Map = (Tensor<2>, Tensor<1>);

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
    if is_fused(&h)
        && is_fused(&table)
        && let (Some(h), Some(table)) = (flex(h.clone()), flex(table.clone()))
    {
        let (h, table) = (view2(&h), view2(&table));
        let shape = vec![h.nrows(), table.nrows()];
        return unflex(from_vec(times(&h, &table.t(), None), shape));
    }
    h.matmul(table.transpose())
}

/// A table that is asked for scores again and again, as in writing a text: packed for the product once.
#[derive(Clone, Debug)]
pub struct ScoreTable {
    table: Tensor<2>,
    packed: Option<Arc<PackedMatrix>>,
}

impl ScoreTable {
    /// Packs the `[classes, width]` of a CPU tensor without automatic differentiation, unless that was done before; keeps
    /// others as they are.
    pub fn new(table: Tensor<2>) -> Self {
        let cpu = is_fused(&table).then(|| flex(table.clone())).flatten();
        Self {
            table,
            packed: cpu.map(|table| turned_table(&table)),
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
            let shape = vec![view2(&h).nrows(), packed.dim().1];
            let mut out = take(shape[0] * shape[1]);
            packed.product_then(view2(&h), None, &mut out, &mut [], |_, _, _| ());
            return unflex(from_vec(out, shape));
        }
        h.matmul(self.table.clone().transpose())
    }

    /// [`scores`](Self::scores) in memory that is used again, as far as it is long enough: one row after the other.
    ///
    /// # Panics
    ///
    /// As [`scores`](Self::scores).
    pub fn scores_into(&self, h: Tensor<2>, out: &mut Vec<f32>) {
        if is_fused(&h)
            && let (Some(packed), Some(h)) = (&self.packed, flex(h.clone()))
        {
            let h = view2(&h);
            out.resize(h.nrows() * packed.dim().1, 0.0);
            packed.product_then(h, None, out, &mut [], |_, _, _| ());
        } else {
            *out = numbers(self.scores(h));
        }
    }
}

/// `left · right (+ bias)`.
pub(super) fn times(
    left: &ArrayView2<'_, f32>,
    right: &ArrayView2<'_, f32>,
    bias: Option<&[f32]>,
) -> Vec<f32> {
    let mut out = take(left.nrows() * right.ncols());
    let (left, right) = (left.view(), right.view());
    product_then(left, right, bias, &mut out, &mut [], |_, _, _| ());
    out
}

/// Gradients of weight and bias: `xᵀ d_out` and `Σ_rows d_out`, in one pass over `d_out`.
pub(super) fn by_weight_and_bias(
    x: &ArrayView2<'_, f32>,
    d_out: &ArrayView2<'_, f32>,
) -> [FlexTensor; 2] {
    let (inputs, outputs) = (x.ncols(), d_out.ncols());
    let mut d_weight = take(inputs * outputs);
    let d_bias = product_and_sums(x.t(), d_out.view(), &mut d_weight);
    [
        from_vec(d_weight, vec![inputs, outputs]),
        from_vec(d_bias, vec![outputs]),
    ]
}

fn forward(x: &FlexTensor, weight: &FlexTensor, bias: &FlexTensor) -> FlexTensor {
    let bias = bias.to_contiguous();
    let (x, weight) = (view2(x), view2(weight));
    let shape = vec![x.nrows(), weight.ncols()];
    from_vec(times(&x, &weight, Some(elements(&bias))), shape)
}

/// The same for an answer: a weight that was seen before is packed.
pub(super) fn answer(x: FlexTensor, weight: &FlexTensor, bias: &FlexTensor) -> FlexTensor {
    let bias = bias.to_contiguous();
    let weight = Weight::of(weight);
    let shape = vec![shape(&x)[0], weight.columns()];
    let mut out = take(shape[0] * shape[1]);
    let bias = Some(elements(&bias));
    weight.product_then(&view2(&x), bias, &mut out, &mut [], |_, _, _| ());
    give_back(x);
    from_vec(out, shape)
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
        answer(x, &weight, &bias)
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
        let d_out = contiguous(grads.consume::<Flex>(&ops.node));
        let [x, weight] = ops.state;
        let [of_x, of_weight, of_bias] = ops.parents.map(|node| node.map(|node| node.id));
        // out = x weight + bias
        if of_weight.is_some() || of_bias.is_some() {
            let gradients = by_weight_and_bias(&view2(&x), &view2(&d_out));
            register(grads, [of_weight, of_bias], gradients);
        }
        if let Some(parent) = of_x {
            let dx = times(&view2(&d_out), &view2(&weight).t(), None);
            grads.register::<Flex>(parent, from_vec(dx, shape(&x)));
        }
        give_back(d_out);
        give_back(x);
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
