//! The image classifier as the trainer sees it: batches, loss, validation.

use burn::tensor::activation::log_softmax;
use burn::tensor::{Device, Tensor, TensorData};
use regard_kernels::threads;
use regard_nn::Noise;
use regard_nn::models::vision_transformer::VisionTransformer;

use super::augment::plain;
use super::config::Pixels;
use super::gallery::Part;
use super::plan::Plan;
use crate::metrics::{self, best};
use crate::trainer::{Learner, Validation};
use crate::{Result, answers};

/// What one run learns from, and how.
pub(super) struct PictureLearner<'a> {
    pub(super) train: &'a Part,
    pub(super) validation: &'a Part,
    pub(super) plan: &'a Plan,
    /// The device with automatic differentiation.
    pub(super) device: Device,
}

/// Where the data order's random numbers begin, far from those of the steps.
const DATA_ORDER: u64 = 1 << 40;

impl Learner for PictureLearner<'_> {
    type Model = VisionTransformer;

    fn batches(&self, epoch: usize) -> Vec<Vec<usize>> {
        let mut noise = Noise::at(self.plan.recipe.seed, DATA_ORDER + epoch as u64);
        let order = noise.permutation(self.train.len());
        order
            .chunks(self.plan.batch_rows)
            .map(<[usize]>::to_vec)
            .collect()
    }

    fn expect(&self, rows: &[usize]) {
        self.train.expect(rows);
    }

    fn loss(
        &self,
        model: &VisionTransformer,
        rows: &[usize],
        noise: &mut Noise,
    ) -> Result<Tensor<1>> {
        let read = self.train.read(rows)?;
        let pictures: Vec<&[u8]> = read.iter().map(AsRef::as_ref).collect();
        let map = self.plan.pixels.map();
        let batch = self
            .plan
            .augment
            .batch(&pictures, self.train.shape, &map, noise, &self.device);
        let logits = model.forward(batch.pictures, noise);
        // loss = −Σ target · log softmax(logits) / batch
        let total = (log_softmax(logits, 1) * self.targets(rows, batch.own)).sum();
        Ok(total / -(rows.len() as f32))
    }

    fn tokens(&self, rows: &[usize]) -> usize {
        rows.len()
    }

    fn unit(&self) -> &'static str {
        "pictures"
    }

    fn is_hidden(&self, parameter: &str) -> bool {
        VisionTransformer::is_hidden(parameter)
    }

    fn validate(&self, model: &VisionTransformer) -> Result<Validation> {
        let device = self.device.clone().inner();
        let answers = probabilities(model, self.validation, &self.plan.pixels, &device)?;
        let mut loss = 0.0;
        let mut predicted = Vec::with_capacity(answers.len());
        for (row, label) in answers.iter().zip(&self.validation.labels) {
            loss -= f64::from(row[*label].max(f32::MIN_POSITIVE)).ln();
            predicted.push(best(row));
        }
        let classes = self.plan.model.classes;
        let (accuracy, macro_f1) = metrics::scores(&self.validation.labels, &predicted, classes);
        Ok(Validation {
            loss: loss / self.validation.len().max(1) as f64,
            score: accuracy,
            said: format!("accuracy {accuracy:.3}  macro-F1 {macro_f1:.3}"),
            samples: Vec::new(),
        })
    }
}

impl PictureLearner<'_> {
    /// The distribution each picture is taught, `[batch, classes]`: its own label and that of what was mixed into it by
    /// their shares, and a part spread over all classes (label smoothing, Szegedy et al. 2016).
    fn targets(&self, rows: &[usize], own: f32) -> Tensor<2> {
        let classes = self.plan.model.classes;
        let smoothing = self.plan.label_smoothing as f32;
        let mut targets = vec![smoothing / classes as f32; rows.len() * classes];
        for (at, target) in targets.chunks_mut(classes).enumerate() {
            let other = rows[rows.len() - 1 - at];
            target[self.train.labels[rows[at]]] += (1.0 - smoothing) * own;
            target[self.train.labels[other]] += (1.0 - smoothing) * (1.0 - own);
        }
        let data = TensorData::new(targets, [rows.len(), classes]);
        Tensor::from_data(data, &self.device)
    }
}

/// Pictures that are answered together: enough to fill the matrix products.
const TOGETHER: usize = 128;
/// Of these, what one thread answers at a time: 32 of 28×28 took 31.7 ms by 16, 33.7 by 8, and 37.7 as one batch of both threads.
const PART: usize = 16;

/// Every picture's probability of every class.
///
/// # Errors
///
/// When a picture is not in memory and can no longer be decoded.
pub(super) fn probabilities(
    model: &VisionTransformer,
    part: &Part,
    pixels: &Pixels,
    device: &Device,
) -> Result<Vec<Vec<f32>>> {
    let map = pixels.map();
    let rows: Vec<usize> = (0..part.len()).collect();
    let mut answers = Vec::with_capacity(part.len());
    let batches: Vec<&[usize]> = rows.chunks(TOGETHER).collect();
    for (at, rows) in batches.iter().enumerate() {
        if let Some(next) = batches.get(at + 1) {
            part.expect(next);
        }
        let read = part.read(rows)?;
        let pictures: Vec<&[u8]> = read.iter().map(AsRef::as_ref).collect();
        let parts: Vec<&[&[u8]]> = pictures.chunks(PART).collect();
        let answered = threads::side_by_side(&parts, |pictures| {
            let pictures = plain(pictures, part.shape, &map, device);
            answers::probabilities(model.forward(pictures, &mut Noise::off()))
        });
        answers.extend(answered.into_iter().flatten());
    }
    Ok(answers)
}
