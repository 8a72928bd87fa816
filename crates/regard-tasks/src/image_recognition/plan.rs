//! Sizes, recipe and augmentation from the data. Everything decided here is decided once, said aloud, written down before
//! the first step, and taken from there when the run is resumed.

use regard_nn::layers::Cut;
use regard_nn::models::vision_transformer::VisionTransformerConfig;
use serde::{Deserialize, Serialize};

use super::augment::{Augment, Shape};
use super::config::Pixels;
use super::gallery::{Gallery, Part};
use super::start::Start;
use super::{Settings, TrainRequest};
use crate::report::FileFacts;
use crate::trainer::{Optimizer, Recipe, Schedule};
use crate::{Error, Precision, Result};

/// What a run does.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Plan {
    /// The pictures it was made for: a run is only resumed on the same ones.
    files: Vec<FileFacts>,
    /// SHA-256 of the weights that it begins with; none where they are random.
    #[serde(default)]
    start: Option<String>,
    pub(super) model: VisionTransformerConfig,
    pub(super) pixels: Pixels,
    pub(super) augment: Augment,
    pub(super) recipe: Recipe,
    pub(super) label_smoothing: f64,
    pub(super) batch_rows: usize,
    /// What was decided, in sentences.
    pub(super) notes: Vec<String>,
}

/// Places of a side at most after the halvings of the tokenizer: 7 of 28 pixels, 8 of 64.
const PLACES: usize = 8;
/// Pictures seen in a run, all epochs together: what a run on few and on many pictures has in common. On Fashion-MNIST 14
/// epochs.
const SEEN: usize = 800_000;

impl Plan {
    /// The settings the user gave, and the recipe for the rest (docs/benchmarks.md has the trials it comes from).
    pub(super) fn new(
        request: &TrainRequest,
        gallery: &Gallery,
        start: Option<&Start>,
    ) -> Result<Self> {
        let settings = &request.settings;
        let shape = gallery.train.shape;
        let rows = gallery.train.len();
        let preset = match start {
            Some(start) => start.config().model.clone(),
            None => preset_of(settings, shape)?,
        };
        let model = model_of(settings, &preset, shape, gallery.labels.len())?;
        let flip = Flip::measure(&gallery.train, gallery.labels.len())?;
        let epochs = settings.epochs.unwrap_or((SEEN / rows).clamp(12, 40));
        let augment = Augment {
            shift: settings
                .shift
                .unwrap_or(shape.height.min(shape.width).div_ceil(14)),
            flip: settings.flip.unwrap_or(flip.makes_sense()),
            crop: settings.crop.unwrap_or(1.0),
            distort: settings.distort.unwrap_or(0.0),
            erase: settings.erase.unwrap_or(0.0),
            mix: settings.mix.unwrap_or(0.0),
        };
        let mut notes = Vec::new();
        if let (Some(start), Some(folder)) = (start, &request.start) {
            notes.push(start.note(folder, &gallery.labels));
        }
        let [down, across] = model.grid();
        notes.push(format!(
            "the model reads {} × {} pixels in {} as {} places, {down} × {across} (--set picture_height=, picture_width=, channels=)",
            shape.height,
            shape.width,
            if shape.channels == 1 { "grey" } else { "colour" },
            down * across
        ));
        let said = if augment.flip { "are" } else { "are not" };
        notes.push(match settings.flip {
            Some(_) => format!("pictures {said} mirrored at random, as asked"),
            None => format!(
                "pictures {said} mirrored at random: the mean pictures of the classes recognise {:.1} % of them as they are and \
                 {:.1} % mirrored (--set flip=)",
                100.0 * flip.plain,
                100.0 * flip.mirrored
            ),
        });
        notes.push(format!(
            "width {}, {} layers of {} heads, at most {epochs} epochs (--set size=, epochs=)",
            model.width, model.layers, model.heads
        ));
        Ok(Self {
            files: gallery.facts.files.clone(),
            start: start.map(|start| start.fingerprint.clone()),
            model,
            // The weights know pixels on the scale that they were learned with.
            pixels: match start {
                Some(start) => start.config().pixels.clone(),
                None => Pixels::measure(&gallery.train)?,
            },
            augment,
            recipe: Recipe {
                optimizer: settings.optimizer.unwrap_or(Optimizer::Muon),
                schedule: Schedule::Cosine,
                learning_rate: settings.learning_rate.unwrap_or(3e-3),
                warmup: settings.warmup.unwrap_or(0.05),
                epochs,
                patience: settings.patience.unwrap_or(epochs.div_ceil(3).max(5)),
                average: settings.average.unwrap_or(0.0),
                weight_decay: settings.weight_decay.unwrap_or(0.05),
                clip_norm: settings.clip_norm.unwrap_or(1.0),
                seed: request.seed,
                precision: Precision::F32,
            },
            label_smoothing: settings.label_smoothing.unwrap_or(0.1),
            batch_rows: settings.batch_rows.unwrap_or(64),
            notes,
        })
    }

    /// The shape of the pictures that the model reads.
    pub(super) fn shape(&self) -> Shape {
        Shape {
            height: self.model.picture_height,
            width: self.model.picture_width,
            channels: self.model.channels,
        }
    }

    /// As many epochs as fit into the seconds.
    pub(super) fn fit_to_seconds(&mut self, seconds: f64, of_an_epoch: f64) -> Result<()> {
        let epochs = (seconds / of_an_epoch) as usize;
        if epochs == 0 {
            return Err(Error::argument(
                "--minutes",
                format!(
                    "too few: one epoch takes about {:.1} minutes here",
                    of_an_epoch / 60.0
                ),
                "more minutes, a smaller --set size=, or fewer pixels (--set picture_height=, picture_width=)",
            ));
        }
        self.recipe.epochs = epochs.min(200);
        self.recipe.patience = self.recipe.patience.max(self.recipe.epochs.div_ceil(3));
        self.notes.push(format!(
            "an epoch takes about {of_an_epoch:.0} s on this machine: {} epochs (--minutes)",
            self.recipe.epochs
        ));
        Ok(())
    }

    /// A run is only resumed on the pictures that it was made for, and from the weights that it began with.
    pub(super) fn check_same_data(&self, gallery: &Gallery, start: Option<&Start>) -> Result<()> {
        if self.start.as_ref() != start.map(|start| &start.fingerprint) {
            return Err(Error::argument(
                "--resume",
                "another --start than when the run began",
                "the same one",
            ));
        }
        if self.files != gallery.facts.files {
            return Err(Error::argument(
                "--resume",
                "other pictures or labels than when the run began",
                "the same pictures",
            ));
        }
        Ok(())
    }
}

/// The sizes by name, with a tokenizer that suits pictures of that shape.
fn preset_of(settings: &Settings, shape: Shape) -> Result<VisionTransformerConfig> {
    let size = settings.size.as_deref().unwrap_or("small");
    let preset = VisionTransformerConfig::preset(size)
        .ok_or_else(|| Error::setting("size", size, "a size by name"))?;
    let halvings = |mut side: usize| {
        let mut count = 1;
        side = side.div_ceil(2);
        while side > PLACES {
            side = side.div_ceil(2);
            count += 1;
        }
        count
    };
    let cut = match preset.cut {
        Cut::Patches { size } => Cut::Patches { size },
        Cut::Convolution { .. } => Cut::Convolution {
            layers: halvings(shape.height.max(shape.width)),
        },
    };
    Ok(VisionTransformerConfig { cut, ..preset })
}

/// The model of the settings for pictures of that shape; what they do not say is the preset's.
fn model_of(
    settings: &Settings,
    preset: &VisionTransformerConfig,
    shape: Shape,
    classes: usize,
) -> Result<VisionTransformerConfig> {
    let cut = match (settings.patch, settings.convolutions) {
        (Some(size), _) => Cut::Patches { size },
        (None, Some(layers)) => Cut::Convolution { layers },
        (None, None) => preset.cut,
    };
    let model = VisionTransformerConfig {
        picture_height: shape.height,
        picture_width: shape.width,
        channels: shape.channels,
        classes,
        cut,
        width: settings.width.unwrap_or(preset.width),
        layers: settings.layers.unwrap_or(preset.layers),
        heads: settings.heads.unwrap_or(preset.heads),
        feed_forward: settings.feed_forward.unwrap_or(preset.feed_forward),
        dropout: settings.dropout.unwrap_or(preset.dropout),
        stochastic_depth: settings.stochastic_depth.unwrap_or(preset.stochastic_depth),
        positions: settings.positions.unwrap_or(preset.positions),
        summary: settings.summary.unwrap_or(preset.summary),
    };
    model
        .validate()
        .map_err(|error| Error::setting(error.field, error.found, error.expected))?;
    Ok(model)
}

/// Whether a mirrored picture still shows what it showed, measured with the mean picture of each class: a mirrored shoe is
/// a shoe, a mirrored 3 is none.
#[derive(Debug)]
struct Flip {
    plain: f64,
    mirrored: f64,
}

/// Pictures that are tried.
const TRIED: usize = 2000;

impl Flip {
    fn measure(part: &Part, classes: usize) -> Result<Self> {
        let Shape {
            width, channels, ..
        } = part.shape;
        let mut means = vec![vec![0.0_f64; part.shape.len()]; classes];
        let mut counts = vec![0.0_f64; classes];
        part.each(0..part.len(), |row, picture| {
            let label = part.labels[row];
            counts[label] += 1.0;
            let mean = means[label].iter_mut().zip(picture);
            mean.for_each(|(mean, byte)| *mean += f64::from(*byte));
        })?;
        for (mean, count) in means.iter_mut().zip(&counts) {
            mean.iter_mut().for_each(|value| *value /= count.max(1.0));
        }
        let nearest = |picture: &[u8]| {
            let distance = |mean: &Vec<f64>| -> f64 {
                let pairs = mean.iter().zip(picture);
                pairs
                    .map(|(mean, byte)| (mean - f64::from(*byte)).powi(2))
                    .sum()
            };
            let distances: Vec<f64> = means.iter().map(distance).collect();
            (0..classes).min_by(|a, b| distances[*a].total_cmp(&distances[*b]))
        };
        let step = part.len().div_ceil(TRIED).max(1);
        let (mut plain, mut mirrored, mut tried) = (0, 0, 0);
        part.each((0..part.len()).step_by(step), |row, picture| {
            let rows = picture.chunks(width * channels);
            let turned: Vec<u8> = rows
                .flat_map(|row| row.chunks(channels).rev().flatten().copied())
                .collect();
            let label = Some(part.labels[row]);
            plain += usize::from(nearest(picture) == label);
            mirrored += usize::from(nearest(&turned) == label);
            tried += 1;
        })?;
        let share = |count: usize| count as f64 / f64::from(tried.max(1));
        Ok(Self {
            plain: share(plain),
            mirrored: share(mirrored),
        })
    }

    /// Three in four of those that were recognised are recognised mirrored, too: 84 % on Fashion-MNIST, whose shoes all point
    /// the same way, 39 % on digits.
    fn makes_sense(&self) -> bool {
        self.mirrored >= 0.75 * self.plain
    }
}
