//! Arrays of random numbers, laid out in every way that a call may be given them.

use ndarray::{Array4, ArrayView4, Axis, s};

/// How the numbers of an array lie in memory.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) enum Layout {
    #[default]
    Dense,
    /// `[batch, sequence, heads, width]`, as a projection leaves them.
    HeadsInside,
    /// The last axis is not the one with stride 1.
    WidthOutside,
    /// Every axis runs backwards.
    Backwards,
    /// A slice of a larger array.
    Gaps,
    /// One row stands for the whole sequence: a stride of zero.
    Repeated,
}

/// An array and the view of it that a call gets.
#[derive(Clone, Default)]
pub(crate) struct Numbers {
    pub(crate) layout: Layout,
    length: usize,
    array: Array4<f32>,
}

impl Numbers {
    pub(crate) fn new(
        (batch, heads, length, width): (usize, usize, usize, usize),
        layout: Layout,
        seed: u64,
    ) -> Self {
        let shape = match layout {
            Layout::Dense | Layout::Backwards => (batch, heads, length, width),
            Layout::HeadsInside => (batch, length, heads, width),
            Layout::WidthOutside => (batch, heads, width, length),
            Layout::Gaps => (batch, heads, length + 2, width + 3),
            Layout::Repeated => (batch, heads, 1, width),
        };
        Self {
            layout,
            length,
            array: random(shape, seed),
        }
    }

    pub(crate) fn view(&self) -> ArrayView4<'_, f32> {
        let array = self.array.view();
        match self.layout {
            Layout::Dense => array,
            Layout::HeadsInside => array.permuted_axes([0, 2, 1, 3]),
            Layout::WidthOutside => array.permuted_axes([0, 1, 3, 2]),
            Layout::Backwards => {
                let mut array = array;
                (0..4).for_each(|axis| array.invert_axis(Axis(axis)));
                array
            }
            Layout::Gaps => {
                let (_, _, length, width) = array.dim();
                array.slice_move(s![.., .., 1..length - 1, ..width - 3])
            }
            Layout::Repeated => {
                let (batch, heads, _, width) = array.dim();
                self.array
                    .broadcast((batch, heads, self.length, width))
                    .expect("one row")
            }
        }
    }
}

/// Uniform in −1 … 1, from a generator of three lines (splitmix64).
pub(crate) fn random(shape: (usize, usize, usize, usize), seed: u64) -> Array4<f32> {
    let mut state = seed;
    Array4::from_shape_simple_fn(shape, || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z >> 40) as f32 / (1 << 23) as f32) - 1.0
    })
}
