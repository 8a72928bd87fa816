//! `config.json` of the model folder, and the model that it describes.

use burn::module::Module;
use burn::tensor::Device;
use regard_nn::models::text_classifier::{self as model, Kind, TextClassifierConfig};
use regard_nn::parameters::{self, NamedTensor};
use serde::{Deserialize, Serialize};

use super::corpus::Corpus;
use super::plan::Plan;
use super::train::WITHOUT_ATTENTION;
use crate::{Error, Result};

/// `config.json`: everything to rebuild the model and its preprocessing, beside the tokenizer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Config {
    pub(super) model: TextClassifierConfig,
    /// The weights of the same model with mean pooling are in the file too, for the comparison.
    pub(super) without_attention: bool,
    pub(super) text_column: String,
    pub(super) label_column: String,
    /// How often each label was in the training part, in the order of the labels.
    pub(super) label_counts: Vec<usize>,
    /// Tokens of a text in the middle of the training part.
    pub(super) median_tokens: usize,
}

impl Config {
    pub(super) fn new(plan: &Plan, corpus: &Corpus, without_attention: bool) -> Self {
        let facts = corpus.facts(0);
        Self {
            model: plan.model.clone(),
            without_attention,
            text_column: facts.text_column,
            label_column: facts.label_column,
            label_counts: facts.labels.iter().map(|(_, count)| *count).collect(),
            median_tokens: plan.median_tokens,
        }
    }

    /// Name and shape of every tensor that the weights must have.
    pub(super) fn shapes(&self) -> Vec<(String, Vec<usize>)> {
        let mut shapes = self.model.parameter_shapes();
        if self.without_attention {
            let mean = TextClassifierConfig {
                kind: Kind::Mean,
                ..self.model.clone()
            };
            let prefixed = |(name, shape)| (format!("{WITHOUT_ATTENTION}{name}"), shape);
            shapes.extend(mean.parameter_shapes().into_iter().map(prefixed));
        }
        shapes
    }
}

/// Rebuilds a model from its weights.
pub(super) fn assemble(
    config: &TextClassifierConfig,
    kind: Kind,
    tensors: Vec<NamedTensor>,
    device: &Device,
) -> Result<model::TextClassifier> {
    let config = TextClassifierConfig {
        kind,
        ..config.clone()
    };
    Ok(load(config.init(0, device), tensors)?.valid())
}

/// The model with these weights.
fn load(model: model::TextClassifier, tensors: Vec<NamedTensor>) -> Result<model::TextClassifier> {
    parameters::load(model, tensors)
        .map_err(|error| Error::argument("the weights", error, "those of the model in config.json"))
}
