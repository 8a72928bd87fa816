//! A vision transformer (Dosovitskiy et al. 2021) and its compact relative with a convolutional tokenizer and attention
//! pooling (Hassani et al. 2021).
//!
//! ```text
//! x      = dropout(patches(picture) + positions)          one vector for each place of the grid
//! x      = norm(encoder(x))
//! z      = Σ_i a_i x_i,  a = softmax_i(q · x_i)             or the class token, or the mean
//! logits = output(dropout(z))
//! ```

mod attention;
mod config;

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor, TensorData};

pub use attention::Attended;
pub use config::{Positions, Summary, VisionTransformerConfig};

use crate::layers::{
    EncoderLayer, EncoderLayerConfig, LayerNorm, LearnedPositions, Linear, MultiHeadConfig,
    PatchEmbedding, normal, sinusoidal_grid,
};
use crate::mechanisms::LearnedQuery;
use crate::{ConfigError, Noise, Sequences, parameters};

/// The model; see the [module](self).
#[derive(Module, Debug)]
pub struct VisionTransformer {
    /// From pixels to tokens.
    pub patches: PatchEmbedding,
    /// A learned vector for each place; none where positions are sinusoidal.
    pub positions: Option<LearnedPositions>,
    /// `[1, width]`, before the tokens; none where they are pooled.
    pub class_token: Option<Param<Tensor<2>>>,
    /// Layers of self-attention.
    pub encoder: Vec<EncoderLayer>,
    /// After the last layer.
    pub norm: LayerNorm,
    /// The learned query of the attention pooling.
    pub pooling: Option<LearnedQuery>,
    /// `width → classes`
    pub output: Linear,
    dropout: f64,
    #[module(skip)]
    grid: [usize; 2],
}

impl VisionTransformerConfig {
    /// A model whose numbers are a function of the configuration and the seed.
    ///
    /// # Errors
    ///
    /// As [`validate`](Self::validate).
    pub fn init(&self, seed: u64, device: &Device) -> Result<VisionTransformer, ConfigError> {
        self.validate()?;
        // Step u64::MAX is no step of training.
        let noise = &mut Noise::at(seed, u64::MAX);
        let grid = self.grid();
        let patches = PatchEmbedding::new(self.cut, self.channels, self.width, noise, device);
        let positions = (self.positions == Positions::Learned)
            .then(|| LearnedPositions::new(grid[0] * grid[1], self.width, noise, device));
        let class_token = (self.summary == Summary::ClassToken)
            .then(|| normal([1, self.width], 0.02, noise, device));
        let layer = |index: usize, noise: &mut Noise| {
            let depth = index as f64 / (self.layers - 1).max(1) as f64;
            let layer = EncoderLayerConfig {
                attention: MultiHeadConfig::new(self.width, self.heads),
                feed_forward: self.feed_forward,
                dropout: self.dropout,
                stochastic_depth: self.stochastic_depth * depth,
            };
            layer.init(noise, device)
        };
        let encoder = (0..self.layers)
            .map(|index| layer(index, noise))
            .collect::<Result<_, _>>()?;
        Ok(VisionTransformer {
            patches,
            positions,
            class_token,
            encoder,
            norm: LayerNorm::new(self.width, device),
            pooling: (self.summary == Summary::Attention)
                .then(|| LearnedQuery::new(1, self.width, 1.0, noise, device)),
            output: Linear::normal(self.width, self.classes, 0.02, noise, device),
            dropout: self.dropout,
            grid,
        })
    }
}

impl VisionTransformer {
    /// `[batch, height, width, channels]` → logits, `[batch, classes]`.
    ///
    /// # Panics
    ///
    /// If the pictures do not have the size the model was made for.
    pub fn forward(&self, pictures: Tensor<4>, noise: &mut Noise) -> Tensor<2> {
        let tokens = self.tokens(pictures, noise);
        let shape @ [batch, sequence, width] = tokens.dims();
        let sequences = Sequences::equal(batch, sequence);
        let x = tokens.reshape([batch * sequence, width]);
        let x = self
            .encoder
            .iter()
            .fold(x, |x, layer| layer.forward(x, &sequences, noise));
        self.classify(self.norm.forward(x).reshape(shape), noise)
    }

    /// Whether the parameter of that path is a matrix inside the network: of a layer, or of a convolution of what another
    /// convolution found. The first one reads pixels, the last map gives the classes, and positions are no map.
    pub fn is_hidden(parameter: &str) -> bool {
        let convolution = parameter.strip_prefix("patches.weights.");
        parameter.starts_with("encoder.") || convolution.is_some_and(|layer| layer != "0")
    }

    /// Rows and columns of tokens.
    pub fn grid(&self) -> [usize; 2] {
        self.grid
    }

    /// The same model for pictures of another size: learned positions are interpolated between their neighbours.
    ///
    /// # Errors
    ///
    /// When `config` is not valid, or has other parameters than this model, the number of positions aside.
    pub fn resized(self, config: &VisionTransformerConfig) -> Result<Self, ConfigError> {
        config.validate()?;
        let mine = parameters::shapes(&self).into_iter();
        for ((name, found), (expected_name, expected)) in mine.zip(config.parameter_shapes()) {
            if name != expected_name || (found != expected && name != "positions.weight") {
                let expected = format!("`{name}` of shape {found:?}, as the model has it");
                return Err(ConfigError::new(
                    "model",
                    format!("`{expected_name}`"),
                    expected,
                ));
            }
        }
        let grid = config.grid();
        let positions = self.positions.map(|positions| {
            let table = positions.weight.val();
            let device = table.device();
            let width = table.dims()[1];
            let old: Vec<f32> = table.inner().into_data().iter::<f32>().collect();
            let new = interpolated(&old, self.grid, grid, width);
            let data = TensorData::new(new, [grid[0] * grid[1], width]);
            LearnedPositions {
                weight: Param::from_data(data, &device),
            }
        });
        Ok(Self {
            positions,
            grid,
            ..self
        })
    }

    /// What the encoder sees: `[batch, tokens, width]`, the class token first.
    fn tokens(&self, pictures: Tensor<4>, noise: &mut Noise) -> Tensor<3> {
        let x = self.patches.forward(pictures);
        let [batch, tokens, width] = x.dims();
        let [rows, columns] = self.grid;
        assert_eq!(
            tokens,
            rows * columns,
            "pictures of another size than the model's"
        );
        let x = match &self.positions {
            Some(positions) => positions.forward(x),
            None => {
                let device = x.device().inner();
                x + sinusoidal_grid(self.grid, width, &device).unsqueeze()
            }
        };
        let x = match &self.class_token {
            Some(token) => {
                let token: Tensor<3> = token.val().unsqueeze();
                Tensor::cat(vec![token.expand([batch, 1, width]), x], 1)
            }
            None => x,
        };
        noise.dropout(x, self.dropout)
    }

    /// From the normed tokens to logits.
    fn classify(&self, x: Tensor<3>, noise: &mut Noise) -> Tensor<2> {
        let z: Tensor<2> = match (&self.pooling, &self.class_token) {
            (Some(pooling), _) => pooling.forward(x, None).squeeze_dim(1),
            (None, Some(_)) => x.narrow(1, 0, 1).squeeze_dim(1),
            (None, None) => x.mean_dim(1).squeeze_dim(1),
        };
        self.output.forward(noise.dropout(z, self.dropout))
    }
}

/// A table of vectors on a grid, drawn over another grid: linear between the centres of four neighbours, constant beyond
/// the outermost.
fn interpolated(table: &[f32], from: [usize; 2], to: [usize; 2], width: usize) -> Vec<f32> {
    // The two neighbours of place `at`, and the share of the second.
    let between = |at: usize, axis: usize| {
        let place = (at as f64 + 0.5) * from[axis] as f64 / to[axis] as f64 - 0.5;
        let place = place.clamp(0.0, (from[axis] - 1) as f64);
        let first = place.floor() as usize;
        (first, (first + 1).min(from[axis] - 1), place.fract() as f32)
    };
    let mut out = Vec::with_capacity(to[0] * to[1] * width);
    for row in 0..to[0] {
        let (top, bottom, down) = between(row, 0);
        for column in 0..to[1] {
            let (left, right, across) = between(column, 1);
            let at =
                |row: usize, column: usize, c: usize| table[(row * from[1] + column) * width + c];
            out.extend((0..width).map(|c| {
                let above = at(top, left, c) * (1.0 - across) + at(top, right, c) * across;
                let below = at(bottom, left, c) * (1.0 - across) + at(bottom, right, c) * across;
                above * (1.0 - down) + below * down
            }));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::interpolated;

    #[test]
    fn interpolation_to_the_same_grid_changes_nothing_and_a_slope_stays_one() {
        let slope: Vec<f32> = (0..12).map(|at| (at % 4) as f32).collect();
        assert_eq!(interpolated(&slope, [3, 4], [3, 4], 1), slope);
        let wide = interpolated(&slope, [3, 4], [3, 8], 1);
        assert_eq!(wide[..8], [0.0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3.0]);
    }
}
