//! BPE-dropout (Provilkov, Emelianenko & Voita 2020): a text cut otherwise every time, so that a model sees words in many
//! pieces and does not learn one spelling by heart.

use std::collections::HashMap;

use regard_nn::Noise;
use serde_json::Value;
use tokenizers::{
    NormalizedString, Normalizer, OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer,
};

use super::TextTokenizer;
use crate::error::short;
use crate::{Error, Result};

/// Characters of a word that are merged together at most; a longer one is cut into such parts. Merging looks at all pairs
/// of a word again after every merge.
const LONGEST: usize = 64;

/// The merges of a tokenizer of [`Pieces::Bytes`](super::Pieces::Bytes), done one by one, each left out by lot.
#[derive(Clone, Debug)]
pub struct DroppingMerges {
    tokenizer: TextTokenizer,
    singles: HashMap<char, u32>,
    /// Of two neighbours: which merge comes first, and what becomes of them.
    merges: HashMap<(u32, u32), (u32, u32)>,
}

impl DroppingMerges {
    /// The merges of `tokenizer`.
    ///
    /// # Errors
    ///
    /// When it is no byte-pair tokenizer.
    pub fn new(tokenizer: &TextTokenizer) -> Result<Self> {
        let json: Value = serde_json::from_str(&tokenizer.json)
            .map_err(|error| Error::Tokenizer(format!("not JSON: {error}")))?;
        let model = &json["model"];
        let (Some(vocabulary), Some(merges)) =
            (model["vocab"].as_object(), model["merges"].as_array())
        else {
            let what = "a vocabulary without merges, expected one of byte pairs";
            return Err(Error::Tokenizer(what.to_owned()));
        };
        let id = |piece: &str| {
            let id = vocabulary.get(piece).and_then(Value::as_u64);
            id.and_then(|id| u32::try_from(id).ok())
        };
        let one = |(rank, pair): (usize, &Value)| {
            let (a, b) = (pair.get(0)?.as_str()?, pair.get(1)?.as_str()?);
            Some(((id(a)?, id(b)?), (rank as u32, id(&format!("{a}{b}"))?)))
        };
        let found: HashMap<_, _> = merges.iter().enumerate().filter_map(one).collect();
        if found.len() != merges.len() {
            let what = "a merge of pieces that are not in the vocabulary";
            return Err(Error::Tokenizer(what.to_owned()));
        }
        let single = |piece: &String| {
            let mut letters = piece.chars();
            letters.next().filter(|_| letters.next().is_none())
        };
        let singles = vocabulary
            .keys()
            .filter_map(|piece| Some((single(piece)?, id(piece)?)));
        Ok(Self {
            singles: singles.collect(),
            merges: found,
            tokenizer: tokenizer.clone(),
        })
    }

    /// The pieces of a text, each merge left out with probability `share` whenever it comes up; with 0 those that
    /// [`TextTokenizer::encode`] gives.
    ///
    /// # Errors
    ///
    /// As [`TextTokenizer::encode`].
    pub fn encode(&self, text: &str, share: f64, noise: &mut Noise) -> Result<Vec<u32>> {
        let failed = |error: tokenizers::Error| {
            Error::Tokenizer(format!("the text `{}` cannot be cut: {error}", short(text)))
        };
        let inner = &self.tokenizer.inner;
        let mut normalized = NormalizedString::from(text);
        if let Some(normalizer) = inner.get_normalizer() {
            normalizer.normalize(&mut normalized).map_err(failed)?;
        }
        let mut cut = PreTokenizedString::from(normalized);
        if let Some(splitter) = inner.get_pre_tokenizer() {
            splitter.pre_tokenize(&mut cut).map_err(failed)?;
        }
        let mut ids = Vec::new();
        for (word, _, _) in cut.get_splits(OffsetReferential::Normalized, OffsetType::Byte) {
            // Every byte is a piece of its own.
            let letters: Vec<u32> = word
                .chars()
                .filter_map(|letter| self.singles.get(&letter).copied())
                .collect();
            for part in letters.chunks(LONGEST) {
                ids.extend(self.merged(part.to_vec(), share, noise));
            }
        }
        Ok(ids)
    }

    fn merged(&self, mut pieces: Vec<u32>, share: f64, noise: &mut Noise) -> Vec<u32> {
        while pieces.len() > 1 {
            let lots = match share > 0.0 {
                true => noise.uniform(pieces.len() - 1),
                false => vec![1.0; pieces.len() - 1],
            };
            let first = pieces
                .windows(2)
                .zip(lots)
                .enumerate()
                .filter(|(_, (_, lot))| f64::from(*lot) >= share)
                .filter_map(|(at, (pair, _))| {
                    let (rank, merged) = self.merges.get(&(pair[0], pair[1]))?;
                    Some((*rank, at, *merged))
                })
                .min();
            let Some((_, at, merged)) = first else { break };
            pieces[at] = merged;
            pieces.remove(at + 1);
        }
        pieces
    }
}
