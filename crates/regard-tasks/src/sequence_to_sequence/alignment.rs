//! Which source words the attention looked at for each word that was written.

use std::fmt::Write;

use serde::{Deserialize, Serialize};

use super::tracing::Trace;
use crate::report::{escape, page};
use crate::{Error, Result};

/// Which of two positions speaks for a written word.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Reading {
    /// Where the word is the output: the attention that chose it.
    #[default]
    Output,
    /// Where the word is the input: the attention after it was chosen, often closer to what a person would draw.
    Input,
}

/// Whose attention is looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AttentionPart {
    /// Which position speaks for a word.
    pub reading: Reading,
    /// Layer of the decoder, from 0; `None` = the mean of all, or the pointer of a model that copies.
    pub layer: Option<usize>,
    /// Head, from 0; `None` = the mean of all, or as above.
    pub head: Option<usize>,
}

impl AttentionPart {
    /// The one that is asked for, or all.
    pub(super) fn one_of(
        &self,
        argument: &str,
        asked: Option<usize>,
        count: usize,
    ) -> Result<std::ops::Range<usize>> {
        match asked {
            None => Ok(0..count),
            Some(one) if one < count => Ok(one..one + 1),
            Some(one) => Err(Error::argument(
                argument,
                one,
                format!("0 to {}", count.saturating_sub(1)),
            )),
        }
    }

    /// In words.
    pub(super) fn said(&self, layers: usize, heads: usize) -> String {
        let layers = match self.layer {
            Some(layer) => format!("layer {layer}"),
            None => format!("mean of {layers} layers"),
        };
        match self.head {
            Some(head) => format!("{layers}, head {head}"),
            None => format!("{layers}, mean of {heads} heads"),
        }
    }
}

/// A word and where it stands in its text.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Word {
    /// The word.
    pub text: String,
    /// Its first byte.
    pub start: usize,
    /// The byte behind it.
    pub end: usize,
}

/// The attention between the words of a source and of what was written for it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Alignment {
    /// What was read.
    pub source: String,
    /// What was written.
    pub target: String,
    /// Words of the source that were read.
    pub source_words: Vec<Word>,
    /// Words of the target.
    pub target_words: Vec<Word>,
    /// For each target word the weight of each source word: sums over the source word's pieces, means over the target
    /// word's. What is missing to 1 went to no word (a blank).
    pub weights: Vec<Vec<f32>>,
    /// Pairs (source, target), from 0: for each target word the source word with the most weight.
    pub links: Vec<(usize, usize)>,
    /// For each target word the span of the source that it came from; `None` where it looked at no word.
    pub traces: Vec<Option<Trace>>,
    /// For each target word the share of its probability that comes from copying the source; `None` for a model that does not
    /// copy.
    pub copied: Option<Vec<f32>>,
    /// Pieces of the source that were not read, because it is too long.
    pub cut_source_pieces: usize,
    /// Natural logarithm of the probability of the target and its end, given the source.
    pub log_probability: f32,
    /// Which position speaks for a word.
    pub reading: Reading,
    /// How the weights were computed.
    pub method: String,
}

/// The words that pieces belong to: what stands between blanks, and every Chinese or Japanese character by itself. One
/// entry per piece; `None` for a piece of blanks only.
pub(super) fn words_of(text: &str, spans: &[(usize, usize)]) -> (Vec<Word>, Vec<Option<usize>>) {
    let mut words: Vec<Word> = Vec::new();
    for (start, letter) in text.char_indices() {
        let end = start + letter.len_utf8();
        if letter.is_whitespace() {
            continue;
        }
        let joins = words
            .last()
            .is_some_and(|last| last.end == start && !alone(letter) && !last.text.ends_with(alone));
        match words.last_mut() {
            Some(last) if joins => {
                last.end = end;
                last.text.push(letter);
            }
            _ => words.push(Word {
                text: letter.to_string(),
                start,
                end,
            }),
        }
    }
    let of = |(start, end): &(usize, usize)| {
        words
            .iter()
            .position(|word| word.start < *end && *start < word.end)
    };
    let places = spans.iter().map(of).collect();
    (words, places)
}

/// Characters of scripts that put no blanks between words.
fn alone(letter: char) -> bool {
    matches!(u32::from(letter), 0x0E00..=0x0EFF | 0x2E80..=0x2FDF | 0x3001..=0x30FF | 0x3400..=0x9FFF | 0xF900..=0xFAFF
        | 0xFF01..=0xFF0F | 0x20000..=0x323AF)
}

impl Alignment {
    /// The links in Pharaoh's form: `0-0 1-2`.
    pub fn pharaoh(&self) -> String {
        let links: Vec<String> = self
            .links
            .iter()
            .map(|(source, target)| format!("{source}-{target}"))
            .collect();
        links.join(" ")
    }

    /// For each target word the source word with the most weight, unless it has next to none.
    pub(super) fn strongest(weights: &[Vec<f32>]) -> Vec<(usize, usize)> {
        /// Weight below which a word was not looked at.
        const LEAST: f32 = 0.05;
        let mut links = Vec::new();
        for (target, row) in weights.iter().enumerate() {
            let mut best: Option<usize> = None;
            for (source, weight) in row.iter().enumerate() {
                if *weight >= LEAST && best.is_none_or(|best| *weight > row[best]) {
                    best = Some(source);
                }
            }
            links.extend(best.map(|source| (source, target)));
        }
        links
    }

    /// A page with the matrix: the darker a cell, the more the row's word looked at the column's.
    pub fn html(&self) -> String {
        page("Explanation: alignment", |html| self.write_matrix(html))
    }

    fn write_matrix(&self, html: &mut String) -> std::fmt::Result {
        write!(
            html,
            "<p class=\"eyebrow\">Regard explanation</p>\n<h1>What each word looked at</h1>\n\
             <div class=\"example\"><p class=\"text\" dir=\"auto\">{}</p>\n<p class=\"text\" dir=\"auto\"><b>{}</b></p></div>\n\
             <div class=\"wide\"><table class=\"matrix looked\">\n<thead><tr><th></th>",
            escape(&self.source),
            escape(&self.target)
        )?;
        for word in &self.source_words {
            write!(html, "<th dir=\"auto\">{}</th>", escape(&word.text))?;
        }
        html.push_str("</tr></thead>\n<tbody>\n");
        for (word, row) in self.target_words.iter().zip(&self.weights) {
            write!(html, "<tr><th dir=\"auto\">{}</th>", escape(&word.text))?;
            for weight in row {
                let shown = match *weight >= 0.1 {
                    true => format!("{weight:.2}"),
                    false => String::new(),
                };
                write!(
                    html,
                    "<td style=\"--share:{weight:.3}\" title=\"{weight:.3}\">{shown}</td>"
                )?;
            }
            html.push_str("</tr>\n");
        }
        writeln!(
            html,
            "</tbody></table></div>\n<p class=\"quiet\">{}</p>\n<p class=\"quiet\">Links: <code>{}</code></p>",
            escape(&self.method),
            self.pharaoh()
        )
    }
}

/// The share of links that are wrong or missing (Och & Ney 2003): `1 − 2 |A ∩ G| / (|A| + |G|)`; 0 where both are empty.
pub fn alignment_error_rate(found: &[(usize, usize)], gold: &[(usize, usize)]) -> f64 {
    let both = found.iter().filter(|link| gold.contains(link)).count();
    match found.len() + gold.len() {
        0 => 0.0,
        all => 1.0 - 2.0 * both as f64 / all as f64,
    }
}

/// Reads links in Pharaoh's form.
///
/// # Errors
///
/// The first part that is not two numbers with a hyphen between them.
pub fn parse_pharaoh(text: &str) -> std::result::Result<Vec<(usize, usize)>, String> {
    let link = |part: &str| {
        let (source, target) = part.split_once('-')?;
        Some((source.parse().ok()?, target.parse().ok()?))
    };
    text.split_whitespace()
        .map(|part| link(part).ok_or_else(|| part.to_owned()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_find_their_words_in_every_script() {
        let text = " a lightweight 画像。";
        let (words, places) = words_of(
            text,
            &[(0, 2), (2, 8), (8, 14), (14, 15), (15, 18), (15, 18)],
        );
        let shown: Vec<&str> = words.iter().map(|word| word.text.as_str()).collect();
        assert_eq!(shown, ["a", "lightweight", "画", "像", "。"]);
        assert_eq!(places, [Some(0), Some(1), Some(1), None, Some(2), Some(2)]);
    }

    #[test]
    fn links_survive_pharaohs_form_and_are_scored() {
        let links = parse_pharaoh("0-0 1-2 2-1").unwrap();
        assert_eq!(links, [(0, 0), (1, 2), (2, 1)]);
        assert_eq!(parse_pharaoh("0-0 x"), Err("x".to_owned()));
        assert_eq!(alignment_error_rate(&links, &links), 0.0);
        assert_eq!(alignment_error_rate(&links, &[]), 1.0);
        assert_eq!(alignment_error_rate(&[], &[]), 0.0);
    }

    #[test]
    fn a_word_that_looked_at_nothing_has_no_link() {
        let weights = [vec![0.7, 0.2], vec![0.01, 0.02], vec![0.4, 0.4]];
        assert_eq!(Alignment::strongest(&weights), [(0, 0), (0, 2)]);
    }
}
