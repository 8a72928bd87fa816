//! The loss of a choice among many: softmax, logarithm and their gradient in one pass over the logits.

use std::sync::Arc;

use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind, unary};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, Flex, backend_extension};
use burn::tensor::Tensor;
use rayon::prelude::*;

use super::storage::{FlexTensor, elements, from_vec, shape};
use super::vectors::{exp, widest};
use super::{composed, is_fused};

/// Sum over the rows of the cross-entropy with smoothed targets (Szegedy et al. 2016):
///
/// ```text
/// log p_j = x_j − log Σ_k exp(x_k)
/// loss    = −Σ_rows [(1 − s) log p_target + s / classes · Σ_j log p_j]
/// ```
///
/// On the CPU the logits are read twice and the gradient is written once, where Burn's own operations make five arrays of
/// their size: with a vocabulary of 8,000 they are the largest of a training step.
///
/// # Shapes
/// - `logits`: `[rows, classes]`
/// - `targets`: one class for each row
/// - out: `[1]`
///
/// # Panics
///
/// If there is not one target for each row, or one is not below `classes`.
pub fn cross_entropy(logits: Tensor<2>, targets: &[usize], smoothing: f32) -> Tensor<1> {
    let [rows, classes] = logits.dims();
    assert_eq!(
        targets.len(),
        rows,
        "cross-entropy: one target for each row of logits"
    );
    if let Some(target) = targets.iter().find(|target| **target >= classes) {
        panic!("cross-entropy: target {target}, expected one of {classes} classes");
    }
    if !is_fused(&logits) {
        return composed::cross_entropy(logits, targets, smoothing);
    }
    Tensor::from_dispatch(<Dispatch as FusedCrossEntropy>::fused_cross_entropy(
        logits.into_dispatch(),
        targets.into(),
        smoothing,
    ))
}

/// What the backward pass needs: the logits again, and the logarithm of each row's sum of exponentials.
#[derive(Clone, Debug)]
pub(super) struct Saved {
    logits: FlexTensor,
    log_sums: Vec<f32>,
    targets: Arc<[usize]>,
    smoothing: f32,
}

fn forward(logits: &FlexTensor, targets: &Arc<[usize]>, smoothing: f32) -> (FlexTensor, Saved) {
    let logits = logits.to_contiguous();
    let classes = shape(&logits)[1];
    let values = elements(&logits);
    let rows: Vec<(f32, f64)> = values
        .par_chunks(classes.max(1))
        .zip(targets.par_iter())
        .map(|(row, target)| {
            let largest = largest(row);
            let (exponentials, sum) = sums(row, largest);
            let log_sum = largest + exponentials.ln();
            let chosen = f64::from(row[*target] - log_sum);
            let mean = f64::from(sum) / classes as f64 - f64::from(log_sum);
            let smoothing = f64::from(smoothing);
            (log_sum, -(1.0 - smoothing) * chosen - smoothing * mean)
        })
        .collect();
    // In the order of the rows: the same bits for any number of threads.
    let loss: f64 = rows.iter().map(|(_, loss)| loss).sum();
    let out = from_vec(vec![loss as f32], vec![1]);
    let saved = Saved {
        log_sums: rows.into_iter().map(|(log_sum, _)| log_sum).collect(),
        logits,
        targets: Arc::clone(targets),
        smoothing,
    };
    (out, saved)
}

fn largest(row: &[f32]) -> f32 {
    widest(|| {
        let mut lanes = [f32::NEG_INFINITY; 16];
        let (chunks, rest) = row.as_chunks::<16>();
        for chunk in chunks {
            for (lane, value) in lanes.iter_mut().zip(chunk) {
                *lane = if *value > *lane { *value } else { *lane };
            }
        }
        lanes
            .iter()
            .chain(rest)
            .copied()
            .fold(f32::NEG_INFINITY, f32::max)
    })
}

/// `Σ exp(x − largest)` and `Σ x`.
fn sums(row: &[f32], largest: f32) -> (f32, f32) {
    widest(|| {
        let (mut exponentials, mut plain) = ([0.0_f32; 16], [0.0_f32; 16]);
        let (chunks, rest) = row.as_chunks::<16>();
        for chunk in chunks {
            for ((e, p), x) in exponentials.iter_mut().zip(&mut plain).zip(chunk) {
                *e += exp(*x - largest);
                *p += *x;
            }
        }
        let mut both = (exponentials.iter().sum::<f32>(), plain.iter().sum::<f32>());
        for x in rest {
            both.0 += exp(*x - largest);
            both.1 += *x;
        }
        both
    })
}

impl Saved {
    /// dx_j = d_out · (p_j − s / classes − (1 − s) [j = target])
    fn backward(&self, d_out: f32) -> FlexTensor {
        let values = elements(&self.logits);
        let classes = shape(&self.logits)[1];
        let even = self.smoothing / classes as f32;
        let mut dx = vec![0.0; values.len()];
        dx.par_chunks_mut(classes.max(1))
            .zip(values.par_chunks(classes.max(1)))
            .zip(self.log_sums.par_iter().zip(self.targets.par_iter()))
            .for_each(|((dx, row), (log_sum, target))| {
                widest(|| {
                    for (dx, x) in dx.iter_mut().zip(row) {
                        *dx = d_out * (exp(*x - log_sum) - even);
                    }
                });
                dx[*target] -= d_out * (1.0 - self.smoothing);
            });
        from_vec(dx, shape(&self.logits))
    }
}

#[backend_extension(Autodiff, Flex)]
pub(super) trait FusedCrossEntropy: Backend {
    fn fused_cross_entropy(
        logits: FloatTensor<Self>,
        targets: Arc<[usize]>,
        smoothing: f32,
    ) -> FloatTensor<Self>;
}

impl FusedCrossEntropy for Flex {
    fn fused_cross_entropy(
        logits: FlexTensor,
        targets: Arc<[usize]>,
        smoothing: f32,
    ) -> FlexTensor {
        forward(&logits, &targets, smoothing).0
    }
}

#[derive(Debug)]
struct CrossEntropyBackward;

impl Backward<Flex, 1> for CrossEntropyBackward {
    type State = Saved;

    fn backward(self, ops: Ops<Saved, 1>, grads: &mut Gradients, _checkpointer: &mut Checkpointer) {
        unary::<Flex, _>(ops.parents, ops.node, grads, |d_out| {
            ops.state.backward(elements(&d_out.to_contiguous())[0])
        });
    }
}

impl<C: CheckpointStrategy> FusedCrossEntropy for Autodiff<Flex, C> {
    fn fused_cross_entropy(
        logits: FloatTensor<Self>,
        targets: Arc<[usize]>,
        smoothing: f32,
    ) -> FloatTensor<Self> {
        let (logits, node) = logits.into_parts();
        let (out, saved) = forward(&logits, &targets, smoothing);
        match CrossEntropyBackward
            .prepare::<C>([node])
            .compute_bound()
            .stateful()
        {
            OpsKind::Tracked(prep) => prep.finish(saved, out),
            OpsKind::UnTracked(prep) => prep.finish(out),
        }
    }
}
