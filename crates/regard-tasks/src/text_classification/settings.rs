//! Everything a user can turn. What is not set is inferred from the data, and said aloud.

use serde::{Deserialize, Serialize};

use crate::Result;
use crate::limits::{count, positive, share};
use crate::tokenizer::Pieces;

/// How much of attention the model has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ModelKind {
    /// Chosen from the data and the time there is.
    #[default]
    Auto,
    /// Mean pooling, no attention: the baseline.
    Mean,
    /// Attention pooling with learned queries over word embeddings.
    Pooling,
    /// A Transformer encoder under the attention pooling.
    Transformer,
}

/// Settings of a training run; `None` = inferred.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// The kind of model: `auto`, `mean`, `pooling` or `transformer`.
    pub model: ModelKind,
    /// How a text is cut: `words`, `bpe` or `unigram`.
    pub pieces: Option<Pieces>,
    /// Most entries in the vocabulary.
    pub vocabulary: Option<usize>,
    /// Capital letters are folded.
    pub lowercase: Option<bool>,
    /// Rows of the table of hashed word pairs; 0 = none.
    pub bigram_buckets: Option<usize>,
    /// Tokens of a text that are read.
    pub max_tokens: Option<usize>,
    /// Numbers in the vector of a token.
    pub width: Option<usize>,
    /// Encoder layers.
    pub layers: Option<usize>,
    /// Attention heads of an encoder layer.
    pub heads: Option<usize>,
    /// Width of the encoder's feed-forward layer.
    pub feed_forward: Option<usize>,
    /// Learned queries of the attention pooling.
    pub pooling_heads: Option<usize>,
    /// Share of activations dropped in training.
    pub dropout: Option<f64>,
    /// Share of tokens left out of a text in training.
    pub word_dropout: Option<f64>,
    /// Probability taken from the true label and spread over all.
    pub label_smoothing: Option<f64>,
    /// Rare labels count as much as frequent ones.
    pub class_weights: Option<bool>,
    /// Highest learning rate.
    pub learning_rate: Option<f64>,
    /// Share of the run in which the learning rate rises.
    pub warmup: Option<f64>,
    /// Decoupled weight decay.
    pub weight_decay: Option<f64>,
    /// Longest gradient.
    pub clip_norm: Option<f64>,
    /// Passes over the data at most.
    pub epochs: Option<usize>,
    /// Epochs without improvement before training stops.
    pub patience: Option<usize>,
    /// Texts in a batch at most.
    pub batch_rows: Option<usize>,
    /// Tokens in a batch at most, padding included.
    pub batch_tokens: Option<usize>,
    /// Share of the rows held out when no validation file is given.
    pub validation_share: Option<f64>,
    /// Steps between two checkpoints; unset = every 20 seconds.
    pub checkpoint_steps: Option<u64>,
}

impl Settings {
    /// Refuses what cannot be meant, naming the setting, what was found and what is expected.
    pub fn check(&self) -> Result<()> {
        share("dropout", self.dropout, 1.0)?;
        share("word_dropout", self.word_dropout, 1.0)?;
        share("label_smoothing", self.label_smoothing, 1.0)?;
        share("warmup", self.warmup, 1.0)?;
        share("weight_decay", self.weight_decay, 1e3)?;
        share("validation_share", self.validation_share, 0.9)?;
        count("vocabulary", self.vocabulary, 16, 1_000_000)?;
        count("bigram_buckets", self.bigram_buckets, 0, 1 << 22)?;
        count("max_tokens", self.max_tokens, 1, 1 << 20)?;
        count("width", self.width, 1, 8192)?;
        count("layers", self.layers, 0, 64)?;
        count("heads", self.heads, 1, 128)?;
        count("feed_forward", self.feed_forward, 1, 65_536)?;
        count("pooling_heads", self.pooling_heads, 1, 128)?;
        count("epochs", self.epochs, 1, 100_000)?;
        count("patience", self.patience, 1, 100_000)?;
        count("batch_rows", self.batch_rows, 1, 65_536)?;
        count("batch_tokens", self.batch_tokens, 1, 1 << 24)?;
        positive("learning_rate", self.learning_rate)?;
        positive("clip_norm", self.clip_norm)
    }
}
