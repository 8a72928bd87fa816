//! The loss of a choice among the rows of a table: products, softmax, logarithm and gradients, a part of the rows at a
//! time, so that the logits never exist all at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, Flex, backend_extension};
use burn::tensor::Tensor;
use ndarray::ArrayViewMut2;
use rayon::prelude::*;
use regard_kernels::{PackedMatrix, add_to_product};

use super::memory::{give_back_array, take, zeros};
use super::storage::{FlexTensor, elements, from_vec, matrix, shape, view2};
use super::vectors::{exp, largest, widest};
use super::{composed, is_fused};

/// Sum over the rows of the cross-entropy with smoothed targets (Szegedy et al. 2016) of logits that are products with the
/// rows of a table:
///
/// ```text
/// x       = h · tableᵀ                        [rows, classes]
/// log p_j = x_j − log Σ_k exp(x_k)
/// loss    = −Σ_rows [(1 − s) log p_target + s / classes · Σ_j log p_j]
/// ```
///
/// On the CPU the gradients are computed in the forward pass, while a part's logits are in the cache: with 3,000 rows and
/// 8,000 classes the logits alone are 96 MB, and Burn's own operations make five arrays of that size.
///
/// # Shapes
/// - `h`: `[rows, width]`
/// - `table`: `[classes, width]`
/// - `targets`: one class for each row
/// - out: `[1]`
///
/// # Panics
///
/// If there is not one target for each row, one is not below `classes`, or the widths differ.
pub fn cross_entropy(
    h: Tensor<2>,
    table: Tensor<2>,
    targets: &[usize],
    smoothing: f32,
) -> Tensor<1> {
    let ([rows, width], [classes, table_width]) = (h.dims(), table.dims());
    assert_eq!(
        targets.len(),
        rows,
        "cross-entropy: one target for each row of h"
    );
    assert_eq!(width, table_width, "cross-entropy: h and table, last axis");
    if let Some(target) = targets.iter().find(|target| **target >= classes) {
        panic!("cross-entropy: target {target}, expected one of {classes} classes");
    }
    if !is_fused(&h) || !is_fused(&table) {
        return composed::cross_entropy(h, table, targets, smoothing);
    }
    Tensor::from_dispatch(<Dispatch as FusedCrossEntropy>::fused_cross_entropy(
        h.into_dispatch(),
        table.into_dispatch(),
        targets.into(),
        smoothing,
    ))
}

/// As [`cross_entropy`], of targets that may also have been copied from somewhere:
///
/// ```text
/// p    = e^own · p_target + e^copied
/// loss = −Σ_rows [(1 − s) log p + s / classes · Σ_j log p_j]
/// ```
///
/// # Shapes
/// - `own`: `[rows]`, logarithm of the probability that nothing is copied
/// - `copied`: `[rows]`, logarithm of the probability that the target is copied
///
/// # Panics
///
/// As [`cross_entropy`], and if `own` or `copied` have not one number for each row.
pub fn copying_cross_entropy(
    h: Tensor<2>,
    table: Tensor<2>,
    [own, copied]: [Tensor<1>; 2],
    targets: &[usize],
    smoothing: f32,
) -> Tensor<1> {
    let ([rows, width], [classes, table_width]) = (h.dims(), table.dims());
    assert_eq!(
        [targets.len(), own.dims()[0], copied.dims()[0]],
        [rows; 3],
        "cross-entropy: one target, and one probability of each kind, for each row of h"
    );
    assert_eq!(width, table_width, "cross-entropy: h and table, last axis");
    if let Some(target) = targets.iter().find(|target| **target >= classes) {
        panic!("cross-entropy: target {target}, expected one of {classes} classes");
    }
    if !is_fused(&h) || !is_fused(&table) {
        return composed::copying_cross_entropy(h, table, [own, copied], targets, smoothing);
    }
    Tensor::from_dispatch(<Dispatch as FusedCopyingCrossEntropy>::fused_copying(
        h.into_dispatch(),
        table.into_dispatch(),
        own.into_dispatch(),
        copied.into_dispatch(),
        targets.into(),
        smoothing,
    ))
}

/// Numbers of a part's logits: 16 MB, which stay in the last cache while they are read and multiplied twice. With fewer the
/// gradient of the table, which each part adds to, would be read and written more often than that saves.
const PART: usize = 4 << 20;

/// Gradients of `h` and of the table for a gradient of 1 of the loss, and of each row the share of the probability of its
/// target that was not copied.
#[derive(Clone, Debug)]
struct Saved {
    dh: FlexTensor,
    d_table: FlexTensor,
    own: Vec<f32>,
}

/// The loss, and with `gradients` what the backward pass scales.
fn forward(
    h: &FlexTensor,
    table: &FlexTensor,
    targets: &[usize],
    copies: Option<[&[f32]; 2]>,
    smoothing: f32,
    gradients: bool,
) -> (FlexTensor, Option<Saved>) {
    let (h, table) = (h.to_contiguous(), table.to_contiguous());
    let (classes, width) = (shape(&table)[0], shape(&table)[1]);
    // Both ways of the table are packed once for all parts.
    let columns = PackedMatrix::new(view2(&table).t());
    let rows = gradients.then(|| PackedMatrix::new(view2(&table)));
    let mut dh = take(if gradients { targets.len() * width } else { 0 });
    let mut d_table = zeros(if gradients { classes * width } else { 0 });
    let part = (PART / classes.max(1)).clamp(16, 4096).min(targets.len());
    let mut logits = take(part * classes);
    let (mut loss, mut own) = (0.0, Vec::with_capacity(targets.len()));
    for (at, targets) in targets.chunks(part.max(1)).enumerate() {
        let place = at * part * width..(at * part + targets.len()) * width;
        let h = matrix(&elements(&h)[place.clone()], targets.len(), width);
        let logits = &mut logits[..targets.len() * classes];
        // Of each row its loss and its own share, as bits: rows are complete on several threads.
        let found: Vec<[AtomicU64; 2]> = targets.iter().map(|_| Default::default()).collect();
        columns.product_then(h, None, logits, &mut [], |first, rows, _| {
            for (row, logits) in (first..).zip(rows.chunks_exact_mut(classes)) {
                let copy = copies.map(|copies| copies.map(|of| of[at * part + row]));
                let (loss, own) = choose(logits, targets[row], copy, smoothing, gradients);
                found[row][0].store(loss.to_bits(), Ordering::Relaxed);
                found[row][1].store(u64::from(own.to_bits()), Ordering::Relaxed);
            }
        });
        // In the order of the rows: the same bits for any number of threads.
        let found = found.into_iter().map(|row| row.map(AtomicU64::into_inner));
        let found: Vec<[u64; 2]> = found.collect();
        loss += found.iter().map(|row| f64::from_bits(row[0])).sum::<f64>();
        own.extend(found.iter().map(|row| f32::from_bits(row[1] as u32)));
        if let Some(rows) = &rows {
            // dh = dx · table, d_table = dxᵀ · h
            let dx = matrix(logits, targets.len(), classes);
            rows.product_then(dx, None, &mut dh[place], &mut [], |_, _, _| ());
            match ArrayViewMut2::from_shape((classes, width), &mut d_table) {
                Ok(d_table) => add_to_product(dx.t(), h, d_table),
                Err(error) => unreachable!("a gradient as large as the table: {error}"),
            }
        }
    }
    give_back_array(logits);
    let saved = gradients.then(|| Saved {
        dh: from_vec(dh, shape(&h)),
        d_table: from_vec(d_table, vec![classes, width]),
        own,
    });
    (from_vec(vec![loss as f32], vec![1]), saved)
}

/// The loss of one row of logits, and the share r of its target's probability that was not copied (1 where nothing can be);
/// the logits become their gradient where it is wanted:
/// dx_j = ((1 − s) r + s) p_j − s / classes − (1 − s) r [j = target].
fn choose(
    row: &mut [f32],
    target: usize,
    copy: Option<[f32; 2]>,
    smoothing: f32,
    gradient: bool,
) -> (f64, f32) {
    let largest = largest(row);
    let (exponentials, sum) = sums(row, largest);
    let log_sum = largest + exponentials.ln();
    let mut chosen = f64::from(row[target] - log_sum);
    let mut own = 1.0;
    if let Some([not_copied, copied]) = copy {
        let (one, other) = (chosen + f64::from(not_copied), f64::from(copied));
        let larger = one.max(other);
        chosen = larger + ((one - larger).exp() + (other - larger).exp()).ln();
        own = (one - chosen).exp() as f32;
    }
    let mean = f64::from(sum) / row.len() as f64 - f64::from(log_sum);
    if gradient {
        let even = smoothing / row.len() as f32;
        let weight = (1.0 - smoothing) * own + smoothing;
        widest!({
            for x in row.iter_mut() {
                *x = weight * exp(*x - log_sum) - even;
            }
        });
        row[target] -= (1.0 - smoothing) * own;
    }
    let smoothing = f64::from(smoothing);
    (-(1.0 - smoothing) * chosen - smoothing * mean, own)
}

/// `Σ exp(x − largest)` and `Σ x`.
fn sums(row: &[f32], largest: f32) -> (f32, f32) {
    widest!({
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

#[backend_extension(Autodiff, Flex)]
trait FusedCrossEntropy: Backend {
    fn fused_cross_entropy(
        h: FloatTensor<Self>,
        table: FloatTensor<Self>,
        targets: Arc<[usize]>,
        smoothing: f32,
    ) -> FloatTensor<Self>;
}

impl FusedCrossEntropy for Flex {
    fn fused_cross_entropy(
        h: FlexTensor,
        table: FlexTensor,
        targets: Arc<[usize]>,
        smoothing: f32,
    ) -> FlexTensor {
        forward(&h, &table, &targets, None, smoothing, false).0
    }
}

#[derive(Debug)]
struct CrossEntropyBackward;

impl Backward<Flex, 2> for CrossEntropyBackward {
    type State = Saved;

    fn backward(self, ops: Ops<Saved, 2>, grads: &mut Gradients, _checkpointer: &mut Checkpointer) {
        let d_out = grads.consume::<Flex>(&ops.node).to_contiguous();
        let factor = elements(&d_out)[0];
        let [h, table] = ops.parents;
        for (parent, gradient) in [(h, ops.state.dh), (table, ops.state.d_table)] {
            if let Some(parent) = parent {
                grads.register::<Flex>(parent.id, times(gradient, factor));
            }
        }
    }
}

fn times(mut gradient: FlexTensor, factor: f32) -> FlexTensor {
    gradient
        .storage_mut::<f32>()
        .par_chunks_mut(1 << 14)
        .for_each(|part| part.iter_mut().for_each(|x| *x *= factor));
    gradient
}

impl<C: CheckpointStrategy> FusedCrossEntropy for Autodiff<Flex, C> {
    fn fused_cross_entropy(
        h: FloatTensor<Self>,
        table: FloatTensor<Self>,
        targets: Arc<[usize]>,
        smoothing: f32,
    ) -> FloatTensor<Self> {
        let nodes = [h.node(), table.node()];
        let (h, table) = (h.into_primitive(), table.into_primitive());
        match CrossEntropyBackward
            .prepare::<C>(nodes)
            .compute_bound()
            .stateful()
        {
            OpsKind::Tracked(prep) => match forward(&h, &table, &targets, None, smoothing, true) {
                (out, Some(saved)) => prep.finish(saved, out),
                (_, None) => unreachable!("gradients were asked for"),
            },
            OpsKind::UnTracked(prep) => {
                prep.finish(forward(&h, &table, &targets, None, smoothing, false).0)
            }
        }
    }
}

#[backend_extension(Autodiff, Flex)]
trait FusedCopyingCrossEntropy: Backend {
    fn fused_copying(
        h: FloatTensor<Self>,
        table: FloatTensor<Self>,
        own: FloatTensor<Self>,
        copied: FloatTensor<Self>,
        targets: Arc<[usize]>,
        smoothing: f32,
    ) -> FloatTensor<Self>;
}

/// [`forward`] with copies.
fn forward_copying(
    [h, table, own, copied]: &[FlexTensor; 4],
    targets: &[usize],
    smoothing: f32,
    gradients: bool,
) -> (FlexTensor, Option<Saved>) {
    let (own, copied) = (own.to_contiguous(), copied.to_contiguous());
    let copies = Some([elements(&own), elements(&copied)]);
    forward(h, table, targets, copies, smoothing, gradients)
}

impl FusedCopyingCrossEntropy for Flex {
    fn fused_copying(
        h: FlexTensor,
        table: FlexTensor,
        own: FlexTensor,
        copied: FlexTensor,
        targets: Arc<[usize]>,
        smoothing: f32,
    ) -> FlexTensor {
        forward_copying(&[h, table, own, copied], &targets, smoothing, false).0
    }
}

/// With the smoothing.
#[derive(Debug)]
struct CopyingBackward(f32);

impl Backward<Flex, 4> for CopyingBackward {
    type State = Saved;

    fn backward(self, ops: Ops<Saved, 4>, grads: &mut Gradients, _checkpointer: &mut Checkpointer) {
        let d_out = grads.consume::<Flex>(&ops.node).to_contiguous();
        let factor = elements(&d_out)[0];
        let Saved { dh, d_table, own } = ops.state;
        // d own = −(1 − s) r, d copied = −(1 − s) (1 − r)
        let sure = self.0 - 1.0;
        let d_own: Vec<f32> = own.iter().map(|own| sure * own).collect();
        let d_copied = own.iter().map(|own| sure * (1.0 - own)).collect();
        let of_rows = |values: Vec<f32>| {
            let rows = values.len();
            from_vec(values, vec![rows])
        };
        let gradients = [dh, d_table, of_rows(d_own), of_rows(d_copied)];
        for (parent, gradient) in ops.parents.into_iter().zip(gradients) {
            if let Some(parent) = parent {
                grads.register::<Flex>(parent.id, times(gradient, factor));
            }
        }
    }
}

impl<C: CheckpointStrategy> FusedCopyingCrossEntropy for Autodiff<Flex, C> {
    fn fused_copying(
        h: FloatTensor<Self>,
        table: FloatTensor<Self>,
        own: FloatTensor<Self>,
        copied: FloatTensor<Self>,
        targets: Arc<[usize]>,
        smoothing: f32,
    ) -> FloatTensor<Self> {
        let tensors = [h, table, own, copied];
        let nodes = tensors.each_ref().map(|tensor| tensor.node());
        let tensors = tensors.map(|tensor| tensor.into_primitive());
        match CopyingBackward(smoothing)
            .prepare::<C>(nodes)
            .compute_bound()
            .stateful()
        {
            OpsKind::Tracked(prep) => match forward_copying(&tensors, &targets, smoothing, true) {
                (out, Some(saved)) => prep.finish(saved, out),
                (_, None) => unreachable!("gradients were asked for"),
            },
            OpsKind::UnTracked(prep) => {
                prep.finish(forward_copying(&tensors, &targets, smoothing, false).0)
            }
        }
    }
}
