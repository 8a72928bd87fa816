//! Dropout whose mask is a function of the element's index, drawn again by the backward pass.

use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind, binary, unary};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, Flex, backend_extension};
use burn::tensor::{Tensor, TensorData};
use rayon::prelude::*;

use super::is_fused;
use super::memory::{give_back, take};
use super::storage::{FlexTensor, contiguous, elements, from_vec, shape};
use super::vectors::widest;
use crate::noise::DropoutMask;

/// Elements of one task, a multiple of 4.
const CHUNK: usize = 1 << 13;

/// `out = x · mask`; the same mask on every device.
pub(crate) fn dropout<const D: usize>(x: Tensor<D>, mask: DropoutMask) -> Tensor<D> {
    if !is_fused(&x) {
        let shape = x.dims();
        let ones = vec![1.0; shape.iter().product()];
        let factors = Tensor::from_data(TensorData::new(masked(&ones, mask), shape), &x.device());
        return x * factors;
    }
    Tensor::from_dispatch(<Dispatch as FusedDropout>::fused_dropout(
        x.into_dispatch(),
        mask,
    ))
}

/// `out = x + y · mask`, without a mask `x + y`; the same mask on every device.
pub(crate) fn add_dropped<const D: usize>(
    x: Tensor<D>,
    y: Tensor<D>,
    mask: Option<DropoutMask>,
) -> Tensor<D> {
    if !is_fused(&x) || !is_fused(&y) || x.dims() != y.dims() {
        return x + mask.map_or_else(|| y.clone(), |mask| dropout(y.clone(), mask));
    }
    Tensor::from_dispatch(<Dispatch as FusedAddDropped>::fused_add_dropped(
        x.into_dispatch(),
        y.into_dispatch(),
        mask,
    ))
}

fn masked(values: &[f32], mask: DropoutMask) -> Vec<f32> {
    let mut out = take(values.len());
    out.par_chunks_mut(CHUNK)
        .zip(values.par_chunks(CHUNK))
        .enumerate()
        .for_each(|(index, (out, values))| {
            widest(|| mask.apply(index * CHUNK, values, out));
        });
    out
}

fn apply(x: FlexTensor, mask: DropoutMask) -> FlexTensor {
    let x = contiguous(x);
    let out = from_vec(masked(elements(&x), mask), shape(&x));
    give_back(x);
    out
}

#[backend_extension(Autodiff, Flex)]
trait FusedDropout: Backend {
    fn fused_dropout(x: FloatTensor<Self>, mask: DropoutMask) -> FloatTensor<Self>;
}

impl FusedDropout for Flex {
    fn fused_dropout(x: FlexTensor, mask: DropoutMask) -> FlexTensor {
        apply(x, mask)
    }
}

#[derive(Debug)]
struct DropoutBackward;

impl Backward<Flex, 1> for DropoutBackward {
    type State = DropoutMask;

    fn backward(
        self,
        ops: Ops<DropoutMask, 1>,
        grads: &mut Gradients,
        _checkpointer: &mut Checkpointer,
    ) {
        unary::<Flex, _>(ops.parents, ops.node, grads, |d_out| {
            apply(d_out, ops.state)
        });
    }
}

impl<C: CheckpointStrategy> FusedDropout for Autodiff<Flex, C> {
    fn fused_dropout(x: FloatTensor<Self>, mask: DropoutMask) -> FloatTensor<Self> {
        let (x, node) = x.into_parts();
        let out = apply(x, mask);
        match DropoutBackward
            .prepare::<C>([node])
            .compute_bound()
            .stateful()
        {
            OpsKind::Tracked(prep) => prep.finish(mask, out),
            OpsKind::UnTracked(prep) => prep.finish(out),
        }
    }
}

fn add(x: FlexTensor, y: FlexTensor, mask: Option<DropoutMask>) -> FlexTensor {
    let (x, y) = (contiguous(x), contiguous(y));
    let (x_values, y_values) = (elements(&x), elements(&y));
    let mut out = take(x_values.len());
    out.par_chunks_mut(CHUNK)
        .zip(x_values.par_chunks(CHUNK).zip(y_values.par_chunks(CHUNK)))
        .enumerate()
        .for_each(|(index, (out, (x, y)))| {
            widest(|| match mask {
                Some(mask) => {
                    mask.apply(index * CHUNK, y, out);
                    out.iter_mut().zip(x).for_each(|(out, x)| *out += x);
                }
                None => {
                    for (out, (x, y)) in out.iter_mut().zip(x.iter().zip(y)) {
                        *out = x + y;
                    }
                }
            });
        });
    let shape = shape(&x);
    give_back(x);
    give_back(y);
    from_vec(out, shape)
}

#[backend_extension(Autodiff, Flex)]
trait FusedAddDropped: Backend {
    fn fused_add_dropped(
        x: FloatTensor<Self>,
        y: FloatTensor<Self>,
        mask: Option<DropoutMask>,
    ) -> FloatTensor<Self>;
}

impl FusedAddDropped for Flex {
    fn fused_add_dropped(x: FlexTensor, y: FlexTensor, mask: Option<DropoutMask>) -> FlexTensor {
        add(x, y, mask)
    }
}

#[derive(Debug)]
struct AddDroppedBackward;

impl Backward<Flex, 2> for AddDroppedBackward {
    type State = Option<DropoutMask>;

    fn backward(
        self,
        ops: Ops<Option<DropoutMask>, 2>,
        grads: &mut Gradients,
        _checkpointer: &mut Checkpointer,
    ) {
        // out = x + y · mask
        binary::<Flex, _, _>(
            ops.parents,
            ops.node,
            grads,
            |d_out| d_out,
            |d_out| match ops.state {
                Some(mask) => apply(d_out, mask),
                None => d_out,
            },
        );
    }
}

impl<C: CheckpointStrategy> FusedAddDropped for Autodiff<Flex, C> {
    fn fused_add_dropped(
        x: FloatTensor<Self>,
        y: FloatTensor<Self>,
        mask: Option<DropoutMask>,
    ) -> FloatTensor<Self> {
        let nodes = [x.node(), y.node()];
        let out = add(x.into_primitive(), y.into_primitive(), mask);
        match AddDroppedBackward
            .prepare::<C>(nodes)
            .compute_bound()
            .stateful()
        {
            OpsKind::Tracked(prep) => prep.finish(mask, out),
            OpsKind::UnTracked(prep) => prep.finish(out),
        }
    }
}
