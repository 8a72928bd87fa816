//! `config.json` of the model folder, and the model that it describes.

use burn::module::Module;
use burn::tensor::Device;
use regard_nn::models::vision_transformer::{Summary, VisionTransformer, VisionTransformerConfig};
use regard_nn::parameters::{self, NamedTensor};
use serde::{Deserialize, Serialize};

use super::gallery::Part;
use crate::{Error, Result};

/// The prefix in the model file of the same model without attention.
pub(super) const WITHOUT_ATTENTION: &str = "without_attention.";

/// `config.json`: everything to rebuild the model and its preprocessing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Config {
    pub(super) model: VisionTransformerConfig,
    pub(super) pixels: Pixels,
    /// The weights of the rival without attention are in the file too, for the comparison.
    pub(super) without_attention: bool,
    /// How often each label was in the training part, in the order of the labels.
    pub(super) label_counts: Vec<usize>,
}

/// How a pixel becomes numbers: `(byte / 255 − mean) / deviation`, channel by channel, measured on the training part.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Pixels {
    pub(super) mean: Vec<f32>,
    pub(super) deviation: Vec<f32>,
}

impl Pixels {
    /// Mean and standard deviation of each channel.
    pub(super) fn measure(part: &Part) -> Result<Self> {
        let channels = part.shape.channels;
        let mut counts = vec![[0_u64; 256]; channels];
        part.each(0..part.len(), |_, picture| {
            for pixel in picture.chunks(channels) {
                for (counts, byte) in counts.iter_mut().zip(pixel) {
                    counts[usize::from(*byte)] += 1;
                }
            }
        })?;
        let moments = |counts: &[u64; 256]| {
            let all = counts.iter().sum::<u64>().max(1) as f64;
            let values = || {
                counts
                    .iter()
                    .zip(0..)
                    .map(|(count, byte)| (*count as f64, f64::from(byte) / 255.0))
            };
            let mean = values().map(|(count, value)| count * value).sum::<f64>() / all;
            let square = |(count, value): (f64, f64)| count * (value - mean).powi(2);
            let variance = values().map(square).sum::<f64>() / all;
            (mean as f32, variance.sqrt() as f32)
        };
        let (mean, deviation) = counts.iter().map(moments).unzip();
        Ok(Self { mean, deviation })
    }

    /// Factor and offset of each channel: `byte · factor + offset`. A channel that never changes is only centred.
    pub(super) fn map(&self) -> Vec<(f32, f32)> {
        let line = |(mean, deviation): (&f32, &f32)| {
            let deviation = if *deviation > 0.0 { *deviation } else { 1.0 };
            (1.0 / (255.0 * deviation), -mean / deviation)
        };
        self.mean.iter().zip(&self.deviation).map(line).collect()
    }

    fn fits(&self, channels: usize) -> bool {
        let good = |values: &[f32]| {
            values.len() == channels && values.iter().all(|value| (0.0..=1.0).contains(value))
        };
        good(&self.mean) && good(&self.deviation)
    }
}

impl Config {
    /// Whether the parts fit together; what does not, in words.
    pub(super) fn check(&self, labels: usize) -> std::result::Result<(), String> {
        self.model.validate().map_err(|error| error.to_string())?;
        if !self.pixels.fits(self.model.channels) {
            let channels = self.model.channels;
            return Err(format!(
                "means and deviations that are not {channels} numbers of 0 to 1"
            ));
        }
        let (classes, counts) = (self.model.classes, self.label_counts.len());
        if labels != classes || counts != classes {
            return Err(format!(
                "{classes} classes for {labels} labels and {counts} label counts"
            ));
        }
        Ok(())
    }

    /// Name and shape of every tensor that the weights must have.
    pub(super) fn shapes(&self) -> Vec<(String, Vec<usize>)> {
        let mut shapes = self.model.parameter_shapes();
        if self.without_attention {
            let prefixed = |(name, shape)| (format!("{WITHOUT_ATTENTION}{name}"), shape);
            let rival = without_attention(&self.model).parameter_shapes();
            shapes.extend(rival.into_iter().map(prefixed));
        }
        shapes
    }
}

/// The same model with nothing of attention in it: the same tokens, normed and averaged.
pub(super) fn without_attention(model: &VisionTransformerConfig) -> VisionTransformerConfig {
    VisionTransformerConfig {
        layers: 0,
        summary: Summary::Mean,
        ..model.clone()
    }
}

/// Rebuilds a model from its weights, on any device.
pub(super) fn assemble(
    config: &VisionTransformerConfig,
    tensors: Vec<NamedTensor>,
    device: &Device,
) -> Result<VisionTransformer> {
    let wrong =
        |error: String| Error::argument("the weights", error, "those of the model in config.json");
    let model = config
        .init(0, device)
        .map_err(|error| wrong(error.to_string()))?;
    let model = parameters::load(model, tensors).map_err(|error| wrong(error.to_string()))?;
    Ok(if device.is_autodiff() {
        model
    } else {
        model.valid()
    })
}

#[cfg(test)]
mod tests {
    use super::Pixels;
    use crate::image_recognition::augment::Shape;
    use crate::image_recognition::gallery::Part;

    #[test]
    fn measured_pixels_have_mean_zero_and_deviation_one() {
        let pixels: Vec<u8> = (0..=255)
            .flat_map(|byte| [byte, 255 - byte / 2, 9])
            .collect();
        let shape = Shape {
            height: 16,
            width: 16,
            channels: 3,
        };
        let part = Part::of(shape, pixels.clone(), 1);
        let map = Pixels::measure(&part).expect("they are in memory").map();
        for (channel, (factor, offset)) in map.into_iter().enumerate() {
            let values: Vec<f32> = pixels
                .iter()
                .skip(channel)
                .step_by(3)
                .map(|byte| f32::from(*byte) * factor + offset)
                .collect();
            let mean = values.iter().sum::<f32>() / 256.0;
            let variance = values.iter().map(|value| value * value).sum::<f32>() / 256.0;
            assert!(mean.abs() < 1e-5);
            let expected = if channel == 2 { 0.0 } else { 1.0 };
            assert!(
                (variance - expected).abs() < 1e-4,
                "channel {channel}: {variance}"
            );
        }
    }
}
