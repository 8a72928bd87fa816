//! `config.json` of the model folder, and how a model writes.

use regard_nn::generation::{GenerationOptions, Sampling};
use regard_nn::models::sequence_to_sequence::SequenceToSequenceConfig;
use serde::{Deserialize, Serialize};

use super::Kind;
use super::data::{Pairs, tidy};
use super::letters::letters;
use super::plan::Plan;
use super::vocabularies::Vocabularies;
use crate::{Error, Result};

/// `config.json`: everything to rebuild the model and its preprocessing, beside the tokenizer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Config {
    pub(super) model: SequenceToSequenceConfig,
    pub(super) source_column: String,
    pub(super) target_column: String,
    /// How a text is written where nothing else is said.
    pub(super) writing: WritingOptions,
    /// Letters of the training sources and targets, the most frequent first: what else comes in is said.
    pub(super) source_letters: String,
    pub(super) target_letters: String,
}

/// How to write.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WritingOptions {
    /// Hypotheses that are followed; 1 = greedy.
    pub beam: usize,
    /// Texts that come back.
    pub n_best: usize,
    /// Exponent of the length by which the log probability is divided.
    pub length_penalty: f32,
    /// How much is taken from the score of a text for what it left out of the source; 0 = nothing.
    #[serde(default)]
    pub coverage_penalty: f32,
    /// No run of so many pieces occurs twice; 0 = no such rule.
    pub no_repeat: usize,
    /// Divides the logits of pieces that were written; 1 = off.
    pub repetition_penalty: f32,
    /// Pieces before the text may end.
    pub min_length: usize,
    /// Pieces of a text at most.
    pub max_length: usize,
    /// Words with which every text begins.
    #[serde(default)]
    pub prefix: String,
    /// Draw lots at this temperature instead of searching.
    #[serde(default)]
    pub temperature: Option<f32>,
    /// Lots are drawn among so many pieces; 0 = all.
    #[serde(default)]
    pub top_k: usize,
    /// Lots are drawn among the pieces that together have this probability.
    #[serde(default = "one")]
    pub top_p: f32,
    /// Seed of the lots.
    #[serde(default)]
    pub seed: u64,
}

fn one() -> f32 {
    1.0
}

impl Config {
    pub(super) fn new(kind: Kind, plan: &Plan, train: &Pairs) -> Self {
        Self {
            model: plan.model.clone(),
            source_column: train.source_column.clone(),
            target_column: train.target_column.clone(),
            writing: WritingOptions {
                beam: 5,
                n_best: 1,
                length_penalty: 1.0,
                coverage_penalty: 0.0,
                no_repeat: if kind == Kind::Summarization { 3 } else { 0 },
                repetition_penalty: 1.0,
                min_length: 0,
                max_length: plan.model.max_target,
                prefix: String::new(),
                temperature: None,
                top_k: 0,
                top_p: 1.0,
                seed: 0,
            },
            source_letters: letters(&train.sources),
            target_letters: letters(&train.targets),
        }
    }
}

impl WritingOptions {
    /// Refuses what cannot be meant.
    ///
    /// # Errors
    ///
    /// A beam of none or beyond the vocabulary, more texts than the beam holds, numbers out of their range.
    pub fn check(&self, vocabulary: usize) -> Result<()> {
        let most = vocabulary.min(256);
        if self.beam == 0 || self.beam > most {
            let expected = format!("1 to {most}: there are {vocabulary} pieces to choose from");
            return Err(Error::argument("--beam", self.beam, expected));
        }
        if self.n_best == 0 || self.n_best > self.beam {
            let expected = format!("1 to the beam of {}", self.beam);
            return Err(Error::argument("--n-best", self.n_best, expected));
        }
        if self.max_length == 0 || self.max_length > 1 << 14 {
            return Err(Error::argument(
                "--max-length",
                self.max_length,
                "1 to 16384",
            ));
        }
        let finite = |name: &str, value: f32, least: f32, most: f32| match value {
            value if (least..=most).contains(&value) => Ok(()),
            value => Err(Error::argument(name, value, format!("{least} to {most}"))),
        };
        finite("--length-penalty", self.length_penalty, -10.0, 10.0)?;
        finite("--coverage-penalty", self.coverage_penalty, 0.0, 100.0)?;
        finite("--repetition-penalty", self.repetition_penalty, 0.1, 100.0)?;
        finite("--top-p", self.top_p, 1e-6, 1.0)?;
        finite(
            "--temperature",
            self.temperature.unwrap_or(1.0),
            1e-3,
            100.0,
        )
    }

    /// The same for the search.
    ///
    /// # Errors
    ///
    /// When a prefix has no text.
    pub(super) fn generation(&self, vocabularies: &Vocabularies) -> Result<GenerationOptions> {
        let prefix = tidy(&self.prefix);
        let prefix = match prefix.is_empty() {
            true if self.prefix.is_empty() => Vec::new(),
            true => {
                let found = format!("{:?}, which has no text", self.prefix);
                return Err(Error::argument("--prefix", found, "words to begin with"));
            }
            false => vocabularies.targets(&[prefix])?.swap_remove(0),
        };
        Ok(GenerationOptions {
            beam: self.beam,
            n_best: self.n_best,
            length_penalty: self.length_penalty,
            coverage_penalty: self.coverage_penalty,
            no_repeat: self.no_repeat,
            repetition_penalty: self.repetition_penalty,
            min_length: self.min_length.min(self.max_length),
            max_length: self.max_length,
            prefix,
            sampling: self.temperature.map(|temperature| Sampling {
                temperature,
                top_k: self.top_k,
                top_p: self.top_p,
                seed: self.seed,
            }),
            ..GenerationOptions::default()
        })
    }
}

/// Parameters by part, largest first.
pub(super) fn parts(config: &SequenceToSequenceConfig) -> Vec<(String, usize)> {
    let mut parts: Vec<(String, usize)> = Vec::new();
    for (path, shape) in config.parameter_shapes() {
        let mut steps = path.split('.');
        let name = match (steps.next(), steps.next()) {
            (Some("encoder" | "decoder"), Some(layer)) => {
                format!("{}.{layer}", path.split('.').next().unwrap_or_default())
            }
            (Some(first), _) => first.to_owned(),
            _ => path.clone(),
        };
        let count: usize = shape.iter().product();
        match parts.iter_mut().find(|(known, _)| *known == name) {
            Some((_, sum)) => *sum += count,
            None => parts.push((name, count)),
        }
    }
    parts.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    parts
}
