//! Using a trained model: answers, scores, maps.

use std::path::Path;

use burn::tensor::Device;
use regard_nn::models::vision_transformer::VisionTransformer;
use regard_nn::parameters::{self, NamedTensor};

use super::answers::{PictureMap, Prediction, Scored};
use super::augment::{Shape, plain};
use super::config::{Config, WITHOUT_ATTENTION, assemble, without_attention};
use super::evaluate::Answered;
use super::gallery::{self, Part};
use super::learner::probabilities;
use super::maps::{self, MapRequest};
use crate::answers::{Inspection, LabelProbability};
use crate::bundle::{self, Sample};
use crate::pictures::{Picture, PictureColumns, Room, fit};
use crate::report::Report;
use crate::trainer::Listener;
use crate::{Error, Result, Task};

/// The name of the task in a model folder.
pub const TASK: &str = "image-recognition";

/// A trained model.
#[derive(Debug)]
pub struct ImageClassifier {
    config: Config,
    labels: Vec<String>,
    report: Report,
    model: VisionTransformer,
    without_attention: Option<VisionTransformer>,
    device: Device,
}

impl Task for ImageClassifier {
    type Input = Picture;
    type Output = Prediction;

    fn open(folder: &Path) -> Result<Self> {
        let opened = bundle::open(folder, TASK)?;
        let path = folder.join("config.json");
        let config: Config = bundle::from_json(&opened.config, &path)?;
        config
            .check(opened.labels.len())
            .map_err(|found| Error::bundle(&path, "model", found, "sizes that fit together"))?;
        let report = bundle::from_json(&opened.report, &folder.join("report.json"))?;
        let tensors = opened.tensors(&config.shapes())?;
        let model = Self::from_parts(
            config,
            opened.labels.clone(),
            report,
            tensors,
            &Device::flex(),
        )?;
        model.replay(&opened)?;
        Ok(model)
    }

    fn run(&self, inputs: &[Picture]) -> Result<Vec<Prediction>> {
        let part = self.part(inputs);
        let answers = probabilities(&self.model, &part, &self.config.pixels, &self.device)?;
        Ok(answers
            .iter()
            .map(|answer| self.prediction(answer))
            .collect())
    }
}

impl ImageClassifier {
    pub(super) fn from_parts(
        config: Config,
        labels: Vec<String>,
        report: Report,
        tensors: Vec<NamedTensor>,
        device: &Device,
    ) -> Result<Self> {
        let (without, with): (Vec<_>, Vec<_>) = tensors
            .into_iter()
            .partition(|tensor| tensor.name.starts_with(WITHOUT_ATTENTION));
        let stripped = without.into_iter().map(|mut tensor| {
            tensor.name.drain(..WITHOUT_ATTENTION.len());
            tensor
        });
        let rival = match config.without_attention {
            true => Some(assemble(
                &without_attention(&config.model),
                stripped.collect(),
                device,
            )?),
            false => None,
        };
        Ok(Self {
            model: assemble(&config.model, with, device)?,
            without_attention: rival,
            config,
            labels,
            report,
            device: device.clone(),
        })
    }

    /// What a run that begins with this model takes over: sizes, labels, the model and its rival without attention.
    pub(super) fn into_parts(
        self,
    ) -> (
        Config,
        Vec<String>,
        VisionTransformer,
        Option<VisionTransformer>,
    ) {
        (self.config, self.labels, self.model, self.without_attention)
    }

    /// Scores the model on labelled pictures: a folder with a folder for each label, IDX files or a table.
    ///
    /// # Errors
    ///
    /// Whatever is wrong with the pictures; when none is left.
    pub fn evaluate(
        &self,
        path: &Path,
        columns: &PictureColumns,
        listener: &mut dyn Listener,
    ) -> Result<Scored> {
        let (sizes, mut notes) = gallery::labelled(path, columns, listener)?;
        let mut unseen = Vec::new();
        let (part, skipped, _) = gallery::load(
            "the pictures",
            &sizes,
            self.shape(),
            &self.labels,
            &mut unseen,
            &mut Room::of(None),
            listener,
        )?;
        notes.extend(skipped);
        if part.len() == 0 {
            return Err(Error::argument(
                "--data",
                "no picture that can be read",
                "at least one",
            ));
        }
        for (at, label) in unseen.iter().enumerate() {
            let count = part
                .labels
                .iter()
                .filter(|own| **own == self.labels.len() + at)
                .count();
            notes.push(format!(
                "the model does not know the label `{label}`: its {count} pictures count as wrong"
            ));
        }
        let labels: Vec<String> = self.labels.iter().chain(&unseen).cloned().collect();
        let answer = |model| probabilities(model, &part, &self.config.pixels, &self.device);
        let answered = Answered {
            part: &part,
            labels: &labels,
            counts: &self.config.label_counts,
            probabilities: answer(&self.model)?,
            without_attention: self.without_attention.as_ref().map(answer).transpose()?,
            seed: self.report.training.seed,
        };
        let rivals = answered.rivals();
        notes.extend(answered.verdicts(&rivals));
        Ok(Scored {
            scores: answered.scores(),
            top_5: answered.top_5(),
            rivals,
            mistakes: answered.mistakes()?,
            notes,
        })
    }

    /// Where the model looked.
    ///
    /// # Errors
    ///
    /// When the label, the layer or the head is none of the model's.
    pub fn explain(&self, picture: &Picture, request: &MapRequest) -> Result<PictureMap> {
        let model = &self.config.model;
        request.check(model.layers, model.heads)?;
        let wanted = match &request.label {
            None => None,
            Some(label) => Some(
                self.labels
                    .iter()
                    .position(|known| known == label)
                    .ok_or_else(|| {
                        let known = crate::error::quoted(&self.labels);
                        Error::argument("--class", format!("`{label}`"), format!("one of {known}"))
                    })?,
            ),
        };
        let device = maps::differentiable(&self.device);
        let tensors = parameters::collect(&self.model);
        let differentiable = assemble(model, tensors, &device)?;
        let part = self.part(std::slice::from_ref(picture));
        let input = plain(
            &[&part.read(&[0])?[0]],
            part.shape,
            &self.config.pixels.map(),
            &device,
        );
        let label = |logits: &[f32]| wanted.unwrap_or_else(|| crate::metrics::best(logits));
        let (weights, logits) =
            maps::weights(&differentiable, model.summary, input, label, request);
        let prediction = self.run(std::slice::from_ref(picture))?.remove(0);
        let label = self.labels[label(&logits)].clone();
        Ok(PictureMap {
            about: request.about(&label),
            label,
            prediction,
            method: request.method,
            picture: [picture.height, picture.width],
            model: [model.picture_height, model.picture_width],
            grid: model.grid(),
            cut: model.cut,
            weights,
        })
    }

    /// The report written when the model was trained.
    pub fn report(&self) -> &Report {
        &self.report
    }

    /// The labels, in the order of the model's outputs.
    pub fn labels(&self) -> &[String] {
        &self.labels
    }

    /// What the model is made of.
    pub fn inspect(&self) -> Inspection {
        let model = &self.config.model;
        let parts = crate::answers::Part::of(&model.parameter_shapes());
        let parameters: usize = parts.iter().map(|part| part.parameters).sum();
        let fact = |name: &str, value: String| (name.to_owned(), value);
        let [rows, columns] = model.grid();
        let colours = if model.channels == 1 {
            "grey"
        } else {
            "colour"
        };
        let lines = vec![
            fact("task", TASK.to_owned()),
            fact(
                "labels",
                format!("{}: {}", self.labels.len(), self.labels.join(", ")),
            ),
            fact(
                "reads",
                format!(
                    "{} × {} pixels in {colours}",
                    model.picture_height, model.picture_width
                ),
            ),
            fact("places", format!("{} ({rows} × {columns})", rows * columns)),
            fact("width", model.width.to_string()),
            fact(
                "encoder",
                format!("{} layers of {} heads", model.layers, model.heads),
            ),
        ];
        Inspection {
            lines,
            operations: model.operations(),
            bytes: 4 * parameters,
            parameters,
            parts,
        }
    }

    /// Height, width and channels of the pictures as the model reads them; others are fitted to that.
    pub fn reads(&self) -> [usize; 3] {
        let Shape {
            height,
            width,
            channels,
        } = self.shape();
        [height, width, channels]
    }

    fn shape(&self) -> Shape {
        let model = &self.config.model;
        Shape {
            height: model.picture_height,
            width: model.picture_width,
            channels: model.channels,
        }
    }

    /// The pictures at the size and in the colours that the model reads.
    fn part(&self, pictures: &[Picture]) -> Part {
        let shape = self.shape();
        let fitted = |picture: &Picture| {
            fit(
                &picture.clone().with_channels(shape.channels),
                [shape.height, shape.width],
            )
        };
        Part::of(
            shape,
            pictures.iter().flat_map(fitted).collect(),
            pictures.len(),
        )
    }

    fn prediction(&self, probabilities: &[f32]) -> Prediction {
        let probabilities = LabelProbability::ranked(&self.labels, probabilities);
        let LabelProbability { label, probability } = probabilities[0].clone();
        Prediction {
            label,
            probability,
            probabilities,
        }
    }

    /// Made-up pictures with their answers: a model folder replays them when it is opened.
    pub(super) fn samples(&self) -> Vec<Sample> {
        let sample = |name: &&str| {
            let answer = self.run(&[self.made_up(name)]).ok()?.pop()?;
            Some(Sample {
                input: (*name).to_owned(),
                output: serde_json::to_value(answer).ok()?,
            })
        };
        MADE_UP.iter().filter_map(sample).collect()
    }

    /// A picture by its name.
    fn made_up(&self, name: &str) -> Picture {
        let Shape {
            height,
            width,
            channels,
        } = self.shape();
        let pixel = |row: usize, column: usize| match name {
            "slope" => (255 * (row + column) / (height + width)) as u8,
            "board" => 255 * ((row / 4 + column / 4) % 2) as u8,
            _ => 128,
        };
        let places = (0..height).flat_map(|row| (0..width).map(move |column| (row, column)));
        Picture {
            height,
            width,
            channels,
            pixels: places
                .flat_map(|(row, column)| vec![pixel(row, column); channels])
                .collect(),
        }
    }

    /// Answers the samples of the folder again.
    fn replay(&self, opened: &bundle::Opened) -> Result<()> {
        /// Instruction sets round differently; a wrong weight moves a probability by far more.
        const TOLERANCE: f32 = 1e-3;
        for sample in &opened.samples {
            let found = &self.run(&[self.made_up(&sample.input)])?[0];
            let expected: Option<Prediction> = serde_json::from_value(sample.output.clone()).ok();
            let same = expected.is_some_and(|expected| {
                expected.probabilities.len() == found.probabilities.len()
                    && expected.probabilities.iter().all(|expected| {
                        let mut found = found.probabilities.iter();
                        found.any(|found| {
                            found.label == expected.label
                                && (found.probability - expected.probability).abs() <= TOLERANCE
                        })
                    })
            });
            if !same {
                let found = format!("another answer for the picture {:?}", sample.input);
                let path = opened.folder().join("check.json");
                return Err(Error::bundle(
                    &path,
                    "samples",
                    found,
                    "the answers it was saved with",
                ));
            }
        }
        Ok(())
    }
}

/// Names of the pictures that a folder is checked with.
const MADE_UP: [&str; 3] = ["slope", "board", "grey"];
