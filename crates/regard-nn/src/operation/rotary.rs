//! Rotary positions.

use std::sync::{Arc, Mutex, PoisonError};

use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind, unary};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, Flex, backend_extension};
use burn::tensor::Tensor;
use rayon::prelude::*;

use super::memory::take;
use super::storage::{FlexTensor, elements, from_vec, shape, view4};
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

/// Cosines and sines of a sequence, `[sequence, half]`.
#[derive(Debug)]
struct Angles {
    cosines: Vec<f32>,
    sines: Vec<f32>,
}

impl Angles {
    /// Those of the sequence before, where they are the same: every layer of a model asks for them.
    fn of(sequence: usize, half: usize, base: f32) -> Arc<Self> {
        type Kept = Option<([usize; 2], u32, Arc<Angles>)>;
        static KEPT: Mutex<Kept> = Mutex::new(None);
        let mut kept = KEPT.lock().unwrap_or_else(PoisonError::into_inner);
        let (sizes, bits) = ([sequence, half], base.to_bits());
        match &*kept {
            Some((of_sizes, of_base, angles)) if (*of_sizes, *of_base) == (sizes, bits) => {
                angles.clone()
            }
            _ => {
                let (cosines, sines) = angles(sequence, half, base);
                let angles = Arc::new(Self { cosines, sines });
                *kept = Some((sizes, bits, angles.clone()));
                angles
            }
        }
    }
}

/// The rotation of the first heads of rows of heads, one row a position, in place.
#[derive(Clone, Debug)]
pub(super) struct Turn {
    /// Of the rows; of those behind again from the first.
    positions: Arc<[usize]>,
    heads: usize,
    head_dim: usize,
    angles: Arc<Angles>,
}

/// Rows of one task.
const ROWS: usize = 64;

impl Turn {
    pub(super) fn new(positions: Arc<[usize]>, heads: usize, head_dim: usize, base: f32) -> Self {
        let sequence = positions.iter().max().map_or(0, |last| last + 1);
        Self {
            positions,
            heads,
            head_dim,
            angles: Angles::of(sequence, head_dim / 2, base),
        }
    }

    /// Turns rows of `width` numbers, of which the first has the number `first` in the batch.
    pub(super) fn forward(&self, first: usize, rows: &mut [f32], width: usize) {
        self.turn(first, rows, width, 1.0);
    }

    /// Turns the gradients of all rows back: the transpose of a rotation is its inverse.
    pub(super) fn backward(&self, rows: &mut [f32], width: usize) {
        rows.par_chunks_mut((ROWS * width).max(1))
            .enumerate()
            .for_each(|(task, rows)| self.turn(task * ROWS, rows, width, -1.0));
    }

    fn turn(&self, first: usize, rows: &mut [f32], width: usize, direction: f32) {
        let half = self.head_dim / 2;
        let Angles { cosines, sines } = &*self.angles;
        widest!({
            for (row, values) in rows.chunks_exact_mut(width.max(1)).enumerate() {
                let at = self.positions[(first + row) % self.positions.len()] * half;
                let (cosines, sines) = (&cosines[at..][..half], &sines[at..][..half]);
                let heads = values.chunks_exact_mut(self.head_dim.max(1));
                for head in heads.take(self.heads) {
                    let (x, y) = head.split_at_mut(half);
                    for c in 0..half {
                        let (before, sine) = (x[c], direction * sines[c]);
                        x[c] = before * cosines[c] - y[c] * sine;
                        y[c] = y[c] * cosines[c] + before * sine;
                    }
                }
            }
        });
    }
}

/// `direction` 1 turns, −1 turns back.
fn turn(x: &FlexTensor, base: f32, direction: f32) -> FlexTensor {
    let (batch, heads, sequence, head_dim) = view4(x).dim();
    let turn = Turn::new((0..sequence).collect(), 1, head_dim, base);
    let x = x.to_contiguous();
    let mut out = take(batch * heads * sequence * head_dim);
    out.par_chunks_mut((ROWS * head_dim).max(1))
        .zip(elements(&x).par_chunks((ROWS * head_dim).max(1)))
        .enumerate()
        .for_each(|(task, (out, x))| {
            out.copy_from_slice(x);
            turn.turn(task * ROWS, out, head_dim, direction);
        });
    from_vec(out, shape(&x))
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
