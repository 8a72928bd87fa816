//! Any options, of which most fit the call.

use arbitrary::Arbitrary;
use ndarray::{Array2, Array4};
use regard_kernels::{Attention, Blocks, Causal, Dropout};

use crate::{Layout, Numbers};

/// A list of the length that is expected, unless it is not.
#[derive(Arbitrary, Debug)]
struct List<T> {
    numbers: Vec<T>,
    fits: bool,
}

impl<T: Copy + Default> List<T> {
    fn of<R>(&self, length: usize, make: impl Fn(T) -> R) -> Vec<R> {
        let mut numbers = self.numbers.clone();
        if self.fits {
            numbers.resize(length, T::default());
        }
        numbers.into_iter().map(make).collect()
    }
}

/// What is given over the scores: along which axes there is one element for all, and how the elements lie.
#[derive(Arbitrary, Debug)]
struct OverScores {
    broadcast: [bool; 4],
    layout: Layout,
    longer: Option<(u8, u8)>,
}

impl OverScores {
    fn numbers(&self, mut shape: [usize; 4]) -> Numbers<f32> {
        for (length, &broadcast) in shape.iter_mut().zip(&self.broadcast) {
            if broadcast {
                *length = 1;
            }
        }
        if let Some((axis, length)) = self.longer {
            shape[usize::from(axis) % 4] = usize::from(length) % 9;
        }
        Numbers::new(shape, self.layout)
    }
}

#[derive(Arbitrary, Debug)]
enum Diagonal {
    TopLeft,
    BottomRight,
    Offset(i16),
    Far(isize),
}

/// The options of a call, as they come.
#[derive(Arbitrary, Debug)]
pub struct Options {
    scale: Option<f64>,
    causal: Option<Diagonal>,
    offsets: Option<List<i16>>,
    far_offsets: bool,
    window: (Option<u16>, Option<u16>),
    no_limit: (bool, bool),
    prefix: Option<List<u16>>,
    visible_keys: Option<List<u16>>,
    documents: Option<(u32, bool)>,
    blocks: Option<(OverScores, u8, u8)>,
    mask: Option<OverScores>,
    softcap: Option<f64>,
    bias: Option<OverScores>,
    slopes: Option<List<f32>>,
    sinks: Option<List<f32>>,
    dropout: Option<(f32, u64)>,
    gradients: [bool; 3],
}

/// [`Options`], with what they refer to made for the shape of a call.
#[derive(Debug)]
pub struct Made {
    offsets: Option<Vec<isize>>,
    prefix: Option<Vec<usize>>,
    visible_keys: Option<Vec<usize>>,
    documents: Option<(Array2<i32>, Array2<i32>)>,
    blocks: Option<(Array4<bool>, (usize, usize))>,
    mask: Option<Array4<bool>>,
    bias: Option<Numbers<f32>>,
    slopes: Option<Vec<f32>>,
    sinks: Option<Vec<f32>>,
}

impl Options {
    /// For scores of shape `[batch, heads, queries, keys]`.
    pub fn make(&self, scores: [usize; 4]) -> Made {
        let [batch, heads, queries, keys] = scores;
        let within = |list: &List<u16>| {
            list.of(batch, |n| {
                usize::from(n) % (keys + 1 + usize::from(n == 999))
            })
        };
        let visible = |numbers: &Numbers<f32>| numbers.view().mapv(|x| x > -0.5);
        let far = |n: i16| match self.far_offsets {
            true => isize::from(n).saturating_mul(isize::MAX / 3),
            false => n.into(),
        };
        Made {
            offsets: self.offsets.as_ref().map(|list| list.of(batch, far)),
            prefix: self.prefix.as_ref().map(within),
            visible_keys: self.visible_keys.as_ref().map(within),
            documents: self.documents.map(|(seed, sorted)| {
                let of = |length: usize| {
                    Array2::from_shape_fn((batch, length), |(b, i)| match sorted {
                        true => (i / 37) as i32,
                        false => ((seed.wrapping_mul(b as u32 + 3 * i as u32 + 1) >> 5) % 3) as i32,
                    })
                };
                (of(queries), of(keys))
            }),
            blocks: self.blocks.as_ref().map(|(of, rows, columns)| {
                let size = (usize::from(*rows), usize::from(*columns));
                let count = |length: usize, size: usize| length.div_ceil(size.max(1));
                let shape = [batch, heads, count(queries, size.0), count(keys, size.1)];
                (visible(&of.numbers(shape)), size)
            }),
            mask: self.mask.as_ref().map(|of| visible(&of.numbers(scores))),
            bias: self.bias.as_ref().map(|of| of.numbers(scores)),
            slopes: self.slopes.as_ref().map(|list| list.of(heads, |x| x)),
            sinks: self.sinks.as_ref().map(|list| list.of(heads, |x| x)),
        }
    }

    /// The builder.
    pub fn attention<'a>(&self, made: &'a Made) -> Attention<'a> {
        let side = |width: Option<u16>, no_limit| match no_limit {
            true => width.map(|width| usize::MAX - usize::from(width)),
            false => width.map(usize::from),
        };
        let mut attention = Attention::new().window(
            side(self.window.0, self.no_limit.0),
            side(self.window.1, self.no_limit.1),
        );
        if let Some(scale) = self.scale {
            attention = attention.scale(scale);
        }
        if let Some(causal) = &self.causal {
            attention = attention.causal(match *causal {
                Diagonal::TopLeft => Causal::TopLeft,
                Diagonal::BottomRight => Causal::BottomRight,
                Diagonal::Offset(offset) => Causal::Offset(offset.into()),
                Diagonal::Far(offset) => Causal::Offset(offset),
            });
        }
        if let Some(offsets) = &made.offsets {
            attention = attention.offsets(offsets);
        }
        if let Some(prefix) = &made.prefix {
            attention = attention.prefix(prefix);
        }
        if let Some(visible_keys) = &made.visible_keys {
            attention = attention.visible_keys(visible_keys);
        }
        if let Some((of_query, of_key)) = &made.documents {
            attention = attention.documents(of_query.view(), of_key.view());
        }
        if let Some((visible, size)) = &made.blocks {
            attention = attention.blocks(Blocks {
                visible: visible.view(),
                size: *size,
            });
        }
        if let Some(mask) = &made.mask {
            attention = attention.mask(mask.view());
        }
        if let Some(cap) = self.softcap {
            attention = attention.softcap(cap);
        }
        if let Some(bias) = &made.bias {
            attention = attention.bias(bias.view());
        }
        if let Some(slopes) = &made.slopes {
            attention = attention.slopes(slopes);
        }
        if let Some(sinks) = &made.sinks {
            attention = attention.sinks(sinks);
        }
        if let Some((probability, seed)) = self.dropout {
            attention = attention.dropout(Dropout { probability, seed });
        }
        let [bias, slopes, sinks] = self.gradients;
        attention
            .bias_gradient(bias)
            .slopes_gradient(slopes)
            .sinks_gradient(sinks)
    }
}
