//! Convolution: the windows of a picture as rows of a matrix, times the matrix of all filters. The rows of one picture are
//! made while they fit the cache and never stored: those of a batch of 128 small pictures are 58 MB, which took longer to
//! write and read than to multiply.

use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, Flex, backend_extension};
use burn::tensor::Tensor;
use ndarray::{ArrayView2, ArrayViewMut2};
use rayon::prelude::*;
use regard_kernels::{PackedMatrix, Precision};

use super::memory::{give_back, give_back_array, take, zeros};
use super::storage::{FlexTensor, contiguous, elements, from_vec, matrix, shape};
use super::vectors::widest;
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

/// `out[b, y, x, o] = Σ_{i, j, c} x[b, stride·y + i − padding, stride·x + j − padding, c] · weight[(i, j, c), o]`, 0 outside the
/// picture. With `stride = size` it cuts the picture into patches and maps each.
///
/// # Shapes
/// - `x`: `[batch, height, width, channels]`
/// - `weight`: `[size · size · channels, outputs]`
/// - out: `[batch, rows, columns, outputs]`, rows and columns as [`Windows::along`] counts them
///
/// # Panics
///
/// If the shapes do not fit, size or stride of the windows is 0, or no window fits.
pub fn convolution(x: Tensor<4>, weight: Tensor<2>, windows: Windows) -> Tensor<4> {
    windows.check("convolution", &x);
    let length = windows.size * windows.size * x.dims()[3];
    assert_eq!(weight.dims()[0], length, "convolution: rows of the weight");
    if !is_fused(&x) || !is_fused(&weight) {
        return composed::convolution(x, weight, windows);
    }
    Tensor::from_dispatch(<Dispatch as FusedConvolution>::fused_convolution(
        x.into_dispatch(),
        weight.into_dispatch(),
        windows,
    ))
}

/// All lengths of one convolution.
#[derive(Clone, Copy, Debug)]
struct Sizes {
    windows: Windows,
    batch: usize,
    /// Height, width and channels of a picture.
    picture: [usize; 3],
    rows: usize,
    columns: usize,
    outputs: usize,
}

impl Sizes {
    fn of(x: &FlexTensor, weight: &FlexTensor, windows: Windows) -> Self {
        let [batch, height, width, channels] = sizes(x);
        Self {
            windows,
            batch,
            picture: [height, width, channels],
            rows: windows.along(height),
            columns: windows.along(width),
            outputs: shape(weight)[1],
        }
    }

    /// Numbers of a picture.
    fn pixels(&self) -> usize {
        self.picture.iter().product()
    }

    /// Windows of a picture.
    fn places(&self) -> usize {
        self.rows * self.columns
    }

    /// Numbers of a window.
    fn length(&self) -> usize {
        self.windows.size * self.windows.size * self.picture[2]
    }

    /// Runs of neighbouring numbers in each window of a picture: where in the picture, where among the windows, how many.
    fn runs(&self) -> impl Iterator<Item = (usize, usize, usize)> {
        let (sizes, [height, width, channels]) = (*self, self.picture);
        (0..self.places()).flat_map(move |place| {
            let windows = sizes.windows;
            let (first, last, top) = windows.inside(place / sizes.columns, height);
            let (left, right, start) = windows.inside(place % sizes.columns, width);
            (first..last).map(move |i| {
                let from = ((top + i - first) * width + start) * channels;
                let to = place * sizes.length() + (i * windows.size + left) * channels;
                (from, to, (right - left) * channels)
            })
        })
    }

    /// The windows of a picture, one a row. What lies outside of it stays the 0 that it was.
    fn unfold(&self, picture: &[f32], windows: &mut [f32]) {
        for (from, to, count) in self.runs() {
            windows[to..to + count].copy_from_slice(&picture[from..from + count]);
        }
    }

    /// unfolded = copies of x, so dx = the sum over all copies of their gradients
    fn fold(&self, windows: &[f32], picture: &mut [f32]) {
        widest!({
            for (from, to, count) in self.runs() {
                let copies = &windows[to..to + count];
                let sums = picture[from..from + count].iter_mut();
                for (sum, copy) in sums.zip(copies) {
                    *sum += copy;
                }
            }
        });
    }
}

/// `out += left · right`
fn add_product(left: &ArrayView2<'_, f32>, right: &PackedMatrix, out: &mut [f32]) {
    let shape = (left.nrows(), right.dim().1);
    match ArrayViewMut2::from_shape(shape, out) {
        Ok(out) => right.add_to_product(*left, out),
        Err(error) => panic!("a product of shape {shape:?}: {error}"),
    }
}

/// Pictures of one task, whose windows lie in the same memory one after the other.
const TOGETHER: usize = 4;

fn forward(x: &FlexTensor, weight: &FlexTensor, sizes: &Sizes) -> FlexTensor {
    let (x, weight) = (x.to_contiguous(), weight.to_contiguous());
    let filters = matrix(elements(&weight), sizes.length(), sizes.outputs);
    let filters = PackedMatrix::new(filters);
    let size = sizes.places() * sizes.outputs;
    let mut out = take(sizes.batch * size);
    out.par_chunks_mut((TOGETHER * size).max(1))
        .zip(elements(&x).par_chunks((TOGETHER * sizes.pixels()).max(1)))
        .for_each(|(out, pictures)| {
            let mut windows = zeros(sizes.places() * sizes.length());
            let pictures = pictures.chunks(sizes.pixels().max(1));
            for (out, picture) in out.chunks_mut(size.max(1)).zip(pictures) {
                sizes.unfold(picture, &mut windows);
                let windows = matrix(&windows, sizes.places(), sizes.length());
                filters.product_then(windows, None, out, &mut [], |_, _, _| ());
            }
            give_back_array(windows);
        });
    let shape = vec![sizes.batch, sizes.rows, sizes.columns, sizes.outputs];
    from_vec(out, shape)
}

/// out = unfold(x) weight, so dx = fold(d_out weightᵀ)
fn by_pictures(d_out: &[f32], weight: &FlexTensor, sizes: &Sizes) -> FlexTensor {
    let weight = weight.to_contiguous();
    let filters = matrix(elements(&weight), sizes.length(), sizes.outputs);
    let filters = PackedMatrix::new(filters.reversed_axes());
    let mut dx = take(sizes.batch * sizes.pixels());
    let size = sizes.places() * sizes.outputs;
    dx.par_chunks_mut((TOGETHER * sizes.pixels()).max(1))
        .zip(d_out.par_chunks((TOGETHER * size).max(1)))
        .for_each(|(pictures, d_out)| {
            let mut windows = take(sizes.places() * sizes.length());
            let pictures = pictures.chunks_mut(sizes.pixels().max(1));
            for (picture, d_out) in pictures.zip(d_out.chunks(size.max(1))) {
                let d_out = matrix(d_out, sizes.places(), sizes.outputs);
                filters.product_then(d_out, None, &mut windows, &mut [], |_, _, _| ());
                picture.fill(0.0);
                sizes.fold(&windows, picture);
            }
            give_back_array(windows);
        });
    let [height, width, channels] = sizes.picture;
    from_vec(dx, vec![sizes.batch, height, width, channels])
}

/// Pictures whose gradients are summed one after the other; the sums of the groups are added afterwards, always in the same
/// order: the same bits for any number of threads.
const GROUP: usize = 8;

/// out = unfold(x) weight, so d_weight = unfold(x)ᵀ d_out
fn by_weight(d_out: &[f32], x: &FlexTensor, sizes: &Sizes) -> FlexTensor {
    let x = x.to_contiguous();
    let count = sizes.length() * sizes.outputs;
    let size = sizes.places() * sizes.outputs;
    // The products begin on other threads, which take the precision along.
    let precision = Precision::here();
    let sums: Vec<Vec<f32>> = d_out
        .par_chunks((GROUP * size).max(1))
        .zip(elements(&x).par_chunks((GROUP * sizes.pixels()).max(1)))
        .map(|(d_out, pictures)| {
            let mut sum = vec![0.0; count];
            let mut windows = zeros(sizes.places() * sizes.length());
            let pictures = pictures.chunks(sizes.pixels().max(1));
            for (d_out, picture) in d_out.chunks(size.max(1)).zip(pictures) {
                sizes.unfold(picture, &mut windows);
                let windows = matrix(&windows, sizes.places(), sizes.length());
                let d_out = matrix(d_out, sizes.places(), sizes.outputs);
                let d_out = precision.run(|| PackedMatrix::new(d_out));
                add_product(&windows.reversed_axes(), &d_out, &mut sum);
            }
            give_back_array(windows);
            sum
        })
        .collect();
    let mut d_weight = vec![0.0; count];
    for sum in sums {
        let all = d_weight.iter_mut().zip(sum);
        all.for_each(|(all, sum): (&mut f32, f32)| *all += sum);
    }
    from_vec(d_weight, vec![sizes.length(), sizes.outputs])
}

pub(super) fn sizes(x: &FlexTensor) -> [usize; 4] {
    match shape(x).try_into() {
        Ok(sizes) => sizes,
        Err(shape) => panic!("expected a tensor of four axes, found {shape:?}"),
    }
}

#[backend_extension(Autodiff, Flex)]
trait FusedConvolution: Backend {
    fn fused_convolution(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        windows: Windows,
    ) -> FloatTensor<Self>;
}

impl FusedConvolution for Flex {
    fn fused_convolution(x: FlexTensor, weight: FlexTensor, windows: Windows) -> FlexTensor {
        forward(&x, &weight, &Sizes::of(&x, &weight, windows))
    }
}

#[derive(Clone, Debug)]
struct Saved {
    x: FlexTensor,
    weight: FlexTensor,
    sizes: Sizes,
}

#[derive(Debug)]
struct ConvolutionBackward;

impl Backward<Flex, 2> for ConvolutionBackward {
    type State = Saved;

    fn backward(self, ops: Ops<Saved, 2>, grads: &mut Gradients, _checkpointer: &mut Checkpointer) {
        let d_out = contiguous(grads.consume::<Flex>(&ops.node));
        let ([of_x, of_weight], saved) = (ops.parents, ops.state);
        if let Some(parent) = of_weight {
            let d_weight = by_weight(elements(&d_out), &saved.x, &saved.sizes);
            grads.register::<Flex>(parent.id, d_weight);
        }
        if let Some(parent) = of_x {
            let dx = by_pictures(elements(&d_out), &saved.weight, &saved.sizes);
            grads.register::<Flex>(parent.id, dx);
        }
        give_back(d_out);
        give_back(saved.x);
    }
}

impl<C: CheckpointStrategy> FusedConvolution for Autodiff<Flex, C> {
    fn fused_convolution(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        windows: Windows,
    ) -> FloatTensor<Self> {
        let nodes = [x.node(), weight.node()];
        let (x, weight) = (x.into_primitive(), weight.into_primitive());
        let sizes = Sizes::of(&x, &weight, windows);
        let out = forward(&x, &weight, &sizes);
        match ConvolutionBackward
            .prepare::<C>(nodes)
            .compute_bound()
            .stateful()
        {
            OpsKind::Tracked(prep) => prep.finish(Saved { x, weight, sizes }, out),
            OpsKind::UnTracked(prep) => prep.finish(out),
        }
    }
}
