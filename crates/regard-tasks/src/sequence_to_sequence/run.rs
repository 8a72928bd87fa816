//! Using a trained writer: texts, alignments, scores.

use std::path::Path;

use burn::module::Module;
use burn::tensor::Device;
use regard_nn::generation::score;
use regard_nn::models::sequence_to_sequence::SequenceToSequence;
use regard_nn::parameters::{self, NamedTensor};

use super::Kind;
use super::alignment::{Alignment, AttentionPart, Reading, words_of};
use super::answers::{Alternative, Inspection, Written};
use super::config::{Config, WritingOptions, parts};
use super::data::{begun, pieces, tidy};
use super::learner::hypotheses;
use super::report::PairReport;
use crate::bundle::{self, Sample};
use crate::tokenizer::{Encoded, TextTokenizer};
use crate::{Error, Result, Task};

/// A trained translator or summarizer.
#[derive(Debug)]
pub struct Writer {
    pub(super) kind: Kind,
    pub(super) config: Config,
    tokenizer: TextTokenizer,
    pub(super) report: Option<PairReport>,
    model: SequenceToSequence,
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
        let (pieces, rows) = (opened.tokenizer()?.vocabulary(), config.model.vocabulary);
        if pieces + 1 != rows {
            return Err(wrong(format!(
                "a vocabulary of {rows} for a tokenizer of {pieces} pieces and an end"
            )));
        }
        config.writing.check(config.model.vocabulary)?;
        let report = bundle::from_json(&opened.report, &folder.join("report.json"))?;
        let tensors = opened.tensors(&config.model.parameter_shapes())?;
        let tokenizer = opened.tokenizer()?.clone();
        let device = Device::flex();
        let writer = Self::from_parts(kind, config, tokenizer, Some(report), tensors, &device)?;
        writer.replay(&opened)?;
        Ok(writer)
    }

    fn run(&self, inputs: &[String]) -> Result<Vec<Written>> {
        let tidied: Vec<String> = inputs.iter().map(|text| tidy(text)).collect();
        let mut sources = pieces(&self.tokenizer, &tidied)?;
        let limit = self.config.model.max_source;
        let cut: Vec<usize> = sources
            .iter()
            .map(|one| one.len().saturating_sub(limit))
            .collect();
        sources.iter_mut().for_each(|source| source.truncate(limit));
        let options = self.options.generation(&self.tokenizer)?;
        let mut answers = Vec::with_capacity(inputs.len());
        for (found, cut_source_pieces) in
            hypotheses(&self.model, &sources, &options).iter().zip(cut)
        {
            let mut alternatives = Vec::with_capacity(found.len());
            for hypothesis in found {
                alternatives.push(Alternative {
                    text: tidy(&self.tokenizer.decode(&hypothesis.tokens)?),
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
        tokenizer: TextTokenizer,
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
            tokenizer,
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
        options.generation(&self.tokenizer)?;
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

    /// Natural logarithm of the probability of `target` given `source`.
    ///
    /// # Errors
    ///
    /// When a text cannot be cut into pieces.
    pub fn log_probability(&self, source: &str, target: &str) -> Result<f32> {
        let (source, target) = (self.source(source)?.ids, self.target(target)?.ids);
        let scores = score(&self.model, &[&source], &[&target]);
        Ok(scores[0].iter().sum())
    }

    /// The attention that wrote `target` (`None`: what the model writes) for `source`, word by word: of one layer and head,
    /// or averaged over those of the decoder; recomputed by the definition.
    ///
    /// # Errors
    ///
    /// When the decoder has no such layer or head, or a text cannot be cut into pieces.
    pub fn explain(
        &self,
        source: &str,
        target: Option<&str>,
        part: &AttentionPart,
    ) -> Result<Alignment> {
        let reading = part.reading;
        let source = tidy(source);
        let target = match target {
            Some(target) => tidy(target),
            None => self.run(std::slice::from_ref(&source))?.swap_remove(0).text,
        };
        let (read, wrote) = (self.source(&source)?, self.target(&target)?);
        let layers = self.model.source_weights(&read.ids, &wrote.ids);
        let [_, heads, rows, columns] = layers[0].dims();
        let chosen_layers = part.one_of("--layer", part.layer, layers.len())?;
        let chosen_heads = part.one_of("--head", part.head, heads)?;
        let count = (chosen_layers.len() * chosen_heads.len()) as f32;
        let mut mean = vec![0.0_f32; rows * columns];
        for layer in &layers[chosen_layers] {
            let weights: Vec<f32> = layer.to_data().iter::<f32>().collect();
            let heads = &weights[chosen_heads.start * rows * columns..];
            for head in heads.chunks(rows * columns).take(chosen_heads.len()) {
                mean.iter_mut()
                    .zip(head)
                    .for_each(|(mean, weight)| *mean += weight / count);
            }
        }
        // The texts were cut with a blank before them.
        let shown = |text: &str| begun(text);
        let (mut source_words, source_of) = words_of(&shown(&source), &read.spans);
        let (mut target_words, target_of) = words_of(&shown(&target), &wrote.spans);
        for word in source_words.iter_mut().chain(&mut target_words) {
            (word.start, word.end) = (word.start - 1, word.end - 1);
        }
        let mut weights = vec![vec![0.0; source_words.len()]; target_words.len()];
        let mut pieces = vec![0.0_f32; target_words.len()];
        let later = usize::from(reading == Reading::Input);
        for (piece, word) in target_of.iter().enumerate() {
            let Some(word) = *word else { continue };
            pieces[word] += 1.0;
            let row = &mean[(piece + later) * columns..][..columns];
            for (weight, source) in row.iter().zip(&source_of) {
                if let Some(source) = source {
                    weights[word][*source] += weight;
                }
            }
        }
        for (row, pieces) in weights.iter_mut().zip(&pieces) {
            row.iter_mut().for_each(|weight| *weight /= pieces.max(1.0));
        }
        let links = Alignment::strongest(&weights);
        let position = match reading {
            Reading::Output => "the word is the output: the attention that chose it",
            Reading::Input => "the word is the input: the attention after it was chosen",
        };
        Ok(Alignment {
            links,
            source,
            target,
            source_words,
            target_words,
            weights,
            reading,
            method: format!(
                "attention over the source at the position where {position}; {}, summed over a source word's pieces; it \
                 mixes what the encoder has mixed before",
                part.said(layers.len(), heads)
            ),
        })
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
        let words = self.tokenizer.some_words(12);
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

    fn source(&self, text: &str) -> Result<Encoded> {
        self.cut(text, self.config.model.max_source)
    }

    fn target(&self, text: &str) -> Result<Encoded> {
        self.cut(text, 2 * self.config.model.max_target)
    }

    /// At least one piece.
    fn cut(&self, text: &str, most: usize) -> Result<Encoded> {
        let mut encoded = self.tokenizer.encode(&begun(&tidy(text)))?;
        encoded.ids.truncate(most);
        encoded.spans.truncate(most);
        Ok(encoded)
    }
}
