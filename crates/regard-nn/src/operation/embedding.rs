//! Rows of a table by number.

use std::sync::Arc;

use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind, unary};
use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Autodiff, Backend, Dispatch, Flex, backend_extension};
use burn::tensor::{DType, Int, Tensor};
use rayon::prelude::*;

use super::memory::{give_back, take};
use super::storage::{FlexTensor, contiguous, elements, from_vec, shape};
use super::{composed, is_fused};

/// `out[i] = table[ids[i]]`.
///
/// # Shapes
/// - `table`: `[rows, width]`
/// - `ids`: `[tokens]`, each below `rows`
/// - out: `[tokens, width]`
///
/// # Panics
///
/// If an id is not below `rows`.
pub fn embedding(table: Tensor<2>, ids: Tensor<1, Int>) -> Tensor<2> {
    if !is_fused(&table) {
        return composed::embedding(table, ids);
    }
    Tensor::from_dispatch(<Dispatch as FusedEmbedding>::fused_embedding(
        table.into_dispatch(),
        ids.into_dispatch(),
    ))
}

/// Positions of one task.
const POSITIONS: usize = 256;
/// Tasks of the backward pass at most: each looks at all ids.
const TASKS: usize = 16;
/// Rows of the table of one of them at least.
const ROWS: usize = 512;

/// What the backward pass needs.
#[derive(Clone, Debug)]
struct Saved {
    ids: Arc<[usize]>,
    rows: usize,
    width: usize,
}

fn forward(table: &FlexTensor, ids: &FlexTensor) -> (FlexTensor, Saved) {
    let table = table.to_contiguous();
    let ids = ids.to_contiguous();
    let ids: Arc<[usize]> = match ids.dtype() {
        DType::I64 => ids
            .as_slice::<i64>()
            .unwrap_or_default()
            .iter()
            .map(|id| *id as usize)
            .collect(),
        DType::I32 => ids
            .as_slice::<i32>()
            .unwrap_or_default()
            .iter()
            .map(|id| *id as usize)
            .collect(),
        other => panic!("embedding: ids are of type {other:?}, expected I32 or I64"),
    };
    let &[rows, width] = shape(&table).as_slice() else {
        unreachable!("a table has two axes");
    };
    let values = elements(&table);
    let mut out = take(ids.len() * width);
    out.par_chunks_mut(POSITIONS * width.max(1))
        .zip(ids.par_chunks(POSITIONS))
        .for_each(|(out, ids)| {
            for (out, id) in out.chunks_exact_mut(width.max(1)).zip(ids) {
                assert!(*id < rows, "embedding: id {id} in a table of {rows} rows");
                out.copy_from_slice(&values[id * width..][..width]);
            }
        });
    let out = from_vec(out, vec![ids.len(), width]);
    (out, Saved { ids, rows, width })
}

impl Saved {
    /// d_table[id] = Σ of d_out at the positions with that id, in their order.
    fn backward(&self, d_out: FlexTensor) -> FlexTensor {
        let d_out = contiguous(d_out);
        let width = self.width.max(1);
        let values = elements(&d_out);
        let mut d_table = take(self.rows * self.width);
        // Every task adds what belongs to its own rows: the same order for any number of threads.
        let count = self.rows.div_ceil(TASKS).max(ROWS);
        d_table
            .par_chunks_mut(count * width)
            .enumerate()
            .for_each(|(task, rows)| {
                rows.fill(0.0);
                let first = task * count;
                for (at, id) in self.ids.iter().enumerate() {
                    if (first..first + count).contains(id) {
                        let row = rows[(id - first) * self.width..][..self.width].iter_mut();
                        let d_out = &values[at * self.width..][..self.width];
                        row.zip(d_out).for_each(|(row, d_out)| *row += d_out);
                    }
                }
            });
        give_back(d_out);
        from_vec(d_table, vec![self.rows, self.width])
    }
}

#[backend_extension(Autodiff, Flex)]
trait FusedEmbedding: Backend {
    fn fused_embedding(table: FloatTensor<Self>, ids: IntTensor<Self>) -> FloatTensor<Self>;
}

impl FusedEmbedding for Flex {
    fn fused_embedding(table: FlexTensor, ids: IntTensor<Self>) -> FlexTensor {
        forward(&table, &ids).0
    }
}

#[derive(Debug)]
struct EmbeddingBackward;

impl Backward<Flex, 1> for EmbeddingBackward {
    type State = Saved;

    fn backward(self, ops: Ops<Saved, 1>, grads: &mut Gradients, _checkpointer: &mut Checkpointer) {
        unary::<Flex, _>(ops.parents, ops.node, grads, |d_out| {
            ops.state.backward(d_out)
        });
    }
}

impl<C: CheckpointStrategy> FusedEmbedding for Autodiff<Flex, C> {
    fn fused_embedding(table: FloatTensor<Self>, ids: IntTensor<Self>) -> FloatTensor<Self> {
        let (table, node) = table.into_parts();
        let (out, saved) = forward(&table, &ids);
        match EmbeddingBackward
            .prepare::<C>([node])
            .compute_bound()
            .stateful()
        {
            OpsKind::Tracked(prep) => prep.finish(saved, out),
            OpsKind::UnTracked(prep) => prep.finish(out),
        }
    }
}
