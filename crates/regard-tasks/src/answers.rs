//! What every task answers with: labels with their probabilities, and what a model is made of.

use burn::tensor::Tensor;
use burn::tensor::activation::log_softmax;
use serde::{Deserialize, Serialize};

/// A label and how probable the model holds it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LabelProbability {
    /// The label as it stood in the training data.
    pub label: String,
    /// Softmax of the logits; all of one input's probabilities sum to 1.
    pub probability: f32,
}

impl LabelProbability {
    /// Every label with its probability, the most probable first; of equals the first label.
    pub(crate) fn ranked(labels: &[String], probabilities: &[f32]) -> Vec<Self> {
        let one = |(label, probability): (&String, &f32)| Self {
            label: label.clone(),
            probability: *probability,
        };
        let mut ranked: Vec<Self> = labels.iter().zip(probabilities).map(one).collect();
        ranked.sort_by(|a, b| b.probability.total_cmp(&a.probability));
        ranked
    }
}

/// Softmax of each row of logits.
pub(crate) fn probabilities(logits: Tensor<2>) -> Vec<Vec<f32>> {
    let classes = logits.dims()[1];
    let probabilities = log_softmax(logits, 1).exp().into_data();
    let values: Vec<f32> = probabilities.iter::<f32>().collect();
    values.chunks(classes).map(<[f32]>::to_vec).collect()
}

/// One part of a model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Part {
    /// Path of the part, such as `encoder.0.attention`.
    pub name: String,
    /// Numbers that training sets.
    pub parameters: usize,
    /// Bytes they take in memory.
    pub bytes: usize,
}

impl Part {
    /// Parameters by part, the largest first; the part of a tensor is its path without the last step.
    pub(crate) fn of(shapes: &[(String, Vec<usize>)]) -> Vec<Self> {
        let mut parts: Vec<Self> = Vec::new();
        for (path, shape) in shapes {
            let name = path
                .rsplit_once('.')
                .map_or(path.as_str(), |(part, _)| part);
            let parameters: usize = shape.iter().product();
            match parts.iter_mut().find(|part| part.name == name) {
                Some(part) => part.parameters += parameters,
                None => parts.push(Self {
                    name: name.to_owned(),
                    parameters,
                    bytes: 0,
                }),
            }
        }
        parts
            .iter_mut()
            .for_each(|part| part.bytes = 4 * part.parameters);
        parts.sort_by_key(|part| std::cmp::Reverse(part.parameters));
        parts
    }
}

/// What a model is made of.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Inspection {
    /// Facts in reading order: name and value.
    pub lines: Vec<(String, String)>,
    /// Parameters by part, largest first.
    pub parts: Vec<Part>,
    /// All parameters.
    pub parameters: usize,
    /// All bytes.
    pub bytes: usize,
    /// Multiplications and additions to answer one input: a text of the median training length, a picture.
    pub operations: u64,
}
