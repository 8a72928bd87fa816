//! The windows of a picture as rows of a matrix, so that a convolution is one matrix product.

use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind, unary};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, Flex, backend_extension};
use burn::tensor::Tensor;
use rayon::prelude::*;

use super::storage::{FlexTensor, elements, from_vec, shape};
use super::{composed, is_fused};

/// Which windows of a picture are looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Windows {
    /// Side of a window; not 0.
    pub size: usize,
    /// Elements from one window to the next; not 0.
    pub stride: usize,
    /// Zeros around the picture.
    pub padding: usize,
}

impl Windows {
    /// How many windows fit along a side of that length; 0 if none does.
    pub fn along(&self, length: usize) -> usize {
        match (length + 2 * self.padding).checked_sub(self.size) {
            Some(rest) => rest / self.stride + 1,
            None => 0,
        }
    }

    /// A programmer's mistake ends here.
    pub(super) fn check(&self, operation: &str, x: &Tensor<4>) {
        let [_, height, width, _] = x.dims();
        assert!(
            self.size > 0 && self.stride > 0,
            "{operation}: {self:?}, expected a size and a stride above 0"
        );
        assert!(
            self.along(height) > 0 && self.along(width) > 0,
            "{operation}: pictures of {height} × {width}, expected room for one of {self:?}"
        );
    }

    /// The part of window `at` that lies inside a side of that length: first offset, one past the last offset, and where
    /// the first offset lies.
    pub(super) fn inside(&self, at: usize, length: usize) -> (usize, usize, usize) {
        let start = at * self.stride;
        let first = self.padding.saturating_sub(start).min(self.size);
        let last = (length + self.padding).saturating_sub(start).min(self.size);
        (
            first,
            last.max(first),
            (start + first).saturating_sub(self.padding),
        )
    }
}

/// Each window of each picture as a row: `out[(b, y, x), (i, j, c)] = x[b, stride·y + i − padding, stride·x + j − padding, c]`,
/// 0 outside the picture. Times a matrix `[size · size · channels, outputs]` it is a convolution; with `stride = size` it cuts
/// the picture into patches.
///
/// # Shapes
/// - `x`: `[batch, height, width, channels]`
/// - out: `[batch · rows · columns, size · size · channels]`, rows and columns as [`Windows::along`] counts them
///
/// # Panics
///
/// If size or stride of the windows is 0, or no window fits.
pub fn unfold(x: Tensor<4>, windows: Windows) -> Tensor<2> {
    windows.check("unfold", &x);
    if !is_fused(&x) {
        return composed::unfold(x, windows);
    }
    Tensor::from_dispatch(<Dispatch as FusedUnfold>::fused_unfold(
        x.into_dispatch(),
        windows,
    ))
}

/// Runs of neighbouring elements, one for each row of a window: from where in the picture, to where in the row, how many.
fn runs(
    windows: Windows,
    [height, width, channels]: [usize; 3],
    (y, x): (usize, usize),
) -> impl Iterator<Item = (usize, usize, usize)> {
    let (first, last, top) = windows.inside(y, height);
    let (left, right, start) = windows.inside(x, width);
    (first..last).map(move |i| {
        let from = ((top + i - first) * width + start) * channels;
        let to = (i * windows.size + left) * channels;
        (from, to, (right - left) * channels)
    })
}

fn forward(x: &FlexTensor, windows: Windows) -> FlexTensor {
    let x = x.to_contiguous();
    let [batch, height, width, channels] = sizes(&x);
    let (rows, columns) = (windows.along(height), windows.along(width));
    let length = windows.size * windows.size * channels;
    let mut out = vec![0.0; batch * rows * columns * length];
    let pictures = elements(&x).par_chunks((height * width * channels).max(1));
    out.par_chunks_mut((rows * columns * length).max(1))
        .zip(pictures)
        .for_each(|(out, picture)| {
            for (at, row) in out.chunks_mut(length.max(1)).enumerate() {
                for (from, to, count) in runs(
                    windows,
                    [height, width, channels],
                    (at / columns, at % columns),
                ) {
                    row[to..to + count].copy_from_slice(&picture[from..from + count]);
                }
            }
        });
    from_vec(out, vec![batch * rows * columns, length])
}

/// out = copies of x, so dx = the sum over all copies of d_out
fn backward(
    d_out: &FlexTensor,
    [batch, height, width, channels]: [usize; 4],
    windows: Windows,
) -> FlexTensor {
    let d_out = d_out.to_contiguous();
    let (rows, columns) = (windows.along(height), windows.along(width));
    let length = windows.size * windows.size * channels;
    let mut dx = vec![0.0; batch * height * width * channels];
    let copies = elements(&d_out).par_chunks((rows * columns * length).max(1));
    dx.par_chunks_mut((height * width * channels).max(1))
        .zip(copies)
        .for_each(|(picture, copies)| {
            for (at, row) in copies.chunks(length.max(1)).enumerate() {
                for (from, to, count) in runs(
                    windows,
                    [height, width, channels],
                    (at / columns, at % columns),
                ) {
                    picture[from..from + count]
                        .iter_mut()
                        .zip(&row[to..to + count])
                        .for_each(|(dx, d_out)| *dx += d_out);
                }
            }
        });
    from_vec(dx, vec![batch, height, width, channels])
}

pub(super) fn sizes(x: &FlexTensor) -> [usize; 4] {
    match shape(x).try_into() {
        Ok(sizes) => sizes,
        Err(shape) => panic!("expected a tensor of four axes, found {shape:?}"),
    }
}

#[backend_extension(Autodiff, Flex)]
trait FusedUnfold: Backend {
    fn fused_unfold(x: FloatTensor<Self>, windows: Windows) -> FloatTensor<Self>;
}

impl FusedUnfold for Flex {
    fn fused_unfold(x: FlexTensor, windows: Windows) -> FlexTensor {
        forward(&x, windows)
    }
}

#[derive(Debug)]
struct UnfoldBackward;

impl Backward<Flex, 1> for UnfoldBackward {
    type State = ([usize; 4], Windows);

    fn backward(
        self,
        ops: Ops<Self::State, 1>,
        grads: &mut Gradients,
        _checkpointer: &mut Checkpointer,
    ) {
        let (shape, windows) = ops.state;
        unary::<Flex, _>(ops.parents, ops.node, grads, |d_out| {
            backward(&d_out, shape, windows)
        });
    }
}

impl<C: CheckpointStrategy> FusedUnfold for Autodiff<Flex, C> {
    fn fused_unfold(x: FloatTensor<Self>, windows: Windows) -> FloatTensor<Self> {
        let (x, node) = x.into_parts();
        let (out, shape) = (forward(&x, windows), sizes(&x));
        match UnfoldBackward
            .prepare::<C>([node])
            .compute_bound()
            .stateful()
        {
            OpsKind::Tracked(prep) => prep.finish((shape, windows), out),
            OpsKind::UnTracked(prep) => prep.finish(out),
        }
    }
}
