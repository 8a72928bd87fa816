//! What our tokenizers do with a text before they look it up, and how a file proves to be one of them.

use serde_json::{Value, json};

use super::{PADDING, Pieces, UNKNOWN, all_differ};

/// Scripts written without space between words. Katakana is not one of them: words that are written in it stand apart.
macro_rules! unspaced {
    () => {
        r"\p{Han}\p{Hiragana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}"
    };
}

/// What a word is, whatever the scripts without spaces do: an English clitic; letters, marks and digits together (`x86`);
/// a flag; a symbol with its joined and coloured ones (an emoji); a run of one mark (a ruler in an e-mail); any other mark.
macro_rules! words {
    ($unspaced:expr) => {
        concat!(
            r"['’](?i:s|t|d|m|ll|re|ve)\b",
            r"|[\p{L}\p{M}\p{N}_&&[^",
            unspaced!(),
            r"]]+|[",
            unspaced!(),
            $unspaced,
            r"|[\x{1F1E6}-\x{1F1FF}]{2}",
            r"|\p{So}[\p{M}\p{Sk}]*(?:\x{200D}\p{So}[\p{M}\p{Sk}]*)*",
            r"|-{2,}|={2,}|\*{2,}|#{2,}|\.{2,}|~{2,}|!{2,}|\?{2,}|>{2,}",
            r"|[^\s\p{Cc}\p{Cf}]"
        )
    };
}

/// Every character of a script without spaces is a word.
const WORDS: &str = words!("]");
/// Pieces are learned within runs of such characters.
const PIECES: &str = words!("]+");

/// Nothing is lost: a run of letters, of digits, or of other marks, each with the blank before it, or white space alone.
const EVERYTHING: &str = r" ?[\p{L}\p{M}]+| ?\p{N}+| ?[^\s\p{L}\p{M}\p{N}]+|\s+";

/// Whether a character is a word of its own.
pub(super) fn stands_alone(letter: char) -> bool {
    // The blocks of the scripts of `unspaced!`; what a block leaves out is one character that joins its neighbour.
    matches!(u32::from(letter),
        0x0E00..=0x0EFF | 0x1000..=0x109F | 0x1780..=0x17FF | 0x19E0..=0x19FF | 0x2E80..=0x2FDF | 0x3005..=0x3007
        | 0x3021..=0x3029 | 0x3038..=0x303B | 0x3041..=0x309F | 0x3400..=0x4DBF | 0x4E00..=0x9FFF | 0xA9E0..=0xA9FF
        | 0xAA60..=0xAA7F | 0xF900..=0xFAFF | 0x1B001..=0x1B11F | 0x1B150..=0x1B152 | 0x20000..=0x323AF)
}

/// A `tokenizer.json` with this model.
pub(super) fn file(pieces: Pieces, lowercase: bool, model: &Value) -> Value {
    json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": [],
        "normalizer": normalizer(pieces, lowercase),
        "pre_tokenizer": pre_tokenizer(pieces),
        "post_processor": null,
        "decoder": if pieces == Pieces::Bytes { byte_level() } else { Value::Null },
        "model": model,
    })
}

/// Full-width letters, ligatures and the like become the plain ones.
pub(super) fn normalizer(pieces: Pieces, lowercase: bool) -> Value {
    // What is to be written again keeps its full-width marks.
    let form = if pieces == Pieces::Bytes {
        "NFC"
    } else {
        "NFKC"
    };
    let mut steps = vec![json!({ "type": form })];
    steps.extend(lowercase.then(|| json!({ "type": "Lowercase" })));
    json!({ "type": "Sequence", "normalizers": steps })
}

/// Bytes as visible characters, and back.
fn byte_level() -> Value {
    json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false })
}

pub(super) fn pre_tokenizer(pieces: Pieces) -> Value {
    if pieces == Pieces::Bytes {
        let split = json!({
            "type": "Split", "pattern": { "Regex": EVERYTHING }, "behavior": "Isolated", "invert": false
        });
        return json!({ "type": "Sequence", "pretokenizers": [split, byte_level()] });
    }
    let pattern = if pieces == Pieces::Words {
        WORDS
    } else {
        PIECES
    };
    // Inverted: what the pattern matches is kept, what lies between is removed.
    json!({ "type": "Split", "pattern": { "Regex": pattern }, "behavior": "Removed", "invert": true })
}

/// Whether a file is one that [`file`] makes, and how many entries it has; otherwise what is wrong with it.
///
/// Nothing else is read: foreign steps could be slow on purpose, draw lots, or cut otherwise than the model was taught.
pub(super) fn check(json: &Value) -> Result<usize, String> {
    let model = &json["model"];
    let (pieces, vocabulary) = match model["type"].as_str() {
        Some("WordLevel") => (Pieces::Words, vocabulary_of_map(&model["vocab"])?),
        Some("BPE") if !json["decoder"].is_null() => {
            (Pieces::Bytes, vocabulary_of_map(&model["vocab"])?)
        }
        Some("BPE") => (Pieces::Bpe, vocabulary_of_map(&model["vocab"])?),
        Some("Unigram") => (Pieces::Unigram, vocabulary_of_list(&model["vocab"])?),
        other => {
            return Err(format!(
                "`model.type` is {other:?}, expected WordLevel, BPE or Unigram"
            ));
        }
    };
    // Everything but what was learned must be as we write it.
    let mut fixed = fixed(pieces);
    for learned in ["vocab", "merges"] {
        if let (Some(slot), Some(found)) = (fixed.get_mut(learned), model.get(learned)) {
            *slot = found.clone();
        }
    }
    let lowercase = json["normalizer"] == normalizer(pieces, true);
    let expected = file(pieces, lowercase, &fixed);
    let (Some(found), Some(expected)) = (json.as_object(), expected.as_object()) else {
        return Err("not a JSON object".to_owned());
    };
    if let Some(name) = found.keys().find(|name| !expected.contains_key(*name)) {
        return Err(format!("`{name}` is not a part of Regard's tokenizers"));
    }
    for (name, expected) in expected {
        if found.get(name) != Some(expected) {
            let (name, hint) = match name.as_str() {
                "model" => ("model", String::new()),
                name => (name, format!(", {expected}")),
            };
            return Err(format!(
                "`{name}` is not what Regard writes{hint}: was this file made by another program?"
            ));
        }
    }
    Ok(vocabulary)
}

/// A model with nothing learned.
fn fixed(pieces: Pieces) -> Value {
    match pieces {
        Pieces::Words => json!({ "type": "WordLevel", "vocab": {}, "unk_token": UNKNOWN }),
        Pieces::Bpe | Pieces::Bytes => json!({
            "type": "BPE",
            "dropout": null,
            "unk_token": UNKNOWN,
            "continuing_subword_prefix": null,
            "end_of_word_suffix": null,
            "fuse_unk": false,
            "byte_fallback": false,
            "ignore_merges": false,
            "vocab": {},
            "merges": [],
        }),
        Pieces::Unigram => {
            json!({ "type": "Unigram", "unk_id": 1, "vocab": [], "byte_fallback": false })
        }
    }
}

fn vocabulary_of_map(vocabulary: &Value) -> Result<usize, String> {
    let entries = vocabulary
        .as_object()
        .ok_or("`model.vocab` is missing, expected an object")?;
    let mut used = vec![false; entries.len()];
    for (token, id) in entries {
        let place = id
            .as_u64()
            .and_then(|id| usize::try_from(id).ok())
            .filter(|id| *id < used.len());
        match place {
            Some(place) if !used[place] && !token.is_empty() => used[place] = true,
            _ => {
                return Err(format!(
                    "`model.vocab` has `{token}` = {id}, expected every number below {} once",
                    used.len()
                ));
            }
        }
    }
    let special = |token: &str, id: u64| entries.get(token).and_then(Value::as_u64) == Some(id);
    if special(PADDING, 0) && special(UNKNOWN, 1) {
        Ok(entries.len())
    } else {
        Err(no_special())
    }
}

fn vocabulary_of_list(vocabulary: &Value) -> Result<usize, String> {
    let entries = vocabulary
        .as_array()
        .ok_or("`model.vocab` is missing, expected a list")?;
    let token = |entry: &Value| entry.get(0).and_then(Value::as_str).map(str::to_owned);
    for entry in entries {
        let pair = entry.as_array().is_some_and(|pair| pair.len() == 2);
        let score = entry
            .get(1)
            .and_then(Value::as_f64)
            .is_some_and(|score| score.is_finite() && score <= 0.0);
        if !pair || !score || token(entry).is_none_or(|token| token.is_empty()) {
            return Err(format!(
                "`model.vocab` has {entry}, expected a token and a logarithm of a probability"
            ));
        }
    }
    let tokens: Vec<String> = entries.iter().filter_map(token).collect();
    if !all_differ(tokens.iter().map(String::as_str)) {
        return Err("`model.vocab` has a token twice".to_owned());
    }
    let starts = tokens.first().is_some_and(|token| token == PADDING)
        && tokens.get(1).is_some_and(|token| token == UNKNOWN);
    if starts {
        Ok(entries.len())
    } else {
        Err(no_special())
    }
}

fn no_special() -> String {
    format!("`model.vocab` does not begin with {PADDING} = 0 and {UNKNOWN} = 1")
}
