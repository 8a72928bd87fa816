//! The text classifier as the trainer sees it: batches, loss, validation.

use burn::tensor::activation::log_softmax;
use burn::tensor::{Device, Tensor, TensorData};
use regard_kernels::threads;
use regard_nn::Noise;
use regard_nn::models::text_classifier::TextClassifier;

use super::data::Examples;
use super::plan::Plan;
use crate::metrics::{self, best};
use crate::trainer::{Learner, Validation, batches};
use crate::{Result, answers};

/// What one run learns from, and how.
pub(super) struct TextLearner<'a> {
    pub(super) train: &'a Examples,
    pub(super) validation: &'a Examples,
    pub(super) plan: &'a Plan,
    /// Weight of each class in the loss; 1 = all the same.
    class_weights: Vec<f32>,
    /// The device with automatic differentiation.
    device: Device,
}

impl<'a> TextLearner<'a> {
    pub(super) fn new(
        train: &'a Examples,
        validation: &'a Examples,
        plan: &'a Plan,
        device: &Device,
    ) -> Self {
        let classes = plan.model.classes;
        let mut class_weights = vec![1.0; classes];
        if plan.class_weights {
            let mut counts = vec![0_usize; classes];
            train.labels.iter().for_each(|label| counts[*label] += 1);
            for (weight, count) in class_weights.iter_mut().zip(counts) {
                *weight = train.len() as f32 / (classes * count.max(1)) as f32;
            }
        }
        Self {
            train,
            validation,
            plan,
            class_weights,
            device: device.clone().autodiff(),
        }
    }
}

impl Learner for TextLearner<'_> {
    type Model = TextClassifier;

    fn batches(&self, epoch: usize) -> Vec<Vec<usize>> {
        let lengths: Vec<usize> = self.train.tokens.iter().map(Vec::len).collect();
        let order = Noise::at(self.plan.recipe.seed, DATA_ORDER + 2 * epoch as u64)
            .permutation(lengths.len());
        let sorted = batches(
            &lengths,
            &order,
            self.plan.batch_rows,
            self.plan.batch_tokens,
        );
        let order = Noise::at(self.plan.recipe.seed, DATA_ORDER + 2 * epoch as u64 + 1)
            .permutation(sorted.len());
        order
            .into_iter()
            .map(|index| sorted[index].clone())
            .collect()
    }

    fn loss(&self, model: &TextClassifier, rows: &[usize], noise: &mut Noise) -> Result<Tensor<1>> {
        let batch = self
            .train
            .thinned_batch(rows, self.plan.word_dropout, noise, &self.device);
        let logits = model.forward(&batch, noise);
        let targets = self.targets(rows);
        // loss = −Σ target · log softmax(logits) / Σ weights
        let total = (log_softmax(logits, 1) * targets).sum();
        let weights: f32 = rows
            .iter()
            .map(|row| self.class_weights[self.train.labels[*row]])
            .sum();
        Ok(total / -weights)
    }

    fn tokens(&self, rows: &[usize]) -> usize {
        rows.iter().map(|row| self.train.tokens[*row].len()).sum()
    }

    fn validate(&self, model: &TextClassifier) -> Result<Validation> {
        let probabilities = probabilities(model, self.validation, &self.device.clone().inner());
        let mut loss = 0.0;
        let mut predicted = Vec::with_capacity(self.validation.len());
        for (row, label) in probabilities.iter().zip(&self.validation.labels) {
            loss -= f64::from(row[*label].max(f32::MIN_POSITIVE)).ln();
            predicted.push(best(row));
        }
        let rows = self.validation.len().max(1) as f64;
        let (accuracy, macro_f1) =
            metrics::scores(&self.validation.labels, &predicted, self.plan.model.classes);
        Ok(Validation {
            loss: loss / rows,
            score: accuracy,
            said: format!("accuracy {accuracy:.3}  macro-F1 {macro_f1:.3}"),
            samples: Vec::new(),
        })
    }
}

impl TextLearner<'_> {
    /// The distribution each row is taught, `[batch, classes]`: `1 − s` on its label and `s` spread over all classes
    /// (label smoothing, Szegedy et al. 2016), times the weight of its class.
    fn targets(&self, rows: &[usize]) -> Tensor<2> {
        let classes = self.plan.model.classes;
        let smoothing = self.plan.label_smoothing as f32;
        let mut targets = vec![smoothing / classes as f32; rows.len() * classes];
        for (row, target) in rows.iter().zip(targets.chunks_mut(classes)) {
            let label = self.train.labels[*row];
            target[label] += 1.0 - smoothing;
            target
                .iter_mut()
                .for_each(|share| *share *= self.class_weights[label]);
        }
        Tensor::from_data(
            TensorData::new(targets, [rows.len(), classes]),
            &self.device,
        )
    }
}

/// Where the data order's random numbers begin, far from those of the steps.
const DATA_ORDER: u64 = 1 << 40;

/// Texts that one thread answers together: 32 of 128 tokens took 275 ms by 16, 315 by 8, and 313 as one batch of both threads.
const ANSWER_ROWS: usize = 16;
const ANSWER_TOKENS: usize = 2048;

/// Softmax of the logits of every example, in their order.
pub(super) fn probabilities(
    model: &TextClassifier,
    examples: &Examples,
    device: &Device,
) -> Vec<Vec<f32>> {
    let lengths: Vec<usize> = examples.tokens.iter().map(Vec::len).collect();
    let order: Vec<usize> = (0..examples.len()).collect();
    let mut answers = vec![Vec::new(); examples.len()];
    let batches = batches(&lengths, &order, ANSWER_ROWS, ANSWER_TOKENS);
    let answered = threads::side_by_side(&batches, |rows| {
        let batch = examples.batch(rows, device);
        answers::probabilities(model.forward(&batch, &mut Noise::off()))
    });
    for (row, answer) in batches.iter().flatten().zip(answered.into_iter().flatten()) {
        answers[*row] = answer;
    }
    answers
}
