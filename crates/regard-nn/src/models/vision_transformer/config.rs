//! Sizes of a vision transformer, checked before anything is allocated.

use serde::{Deserialize, Serialize};

use crate::ConfigError;
use crate::layers::{Cut, MultiHeadConfig};

/// How tokens know where they stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Positions {
    /// A learned vector for each place of the grid.
    Learned,
    /// Sines and cosines of row and column.
    Sinusoidal,
}

/// How the tokens become one vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Summary {
    /// Their mean: no attention.
    Mean,
    /// A learned query weighs them (sequence pooling).
    Attention,
    /// A token of its own collects them.
    ClassToken,
}

/// Everything needed to build a [`VisionTransformer`](super::VisionTransformer).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VisionTransformerConfig {
    /// Rows of pixels.
    pub picture_height: usize,
    /// Columns of pixels.
    pub picture_width: usize,
    /// Numbers of a pixel: 1 for grey, 3 for colour.
    pub channels: usize,
    /// Labels.
    pub classes: usize,
    /// How a picture becomes tokens.
    pub cut: Cut,
    /// How tokens know where they stand.
    pub positions: Positions,
    /// How the tokens become one vector.
    pub summary: Summary,
    /// Length of the vectors.
    pub width: usize,
    /// Encoder layers.
    pub layers: usize,
    /// Heads of each; they divide the width.
    pub heads: usize,
    /// Inner length of each feed-forward part.
    pub feed_forward: usize,
    /// Probability that an element of the tokens, of a part's output or of the summary is dropped.
    pub dropout: f64,
    /// Probability that a picture skips a part of the last layer; it rises to that evenly from the first layer's 0.
    pub stochastic_depth: f64,
}

/// Tokens of a picture at most: attention's work grows with their square.
const MOST_TOKENS: usize = 1 << 14;
/// Parameters at most.
const MOST_PARAMETERS: usize = 1 << 28;

impl VisionTransformerConfig {
    /// Sizes by name for pictures of 28×28, grey, in 10 classes, to be changed where they are others: `tiny` (CCT-2/3×2 of
    /// the paper, 0.28 M parameters), `small` (0.5 M), `medium` (CCT-7/3×2's seven layers of 256, 3.7 M) and `vit-tiny`
    /// (ViT-Ti, 5.4 M, plain patches and a class token).
    pub fn preset(name: &str) -> Option<Self> {
        let cut = Cut::Convolution { layers: 2 };
        let [width, layers, heads, feed_forward] = match name {
            "tiny" => [128, 2, 2, 128],
            "small" => [128, 3, 4, 256],
            "medium" => [256, 7, 4, 512],
            "vit-tiny" => [192, 12, 3, 768],
            _ => return None,
        };
        let plain = name == "vit-tiny";
        Some(Self {
            picture_height: 28,
            picture_width: 28,
            channels: 1,
            classes: 10,
            cut: if plain { Cut::Patches { size: 4 } } else { cut },
            positions: Positions::Learned,
            summary: if plain {
                Summary::ClassToken
            } else {
                Summary::Attention
            },
            width,
            layers,
            heads,
            feed_forward,
            dropout: 0.0,
            // What the small ones lack is size, not noise.
            stochastic_depth: if layers > 3 { 0.1 } else { 0.0 },
        })
    }

    /// Names of the presets, the smallest first.
    pub const PRESETS: [&str; 4] = ["tiny", "small", "medium", "vit-tiny"];

    /// Rows and columns of tokens.
    pub fn grid(&self) -> [usize; 2] {
        self.cut.grid([self.picture_height, self.picture_width])
    }

    /// Whether a model can be built from it. Nothing is allocated.
    ///
    /// # Errors
    ///
    /// The first field that is out of range, with what it may be.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let between =
            |field, found: usize, low: usize, high: usize| match (low..=high).contains(&found) {
                true => Ok(()),
                false => Err(ConfigError::new(field, found, format!("{low} to {high}"))),
            };
        between("picture_height", self.picture_height, 1, 8192)?;
        between("picture_width", self.picture_width, 1, 8192)?;
        between("channels", self.channels, 1, 64)?;
        between("classes", self.classes, 1, 1 << 16)?;
        between("width", self.width, 4, 1 << 13)?;
        between("layers", self.layers, 0, 1 << 7)?;
        between("feed_forward", self.feed_forward, 1, 1 << 15)?;
        for (field, share) in [
            ("dropout", self.dropout),
            ("stochastic_depth", self.stochastic_depth),
        ] {
            if !(0.0..1.0).contains(&share) {
                return Err(ConfigError::new(field, share, "at least 0 and less than 1"));
            }
        }
        match self.cut {
            Cut::Patches { size } => {
                between("patch size", size, 1, 256)?;
                for (field, side) in [
                    ("picture_height", self.picture_height),
                    ("picture_width", self.picture_width),
                ] {
                    if !side.is_multiple_of(size) {
                        let expected = format!("a multiple of the patches' {size} pixels");
                        return Err(ConfigError::new(field, side, expected));
                    }
                }
            }
            Cut::Convolution { layers } => between("convolution layers", layers, 1, 8)?,
        }
        let [rows, columns] = self.grid();
        between("tokens of a picture", rows * columns, 1, MOST_TOKENS)?;
        if self.layers > 0 {
            MultiHeadConfig::new(self.width, self.heads).validate()?;
        }
        let parameters: usize = self
            .parameter_shapes()
            .iter()
            .map(|(_, shape)| shape.iter().product::<usize>())
            .sum();
        between("number of parameters", parameters, 1, MOST_PARAMETERS)
    }

    /// Path and shape of every parameter of the model, in its order, without building it.
    pub fn parameter_shapes(&self) -> Vec<(String, Vec<usize>)> {
        let width = self.width;
        let [rows, columns] = self.grid();
        let mut shapes = Vec::new();
        for (at, shape) in self.cut.shapes(self.channels, width).iter().enumerate() {
            shapes.push((format!("patches.weights.{at}"), shape.to_vec()));
        }
        if self.positions == Positions::Learned {
            shapes.push(("positions.weight".to_owned(), vec![rows * columns, width]));
        }
        if self.summary == Summary::ClassToken {
            shapes.push(("class_token".to_owned(), vec![1, width]));
        }
        (0..self.layers).for_each(|layer| shapes.extend(self.layer_shapes(layer)));
        shapes.push(("norm.weight".to_owned(), vec![width]));
        shapes.push(("norm.bias".to_owned(), vec![width]));
        if self.summary == Summary::Attention {
            shapes.push(("pooling.queries".to_owned(), vec![1, width]));
        }
        shapes.push(("output.weight".to_owned(), vec![width, self.classes]));
        shapes.push(("output.bias".to_owned(), vec![self.classes]));
        shapes
    }

    fn layer_shapes(&self, layer: usize) -> Vec<(String, Vec<usize>)> {
        let (width, inner) = (self.width, self.feed_forward);
        let mut shapes = Vec::new();
        let mut add = |name: &str, weight: Vec<usize>| {
            let bias = vec![weight[weight.len() - 1]];
            shapes.push((format!("encoder.{layer}.{name}.weight"), weight));
            shapes.push((format!("encoder.{layer}.{name}.bias"), bias));
        };
        add("attention_norm", vec![width]);
        for part in ["query", "key", "value", "output"] {
            add(&format!("attention.{part}"), vec![width, width]);
        }
        add("feed_forward_norm", vec![width]);
        add("feed_forward.inner", vec![width, inner]);
        add("feed_forward.outer", vec![inner, width]);
        shapes
    }

    /// Floating-point operations to answer one picture: two for each multiply-add of the matrix products and the attention.
    pub fn operations(&self) -> u64 {
        let mut sides = [self.picture_height, self.picture_width];
        let mut operations = 0;
        for [inputs, outputs] in self.cut.shapes(self.channels, self.width) {
            let windows = match self.cut {
                Cut::Patches { .. } => self.cut.grid(sides),
                Cut::Convolution { .. } => sides,
            };
            operations += 2 * (windows[0] * windows[1] * inputs * outputs) as u64;
            if matches!(self.cut, Cut::Convolution { .. }) {
                sides = Cut::Convolution { layers: 1 }.grid(sides);
            }
        }
        let [rows, columns] = self.grid();
        let tokens = (rows * columns + usize::from(self.summary == Summary::ClassToken)) as u64;
        let [width, inner] = [self.width, self.feed_forward].map(|count| count as u64);
        let layer =
            2 * tokens * (4 * width * width + 2 * width * inner) + 4 * tokens * tokens * width;
        operations
            + self.layers as u64 * layer
            + 4 * tokens * width
            + 2 * width * self.classes as u64
    }
}
