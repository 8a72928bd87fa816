//! Everything a user can turn. What is not set is inferred from the data, and said aloud.

use regard_nn::models::vision_transformer::{Positions, Summary, VisionTransformerConfig};
use serde::{Deserialize, Serialize};

use crate::limits::{count, positive, share};
use crate::trainer::Optimizer;
use crate::{Error, Result};

/// Settings of a training run; `None` = inferred.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Sizes by name: `tiny`, `small`, `medium` or `vit-tiny`.
    pub size: Option<String>,
    /// Rows of pixels that the model reads.
    pub picture_height: Option<usize>,
    /// Columns of pixels that the model reads.
    pub picture_width: Option<usize>,
    /// 1 reads pictures as grey, 3 in colour.
    pub channels: Option<usize>,
    /// Halvings of the picture by the convolutional tokenizer.
    pub convolutions: Option<usize>,
    /// Side of plain patches, instead of the convolutional tokenizer.
    pub patch: Option<usize>,
    /// How a place is told from another: `learned` vectors, or `sinusoidal` ones of row and column.
    pub positions: Option<Positions>,
    /// What the answer is read from: the places summed up by `attention`, a `class_token`, or the `mean`.
    pub summary: Option<Summary>,
    /// Numbers in the vector of a place.
    pub width: Option<usize>,
    /// Encoder layers.
    pub layers: Option<usize>,
    /// Attention heads of a layer.
    pub heads: Option<usize>,
    /// Width of the feed-forward part.
    pub feed_forward: Option<usize>,
    /// Share of activations dropped in training.
    pub dropout: Option<f64>,
    /// Share of pictures that skip a part of the last layer in training.
    pub stochastic_depth: Option<f64>,
    /// Pixels by which a picture is moved at random in training, at most.
    pub shift: Option<usize>,
    /// Pictures are mirrored at random in training.
    pub flip: Option<bool>,
    /// Smallest share of a picture that is taken for the whole in training; 1 = no crop.
    pub crop: Option<f64>,
    /// Share of pictures that are changed in one of twelve ways in training: turned, slanted, scaled, or changed in light,
    /// colours or detail.
    pub distort: Option<f64>,
    /// Share of pictures of which a rectangle is hidden in training.
    pub erase: Option<f64>,
    /// Share of batches in which pictures are mixed in pairs in training (mixup and cutmix).
    pub mix: Option<f64>,
    /// Probability taken from the true label and spread over all.
    pub label_smoothing: Option<f64>,
    /// `muon` for the matrices inside the network, or `adamw` for every parameter.
    pub optimizer: Option<Optimizer>,
    /// Highest learning rate.
    pub learning_rate: Option<f64>,
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
    /// Pictures in a batch.
    pub batch_rows: Option<usize>,
    /// Share of the pictures held out when no validation part is given.
    pub validation_share: Option<f64>,
    /// MiB of memory for decoded pictures; what does not fit is decoded again beside the steps. Unset = half of what is free.
    pub memory_mib: Option<usize>,
    /// Steps between two checkpoints; unset = every 20 seconds.
    pub checkpoint_steps: Option<u64>,
}

impl Settings {
    /// Refuses what cannot be meant, naming the setting, what was found and what is expected.
    pub fn check(&self) -> Result<()> {
        let sizes = VisionTransformerConfig::PRESETS;
        if let Some(size) = &self.size
            && !sizes.contains(&size.as_str())
        {
            return Err(Error::setting("size", size, sizes.join(", ")));
        }
        if let Some(channels) = self.channels
            && channels != 1
            && channels != 3
        {
            return Err(Error::setting("channels", channels, "1 or 3"));
        }
        for (name, value) in [
            ("dropout", self.dropout),
            ("stochastic_depth", self.stochastic_depth),
            ("label_smoothing", self.label_smoothing),
            ("warmup", self.warmup),
            ("average", self.average),
        ] {
            share(name, value, 1.0)?;
        }
        for (name, value) in [
            ("distort", self.distort),
            ("erase", self.erase),
            ("mix", self.mix),
        ] {
            share(name, value, 1.0 + f64::EPSILON)?;
        }
        if let Some(crop) = self.crop
            && !(0.05..=1.0).contains(&crop)
        {
            return Err(Error::setting("crop", crop, "0.05 to 1"));
        }
        share("weight_decay", self.weight_decay, 1e3)?;
        share("validation_share", self.validation_share, 0.9)?;
        count("picture_height", self.picture_height, 4, 1024)?;
        count("picture_width", self.picture_width, 4, 1024)?;
        count("convolutions", self.convolutions, 1, 8)?;
        count("patch", self.patch, 1, 256)?;
        count("width", self.width, 4, 8192)?;
        count("layers", self.layers, 0, 64)?;
        count("heads", self.heads, 1, 128)?;
        count("feed_forward", self.feed_forward, 1, 65_536)?;
        count("shift", self.shift, 0, 256)?;
        count("epochs", self.epochs, 1, 100_000)?;
        count("patience", self.patience, 1, 100_000)?;
        count("batch_rows", self.batch_rows, 1, 65_536)?;
        count("memory_mib", self.memory_mib, 0, 1 << 24)?;
        positive("learning_rate", self.learning_rate)?;
        positive("clip_norm", self.clip_norm)
    }
}
