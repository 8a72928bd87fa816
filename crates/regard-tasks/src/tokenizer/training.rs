//! Learning a vocabulary: counting words, and handing the counts to Hugging Face's trainers in an order that does not
//! depend on threads or hash tables.

use std::collections::{HashMap, HashSet};

use rayon::prelude::*;
use serde_json::{Map, Value};
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::models::unigram::{Unigram, UnigramTrainer};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{
    AddedToken, NormalizedString, Normalizer, NormalizerWrapper, OffsetReferential, OffsetType,
    PreTokenizedString, PreTokenizer, PreTokenizerWrapper,
};

use super::{PADDING, Pieces, TokenizerSettings, UNKNOWN, pipeline};
use crate::{Error, Result};

/// Longest word that pieces are learned from, in characters: no language needs more, and a line of base64 would only
/// slow the trainers down.
const LONGEST_WORD: usize = 64;
/// The trainers count in 32 bits.
const MOST_COUNTED: u64 = 1 << 30;

/// A word and how often it occurs.
type Counted = (String, u64);

/// Learns from texts; the `tokenizer.json`.
pub(super) fn train(texts: &[&str], settings: &TokenizerSettings) -> Result<Value> {
    let words = count_words(texts, settings)?;
    if words.is_empty() {
        return Err(Error::Tokenizer(format!(
            "no word in {} texts to learn from",
            texts.len()
        )));
    }
    let model = match settings.pieces {
        Pieces::Words => frequent_words(&words, settings.vocabulary),
        Pieces::Bpe => byte_pairs(
            learnable(&words, settings.vocabulary),
            settings.vocabulary,
            HashSet::new(),
        )?,
        Pieces::Bytes => {
            let shortened = |(word, count): &Counted| {
                let word: String = word.chars().take(LONGEST_WORD).collect();
                (word, (*count).min(MOST_COUNTED) as u32)
            };
            let words = words.iter().map(shortened).collect();
            // Every byte has a piece: no text is unknown.
            byte_pairs(
                words,
                settings.vocabulary,
                ByteLevel::alphabet().into_iter().collect(),
            )?
        }
        Pieces::Unigram => {
            likely_pieces(learnable(&words, settings.vocabulary), settings.vocabulary)?
        }
    };
    Ok(pipeline::file(settings.pieces, settings.lowercase, &model))
}

fn failed(error: impl std::fmt::Display) -> Error {
    Error::Tokenizer(format!("cannot be trained: {error}"))
}

/// Words as the tokenizer will cut them, the most frequent first, equals in alphabetical order.
fn count_words(texts: &[&str], settings: &TokenizerSettings) -> Result<Vec<Counted>> {
    let normalizer: NormalizerWrapper =
        serde_json::from_value(pipeline::normalizer(settings.pieces, settings.lowercase))
            .map_err(failed)?;
    let splitter: PreTokenizerWrapper =
        serde_json::from_value(pipeline::pre_tokenizer(settings.pieces)).map_err(failed)?;
    let words_of = |text: &str, counts: &mut HashMap<String, u64>| -> tokenizers::Result<()> {
        let mut normalized = NormalizedString::from(text);
        normalizer.normalize(&mut normalized)?;
        let mut cut = PreTokenizedString::from(normalized);
        splitter.pre_tokenize(&mut cut)?;
        for (word, _, _) in cut.get_splits(OffsetReferential::Normalized, OffsetType::Byte) {
            match counts.get_mut(word) {
                Some(count) => *count += 1,
                None => drop(counts.insert(word.to_owned(), 1)),
            }
        }
        Ok(())
    };
    let counts = texts
        .par_iter()
        .try_fold(HashMap::new, |mut counts, text| {
            words_of(text, &mut counts)?;
            Ok(counts)
        })
        .try_reduce(HashMap::new, |mut all, counts| {
            for (word, count) in counts {
                *all.entry(word).or_default() += count;
            }
            Ok(all)
        })
        .map_err(|error: tokenizers::Error| failed(error))?;
    let mut counts: Vec<Counted> = counts.into_iter().collect();
    counts.sort_unstable_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    Ok(counts)
}

/// The words that occur twice and more. Where none does, all: a toy must work as well.
fn frequent_words(words: &[Counted], vocabulary: usize) -> Value {
    let least = if words[0].1 > 1 { 2 } else { 1 };
    let special = [PADDING, UNKNOWN].into_iter();
    // The most frequent words get the smallest numbers.
    let frequent = words
        .iter()
        .filter(|(_, count)| *count >= least)
        .map(|(word, _)| word.as_str());
    let numbered = special.chain(frequent).take(vocabulary).enumerate();
    let entries: Map<String, Value> = numbered
        .map(|(id, word)| (word.to_owned(), id.into()))
        .collect();
    serde_json::json!({ "type": "WordLevel", "vocab": entries, "unk_token": UNKNOWN })
}

/// Words as the trainers take them: not too long, and without the rarest characters, which are left unknown. At most
/// half of the vocabulary is single characters.
fn learnable(words: &[Counted], vocabulary: usize) -> Vec<(String, u32)> {
    let mut letters: HashMap<char, u64> = HashMap::new();
    for (word, count) in words {
        word.chars()
            .for_each(|letter| *letters.entry(letter).or_default() += count);
    }
    let total: u64 = letters.values().sum();
    let mut letters: Vec<(char, u64)> = letters.into_iter().collect();
    letters.sort_unstable_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(&b.0)));
    let alphabet: HashSet<char> = letters
        .into_iter()
        .take(vocabulary / 2)
        .map(|(letter, _)| letter)
        .collect();

    let mut parts: HashMap<String, u64> = HashMap::new();
    for (word, count) in words {
        let shortened: String = word.chars().take(LONGEST_WORD).collect();
        for part in shortened
            .split(|letter| !alphabet.contains(&letter))
            .filter(|part| !part.is_empty())
        {
            *parts.entry(part.to_owned()).or_default() += count;
        }
    }
    let mut parts: Vec<Counted> = parts.into_iter().collect();
    parts.sort_unstable();
    let shrink = total / MOST_COUNTED + 1;
    parts
        .into_iter()
        .map(|(part, count)| (part, (count / shrink).clamp(1, MOST_COUNTED) as u32))
        .collect()
}

fn special_tokens() -> Vec<AddedToken> {
    [PADDING, UNKNOWN]
        .into_iter()
        .map(|token| AddedToken::from(token, true))
        .collect()
}

fn byte_pairs(
    words: Vec<(String, u32)>,
    vocabulary: usize,
    alphabet: HashSet<char>,
) -> Result<Value> {
    let trainer = BpeTrainer::builder()
        .show_progress(false)
        .vocab_size(vocabulary)
        .min_frequency(2)
        .initial_alphabet(alphabet.into_iter().collect())
        .special_tokens(special_tokens())
        .build();
    let mut model = BPE::default();
    let counts = words
        .into_iter()
        .map(|(word, count)| (word.into(), u64::from(count)))
        .collect();
    trainer.do_train(&counts, &mut model).map_err(failed)?;
    model.unk_token = Some(UNKNOWN.to_owned());
    serde_json::to_value(&model).map_err(failed)
}

fn likely_pieces(words: Vec<(String, u32)>, vocabulary: usize) -> Result<Value> {
    let trainer = UnigramTrainer::builder()
        .show_progress(false)
        .vocab_size(u32::try_from(vocabulary).unwrap_or(u32::MAX))
        .special_tokens(special_tokens())
        .unk_token(Some(UNKNOWN.to_owned()))
        .build()
        .map_err(failed)?;
    let mut model = Unigram::default();
    // The trainer adds up parts of sums by thread: one thread, one result.
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(1)
        .build()
        .map_err(failed)?;
    pool.install(|| trainer.do_train(words, &mut model))
        .map_err(failed)?;
    let pieces: Vec<(String, f64)> = model.iter().cloned().collect();
    let model = Unigram::from(in_fixed_order(pieces), Some(1), false).map_err(failed)?;
    serde_json::to_value(&model).map_err(failed)
}

/// Undoes what the trainer leaves to a hash table: characters that its model lost get the lowest score, the lowest plus
/// 0.0001, plus 0.0002 … in the order of the table. Here they get the same scores in alphabetical order.
fn in_fixed_order(mut pieces: Vec<(String, f64)>) -> Vec<(String, f64)> {
    const STEP: f64 = 0.0001;
    let mut learned = pieces.split_off(2); // behind [PAD] and [UNK]
    let lowest = learned.iter().map(|(_, score)| *score).fold(0.0, f64::min);
    let single = |piece: &str| piece.chars().nth(1).is_none();
    let mut lost: Vec<usize> = Vec::new();
    let mut penalty = 0.0;
    loop {
        let score: f64 = lowest + penalty;
        let found: Vec<usize> = (0..learned.len())
            .filter(|at| learned[*at].1.to_bits() == score.to_bits() && single(&learned[*at].0))
            .collect();
        if found.is_empty() {
            break;
        }
        lost.extend(found);
        penalty += STEP;
    }
    let mut letters: Vec<String> = lost.iter().map(|at| learned[*at].0.clone()).collect();
    letters.sort_unstable();
    for (at, letter) in lost.into_iter().zip(letters) {
        learned[at].0 = letter;
    }
    // Positive scores, of which there are none but by rounding, are no logarithms of probabilities.
    learned
        .iter_mut()
        .for_each(|(_, score)| *score = score.min(0.0));
    learned.sort_by(|a, b| b.1.total_cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    pieces.extend(learned);
    pieces
}
