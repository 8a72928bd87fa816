//! From a text to the ids of its pieces, and back to the bytes they came from.
//!
//! Hugging Face's `tokenizers` does the work; the file is an ordinary `tokenizer.json`. Ours are of three fixed kinds, so
//! that a file that comes with a model can be compared with what it must be, instead of being trusted.

mod dropout;
mod pipeline;
mod training;

use std::collections::HashSet;
use std::sync::Arc;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokenizers::Tokenizer;

pub use dropout::DroppingMerges;

use crate::error::short;
use crate::{Error, Result};

/// What stands for nothing: fills up the rows of a batch. Its id is 0.
pub const PADDING: &str = "[PAD]";
/// What stands for everything the vocabulary does not hold. Its id is 1.
pub const UNKNOWN: &str = "[UNK]";

/// Most bytes of a `tokenizer.json`: a million entries of sixty bytes.
const MAX_JSON: usize = 64 << 20;
/// Texts are encoded in parts of about this many bytes: Hugging Face keeps some sixty bytes for each byte of a text, and one
/// word of 1 MB takes it .63 s in one part, .27 s in parts of this size.
const PART: usize = 1 << 16;

/// How a text is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Pieces {
    /// Whole words and numbers, single punctuation marks, single Chinese characters. What occurs once is unknown.
    Words,
    /// Byte-pair encoding: what often stands together is one piece (Sennrich et al. 2016).
    Bpe,
    /// The pieces that make the texts most likely (Kudo 2018).
    Unigram,
    /// Byte-pair encoding of the bytes: every text of every script has pieces, and the pieces have every byte of it. What
    /// a model writes is of these.
    Bytes,
}

/// What to train.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenizerSettings {
    /// How a text is cut.
    pub pieces: Pieces,
    /// Most entries, padding and unknown among them.
    pub vocabulary: usize,
    /// Capital letters are folded.
    pub lowercase: bool,
}

/// A trained tokenizer; cheap to clone.
#[derive(Clone)]
pub struct TextTokenizer {
    inner: Arc<Tokenizer>,
    json: Arc<str>,
    vocabulary: usize,
}

impl std::fmt::Debug for TextTokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TextTokenizer")
            .field("vocabulary", &self.vocabulary)
            .finish_non_exhaustive()
    }
}

/// A text in pieces.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Encoded {
    /// The pieces' numbers.
    pub ids: Vec<u32>,
    /// The bytes of the text as it was given that each piece came from, whatever folding did to them.
    pub spans: Vec<(usize, usize)>,
    /// Number of the word that each piece belongs to, ascending; every Chinese character begins one.
    pub words: Vec<u32>,
}

impl TextTokenizer {
    /// Learns a vocabulary from texts. The same texts give the same tokenizer, byte for byte, whatever their order and
    /// the number of threads.
    ///
    /// # Errors
    ///
    /// When the texts hold no word at all, or the vocabulary has room for fewer than 16 entries.
    pub fn train<'a>(
        texts: impl Iterator<Item = &'a str>,
        settings: &TokenizerSettings,
    ) -> Result<Self> {
        if settings.vocabulary < 16 {
            return Err(Error::setting(
                "vocabulary",
                settings.vocabulary,
                "at least 16",
            ));
        }
        let texts: Vec<&str> = texts.collect();
        let json = training::train(&texts, settings)?;
        Self::from_json(json.to_string().as_bytes())
    }

    /// Reads a `tokenizer.json` that [`TextTokenizer::to_json`] wrote.
    ///
    /// # Errors
    ///
    /// When it is anything else: too large, not JSON, with steps that ours do not have, without `[PAD]` = 0 and
    /// `[UNK]` = 1, with numbers missing or given twice.
    pub fn from_json(bytes: &[u8]) -> Result<Self> {
        let wrong = |what: String| Error::Tokenizer(what);
        if bytes.len() > MAX_JSON {
            return Err(wrong(format!(
                "{} bytes, expected at most {MAX_JSON}",
                bytes.len()
            )));
        }
        let json: Value =
            serde_json::from_slice(bytes).map_err(|error| wrong(format!("not JSON: {error}")))?;
        let vocabulary = pipeline::check(&json).map_err(wrong)?;
        let json = json.to_string();
        let inner = Tokenizer::from_bytes(&json)
            .map_err(|error| wrong(format!("cannot be read: {error}")))?;
        let found = inner.get_vocab_size(true);
        if found != vocabulary {
            return Err(wrong(format!(
                "{found} entries were read, expected {vocabulary}"
            )));
        }
        Ok(Self {
            inner: Arc::new(inner),
            json: json.into(),
            vocabulary,
        })
    }

    /// The tokenizer as a `tokenizer.json`.
    ///
    /// # Errors
    ///
    /// None today.
    pub fn to_json(&self) -> Result<String> {
        Ok(self.json.to_string())
    }

    /// How many entries there are; every id is below.
    pub fn vocabulary(&self) -> usize {
        self.vocabulary
    }

    /// Some entries of the vocabulary, evenly spread from the most to the least frequent, as a reader would write them.
    pub(crate) fn some_words(&self, count: usize) -> Vec<String> {
        let step = (self.vocabulary / count.max(1)).max(1);
        let entry = |id: usize| self.inner.id_to_token(id as u32);
        (2..self.vocabulary)
            .step_by(step)
            .filter_map(entry)
            .map(|entry| {
                entry
                    .chars()
                    .filter(|letter| letter.is_alphanumeric())
                    .collect::<String>()
            })
            .filter(|entry| !entry.is_empty())
            .take(count)
            .collect()
    }

    /// Cuts a text into pieces; space and control characters belong to none. A text of only those has no pieces.
    ///
    /// # Errors
    ///
    /// When the tokenizer cannot cut it, which no text is known to bring about.
    pub fn encode(&self, text: &str) -> Result<Encoded> {
        let mut encoded = Encoded::default();
        let mut start = 0;
        while start < text.len() {
            let end = start + end_of_part(&text[start..]);
            self.encode_part(&text[start..end], start, &mut encoded)?;
            start = end;
        }
        Ok(encoded)
    }

    /// The text of these pieces ([`Pieces::Bytes`] only: the others do not keep blanks). Bytes that are no UTF-8 become
    /// U+FFFD.
    ///
    /// # Errors
    ///
    /// When an id is not one of the vocabulary's.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        if let Some(id) = ids.iter().find(|id| **id as usize >= self.vocabulary) {
            let expected = self.vocabulary;
            return Err(Error::Tokenizer(format!(
                "piece {id}, expected one below {expected}"
            )));
        }
        let decoded = self.inner.decode(ids, false);
        decoded.map_err(|error| Error::Tokenizer(format!("pieces cannot be joined: {error}")))
    }

    /// Cuts many texts, on all threads; the results are in the order of the texts.
    ///
    /// # Errors
    ///
    /// As [`TextTokenizer::encode`].
    pub fn encode_all(&self, texts: &[&str]) -> Result<Vec<Encoded>> {
        texts.par_iter().map(|text| self.encode(text)).collect()
    }

    fn encode_part(&self, text: &str, start: usize, to: &mut Encoded) -> Result<()> {
        let encoding = self.inner.encode(text, false).map_err(|error| {
            Error::Tokenizer(format!("the text `{}` cannot be cut: {error}", short(text)))
        })?;
        let mut before: Option<(Option<u32>, bool)> = None;
        let mut word = to.words.last().map_or(0, |last| last + 1);
        for ((id, span), at) in encoding
            .get_ids()
            .iter()
            .zip(encoding.get_offsets())
            .zip(encoding.get_word_ids())
        {
            let piece = text.get(span.0..span.1).unwrap_or_default();
            let same = before.is_some_and(|(at_before, ends_alone)| {
                at_before == *at
                    && !ends_alone
                    && !piece.chars().next().is_some_and(pipeline::stands_alone)
            });
            if before.is_some() && !same {
                word += 1;
            }
            before = Some((
                *at,
                piece
                    .chars()
                    .next_back()
                    .is_some_and(pipeline::stands_alone),
            ));
            to.ids.push(*id);
            to.spans.push((start + span.0, start + span.1));
            to.words.push(word);
        }
        Ok(())
    }
}

/// Where to cut a long text: after the last white space of its first part, or within a word that is longer than that.
fn end_of_part(text: &str) -> usize {
    if text.len() <= PART {
        return text.len();
    }
    let part = &text[..text.floor_char_boundary(PART)];
    part.rfind(char::is_whitespace)
        .map_or(part.len(), |at| text.ceil_char_boundary(at + 1))
}

/// Whether no token occurs twice.
fn all_differ<'a>(tokens: impl Iterator<Item = &'a str>) -> bool {
    let mut seen = HashSet::new();
    tokens.into_iter().all(|token| seen.insert(token))
}
