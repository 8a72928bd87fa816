//! A run that begins with the weights of a model folder instead of random ones: the model's sizes are taken over, its pictures
//! may have another size, its labels may be others.

use std::path::Path;

use burn::tensor::Device;
use regard_nn::models::vision_transformer::{VisionTransformer, VisionTransformerConfig};
use regard_nn::parameters;
use sha2::{Digest, Sha256};

use super::augment::Shape;
use super::config::{Config, assemble, without_attention};
use super::{ImageClassifier, Settings};
use crate::tables::hexadecimal;
use crate::{Error, Result, Task};

/// What a run begins with.
pub(super) struct Start {
    config: Config,
    labels: Vec<String>,
    model: VisionTransformer,
    /// Where the rival without attention begins; none where the folder has none.
    rival: Option<VisionTransformer>,
    /// SHA-256 of the weights: a run is only resumed with the same ones.
    pub(super) fingerprint: String,
}

impl Start {
    /// Opens the folder and refuses settings of what is taken over from it.
    pub(super) fn open(folder: &Path, settings: &Settings) -> Result<Self> {
        let taken = [
            ("size", settings.size.is_some()),
            ("channels", settings.channels.is_some()),
            ("convolutions", settings.convolutions.is_some()),
            ("patch", settings.patch.is_some()),
            ("positions", settings.positions.is_some()),
            ("summary", settings.summary.is_some()),
            ("width", settings.width.is_some()),
            ("layers", settings.layers.is_some()),
            ("heads", settings.heads.is_some()),
            ("feed_forward", settings.feed_forward.is_some()),
        ];
        if let Some((name, _)) = taken.iter().find(|(_, set)| *set) {
            let expected = "nothing: it is that of the model in --start";
            return Err(Error::setting(*name, "a value", expected));
        }
        let (config, labels, model, rival) = ImageClassifier::open(folder)?.into_parts();
        let path = folder.join("model.safetensors");
        let bytes = std::fs::read(&path).map_err(|source| Error::read(&path, source))?;
        Ok(Self {
            config,
            labels,
            model,
            rival,
            fingerprint: hexadecimal(&Sha256::digest(&bytes)),
        })
    }

    /// The sides and channels that the pictures are read at: the model's, unless the settings say other sides.
    pub(super) fn shape(&self, settings: &Settings) -> Shape {
        let model = &self.config.model;
        Shape {
            height: settings.picture_height.unwrap_or(model.picture_height),
            width: settings.picture_width.unwrap_or(model.picture_width),
            channels: model.channels,
        }
    }

    /// What is taken over, in a sentence.
    pub(super) fn note(&self, folder: &Path, labels: &[String]) -> String {
        let last = match labels == self.labels {
            true => "all of it, the labels are the same",
            false => "all but the last map, as the labels are others",
        };
        let rival = match self.rival {
            Some(_) => "",
            None => "; it has no rival without attention, so none is trained",
        };
        format!(
            "begins with the weights of {}: {last}{rival}",
            folder.display()
        )
    }

    pub(super) fn config(&self) -> &Config {
        &self.config
    }

    pub(super) fn has_rival(&self) -> bool {
        self.rival.is_some()
    }

    /// `new`, a model of the same kind for labels and pictures of the run, with the old weights: learned positions are
    /// interpolated, and where the labels are others the last map is the new one.
    pub(super) fn with_weights(
        &self,
        new: VisionTransformer,
        config: &VisionTransformerConfig,
        labels: &[String],
        device: &Device,
    ) -> Result<VisionTransformer> {
        let is_rival = config.layers == 0 && self.config.model.layers > 0;
        let (old_config, old) = match &self.rival {
            Some(rival) if is_rival => (without_attention(&self.config.model), rival),
            _ => (self.config.model.clone(), &self.model),
        };
        let old = assemble(&old_config, parameters::collect(old), device)?;
        let resized = VisionTransformerConfig {
            classes: old_config.classes,
            ..config.clone()
        };
        let wrong = |error: regard_nn::ConfigError| {
            Error::argument("--start", error, "a model of the same kind")
        };
        let mut model = old.resized(&resized).map_err(wrong)?;
        if labels != self.labels {
            model.output = new.output;
        }
        Ok(model)
    }
}
