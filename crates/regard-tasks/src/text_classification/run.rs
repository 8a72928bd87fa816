//! Using a trained classifier: answers, explanations, scores.

use std::path::Path;

use burn::tensor::Device;
use regard_nn::models::text_classifier::{self as model, Kind};
use regard_nn::parameters::NamedTensor;

use super::config::{Config, assemble};
use super::data::{Examples, Rows};
use super::learner::probabilities;
use super::train::WITHOUT_ATTENTION;
use super::{AttendedWord, Explanation, Prediction};
use crate::answers::{Inspection, LabelProbability, Part};
use crate::bundle::{self, Sample};
use crate::columns::{ColumnChoice, Columns, infer};
use crate::metrics::{Evaluation, best, evaluate};
use crate::report::{Report, Rival};
use crate::rivals::{self, MAJORITY, MEAN};
use crate::tables::Table;
use crate::tokenizer::TextTokenizer;
use crate::{Error, Result, Task};

/// The name of the task in a model folder.
pub(super) const TASK: &str = "text-classification";

/// What a classifier is rebuilt from.
pub(super) struct Parts {
    pub(super) config: Config,
    pub(super) labels: Vec<String>,
    pub(super) tokenizer: TextTokenizer,
    pub(super) report: Report,
    pub(super) tensors: Vec<NamedTensor>,
}

/// A trained classifier.
#[derive(Debug)]
pub struct TextClassifier {
    config: Config,
    labels: Vec<String>,
    tokenizer: TextTokenizer,
    report: Report,
    model: model::TextClassifier,
    without_attention: Option<model::TextClassifier>,
    device: Device,
}

impl Task for TextClassifier {
    type Input = String;
    type Output = Prediction;

    fn open(folder: &Path) -> Result<Self> {
        let opened = bundle::open(folder, TASK)?;
        let config: Config = bundle::from_json(&opened.config, &folder.join("config.json"))?;
        let wrong = |found: String| {
            Error::bundle(
                &folder.join("config.json"),
                "model",
                found,
                "sizes that fit together",
            )
        };
        config
            .model
            .validate()
            .map_err(|error| wrong(error.to_string()))?;
        let (pieces, rows) = (opened.tokenizer()?.vocabulary(), config.model.vocabulary);
        if pieces != rows {
            return Err(wrong(format!(
                "a vocabulary of {rows} for a tokenizer of {pieces} pieces"
            )));
        }
        let (labels, classes, counts) = (
            opened.labels.len(),
            config.model.classes,
            config.label_counts.len(),
        );
        if labels != classes || counts != classes {
            return Err(wrong(format!(
                "{classes} classes for {labels} labels and {counts} label counts"
            )));
        }
        let report = bundle::from_json(&opened.report, &folder.join("report.json"))?;
        let tensors = opened.tensors(&config.shapes())?;
        let parts = Parts {
            config,
            labels: opened.labels.clone(),
            tokenizer: opened.tokenizer()?.clone(),
            report,
            tensors,
        };
        let model = Self::from_parts(parts, &Device::flex())?;
        model.replay(&opened)?;
        Ok(model)
    }

    fn run(&self, inputs: &[String]) -> Result<Vec<Prediction>> {
        let texts: Vec<&str> = inputs.iter().map(String::as_str).collect();
        let examples = self.encode(&texts)?;
        let answers = probabilities(&self.model, &examples, &self.device);
        Ok(answers
            .iter()
            .zip(&examples.cut)
            .map(|(answer, cut)| self.prediction(answer, *cut))
            .collect())
    }
}

impl TextClassifier {
    pub(super) fn from_parts(parts: Parts, device: &Device) -> Result<Self> {
        let Parts {
            config,
            labels,
            tokenizer,
            report,
            tensors,
        } = parts;
        let (without, with): (Vec<_>, Vec<_>) = tensors
            .into_iter()
            .partition(|tensor| tensor.name.starts_with(WITHOUT_ATTENTION));
        let model = assemble(&config.model, config.model.kind, with, device)?;
        let without_attention = match config.without_attention {
            true => {
                let stripped = without.into_iter().map(|mut tensor| {
                    tensor.name.drain(..WITHOUT_ATTENTION.len());
                    tensor
                });
                Some(assemble(
                    &config.model,
                    Kind::Mean,
                    stripped.collect(),
                    device,
                )?)
            }
            false => None,
        };
        Ok(Self {
            config,
            labels,
            tokenizer,
            report,
            model,
            without_attention,
            device: device.clone(),
        })
    }

    /// The attention that made the answer for `text`: each token's weight, averaged over the pooling heads, summed over
    /// the tokens of a word. Recomputed by the definition; the answer itself came from the fused operation.
    pub fn explain(&self, text: &str) -> Result<Explanation> {
        let examples = self.encode(&[text])?;
        let prediction = self.prediction(
            &probabilities(&self.model, &examples, &self.device)[0],
            examples.cut[0],
        );
        let attended = self
            .model
            .forward_with_attention(&examples.batch(&[0], &self.device));
        let [_, heads, tokens] = attended.pooling.dims();
        let weights: Vec<f32> = attended.pooling.into_data().iter::<f32>().collect();
        let encoded = self.tokenizer.encode(text)?;
        let mut words: Vec<AttendedWord> = Vec::new();
        let mut current = None;
        for (at, ((start, end), word)) in encoded
            .spans
            .iter()
            .zip(&encoded.words)
            .take(tokens)
            .enumerate()
        {
            let weight = (0..heads)
                .map(|head| weights[head * tokens + at])
                .sum::<f32>()
                / heads as f32;
            match (current == Some(*word), words.last_mut()) {
                (true, Some(last)) => {
                    last.end = last.end.max(*end);
                    last.weight += weight;
                }
                _ => words.push(AttendedWord {
                    text: String::new(),
                    start: *start,
                    end: *end,
                    weight,
                }),
            }
            current = Some(*word);
        }
        for word in &mut words {
            word.text = text[word.start..word.end].to_owned();
        }
        Ok(Explanation {
            text: text.to_owned(),
            prediction,
            words,
            method: self.method(heads),
        })
    }

    /// Scores the model on a labelled table, beside the majority class and the same model with mean pooling; the notes
    /// name rows that were left out or cut, and labels the model does not know.
    pub fn evaluate(
        &self,
        table: &Table,
        choice: &ColumnChoice,
    ) -> Result<(Evaluation, Vec<Rival>, Vec<String>)> {
        let columns = self.columns(table, choice)?;
        let mut rows = Rows::default();
        rows.add(table, &columns)?;
        let mut labels = self.labels.clone();
        let mut truth = Vec::with_capacity(rows.labels.len());
        for label in &rows.labels {
            truth.push(
                labels
                    .iter()
                    .position(|known| known == label)
                    .unwrap_or_else(|| {
                        labels.push(label.clone());
                        labels.len() - 1
                    }),
            );
        }
        if truth.is_empty() {
            return Err(Error::argument(
                "--data",
                "no row with a text and a label",
                "at least one",
            ));
        }
        let mut notes = columns.reasons;
        notes.append(&mut rows.skipped);
        for (at, label) in labels.iter().enumerate().skip(self.labels.len()) {
            let count = truth.iter().filter(|truth| **truth == at).count();
            notes.push(format!(
                "the model does not know the label `{label}`: its {count} rows count as wrong"
            ));
        }
        let examples = self.encode(&rows.texts.iter().map(String::as_str).collect::<Vec<_>>())?;
        if examples.truncated() > 0 {
            let limit = self.config.model.max_tokens;
            notes.push(format!(
                "{} texts were cut to their first {limit} tokens",
                examples.truncated()
            ));
        }
        let seed = self.report.training.seed;
        let answer = |model| -> Vec<usize> {
            probabilities(model, &examples, &self.device)
                .iter()
                .map(|row| best(row))
                .collect()
        };
        let predicted = answer(&self.model);
        let majority = vec![rivals::most_frequent(&self.config.label_counts); truth.len()];
        let mut rivals = vec![rivals::rival(
            MAJORITY, &labels, &truth, &predicted, &majority, seed,
        )];
        if let Some(mean) = &self.without_attention {
            rivals.push(rivals::rival(
                MEAN,
                &labels,
                &truth,
                &predicted,
                &answer(mean),
                seed,
            ));
        }
        notes.extend(rivals.iter().map(rivals::verdict));
        Ok((evaluate(&labels, &truth, &predicted, seed), rivals, notes))
    }

    /// The report written when the model was trained.
    pub fn report(&self) -> &Report {
        &self.report
    }

    /// What the model is made of.
    pub fn inspect(&self) -> Inspection {
        let model = &self.config.model;
        let parts = Part::of(&model.parameter_shapes());
        let parameters: usize = parts.iter().map(|part| part.parameters).sum();
        let fact = |name: &str, value: String| (name.to_owned(), value);
        let mut lines = vec![
            fact("task", TASK.to_owned()),
            fact("model", model.kind.name().to_owned()),
            fact(
                "labels",
                format!("{}: {}", self.labels.len(), self.labels.join(", ")),
            ),
            fact("vocabulary", format!("{} pieces", model.vocabulary)),
            fact(
                "word pairs",
                format!("{} hashed rows", model.bigram_buckets),
            ),
            fact("width", model.width.to_string()),
            fact(
                "reads",
                format!("at most {} tokens of a text", model.max_tokens),
            ),
            fact(
                "pooling",
                format!("{} learned queries", model.pooling_heads),
            ),
        ];
        if model.kind == Kind::Transformer {
            lines.push(fact(
                "encoder",
                format!("{} layers of {} heads", model.layers, model.heads),
            ));
        }
        Inspection {
            lines,
            operations: model.operations(self.config.median_tokens),
            bytes: 4 * parameters,
            parameters,
            parts,
        }
    }

    /// A handful of made-up texts from the vocabulary with their answers: a model folder replays them when it is opened,
    /// and holds no text of a user for it.
    pub(super) fn samples(&self) -> Vec<Sample> {
        let words = self.tokenizer.some_words(24);
        let mut texts: Vec<String> = words.chunks(8).map(|words| words.join(" ")).collect();
        texts.push(String::new());
        let answers = self.run(&texts).unwrap_or_default();
        let sample = |(input, answer): (String, Prediction)| {
            Some(Sample {
                input,
                output: serde_json::to_value(answer).ok()?,
            })
        };
        texts.into_iter().zip(answers).filter_map(sample).collect()
    }

    /// Answers the samples of the folder again.
    fn replay(&self, opened: &bundle::Opened) -> Result<()> {
        /// Instruction sets round differently; a wrong weight moves a probability by far more.
        const TOLERANCE: f32 = 1e-3;
        for sample in &opened.samples {
            let found = &self.run(std::slice::from_ref(&sample.input))?[0];
            let expected: Option<Prediction> = serde_json::from_value(sample.output.clone()).ok();
            let same = expected.is_some_and(|expected| {
                expected.probabilities.len() == found.probabilities.len()
                    && expected.probabilities.iter().all(|expected| {
                        let found = found
                            .probabilities
                            .iter()
                            .find(|found| found.label == expected.label);
                        found.is_some_and(|found| {
                            (found.probability - expected.probability).abs() <= TOLERANCE
                        })
                    })
            });
            if !same {
                let found = format!("another answer for {:?}", sample.input);
                return Err(Error::bundle(
                    &opened.folder().join("check.json"),
                    "samples",
                    found,
                    "the answers it was saved with",
                ));
            }
        }
        Ok(())
    }

    fn columns(&self, table: &Table, choice: &ColumnChoice) -> Result<Columns> {
        // The names the model was trained with come first; what the user says comes before that.
        let known = |said: &Option<String>, trained: &str| {
            said.clone()
                .or_else(|| table.names().contains(&trained).then(|| trained.to_owned()))
        };
        let choice = ColumnChoice {
            text: known(&choice.text, &self.config.text_column),
            label: known(&choice.label, &self.config.label_column),
            group: None,
        };
        infer(table, &choice)
    }

    fn encode(&self, texts: &[&str]) -> Result<Examples> {
        let model = &self.config.model;
        Examples::encode(
            &self.tokenizer,
            texts,
            &[],
            model.max_tokens,
            model.bigram_buckets,
        )
    }

    fn prediction(&self, probabilities: &[f32], truncated_tokens: usize) -> Prediction {
        let probabilities = LabelProbability::ranked(&self.labels, probabilities);
        let LabelProbability { label, probability } = probabilities[0].clone();
        Prediction {
            label,
            probability,
            probabilities,
            truncated_tokens,
        }
    }

    fn method(&self, heads: usize) -> String {
        let over = match self.config.model.kind {
            Kind::Mean => return "mean pooling: every token has the same weight".to_owned(),
            Kind::Pooling => "the words",
            Kind::Transformer => {
                "the encoder's outputs, which also hold something of their neighbours"
            }
        };
        format!(
            "softmax attention of {heads} learned queries over {over}, averaged; a word is the sum of its tokens"
        )
    }
}
