//! The largest of each window, and no less than 0: max pooling and the rectifier in one pass.

use std::sync::Arc;

use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind, unary};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, Flex, backend_extension};
use burn::tensor::Tensor;
use rayon::prelude::*;

use super::convolution::{Windows, sizes};
use super::memory::{give_back, take};
use super::storage::{FlexTensor, contiguous, elements, from_vec};
use super::vectors::widest;
use super::{composed, is_fused};

/// `out[b, y, x, c] = max(0, max over the window of x[b, ·, ·, c])`. Both orders of pooling and rectifier are the same; this
/// one rectifies a quarter of the elements and stores one byte for each instead of two arrays.
///
/// The gradient goes to the first largest element of a window, and nowhere where none is above 0.
///
/// # Shapes
/// - `x`: `[batch, height, width, channels]`
/// - out: `[batch, rows, columns, channels]`, as [`Windows::along`] counts them
///
/// # Panics
///
/// If the windows have no size or stride, more than 15 elements a side, or no place in the picture.
pub fn max_pool(x: Tensor<4>, windows: Windows) -> Tensor<4> {
    windows.check("max_pool", &x);
    assert!(
        windows.size <= 15,
        "max_pool: {windows:?}, expected a size of at most 15"
    );
    if !is_fused(&x) {
        return composed::max_pool(x, windows);
    }
    Tensor::from_dispatch(<Dispatch as FusedMaxPool>::fused_max_pool(
        x.into_dispatch(),
        windows,
    ))
}

/// In the place of the largest element's number: none is above 0.
const NONE: u8 = u8::MAX;

/// Channels that are compared together: a register or two of any instruction set.
const LANES: usize = 16;

/// The largest of some rows element by element, and its number. Numbers are as wide as the elements while they are chosen:
/// that is what registers can do.
#[inline(always)]
fn largest_of<'a>(
    rows: impl Iterator<Item = (&'a [f32], usize)>,
    out: &mut [f32],
    largest: &mut [u8],
) {
    let mut best = [0.0_f32; LANES];
    let mut numbers = [u32::from(NONE); LANES];
    let count = out.len();
    for (row, number) in rows {
        let mut values = [0.0; LANES];
        values[..count].copy_from_slice(&row[..count]);
        for ((best, chosen), value) in best.iter_mut().zip(&mut numbers).zip(values) {
            // A NaN is taken, and stays: nothing compares as above it.
            let more = (value > *best) | value.is_nan();
            *best = if more { value } else { *best };
            *chosen = if more { number as u32 } else { *chosen };
        }
    }
    out.copy_from_slice(&best[..count]);
    let numbers = numbers.map(|number| number as u8);
    largest.copy_from_slice(&numbers[..count]);
}

/// The largest elements, and which of its window each is.
fn forward(x: &FlexTensor, windows: Windows) -> (FlexTensor, Vec<u8>) {
    let x = x.to_contiguous();
    let [batch, height, width, channels] = sizes(&x);
    let (rows, columns) = (windows.along(height), windows.along(width));
    let size = rows * columns * channels;
    let mut out = take(batch * size);
    let mut largest = vec![NONE; batch * size];
    let pictures = elements(&x).par_chunks((height * width * channels).max(1));
    out.par_chunks_mut(size.max(1))
        .zip(largest.par_chunks_mut(size.max(1)))
        .zip(pictures)
        .for_each(|((out, largest), picture)| {
            widest!({
                let places = out
                    .chunks_mut(channels.max(1))
                    .zip(largest.chunks_mut(channels.max(1)));
                for (at, (out, largest)) in places.enumerate() {
                    let (first, last, top) = windows.inside(at / columns, height);
                    let (left, right, start) = windows.inside(at % columns, width);
                    let window = |out: &mut [f32], largest: &mut [u8], at: usize| {
                        let numbered = (first..last)
                            .flat_map(|i| (left..right).map(move |j| (i, j)))
                            .map(|(i, j)| {
                                let place = (top + i - first) * width + start + j - left;
                                (&picture[place * channels + at..], i * windows.size + j)
                            });
                        largest_of(numbered, out, largest);
                    };
                    let (whole, rest) = out.as_chunks_mut::<LANES>();
                    let (whole_numbers, rest_numbers) = largest.as_chunks_mut::<LANES>();
                    let blocks = whole.len();
                    for (block, (out, largest)) in whole.iter_mut().zip(whole_numbers).enumerate() {
                        window(out, largest, block * LANES);
                    }
                    if !rest.is_empty() {
                        window(rest, rest_numbers, blocks * LANES);
                    }
                }
            });
        });
    (from_vec(out, vec![batch, rows, columns, channels]), largest)
}

/// dx is d_out where the largest element was
fn backward(d_out: FlexTensor, saved: &Saved) -> FlexTensor {
    let d_out = contiguous(d_out);
    let (windows, [batch, height, width, channels]) = (saved.windows, saved.shape);
    let (rows, columns) = (windows.along(height), windows.along(width));
    let size = rows * columns * channels;
    let mut dx = take(batch * height * width * channels);
    dx.par_chunks_mut((height * width * channels).max(1))
        .zip(elements(&d_out).par_chunks(size.max(1)))
        .zip(saved.largest.par_chunks(size.max(1)))
        .for_each(|((dx, d_out), largest)| {
            dx.fill(0.0);
            for at in 0..rows * columns {
                let (first, _, top) = windows.inside(at / columns, height);
                let (left, _, start) = windows.inside(at % columns, width);
                let part = at * channels..(at + 1) * channels;
                for (channel, (d_out, largest)) in
                    d_out[part.clone()].iter().zip(&largest[part]).enumerate()
                {
                    if *largest != NONE {
                        let (i, j) = (
                            usize::from(*largest) / windows.size,
                            usize::from(*largest) % windows.size,
                        );
                        let place = (top + i - first) * width + start + j - left;
                        dx[place * channels + channel] += d_out;
                    }
                }
            }
        });
    give_back(d_out);
    from_vec(dx, vec![batch, height, width, channels])
}

#[backend_extension(Autodiff, Flex)]
trait FusedMaxPool: Backend {
    fn fused_max_pool(x: FloatTensor<Self>, windows: Windows) -> FloatTensor<Self>;
}

impl FusedMaxPool for Flex {
    fn fused_max_pool(x: FlexTensor, windows: Windows) -> FlexTensor {
        let out = forward(&x, windows).0;
        give_back(x);
        out
    }
}

#[derive(Clone, Debug)]
struct Saved {
    shape: [usize; 4],
    windows: Windows,
    largest: Arc<[u8]>,
}

#[derive(Debug)]
struct MaxPoolBackward;

impl Backward<Flex, 1> for MaxPoolBackward {
    type State = Saved;

    fn backward(self, ops: Ops<Saved, 1>, grads: &mut Gradients, _checkpointer: &mut Checkpointer) {
        unary::<Flex, _>(ops.parents, ops.node, grads, |d_out| {
            backward(d_out, &ops.state)
        });
    }
}

impl<C: CheckpointStrategy> FusedMaxPool for Autodiff<Flex, C> {
    fn fused_max_pool(x: FloatTensor<Self>, windows: Windows) -> FloatTensor<Self> {
        let (x, node) = x.into_parts();
        let (out, largest) = forward(&x, windows);
        let shape = sizes(&x);
        give_back(x);
        match MaxPoolBackward
            .prepare::<C>([node])
            .compute_bound()
            .stateful()
        {
            OpsKind::Tracked(prep) => {
                let largest = largest.into();
                prep.finish(
                    Saved {
                        shape,
                        windows,
                        largest,
                    },
                    out,
                )
            }
            OpsKind::UnTracked(prep) => prep.finish(out),
        }
    }
}
