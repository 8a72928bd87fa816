//! Sizes and recipe from the data and the time there is, decided once and written down before the first step.

use regard_nn::models::sequence_to_sequence::SequenceToSequenceConfig;
use serde::{Deserialize, Serialize};

use super::data::{Examples, Pairs};
use super::vocabularies::Vocabularies;
use super::{Kind, Settings};
use crate::report::FileFacts;
use crate::tokenizer::{Pieces, TokenizerSettings};
use crate::trainer::{Optimizer, Recipe};
use crate::{Error, Precision, Result};

/// What a run does.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Plan {
    /// The files it was made for: a run is only resumed on the same bytes.
    pub(super) files: Vec<FileFacts>,
    pub(super) tokenizer: TokenizerSettings,
    /// Each side has a vocabulary of its own.
    pub(super) separate_vocabularies: bool,
    /// Share of the merges left out when a text is learned from.
    pub(super) bpe_dropout: f64,
    pub(super) model: SequenceToSequenceConfig,
    pub(super) recipe: Recipe,
    pub(super) label_smoothing: f64,
    pub(super) batch_tokens: usize,
    /// What was decided, in sentences.
    pub(super) notes: Vec<String>,
}

/// Pairs below which the vocabulary shrinks: a piece is learned from some hundred occurrences.
const FULL_VOCABULARY_PAIRS: usize = 20_000;

impl Plan {
    /// The settings the user gave, and the recipe for the rest.
    pub(super) fn new(kind: Kind, settings: &Settings, pairs: &Pairs, seed: u64) -> Self {
        let size = settings.size.as_deref().unwrap_or("tiny");
        let preset = SequenceToSequenceConfig::preset(size)
            .or_else(|| SequenceToSequenceConfig::preset("tiny"));
        let preset = preset.expect("there is a preset of that name");
        let vocabulary = match pairs.len() {
            count if count >= FULL_VOCABULARY_PAIRS => 8000,
            count => (count / 4).clamp(600, 8000),
        };
        let (most_source, most_target) = match kind {
            Kind::Translation => (128, 128),
            Kind::Summarization => (256, 64),
        };
        let separate = settings.separate_vocabularies.unwrap_or(false);
        // A summary takes its names and numbers from the text (docs/benchmarks.md has what copying them is worth).
        let summarizes = kind == Kind::Summarization;
        Self {
            files: pairs.files.clone(),
            tokenizer: TokenizerSettings {
                pieces: Pieces::Bytes,
                vocabulary: settings.vocabulary.unwrap_or(vocabulary),
                lowercase: false,
            },
            separate_vocabularies: separate,
            bpe_dropout: settings.bpe_dropout.unwrap_or(0.0),
            model: SequenceToSequenceConfig {
                vocabulary: 0,
                source_vocabulary: None,
                pointer: settings.pointer.unwrap_or(summarizes && !separate),
                width: settings.width.unwrap_or(preset.width),
                heads: settings.heads.unwrap_or(preset.heads),
                encoder_layers: settings.encoder_layers.unwrap_or(preset.encoder_layers),
                decoder_layers: settings.decoder_layers.unwrap_or(preset.decoder_layers),
                feed_forward: settings.feed_forward.unwrap_or(preset.feed_forward),
                max_source: settings.max_source.unwrap_or(most_source),
                max_target: settings.max_target.unwrap_or(most_target),
                dropout: settings.dropout.unwrap_or(preset.dropout),
            },
            recipe: Recipe {
                // docs/benchmarks.md: two epochs of these gave more than four of AdamW in batches of 3,000.
                optimizer: settings.optimizer.unwrap_or(Optimizer::Muon),
                schedule: settings.schedule.unwrap_or_default(),
                learning_rate: settings.learning_rate.unwrap_or(2e-3),
                warmup: settings.warmup.unwrap_or(0.05),
                epochs: settings.epochs.unwrap_or(10),
                patience: settings.patience.unwrap_or(4),
                average: settings.average.unwrap_or(0.0),
                weight_decay: settings.weight_decay.unwrap_or(0.01),
                clip_norm: settings.clip_norm.unwrap_or(1.0),
                seed,
                precision: Precision::F32,
            },
            label_smoothing: settings.label_smoothing.unwrap_or(0.1),
            batch_tokens: settings.batch_tokens.unwrap_or(1000),
            notes: Vec::new(),
        }
    }

    /// Sets what depends on the tokenizer, and says what was decided.
    pub(super) fn fit_to(
        &mut self,
        vocabularies: &Vocabularies,
        examples: &Examples,
    ) -> Result<()> {
        let pieces = vocabularies.target().vocabulary();
        let of_source = vocabularies.own_source_pieces();
        // One more row: the end, which no source has.
        self.model.vocabulary = pieces + 1;
        self.model.source_vocabulary = of_source;
        self.model
            .validate()
            .map_err(|error| Error::setting(error.field, &error.found, &error.expected))?;
        let middle = |all: &[Vec<u32>]| {
            let mut lengths: Vec<usize> = all.iter().map(Vec::len).collect();
            lengths.sort_unstable();
            lengths.get(lengths.len() / 2).copied().unwrap_or(0)
        };
        let shared = match of_source {
            None => format!("vocabulary of {pieces} byte-pair pieces, shared by both sides"),
            Some(of_source) => format!(
                "vocabularies of {of_source} byte-pair pieces for the sources and {pieces} for the targets"
            ),
        };
        self.notes.push(format!(
            "{shared}; half of the sources have at most {} of them, half of the targets {} (--set vocabulary=, \
             separate_vocabularies=)",
            middle(&examples.sources),
            middle(&examples.targets)
        ));
        if examples.cut > 0 {
            self.notes.push(format!(
                "{} sources are longer than {} pieces and are cut there (--set max_source=)",
                examples.cut, self.model.max_source
            ));
        }
        if examples.too_long > 0 {
            self.notes.push(format!(
                "{} pairs have a target of more than {} pieces and are left out (--set max_target=)",
                examples.too_long, self.model.max_target
            ));
        }
        self.notes.push(format!(
            "width {}, {} heads, {} + {} layers{}, at most {} epochs (--set size=, pointer=, epochs=)",
            self.model.width,
            self.model.heads,
            self.model.encoder_layers,
            self.model.decoder_layers,
            if self.model.pointer { ", a pointer that copies from the source" } else { "" },
            self.recipe.epochs
        ));
        Ok(())
    }

    /// Chooses the epochs that fit into so many seconds.
    pub(super) fn fit_to_seconds(&mut self, seconds: f64, per_epoch: f64) -> Result<()> {
        let epochs = (seconds / per_epoch.max(1e-9)).floor() as usize;
        if epochs == 0 {
            let found = format!("{:.0} s for the training", seconds.max(0.0));
            let expected =
                format!("at least {per_epoch:.0} s: one pass over the data takes that long");
            return Err(Error::argument("--minutes", found, expected));
        }
        self.recipe.epochs = self.recipe.epochs.min(epochs);
        self.notes.push(format!(
            "{} epochs of about {per_epoch:.0} s fit into --minutes",
            self.recipe.epochs
        ));
        Ok(())
    }

    /// A run is only resumed on the data that it was made for.
    pub(super) fn check_same_data(&self, pairs: &Pairs) -> Result<()> {
        match self.files == pairs.files {
            true => Ok(()),
            false => Err(Error::argument(
                "--resume",
                "files with other contents than when the run began",
                "the same files",
            )),
        }
    }
}
