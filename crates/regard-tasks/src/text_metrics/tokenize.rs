//! How BLEU cuts texts into words: the tokenizers of `sacrebleu`, rule for rule.

use std::sync::LazyLock;

use regex::Regex;
use serde::{Deserialize, Serialize};

use super::is_space;

/// A tokenizer of `sacrebleu`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BleuTokenizer {
    /// What mteval-v13a does; for languages with blanks between words.
    #[default]
    #[serde(rename = "13a")]
    V13a,
    /// What mteval-v14 does: marks and symbols of all scripts stand alone.
    Intl,
    /// Every Chinese character stands alone, the rest as 13a.
    Zh,
    /// Every character stands alone; for Japanese and Thai, where no words are marked.
    Char,
}

type Rules = LazyLock<Vec<(Regex, &'static str)>>;

fn rules(rules: &[(&str, &'static str)]) -> Vec<(Regex, &'static str)> {
    let rule = |(pattern, with): &(&str, &'static str)| {
        (
            Regex::new(pattern).expect("the pattern is a constant"),
            *with,
        )
    };
    rules.iter().map(rule).collect()
}

static WESTERN: Rules = LazyLock::new(|| {
    rules(&[
        (r"([\{-\~\[-` -\&\(-\+:-@/])", " ${1} "),
        (r"([^0-9])([\.,])", "${1} ${2} "),
        (r"([\.,])([^0-9])", " ${1} ${2}"),
        (r"([0-9])(-)", "${1} ${2} "),
    ])
});

static INTERNATIONAL: Rules = LazyLock::new(|| {
    rules(&[
        (r"(\P{N})(\p{P})", "${1} ${2} "),
        (r"(\p{P})(\P{N})", " ${1} ${2}"),
        (r"(\p{S})", " ${1} "),
    ])
});

fn apply(rules: &Rules, mut text: String) -> String {
    for (pattern, with) in rules.iter() {
        text = pattern.replace_all(&text, *with).into_owned();
    }
    text
}

impl BleuTokenizer {
    /// As `sacrebleu` calls it.
    pub fn name(self) -> &'static str {
        match self {
            Self::V13a => "13a",
            Self::Intl => "intl",
            Self::Zh => "zh",
            Self::Char => "char",
        }
    }

    /// The text with white space between its words.
    pub fn cut(self, text: &str) -> String {
        match self {
            Self::V13a => {
                let text = text
                    .replace("<skipped>", "")
                    .replace("-\n", "")
                    .replace('\n', " ")
                    .replace("&quot;", "\"")
                    .replace("&amp;", "&")
                    .replace("&lt;", "<")
                    .replace("&gt;", ">");
                apply(&WESTERN, format!(" {text} "))
            }
            Self::Intl => apply(&INTERNATIONAL, text.to_owned()),
            Self::Zh => {
                let mut spread = String::with_capacity(2 * text.len());
                for letter in text.trim_matches(is_space).chars() {
                    match is_chinese(letter) {
                        true => spread.extend([' ', letter, ' ']),
                        false => spread.push(letter),
                    }
                }
                apply(&WESTERN, spread)
            }
            Self::Char => text.chars().flat_map(|letter| [letter, ' ']).collect(),
        }
    }
}

/// The ranges of `sacrebleu`, with its two slips: `\u20000` is read there as U+2000 and a 0.
fn is_chinese(letter: char) -> bool {
    matches!(u32::from(letter),
        0x3400..=0x4DB5 | 0x4E00..=0x9FBB | 0xF900..=0xFA2D | 0xFA30..=0xFA6A | 0xFA70..=0xFAD9
        | 0x2001..=0x2A6D | 0x2F81..=0x2FA1 | 0xFF00..=0xFFEF | 0x2E80..=0x2EFF | 0x3000..=0x303F
        | 0x31C0..=0x31EF | 0x2F00..=0x2FDF | 0x2FF0..=0x2FFF | 0x3100..=0x312F | 0x31A0..=0x31BF
        | 0xFE10..=0xFE1F | 0xFE30..=0xFE4F | 0x3200..=0x33FF)
}
