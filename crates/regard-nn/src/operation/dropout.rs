//! Dropout whose mask is a function of the element's index, drawn again by the backward pass.

use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind, unary};
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

fn masked(values: &[f32], mask: DropoutMask) -> Vec<f32> {
    let mut out = take(values.len());
    out.par_chunks_mut(CHUNK)
        .zip(values.par_chunks(CHUNK))
        .enumerate()
        .for_each(|(index, (out, values))| {
            widest!(mask.apply(index * CHUNK, values, out));
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
