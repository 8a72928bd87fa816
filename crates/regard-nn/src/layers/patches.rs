//! From a picture to a sequence of vectors: plain patches (Dosovitskiy et al. 2021, "An Image Is Worth 16×16 Words") or a
//! convolutional tokenizer (Hassani et al. 2021, "Escaping the Big Data Paradigm with Compact Transformers").

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor};
use serde::{Deserialize, Serialize};

use super::normal;
use crate::Noise;
use crate::operation::{Windows, convolution, max_pool};

/// How a picture is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum Cut {
    /// Squares of that side, each a token by one linear map.
    Patches {
        /// Pixels of a side.
        size: usize,
    },
    /// So many times: convolution of 3×3, rectifier, max pooling of 3×3 to half the side.
    Convolution {
        /// How many times.
        layers: usize,
    },
}

/// Windows of the convolution, and of the pooling after it.
const CONVOLUTION: Windows = Windows {
    size: 3,
    stride: 1,
    padding: 1,
};
const POOLING: Windows = Windows {
    size: 3,
    stride: 2,
    padding: 1,
};

impl Cut {
    /// Rows and columns of tokens that a picture of that height and width becomes.
    pub fn grid(&self, [height, width]: [usize; 2]) -> [usize; 2] {
        match *self {
            Self::Patches { size } => [height / size.max(1), width / size.max(1)],
            Self::Convolution { layers } => (0..layers).fold([height, width], |sides, _| {
                sides.map(|side| POOLING.along(side))
            }),
        }
    }

    /// Centre of what token `at` along an axis sees, in pixels from the picture's edge: `(at + ½) · size` of a patch; of a
    /// convolution `at · 2^layers + ½`, as a window of 3 with 1 of padding stands around its pixel and pooling keeps every
    /// second one, the first first.
    pub fn centre(&self, at: usize) -> f64 {
        match *self {
            Self::Patches { size } => (at as f64 + 0.5) * size as f64,
            Self::Convolution { layers } => at as f64 * 2.0_f64.powi(layers as i32) + 0.5,
        }
    }

    /// Shapes of the matrices, in order: the first layer gives a 2^(layers − 1)-th of the width, each next one twice as much.
    pub fn shapes(&self, channels: usize, width: usize) -> Vec<[usize; 2]> {
        match *self {
            Self::Patches { size } => vec![[size * size * channels, width]],
            Self::Convolution { layers } => {
                let outputs = |layer: usize| (width >> (layers - 1 - layer)).max(1);
                let inputs = |layer: usize| match layer {
                    0 => channels,
                    _ => outputs(layer - 1),
                };
                (0..layers)
                    .map(|layer| [9 * inputs(layer), outputs(layer)])
                    .collect()
            }
        }
    }
}

/// The layer: one matrix for plain patches, one for each convolution. No biases: the first normalisation has one.
#[derive(Module, Debug)]
pub struct PatchEmbedding {
    /// Each `[size · size · inputs, outputs]`.
    pub weights: Vec<Param<Tensor<2>>>,
    #[module(skip)]
    cut: Cut,
}

impl PatchEmbedding {
    /// Normal weights of variance 2 / inputs for convolutions, which keeps the size of what passes a rectifier (He et al.
    /// 2015), and 1 / inputs for patches.
    pub fn new(
        cut: Cut,
        channels: usize,
        width: usize,
        noise: &mut Noise,
        device: &Device,
    ) -> Self {
        let gain = match cut {
            Cut::Patches { .. } => 1.0,
            Cut::Convolution { .. } => 2.0,
        };
        let weight = |shape: [usize; 2]| {
            normal(shape, (gain / shape[0].max(1) as f32).sqrt(), noise, device)
        };
        Self {
            weights: cut
                .shapes(channels, width)
                .into_iter()
                .map(weight)
                .collect(),
            cut,
        }
    }

    /// `[batch, height, width, channels]` → `[batch, rows · columns, width]`, rows and columns as [`Cut::grid`] counts them,
    /// row after row.
    pub fn forward(&self, pictures: Tensor<4>) -> Tensor<3> {
        let convolved = self.weights.iter().fold(pictures, |x, weight| {
            let windows = match self.cut {
                Cut::Patches { size } => Windows {
                    size,
                    stride: size,
                    padding: 0,
                },
                Cut::Convolution { .. } => CONVOLUTION,
            };
            let x = convolution(x, weight.val(), windows);
            match self.cut {
                Cut::Patches { .. } => x,
                Cut::Convolution { .. } => max_pool(x, POOLING),
            }
        });
        let [batch, rows, columns, width] = convolved.dims();
        convolved.reshape([batch, rows * columns, width])
    }
}
