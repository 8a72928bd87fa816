//! Rotary positions.

use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind, unary};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, Flex, backend_extension};
use burn::tensor::Tensor;
use rayon::prelude::*;

use super::storage::{FlexTensor, from_array, view4};
use super::vectors::widest;
use super::{composed, is_fused};

/// Turns each pair of coordinates by an angle that grows with the position, so that dot products of turned queries and
/// keys depend on their distance (Su et al. 2021, "RoFormer").
///
/// With `half = head_dim / 2`, coordinate `c` is paired with `c + half` (as GPT-NeoX and Llama do), and position `i`
/// turns the pair by `i · base^(−c / half)`:
///
/// ```text
/// out[c]        = x[c] cos − x[c + half] sin
/// out[c + half] = x[c + half] cos + x[c] sin
/// ```
///
/// # Shapes
/// - `x`, out: `[batch, heads, sequence, head_dim]`, an even `head_dim`
pub fn rotary(x: Tensor<4>, base: f32) -> Tensor<4> {
    assert!(
        x.dims()[3].is_multiple_of(2),
        "rotary: head_dim is {}, expected an even number",
        x.dims()[3]
    );
    if !is_fused(&x) {
        return composed::rotary(x, base);
    }
    Tensor::from_dispatch(<Dispatch as FusedRotary>::fused_rotary(
        x.into_dispatch(),
        base,
    ))
}

/// Cosines and sines of the angles, each `[sequence, half]`.
pub(super) fn angles(sequence: usize, half: usize, base: f32) -> (Vec<f32>, Vec<f32>) {
    let frequencies: Vec<f64> = (0..half)
        .map(|c| f64::from(base).powf(-(c as f64) / half as f64))
        .collect();
    let angles =
        (0..sequence).flat_map(|position| frequencies.iter().map(move |f| position as f64 * f));
    angles
        .map(|angle| (angle.cos() as f32, angle.sin() as f32))
        .unzip()
}

/// `direction` 1 turns, −1 turns back: the transpose of a rotation is its inverse.
fn turn(x: &FlexTensor, base: f32, direction: f32) -> FlexTensor {
    let x = view4(x);
    let (batch, heads, sequence, head_dim) = x.dim();
    let half = head_dim / 2;
    let (cosines, sines) = angles(sequence, half, base);
    // Laid out like the usual input, a view of [batch, sequence, heads, head_dim]: what follows reads rows of it.
    let mut out = ndarray::Array4::<f32>::zeros((batch, heads, sequence, head_dim));
    let rows = out.as_slice_mut().unwrap_or_default();
    rows.par_chunks_mut((sequence * head_dim).max(1))
        .enumerate()
        .for_each(|(index, out)| {
            let x = x.slice(ndarray::s![index / heads, index % heads, .., ..]);
            widest(|| {
                for (position, out) in out.chunks_exact_mut(head_dim).enumerate() {
                    let x = x.row(position);
                    let copy;
                    let x = match x.to_slice() {
                        Some(x) => x,
                        None => {
                            copy = x.to_vec();
                            &copy
                        }
                    };
                    let (cosines, sines) = (
                        &cosines[position * half..][..half],
                        &sines[position * half..][..half],
                    );
                    let ((x_first, x_second), (first, second)) =
                        (x.split_at(half), out.split_at_mut(half));
                    for c in 0..half {
                        let sine = direction * sines[c];
                        first[c] = x_first[c] * cosines[c] - x_second[c] * sine;
                        second[c] = x_second[c] * cosines[c] + x_first[c] * sine;
                    }
                }
            });
        });
    from_array(out)
}

#[backend_extension(Autodiff, Flex)]
trait FusedRotary: Backend {
    fn fused_rotary(x: FloatTensor<Self>, base: f32) -> FloatTensor<Self>;
}

impl FusedRotary for Flex {
    fn fused_rotary(x: FlexTensor, base: f32) -> FlexTensor {
        turn(&x, base, 1.0)
    }
}

#[derive(Debug)]
struct RotaryBackward;

impl Backward<Flex, 1> for RotaryBackward {
    type State = f32;

    fn backward(self, ops: Ops<f32, 1>, grads: &mut Gradients, _checkpointer: &mut Checkpointer) {
        unary::<Flex, _>(ops.parents, ops.node, grads, |d_out| {
            turn(&d_out, ops.state, -1.0)
        });
    }
}

impl<C: CheckpointStrategy> FusedRotary for Autodiff<Flex, C> {
    fn fused_rotary(x: FloatTensor<Self>, base: f32) -> FloatTensor<Self> {
        let (x, node) = x.into_parts();
        let out = turn(&x, base, 1.0);
        match RotaryBackward
            .prepare::<C>([node])
            .compute_bound()
            .stateful()
        {
            OpsKind::Tracked(prep) => prep.finish(base, out),
            OpsKind::UnTracked(prep) => prep.finish(out),
        }
    }
}
