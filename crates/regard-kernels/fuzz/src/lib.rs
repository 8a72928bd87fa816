//! Calls made of arbitrary bytes.

mod options;

use arbitrary::Arbitrary;
use ndarray::{Array4, ArrayView4, Axis, Slice};
pub use options::Options;
use regard_kernels::Element;

/// How the numbers of an array lie.
#[derive(Arbitrary, Debug, Clone, Copy)]
pub struct Layout {
    /// Which axes are exchanged in memory.
    swap: (u8, u8),
    /// Which axis goes backwards, if any.
    backwards: Option<u8>,
    /// Along which axis every second number is left out, if any.
    gaps: Option<u8>,
    /// Along which axis there is a single number for all, if any.
    repeated: Option<u8>,
    seed: u32,
    /// How often a number is not an ordinary one, of 256.
    odd: u8,
}

/// An array of numbers, in memory of its own.
#[derive(Debug)]
pub struct Numbers<E> {
    array: Array4<E>,
    layout: Layout,
    /// Of the array, once a single number stands for all of an axis.
    whole: [usize; 4],
}

impl<E: Element> Numbers<E> {
    /// Numbers of this shape in that layout.
    pub fn new(shape: [usize; 4], layout: Layout) -> Self {
        let mut whole = shape;
        if let Some(axis) = layout.gaps {
            let axis = usize::from(axis) % 4;
            whole[axis] = (2 * whole[axis]).saturating_sub(1); // every second of them is as many
        }
        let (a, b) = layout.swapped();
        whole.swap(a, b);
        let mut stored = whole;
        if let Some(axis) = layout.repeated {
            let axis = usize::from(axis) % 4;
            stored[axis] = stored[axis].min(1);
        }
        let mut state = layout.seed;
        let array = Array4::from_shape_simple_fn(stored, || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let odd = (state >> 24) < layout.odd.into();
            E::from_f64(match (odd, (state >> 20) % 8) {
                (true, 0) => f64::NAN,
                (true, 1) => f64::INFINITY,
                (true, 2) => f64::NEG_INFINITY,
                (true, 3) => 1e38,
                (true, 4) => -1e-39,
                (true, 5) => -0.0,
                _ => f64::from(state >> 8) / f64::from(1 << 23) - 1.0,
            })
        });
        Self {
            array,
            layout,
            whole,
        }
    }

    /// As they are read.
    pub fn view(&self) -> ArrayView4<'_, E> {
        let mut view = self
            .array
            .broadcast(self.whole)
            .expect("of length 1 or as long");
        let (a, b) = self.layout.swapped();
        view.swap_axes(a, b);
        if let Some(axis) = self.layout.gaps {
            view.slice_axis_inplace(Axis(usize::from(axis) % 4), Slice::new(0, None, 2));
        }
        if let Some(axis) = self.layout.backwards {
            view.invert_axis(Axis(usize::from(axis) % 4));
        }
        view
    }
}

impl Layout {
    fn swapped(self) -> (usize, usize) {
        (usize::from(self.swap.0) % 4, usize::from(self.swap.1) % 4)
    }
}

/// The lengths of a call, each small enough that it takes milliseconds, and large enough to meet every edge of a block.
#[derive(Arbitrary, Debug, Clone, Copy)]
pub struct Shape {
    batch: u8,
    kv_heads: u8,
    group: u8,
    queries: u8,
    keys: u16,
    head_dim: u8,
    value_dim: u8,
    /// One of the axes of `k` or `v` that does not fit, now and then.
    misfit: Option<(u8, u8)>,
}

impl Shape {
    /// `q`, `k` and `v`.
    pub fn of_arrays(&self) -> [[usize; 4]; 3] {
        let of = |number: u8, limit: usize| usize::from(number) % limit;
        let (batch, kv_heads) = (of(self.batch, 4), of(self.kv_heads, 4));
        let heads = kv_heads * (1 + of(self.group, 3));
        let (queries, keys) = (of(self.queries, 150), usize::from(self.keys) % 1100);
        let (head_dim, value_dim) = (of(self.head_dim, 70), of(self.value_dim, 70));
        let mut shapes = [
            [batch, heads, queries, head_dim],
            [batch, kv_heads, keys, head_dim],
            [batch, kv_heads, keys, value_dim],
        ];
        if let Some((at, length)) = self.misfit
            && at < 12
        {
            shapes[usize::from(at) / 4][usize::from(at) % 4] = usize::from(length) % 9;
        }
        shapes
    }
}
