//! Using a trained writer: texts, alignments, scores.

use std::path::Path;

use burn::module::Module;
use burn::tensor::Device;
use regard_nn::models::sequence_to_sequence::SequenceToSequence;
use regard_nn::parameters::{self, NamedTensor};

use super::Kind;
use super::answers::{Alternative, Inspection, Written};
use super::config::{Config, WritingOptions, parts};
use super::data::tidy;
use super::learner::hypotheses;
use super::report::PairReport;
use super::vocabularies::Vocabularies;
use crate::bundle::{self, Sample};
use crate::{Error, Result, Task};

/// A trained translator or summarizer.
#[derive(Debug)]
pub struct Writer {
    pub(super) kind: Kind,
    pub(super) config: Config,
    pub(super) vocabularies: Vocabularies,
    pub(super) report: Option<PairReport>,
    pub(super) model: SequenceToSequence,
    options: WritingOptions,
}

impl Task for Writer {
    type Input = String;
    type Output = Written;

    fn open(folder: &Path) -> Result<Self> {
        let task = bundle::task_of(folder)?;
        let Some(kind) = Kind::of(&task) else {
            let found = format!("`{task}`");
            let expected = "`translation` or `summarization`";
            return Err(Error::bundle(
                &folder.join("check.json"),
                "task",
                found,
                expected,
            ));
        };
        let opened = bundle::open_without_labels(folder, kind.name())?;
        let path = folder.join("config.json");
        let config: Config = bundle::from_json(&opened.config, &path)?;
        let wrong = |found: String| Error::bundle(&path, "model", found, "sizes that fit together");
        config
            .model
            .validate()
            .map_err(|error| wrong(error.to_string()))?;
        let of_source = config.model.source_vocabulary;
        let vocabularies = Vocabularies::of_model(&opened, of_source.is_some())?;
        let pieces = vocabularies.target().vocabulary();
        let rows = config.model.vocabulary;
        if pieces + 1 != rows {
            return Err(wrong(format!(
                "a vocabulary of {rows} for a tokenizer of {pieces} pieces and an end"
            )));
        }
        if of_source != vocabularies.own_source_pieces() {
            return Err(wrong(format!(
                "a source vocabulary of {of_source:?} for a tokenizer of {:?} pieces",
                vocabularies.own_source_pieces()
            )));
        }
        config.writing.check(config.model.vocabulary)?;
        let report = bundle::from_json(&opened.report, &folder.join("report.json"))?;
        let tensors = opened.tensors(&config.model.parameter_shapes())?;
        let device = Device::flex();
        let writer = Self::from_parts(kind, config, vocabularies, Some(report), tensors, &device)?;
        writer.replay(&opened)?;
        Ok(writer)
    }

    fn run(&self, inputs: &[String]) -> Result<Vec<Written>> {
        let tidied: Vec<String> = inputs.iter().map(|text| tidy(text)).collect();
        let mut sources = self.vocabularies.sources(&tidied)?;
        let limit = self.config.model.max_source;
        let cut: Vec<usize> = sources
            .iter()
            .map(|one| one.len().saturating_sub(limit))
            .collect();
        sources.iter_mut().for_each(|source| source.truncate(limit));
        let options = self.options.generation(&self.vocabularies)?;
        let mut answers = Vec::with_capacity(inputs.len());
        for (found, cut_source_pieces) in
            hypotheses(&self.model, &sources, &options).iter().zip(cut)
        {
            let mut alternatives = Vec::with_capacity(found.len());
            for hypothesis in found {
                alternatives.push(Alternative {
                    text: self.vocabularies.text(&hypothesis.tokens)?,
                    score: hypothesis.score,
                    log_probability: hypothesis.log_probability,
                });
            }
            answers.push(Written {
                text: alternatives
                    .first()
                    .map(|best| best.text.clone())
                    .unwrap_or_default(),
                alternatives,
                cut_source_pieces,
                cut: found.first().is_some_and(|best| best.cut),
            });
        }
        Ok(answers)
    }
}

impl Writer {
    pub(super) fn from_parts(
        kind: Kind,
        config: Config,
        vocabularies: Vocabularies,
        report: Option<PairReport>,
        tensors: Vec<NamedTensor>,
        device: &Device,
    ) -> Result<Self> {
        let model = parameters::load(config.model.init(0, device), tensors).map_err(|error| {
            Error::argument("the weights", error, "those of the model in config.json")
        })?;
        Ok(Self {
            kind,
            options: config.writing.clone(),
            model: model.valid(),
            config,
            vocabularies,
            report,
        })
    }

    /// Which of the two it is.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// How it writes.
    pub fn options(&self) -> &WritingOptions {
        &self.options
    }

    /// Writes otherwise from now on.
    ///
    /// # Errors
    ///
    /// As [`WritingOptions::check`].
    pub fn set_options(&mut self, options: WritingOptions) -> Result<()> {
        options.check(self.config.model.vocabulary)?;
        // A prefix that cannot be cut is said now, not at the first source.
        options.generation(&self.vocabularies)?;
        self.options = options;
        Ok(())
    }

    /// The column that was read in training.
    pub fn source_column(&self) -> &str {
        &self.config.source_column
    }

    /// The report written when the model was trained.
    pub fn report(&self) -> Option<&PairReport> {
        self.report.as_ref()
    }

    pub(super) fn set_report(&mut self, report: PairReport) {
        self.report = Some(report);
    }

    pub(super) fn config(&self) -> &Config {
        &self.config
    }

    /// A text for each source.
    pub(super) fn write_all(&self, sources: &[String]) -> Result<Vec<String>> {
        Ok(self
            .run(sources)?
            .into_iter()
            .map(|written| written.text)
            .collect())
    }

    /// What the model is made of.
    pub fn inspect(&self) -> Inspection {
        let model = &self.config.model;
        let parts = parts(model);
        let fact = |name: &str, value: String| (name.to_owned(), value);
        let columns = format!(
            "{} → {}",
            self.config.source_column, self.config.target_column
        );
        Inspection {
            lines: vec![
                fact("task", self.kind.name().to_owned()),
                fact("columns", columns),
                fact(
                    "vocabulary",
                    format!("{} pieces and an end", model.vocabulary - 1),
                ),
                fact("width", model.width.to_string()),
                fact(
                    "encoder",
                    format!("{} layers of {} heads", model.encoder_layers, model.heads),
                ),
                fact(
                    "decoder",
                    format!("{} layers of {} heads", model.decoder_layers, model.heads),
                ),
                fact("reads", format!("at most {} pieces", model.max_source)),
                fact("writes", format!("at most {} pieces", model.max_target)),
            ],
            parameters: parts.iter().map(|(_, count)| count).sum(),
            operations: model.operations(20, 20),
            parts,
        }
    }

    /// A handful of made-up sources with what is written for them: a folder replays them when it is opened.
    pub(super) fn samples(&self) -> Vec<Sample> {
        let words = self.vocabularies.source().some_words(12);
        let texts: Vec<String> = words.chunks(4).map(|words| words.join(" ")).collect();
        let written = self.write_all(&texts).unwrap_or_default();
        let sample = |(input, written): (String, String)| {
            let log_probability = self.log_probability(&input, &written).ok()?;
            Some(Sample {
                output: serde_json::json!({ "text": written, "log_probability": log_probability }),
                input,
            })
        };
        texts.into_iter().zip(written).filter_map(sample).collect()
    }

    /// Scores the samples of the folder again: a search may turn at a rounding, a probability does not.
    fn replay(&self, opened: &bundle::Opened) -> Result<()> {
        const TOLERANCE: f64 = 1e-2;
        for sample in &opened.samples {
            let text = sample.output["text"].as_str().unwrap_or_default();
            let found = f64::from(self.log_probability(&sample.input, text)?);
            let expected = sample.output["log_probability"]
                .as_f64()
                .unwrap_or(f64::NAN);
            let near = (found - expected).abs() <= TOLERANCE * (1.0 + expected.abs());
            if !near {
                let path = opened.folder().join("check.json");
                let found = format!("another probability for {:?}", sample.input);
                return Err(Error::bundle(
                    &path,
                    "samples",
                    found,
                    "what it was saved with",
                ));
            }
        }
        Ok(())
    }
}
