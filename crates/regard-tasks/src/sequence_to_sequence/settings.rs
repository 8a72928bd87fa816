//! What a user may set; everything unset is inferred from the data.

use serde::{Deserialize, Serialize};

use crate::limits::{count, positive, share};
use crate::trainer::{Optimizer, Schedule};
use crate::{Error, Result};

/// Settings of a training run; `None` = inferred.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Sizes by name: `tiny`, `small` or `base`.
    pub size: Option<String>,
    /// Most pieces of the vocabulary, or of each of the two.
    pub vocabulary: Option<usize>,
    /// `true` = a vocabulary for each side, for scripts that share nothing; `false` = one for both.
    pub separate_vocabularies: Option<bool>,
    /// Probability that a merge of a byte pair is left out whenever a text is learned from (BPE-dropout): 0.1 is usual,
    /// 0 = always the same pieces.
    pub bpe_dropout: Option<f64>,
    /// `true` = pieces of the source can be copied, which takes one vocabulary for both sides; unset = for summaries.
    pub pointer: Option<bool>,
    /// Numbers in the vector of a piece.
    pub width: Option<usize>,
    /// Attention heads of a layer.
    pub heads: Option<usize>,
    /// Layers that read the source.
    pub encoder_layers: Option<usize>,
    /// Layers that write the target.
    pub decoder_layers: Option<usize>,
    /// Width of the feed-forward layers.
    pub feed_forward: Option<usize>,
    /// Pieces of a source that are read.
    pub max_source: Option<usize>,
    /// Pieces of a target that are learned from and written.
    pub max_target: Option<usize>,
    /// Share of activations dropped in training.
    pub dropout: Option<f64>,
    /// Probability taken from the true piece and spread over all.
    pub label_smoothing: Option<f64>,
    /// `muon` for the matrices inside the network, or `adamw` for every parameter.
    pub optimizer: Option<Optimizer>,
    /// Highest learning rate.
    pub learning_rate: Option<f64>,
    /// How the learning rate falls after it rose: `cosine`, to 0 at the end of the run, or `inverse-sqrt`.
    pub schedule: Option<Schedule>,
    /// Share of the run in which the learning rate rises.
    pub warmup: Option<f64>,
    /// How much of an average of the weights is kept from step to step, for example 0.999; 0 = no average.
    pub average: Option<f64>,
    /// Decoupled weight decay.
    pub weight_decay: Option<f64>,
    /// Longest gradient.
    pub clip_norm: Option<f64>,
    /// Passes over the data at most.
    pub epochs: Option<usize>,
    /// Epochs without improvement before training stops.
    pub patience: Option<usize>,
    /// Pieces in a batch at most, on the longer side, padding included.
    pub batch_tokens: Option<usize>,
    /// Share of the pairs held out when no validation file is given.
    pub validation_share: Option<f64>,
    /// Steps between two checkpoints; unset = every 20 seconds.
    pub checkpoint_steps: Option<u64>,
}

impl Settings {
    /// Refuses what cannot be meant, naming the setting, what was found and what is expected.
    pub fn check(&self) -> Result<()> {
        if let Some(size) = &self.size
            && !["tiny", "small", "base"].contains(&size.as_str())
        {
            return Err(Error::setting("size", size, "tiny, small or base"));
        }
        if self.pointer == Some(true) && self.separate_vocabularies == Some(true) {
            let expected =
                "false, or separate_vocabularies=false: copied pieces are of one vocabulary";
            return Err(Error::setting("pointer", true, expected));
        }
        share("dropout", self.dropout, 1.0)?;
        share("label_smoothing", self.label_smoothing, 1.0)?;
        share("average", self.average, 1.0)?;
        share("bpe_dropout", self.bpe_dropout, 1.0)?;
        share("warmup", self.warmup, 1.0)?;
        if self.schedule == Some(Schedule::InverseSqrt) && self.warmup == Some(0.0) {
            let expected = "a share above 0: the schedule inverse-sqrt begins where it ends";
            return Err(Error::setting("warmup", 0.0, expected));
        }
        share("weight_decay", self.weight_decay, 1e3)?;
        share("validation_share", self.validation_share, 0.9)?;
        count("vocabulary", self.vocabulary, 300, 1_000_000)?;
        count("width", self.width, 2, 8192)?;
        count("heads", self.heads, 1, 128)?;
        count("encoder_layers", self.encoder_layers, 0, 64)?;
        count("decoder_layers", self.decoder_layers, 1, 64)?;
        count("feed_forward", self.feed_forward, 1, 65_536)?;
        count("max_source", self.max_source, 1, 1 << 14)?;
        count("max_target", self.max_target, 1, 1 << 14)?;
        count("epochs", self.epochs, 1, 100_000)?;
        count("patience", self.patience, 1, 100_000)?;
        count("batch_tokens", self.batch_tokens, 1, 1 << 24)?;
        positive("learning_rate", self.learning_rate)?;
        positive("clip_norm", self.clip_norm)
    }
}
