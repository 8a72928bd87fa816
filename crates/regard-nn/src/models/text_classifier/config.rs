//! Sizes of a text classifier, checked before anything is allocated.

use serde::{Deserialize, Serialize};

use crate::ConfigError;
use crate::layers::MultiHeadConfig;

/// How ambitious the model is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// The mean of the words' vectors: no attention, the baseline.
    Mean,
    /// A learned query weighs the words.
    Pooling,
    /// Self-attention between the words, then the same pooling.
    Transformer,
}

impl Kind {
    /// As it is written in a configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::Mean => "mean",
            Self::Pooling => "pooling",
            Self::Transformer => "transformer",
        }
    }
}

/// Everything needed to build a [`TextClassifier`](super::TextClassifier).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TextClassifierConfig {
    /// How ambitious the model is.
    pub kind: Kind,
    /// Tokens; 0 is the padding.
    pub vocabulary: usize,
    /// Rows for hashed word pairs; 0 = none.
    pub bigram_buckets: usize,
    /// Labels.
    pub classes: usize,
    /// Length of the vectors.
    pub width: usize,
    /// Encoder layers (`transformer`).
    pub layers: usize,
    /// Heads of each encoder layer; they divide the width (`transformer`).
    pub heads: usize,
    /// Inner length of each feed-forward part (`transformer`).
    pub feed_forward: usize,
    /// Learned queries (`pooling` and `transformer`).
    pub pooling_heads: usize,
    /// Tokens of a text that are read.
    pub max_tokens: usize,
    /// Probability that an element of the pooled vector is dropped; half of it for the words' vectors and for the outputs of
    /// an encoder layer's parts.
    pub dropout: f64,
}

/// Parameters of the largest model: 2³⁰ numbers are 4 GiB, and training needs four times that.
const MOST_PARAMETERS: usize = 1 << 30;

impl TextClassifierConfig {
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
        // Each at most 2³⁰: products of two of them fit 64 bits, and more are checked below.
        between("vocabulary", self.vocabulary, 2, 1 << 30)?;
        between("bigram_buckets", self.bigram_buckets, 0, 1 << 30)?;
        between("classes", self.classes, 1, 1 << 20)?;
        between("width", self.width, 1, 1 << 16)?;
        between("max_tokens", self.max_tokens, 1, 1 << 20)?;
        between("pooling_heads", self.pooling_heads, 1, 1 << 10)?;
        between("layers", self.layers, 0, 1 << 10)?;
        between("feed_forward", self.feed_forward, 1, 1 << 20)?;
        if !(0.0..1.0).contains(&self.dropout) {
            return Err(ConfigError::new(
                "dropout",
                self.dropout,
                "at least 0 and less than 1",
            ));
        }
        if self.kind == Kind::Transformer {
            MultiHeadConfig {
                rotary: true,
                ..MultiHeadConfig::new(self.width, self.heads)
            }
            .validate()?;
        }
        // Layers are alike: their parameters are counted, not listed.
        let layers = if self.kind == Kind::Transformer {
            self.layers
        } else {
            0
        };
        let sum = |shapes: &[(String, Vec<usize>)]| {
            shapes.iter().try_fold(0_usize, |sum, (_, shape)| {
                let size = shape
                    .iter()
                    .try_fold(1_usize, |size, length| size.checked_mul(*length))?;
                sum.checked_add(size)
            })
        };
        let mut around = self.clone();
        around.layers = 0;
        let all = sum(&around.parameter_shapes())
            .zip(sum(&self.layer_shapes(0)).and_then(|layer| layer.checked_mul(layers)))
            .and_then(|(around, layers)| around.checked_add(layers));
        match all {
            Some(all) if all <= MOST_PARAMETERS => Ok(()),
            all => {
                let found = all.map_or("more than 2⁶⁴".to_owned(), |all| all.to_string());
                let expected = format!(
                    "at most {MOST_PARAMETERS} (vocabulary, bigram_buckets and width decide)"
                );
                Err(ConfigError::new("number of parameters", found, expected))
            }
        }
    }

    /// Path and shape of every parameter of the model, in its order, without building it. Meaningful for a
    /// configuration that [`validate`](Self::validate) accepts.
    pub fn parameter_shapes(&self) -> Vec<(String, Vec<usize>)> {
        let width = self.width;
        let mut shapes = vec![("tokens.weight".to_owned(), vec![self.vocabulary, width])];
        if self.bigram_buckets > 0 {
            shapes.push((
                "bigrams.weight".to_owned(),
                vec![self.bigram_buckets, width],
            ));
        }
        if self.kind == Kind::Transformer {
            (0..self.layers).for_each(|layer| shapes.extend(self.layer_shapes(layer)));
        }
        if self.kind != Kind::Mean {
            shapes.push((
                "pooling.attention.queries".to_owned(),
                vec![self.pooling_heads, width],
            ));
            shapes.push(("pooling.mix".to_owned(), vec![self.pooling_heads, width]));
        }
        shapes.push(("norm.weight".to_owned(), vec![width]));
        shapes.push(("norm.bias".to_owned(), vec![width]));
        shapes.push(("output.weight".to_owned(), vec![width, self.classes]));
        shapes.push(("output.bias".to_owned(), vec![self.classes]));
        shapes
    }

    fn layer_shapes(&self, layer: usize) -> Vec<(String, Vec<usize>)> {
        let (width, inner) = (self.width, self.feed_forward);
        let named = |name: &str, shape: Vec<usize>| (format!("encoder.{layer}.{name}"), shape);
        let norm = |name: &str| {
            [
                named(&format!("{name}.weight"), vec![width]),
                named(&format!("{name}.bias"), vec![width]),
            ]
        };
        let linear = |name: &str, inputs, outputs| {
            [
                named(&format!("{name}.weight"), vec![inputs, outputs]),
                named(&format!("{name}.bias"), vec![outputs]),
            ]
        };
        [
            norm("attention_norm"),
            linear("attention.query", width, width),
            linear("attention.key", width, width),
            linear("attention.value", width, width),
            linear("attention.output", width, width),
            norm("feed_forward_norm"),
            linear("feed_forward.inner", width, inner),
            linear("feed_forward.outer", inner, width),
        ]
        .concat()
    }

    /// Floating-point operations to answer a text of that many tokens: two for each multiply-add of the matrix products
    /// and of the attention.
    pub fn operations(&self, tokens: usize) -> u64 {
        let [n, width, inner] = [tokens, self.width, self.feed_forward].map(|count| count as u64);
        let tables = if self.bigram_buckets > 0 { 2 } else { 1 };
        let layer = 2 * n * (4 * width * width + 2 * width * inner) + 4 * n * n * width;
        let layers = if self.kind == Kind::Transformer {
            self.layers as u64 * layer
        } else {
            0
        };
        let pooling = match self.kind {
            Kind::Mean => n * width,
            _ => 4 * n * width * self.pooling_heads as u64,
        };
        tables * n * width + layers + pooling + 2 * width * self.classes as u64
    }
}
