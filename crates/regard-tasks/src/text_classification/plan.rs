//! Sizes, recipe and epochs from the data and the time there is. Everything decided here is decided once, said aloud,
//! written down before the first step, and taken from there when the run is resumed.

use regard_nn::models::text_classifier::{Kind, TextClassifierConfig};
use serde::{Deserialize, Serialize};

use super::corpus::Corpus;
use super::{ModelKind, Settings, TrainRequest};
use crate::report::FileFacts;
use crate::tokenizer::{Encoded, Pieces, TokenizerSettings};
use crate::trainer::{Optimizer, Recipe, Schedule};
use crate::{Error, Precision, Result};

/// What a run does.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Plan {
    /// The files it was made for: a run is only resumed on the same bytes.
    files: Vec<FileFacts>,
    pub(super) tokenizer: TokenizerSettings,
    pub(super) model: TextClassifierConfig,
    pub(super) recipe: Recipe,
    pub(super) word_dropout: f64,
    pub(super) label_smoothing: f64,
    pub(super) class_weights: bool,
    pub(super) batch_rows: usize,
    pub(super) batch_tokens: usize,
    /// Tokens of a text in the middle of the training part.
    pub(super) median_tokens: usize,
    /// What was decided, in sentences.
    pub(super) notes: Vec<String>,
}

/// Tokens from which a text counts as long: between Reuters (66 words in the middle, best with a word dropout of 0.1) and
/// the newsgroups (162, best with 0.3).
const LONG_TEXT: usize = 100;

impl Plan {
    /// The settings the user gave, and the recipe for the rest (docs/benchmarks.md has the trials it comes from).
    pub(super) fn new(request: &TrainRequest, corpus: &Corpus) -> Self {
        let plan = Self::with_settings(&request.settings, corpus.labels.len(), request.seed);
        Self {
            files: corpus.facts(0).files,
            ..plan
        }
    }

    /// The same for no file yet.
    pub(super) fn with_settings(settings: &Settings, classes: usize, seed: u64) -> Self {
        let kind = match settings.model {
            ModelKind::Mean => Kind::Mean,
            ModelKind::Auto | ModelKind::Pooling => Kind::Pooling,
            ModelKind::Transformer => Kind::Transformer,
        };
        let width = settings.width.unwrap_or((classes + 32).div_ceil(16) * 16);
        Self {
            files: Vec::new(),
            tokenizer: TokenizerSettings {
                pieces: settings.pieces.unwrap_or(Pieces::Words),
                vocabulary: settings.vocabulary.unwrap_or(30_000),
                lowercase: settings.lowercase.unwrap_or(true),
            },
            model: TextClassifierConfig {
                kind,
                vocabulary: 0,
                bigram_buckets: settings.bigram_buckets.unwrap_or(1 << 16),
                classes,
                width,
                layers: settings.layers.unwrap_or(1),
                heads: settings.heads.unwrap_or(4),
                feed_forward: settings.feed_forward.unwrap_or(2 * width),
                pooling_heads: settings.pooling_heads.unwrap_or(4),
                max_tokens: settings.max_tokens.unwrap_or(512),
                dropout: settings.dropout.unwrap_or(0.2),
            },
            recipe: Recipe {
                optimizer: Optimizer::AdamW,
                schedule: Schedule::Cosine,
                learning_rate: settings.learning_rate.unwrap_or(3e-3),
                warmup: settings.warmup.unwrap_or(0.05),
                epochs: settings.epochs.unwrap_or(8),
                patience: settings.patience.unwrap_or(3),
                average: 0.0,
                weight_decay: settings.weight_decay.unwrap_or(0.01),
                clip_norm: settings.clip_norm.unwrap_or(1.0),
                seed,
                precision: Precision::F32,
            },
            word_dropout: settings.word_dropout.unwrap_or(0.1),
            label_smoothing: settings.label_smoothing.unwrap_or(0.1),
            class_weights: settings.class_weights.unwrap_or(false),
            batch_rows: settings.batch_rows.unwrap_or(32),
            batch_tokens: settings.batch_tokens.unwrap_or(32 * 512),
            median_tokens: 0,
            notes: Vec::new(),
        }
    }

    /// Sets what depends on the tokenizer: the vocabulary and the tokens that are read of a text.
    pub(super) fn fit_to_lengths(
        &mut self,
        request: &TrainRequest,
        encoded: &[Encoded],
        vocabulary: usize,
    ) {
        let mut lengths: Vec<usize> = encoded.iter().map(|encoded| encoded.ids.len()).collect();
        lengths.sort_unstable();
        let at = |share: f64| lengths[((lengths.len() - 1) as f64 * share) as usize];
        self.model.vocabulary = vocabulary;
        self.median_tokens = at(0.5);
        if request.settings.word_dropout.is_none() && self.median_tokens >= LONG_TEXT {
            // A long text says what it is about many times over: it can spare more words.
            self.word_dropout = 0.3;
        }
        if request.settings.max_tokens.is_none() {
            // The limit never costs memory for texts that are not there.
            self.model.max_tokens = self.model.max_tokens.min(at(1.0)).max(1);
        }
        let limit = self.model.max_tokens;
        let cut = lengths.iter().filter(|length| **length > limit).count();
        let pieces = match self.tokenizer.pieces {
            Pieces::Words => "whole words",
            Pieces::Bpe => "byte-pair pieces",
            Pieces::Unigram => "unigram pieces",
            Pieces::Bytes => "byte-pair pieces of bytes",
        };
        self.notes.push(format!(
            "vocabulary of {vocabulary} {pieces}, half of the texts have at most {} of them (--set pieces=, vocabulary=)",
            self.median_tokens
        ));
        if cut > 0 {
            self.notes.push(format!(
                "{cut} texts are longer than {limit} tokens and are cut there (--set max_tokens=)"
            ));
        }
        self.notes.push(format!(
            "{} model of width {}, at most {} epochs (--model, --set width=, epochs=)",
            self.model.kind.name(),
            self.model.width,
            self.recipe.epochs
        ));
    }

    /// A run is only resumed on the data that it was made for.
    pub(super) fn check_same_data(&self, corpus: &Corpus) -> Result<()> {
        for (then, now) in self.files.iter().zip(&corpus.facts(0).files) {
            if then.sha256 != now.sha256 {
                return Err(Error::argument(
                    "--resume",
                    format!("`{}` with other contents than when the run began", now.name),
                    "the same files",
                ));
            }
        }
        if self.files.len() != corpus.facts(0).files.len() {
            return Err(Error::argument(
                "--resume",
                "another number of files",
                "the same files",
            ));
        }
        Ok(())
    }
}
