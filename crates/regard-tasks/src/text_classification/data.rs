//! From files to rows, from rows to token ids, from token ids to batches.

use std::path::PathBuf;

use burn::tensor::{Device, Int, Tensor, TensorData};
use regard_nn::models::text_classifier::{TextBatch, bigram_bucket};
use regard_nn::{Noise, Sequences};

use crate::columns::{self, ColumnChoice, Columns};
use crate::report::FileFacts;
use crate::tables::Table;
use crate::tokenizer::TextTokenizer;
use crate::{Error, Result};

/// Labelled texts, as read.
#[derive(Clone, Debug, Default)]
pub(super) struct Rows {
    pub(super) texts: Vec<String>,
    pub(super) labels: Vec<String>,
    /// Empty when no group column was named.
    pub(super) groups: Vec<String>,
    /// Rows left out, counted and named.
    pub(super) skipped: Vec<String>,
    pub(super) files: Vec<FileFacts>,
}

/// Reads files with the same columns as one table; rows without a text or a label are left out, counted and named.
pub(super) fn read(paths: &[PathBuf], choice: &ColumnChoice) -> Result<(Rows, Columns)> {
    let mut rows = Rows::default();
    let mut columns: Option<Columns> = None;
    for path in paths {
        let table = Table::read(path)?;
        let found = match &columns {
            Some(columns) => columns,
            None => columns.insert(columns::infer(&table, choice)?),
        };
        rows.add(&table, found)?;
    }
    let columns =
        columns.ok_or_else(|| Error::argument("--data", "no file", "at least one file"))?;
    Ok((rows, columns))
}

impl Rows {
    /// Appends the rows of one file.
    pub(super) fn add(&mut self, table: &Table, columns: &Columns) -> Result<()> {
        let texts = table.column(&columns.text)?;
        let labels = table.column(&columns.label)?;
        let groups = columns
            .group
            .as_deref()
            .map(|name| table.column(name))
            .transpose()?;
        let (mut no_text, mut no_label) = (Vec::new(), Vec::new());
        for (row, (text, label)) in texts.into_iter().zip(labels).enumerate() {
            let filled = |value: Option<String>| value.filter(|value| !value.trim().is_empty());
            match (filled(text), filled(label)) {
                (Some(text), Some(label)) => {
                    self.texts.push(text);
                    self.labels.push(label.trim().to_owned());
                    if let Some(groups) = &groups {
                        // A row without a group is a group of its own.
                        let alone = || format!("{}:{}", table.path().display(), table.line(row));
                        self.groups.push(groups[row].clone().unwrap_or_else(alone));
                    }
                }
                (None, _) => no_text.push(table.line(row)),
                (Some(_), None) => no_label.push(table.line(row)),
            }
        }
        let name = table
            .path()
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        for (lines, column) in [(no_text, &columns.text), (no_label, &columns.label)] {
            self.skipped.extend(name_skipped(&name, &lines, column));
        }
        self.files.push(FileFacts {
            name,
            rows: table.rows(),
            sha256: table.fingerprint(),
        });
        Ok(())
    }
}

fn name_skipped(file: &str, lines: &[u64], column: &str) -> Option<String> {
    let shown: Vec<String> = lines.iter().take(5).map(u64::to_string).collect();
    let more = if lines.len() > 5 { ", …" } else { "" };
    let rows = if lines.len() == 1 { "row" } else { "rows" };
    (!lines.is_empty()).then(|| {
        format!(
            "{file}: {} {rows} with an empty `{column}` left out (line {}{more})",
            lines.len(),
            shown.join(", ")
        )
    })
}

/// Texts as token ids, with the table rows of their word pairs.
#[derive(Clone, Debug, Default)]
pub(super) struct Examples {
    pub(super) tokens: Vec<Vec<u32>>,
    pub(super) bigrams: Vec<Vec<u32>>,
    pub(super) labels: Vec<usize>,
    /// Tokens beyond the limit, per text.
    pub(super) cut: Vec<usize>,
}

impl Examples {
    /// Encodes the texts; what is longer than `max_tokens` is cut and counted. A text in which the tokenizer finds
    /// nothing (only spaces, say) becomes one unknown token.
    pub(super) fn encode(
        tokenizer: &TextTokenizer,
        texts: &[&str],
        labels: &[usize],
        max_tokens: usize,
        buckets: usize,
    ) -> Result<Self> {
        let mut examples = Self {
            labels: labels.to_vec(),
            ..Self::default()
        };
        for encoded in tokenizer.encode_all(texts)? {
            let mut tokens = encoded.ids;
            examples.cut.push(tokens.len().saturating_sub(max_tokens));
            tokens.truncate(max_tokens);
            if tokens.is_empty() {
                tokens.push(UNKNOWN);
            }
            examples.bigrams.push(bigrams(&tokens, buckets));
            examples.tokens.push(tokens);
        }
        Ok(examples)
    }

    pub(super) fn len(&self) -> usize {
        self.tokens.len()
    }

    /// Texts of which something was cut.
    pub(super) fn truncated(&self) -> usize {
        self.cut.iter().filter(|cut| **cut > 0).count()
    }

    /// The rows as tensors, one after the other.
    pub(super) fn batch(&self, rows: &[usize], device: &Device) -> TextBatch {
        let kept: Vec<Vec<usize>> = rows
            .iter()
            .map(|row| (0..self.tokens[*row].len()).collect())
            .collect();
        self.batch_of(rows, &kept, device)
    }

    /// The rows as tensors, each token left out with probability `share` (Iyyer et al. 2015, "word dropout").
    pub(super) fn thinned_batch(
        &self,
        rows: &[usize],
        share: f64,
        noise: &mut Noise,
        device: &Device,
    ) -> TextBatch {
        let kept: Vec<Vec<usize>> = rows
            .iter()
            .map(|row| {
                let length = self.tokens[*row].len();
                let draws = noise.uniform(length);
                let kept: Vec<usize> = (0..length)
                    .filter(|at| f64::from(draws[*at]) >= share)
                    .collect();
                if kept.is_empty() {
                    (0..length).collect()
                } else {
                    kept
                }
            })
            .collect();
        self.batch_of(rows, &kept, device)
    }

    fn batch_of(&self, rows: &[usize], kept: &[Vec<usize>], device: &Device) -> TextBatch {
        let gather = |table: &[Vec<u32>]| {
            let ids = rows.iter().zip(kept);
            let ids = ids.flat_map(|(row, kept)| kept.iter().map(|at| table[*row][*at] as i32));
            let ids: Vec<i32> = ids.collect();
            let count = ids.len();
            Tensor::<1, Int>::from_data(TensorData::new(ids, [count]), device)
        };
        let has_bigrams = self.bigrams.first().is_some_and(|first| !first.is_empty());
        TextBatch {
            tokens: gather(&self.tokens),
            bigrams: has_bigrams.then(|| gather(&self.bigrams)),
            texts: Sequences::new(kept.iter().map(Vec::len)),
        }
    }
}

/// Id of what the vocabulary does not hold.
pub(super) const UNKNOWN: u32 = 1;

/// The table row of each position's word pair; the first position pairs with the padding token. Empty without buckets.
pub(super) fn bigrams(tokens: &[u32], buckets: usize) -> Vec<u32> {
    if buckets == 0 {
        return Vec::new();
    }
    let before = std::iter::once(&0).chain(tokens);
    before
        .zip(tokens)
        .map(|(before, token)| bigram_bucket(*before, *token, buckets))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_word_pairs_with_the_start_of_the_text() {
        assert_eq!(bigrams(&[7, 8], 64)[0], bigram_bucket(0, 7, 64));
        assert_eq!(bigrams(&[7, 8], 64)[1], bigram_bucket(7, 8, 64));
        assert!(bigrams(&[7, 8], 0).is_empty());
    }
}
