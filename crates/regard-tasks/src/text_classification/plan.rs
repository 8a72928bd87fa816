//! Sizes, recipe and epochs from the data and the time there is. Everything decided here is decided once, said aloud,
//! written down before the first step, and taken from there when the run is resumed.

use regard_nn::models::text_classifier::{Kind, TextClassifierConfig};
use serde::{Deserialize, Serialize};

use super::corpus::Corpus;
use super::data::Examples;
use super::{ModelKind, TrainRequest};
use crate::report::FileFacts;
use crate::tokenizer::{Encoded, Pieces, TokenizerSettings};
use crate::trainer::Recipe;
use crate::{Error, Result};

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
        let settings = &request.settings;
        let kind = match settings.model {
            ModelKind::Mean => Kind::Mean,
            ModelKind::Auto | ModelKind::Pooling => Kind::Pooling,
            ModelKind::Transformer => Kind::Transformer,
        };
        let classes = corpus.labels.len();
        let width = settings.width.unwrap_or((classes + 32).div_ceil(16) * 16);
        Self {
            files: corpus.facts(0).files,
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
                learning_rate: settings.learning_rate.unwrap_or(3e-3),
                warmup: settings.warmup.unwrap_or(0.05),
                epochs: settings.epochs.unwrap_or(8),
                patience: settings.patience.unwrap_or(3),
                weight_decay: settings.weight_decay.unwrap_or(0.01),
                clip_norm: settings.clip_norm.unwrap_or(1.0),
                seed: request.seed,
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

    /// Fits the epochs, and then the texts' length, to `seconds`; `measure` tells what a token costs under a plan.
    pub(super) fn fit_to_budget(
        &mut self,
        seconds: f64,
        rivals: bool,
        learned: &Examples,
        measure: impl Fn(&Self) -> Result<f64>,
    ) -> Result<()> {
        /// Fewer epochs than this leave a model unfinished.
        const LEAST_EPOCHS: usize = 4;
        // Tokenizing, scoring, the linear rival and the writing take a tenth; the rival without attention up to as long
        // as the model itself.
        let share = if rivals { 0.9 / 1.8 } else { 0.9 };
        let allowed = (seconds * share).max(1.0);
        let tokens = |limit: usize| {
            learned
                .tokens
                .iter()
                .map(|tokens| tokens.len().min(limit))
                .sum::<usize>() as f64
        };
        let cost = measure(self)?;
        let epoch = cost * tokens(self.model.max_tokens);
        let fits = (allowed / epoch) as usize;
        if fits < LEAST_EPOCHS {
            // Long texts are cut first: what a text is about mostly stands at its beginning.
            let mut limit = self.model.max_tokens;
            while limit > 32 && cost * tokens(limit) * LEAST_EPOCHS as f64 > allowed {
                limit = limit * 3 / 4;
            }
            self.model.max_tokens = limit;
        }
        let epoch = cost * tokens(self.model.max_tokens);
        let fits = ((allowed / epoch) as usize).clamp(1, self.recipe.epochs);
        self.recipe.epochs = fits;
        self.recipe.patience = self.recipe.patience.min(fits);
        self.notes.push(format!(
            "this machine learns {:.0} tokens a second here: {fits} epochs of {epoch:.1} s with texts of at most {} tokens \
             fit in the time given",
            1.0 / cost,
            self.model.max_tokens
        ));
        if epoch > allowed {
            self.notes.push(format!(
                "one epoch alone takes {epoch:.0} s, more than the {allowed:.0} s there are for it: expect to run over"
            ));
        }
        Ok(())
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
