//! Sizes of a sequence-to-sequence model.

use serde::{Deserialize, Serialize};

use crate::ConfigError;
use crate::layers::MultiHeadConfig;

/// Sizes of a [`SequenceToSequence`](super::SequenceToSequence).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SequenceToSequenceConfig {
    /// Rows of the table of vectors. The last is the end of a text, which also stands before a target's first token.
    pub vocabulary: usize,
    /// Rows of a table that the sources have for themselves; `None` = one table for both sides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_vocabulary: Option<usize>,
    /// What is written may be copied from the source (a [`Pointer`](super::Pointer)).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub pointer: bool,
    /// Length of the vectors.
    pub width: usize,
    /// Heads of every attention; they divide the width.
    pub heads: usize,
    /// Layers that read the source.
    pub encoder_layers: usize,
    /// Layers that write the target.
    pub decoder_layers: usize,
    /// Inner length of each feed-forward part.
    pub feed_forward: usize,
    /// Tokens of a source that are read.
    pub max_source: usize,
    /// Tokens of a target that are learned from, and written.
    pub max_target: usize,
    /// Probability that an element of a vector is dropped, before the layers and after each of their parts.
    pub dropout: f64,
}

/// Parameters of the largest model.
const MOST_PARAMETERS: usize = 1 << 30;

impl SequenceToSequenceConfig {
    /// The sizes of that name: `tiny` (2.4 M parameters with a vocabulary of 8,000), `small` (8.4 M) or `base` (27.9 M).
    pub fn preset(name: &str) -> Option<Self> {
        let (width, heads, layers, feed_forward) = match name {
            "tiny" => (128, 4, 3, 512),
            "small" => (256, 4, 4, 768),
            "base" => (384, 6, 6, 1536),
            _ => return None,
        };
        Some(Self {
            vocabulary: 8000,
            source_vocabulary: None,
            pointer: false,
            width,
            heads,
            encoder_layers: layers,
            decoder_layers: layers,
            feed_forward,
            max_source: 256,
            max_target: 256,
            dropout: 0.1,
        })
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
        between("vocabulary", self.vocabulary, 3, 1 << 24)?;
        let source = self.source_vocabulary.unwrap_or(self.vocabulary);
        between("source_vocabulary", source, 2, 1 << 24)?;
        if self.pointer && self.source_vocabulary.is_some() {
            let expected = "false: pieces can be copied where both sides have one vocabulary";
            return Err(ConfigError::new("pointer", true, expected));
        }
        between("width", self.width, 2, 1 << 13)?;
        between("encoder_layers", self.encoder_layers, 0, 1 << 8)?;
        between("decoder_layers", self.decoder_layers, 1, 1 << 8)?;
        between("feed_forward", self.feed_forward, 1, 1 << 16)?;
        between("max_source", self.max_source, 1, 1 << 16)?;
        between("max_target", self.max_target, 1, 1 << 16)?;
        MultiHeadConfig::new(self.width, self.heads).validate()?;
        if !(0.0..1.0).contains(&self.dropout) {
            return Err(ConfigError::new(
                "dropout",
                self.dropout,
                "at least 0 and less than 1",
            ));
        }
        let parameters: usize = self
            .parameter_shapes()
            .iter()
            .map(|(_, shape)| shape.iter().product::<usize>())
            .sum();
        if parameters > MOST_PARAMETERS {
            let expected = format!("sizes of at most {MOST_PARAMETERS} parameters");
            return Err(ConfigError::new("parameters", parameters, expected));
        }
        Ok(())
    }

    /// Path and shape of every parameter of the model, without building it.
    pub fn parameter_shapes(&self) -> Vec<(String, Vec<usize>)> {
        let width = self.width;
        let mut shapes = vec![("tokens.weight".to_owned(), vec![self.vocabulary, width])];
        let of_source = |rows| ("source_tokens.weight".to_owned(), vec![rows, width]);
        shapes.extend(self.source_vocabulary.map(of_source));
        let norm = |shapes: &mut Vec<_>, path: String| {
            shapes.push((format!("{path}.weight"), vec![width]));
            shapes.push((format!("{path}.bias"), vec![width]));
        };
        let linear = |shapes: &mut Vec<_>, path: String, inputs: usize, outputs: usize| {
            shapes.push((format!("{path}.weight"), vec![inputs, outputs]));
            shapes.push((format!("{path}.bias"), vec![outputs]));
        };
        let attention = |shapes: &mut Vec<_>, path: String| {
            for part in ["query", "key", "value", "output"] {
                linear(shapes, format!("{path}.{part}"), width, width);
            }
        };
        let feed_forward = |shapes: &mut Vec<_>, path: String| {
            norm(shapes, format!("{path}.feed_forward_norm"));
            linear(
                shapes,
                format!("{path}.feed_forward.inner"),
                width,
                self.feed_forward,
            );
            linear(
                shapes,
                format!("{path}.feed_forward.outer"),
                self.feed_forward,
                width,
            );
        };
        for layer in 0..self.encoder_layers {
            let path = format!("encoder.{layer}");
            norm(&mut shapes, format!("{path}.attention_norm"));
            attention(&mut shapes, format!("{path}.attention"));
            feed_forward(&mut shapes, path);
        }
        norm(&mut shapes, "encoder_norm".to_owned());
        for layer in 0..self.decoder_layers {
            let path = format!("decoder.{layer}");
            for part in ["self", "source"] {
                norm(&mut shapes, format!("{path}.{part}_norm"));
                attention(&mut shapes, format!("{path}.{part}_attention"));
            }
            feed_forward(&mut shapes, path);
        }
        norm(&mut shapes, "decoder_norm".to_owned());
        if self.pointer {
            linear(&mut shapes, "pointer.query".to_owned(), width, width);
            linear(&mut shapes, "pointer.key".to_owned(), width, width);
            linear(&mut shapes, "pointer.gate".to_owned(), width, 1);
        }
        shapes
    }

    /// Multiplications and additions of reading `source` tokens and writing `target` tokens.
    pub fn operations(&self, source: usize, target: usize) -> u64 {
        let (width, inner) = (self.width as u64, self.feed_forward as u64);
        let (source, target) = (source as u64, target as u64);
        let square = 8 * width * width;
        let feed_forward = 4 * width * inner;
        let read = source * (square + feed_forward + 4 * source * width);
        let write = target * (2 * square + feed_forward + 2 * target * width + 4 * source * width);
        self.encoder_layers as u64 * read
            + self.decoder_layers as u64 * write
            + target * 2 * width * self.vocabulary as u64
    }
}
