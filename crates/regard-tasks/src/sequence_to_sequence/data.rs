//! From files to pairs of texts, and from texts to pieces.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use unicode_normalization::UnicodeNormalization;

use super::Kind;
use super::vocabularies::Vocabularies;
use crate::error::{quoted, short};
use crate::report::FileFacts;
use crate::tables::Table;
use crate::{Error, Result};

/// Which column is read and which is written; `None` = inferred.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PairColumns {
    /// What is read.
    pub source: Option<String>,
    /// What is to be written.
    pub target: Option<String>,
    /// What keeps pairs together when a part is held out.
    pub group: Option<String>,
}

/// Where pairs are: in tables, or line by line in two text files.
#[derive(Clone, Debug)]
pub enum PairFiles {
    /// Files with the same columns.
    Tables(Vec<PathBuf>),
    /// A line of the one belongs to the same line of the other.
    Lines {
        /// What is read.
        source: PathBuf,
        /// What is to be written.
        target: PathBuf,
    },
}

impl Default for PairFiles {
    fn default() -> Self {
        Self::Tables(Vec::new())
    }
}

/// Pairs of texts, as read.
#[derive(Clone, Debug, Default)]
pub(super) struct Pairs {
    pub(super) sources: Vec<String>,
    pub(super) targets: Vec<String>,
    pub(super) groups: Vec<String>,
    pub(super) source_column: String,
    pub(super) target_column: String,
    pub(super) files: Vec<FileFacts>,
    /// What was inferred, and what was left out, counted and named.
    pub(super) notes: Vec<String>,
    /// What looks wrong.
    pub(super) warnings: Vec<String>,
}

const SOURCES: [&str; 12] = [
    "source",
    "src",
    "input",
    "text",
    "document",
    "article",
    "body",
    "description",
    "content",
    "en",
    "english",
    "from",
];
const TARGETS: [&str; 12] = [
    "target",
    "tgt",
    "output",
    "summary",
    "headline",
    "title",
    "translation",
    "synopsis",
    "highlights",
    "abstract",
    "reference",
    "to",
];

impl PairFiles {
    /// Reads all pairs. Pairs with an empty side are left out, counted and named. Where a column has no name from the user,
    /// the one of that name in `trained` is taken, if the table has it: what the model was trained on.
    ///
    /// # Errors
    ///
    /// When a file cannot be read, the columns cannot be told, two text files have different numbers of lines, or nothing
    /// is left.
    pub(super) fn read(
        &self,
        kind: Kind,
        columns: &PairColumns,
        trained: &PairColumns,
    ) -> Result<Pairs> {
        let mut pairs = Pairs::default();
        match self {
            Self::Tables(paths) => {
                for path in paths {
                    pairs.add_table(&Table::read(path)?, kind, columns, trained)?;
                }
            }
            Self::Lines { source, target } => pairs.add_lines(source, target)?,
        }
        if pairs.sources.is_empty() {
            let found = "no pair with two sides";
            return Err(Error::argument("--data", found, "at least one"));
        }
        pairs.suspect(kind);
        Ok(pairs)
    }
}

impl Pairs {
    pub(super) fn len(&self) -> usize {
        self.sources.len()
    }

    /// The pairs at these places.
    pub(super) fn select(&self, rows: &[usize]) -> Self {
        let pick = |all: &[String]| rows.iter().map(|row| all[*row].clone()).collect();
        Self {
            sources: pick(&self.sources),
            targets: pick(&self.targets),
            groups: Vec::new(),
            ..self.clone()
        }
    }

    fn add_table(
        &mut self,
        table: &Table,
        kind: Kind,
        columns: &PairColumns,
        trained: &PairColumns,
    ) -> Result<()> {
        if self.source_column.is_empty() {
            let there = |column: &Option<String>| {
                let names = table.names();
                column.clone().filter(|name| names.contains(&name.as_str()))
            };
            let columns = PairColumns {
                source: columns.source.clone().or_else(|| there(&trained.source)),
                target: columns.target.clone().or_else(|| there(&trained.target)),
                group: columns.group.clone(),
            };
            (self.source_column, self.target_column) = self.infer(table, kind, &columns)?;
        }
        let sources = table.column(&self.source_column)?;
        let targets = table.column(&self.target_column)?;
        let groups = columns
            .group
            .as_deref()
            .map(|name| table.column(name))
            .transpose()?;
        let name = file_name(table.path());
        let mut empty = Vec::new();
        for (row, (source, target)) in sources.into_iter().zip(targets).enumerate() {
            let clean = |text: Option<String>| text.map(|text| tidy(&text)).unwrap_or_default();
            let (source, target) = (clean(source), clean(target));
            if source.is_empty() || target.is_empty() {
                empty.push(table.line(row));
                continue;
            }
            if let Some(groups) = &groups {
                let alone = || format!("{name}:{}", table.line(row));
                self.groups.push(groups[row].clone().unwrap_or_else(alone));
            }
            self.sources.push(source);
            self.targets.push(target);
        }
        self.notes.extend(table.notes().iter().cloned());
        self.left_out(&name, &empty);
        self.files.push(FileFacts {
            name,
            rows: table.rows(),
            sha256: table.fingerprint(),
        });
        Ok(())
    }

    fn add_lines(&mut self, source: &Path, target: &Path) -> Result<()> {
        let (sources, source_sum) = Table::lines_of(source)?;
        let (targets, target_sum) = Table::lines_of(target)?;
        if sources.len() != targets.len() {
            return Err(different_lengths(source, target, &sources, &targets));
        }
        (self.source_column, self.target_column) = (file_name(source), file_name(target));
        let mut empty = Vec::new();
        for (line, (source, target)) in sources.iter().zip(&targets).enumerate() {
            let (source, target) = (tidy(source), tidy(target));
            if source.is_empty() || target.is_empty() {
                empty.push(line as u64 + 1);
                continue;
            }
            self.sources.push(source);
            self.targets.push(target);
        }
        self.left_out(&file_name(source), &empty);
        for (path, sha256) in [(source, source_sum), (target, target_sum)] {
            self.files.push(FileFacts {
                name: file_name(path),
                rows: sources.len(),
                sha256,
            });
        }
        Ok(())
    }

    fn left_out(&mut self, name: &str, lines: &[u64]) {
        if lines.is_empty() {
            return;
        }
        let shown: Vec<String> = lines.iter().take(5).map(u64::to_string).collect();
        let more = if lines.len() > 5 { ", …" } else { "" };
        self.notes.push(format!(
            "{name}: {} pairs with an empty side left out (line {}{more})",
            lines.len(),
            shown.join(", ")
        ));
    }

    /// The columns that the user named, or by their usual names, or the only two there are.
    fn infer(
        &mut self,
        table: &Table,
        kind: Kind,
        columns: &PairColumns,
    ) -> Result<(String, String)> {
        let names: Vec<&str> = table
            .names()
            .into_iter()
            .filter(|name| Some(*name) != columns.group.as_deref())
            .collect();
        let usual = |known: &[&str], not: Option<&str>| {
            let found = known.iter().find_map(|known| {
                names
                    .iter()
                    .find(|name| name.eq_ignore_ascii_case(known) && Some(**name) != not)
            });
            found.map(|name| (*name).to_owned())
        };
        let mut source = columns.source.clone();
        let mut target = columns.target.clone();
        if target.is_none() {
            target = usual(&TARGETS, source.as_deref());
        }
        if source.is_none() {
            source = usual(&SOURCES, target.as_deref());
        }
        if let [first, second] = names.as_slice() {
            let other = |known: &str| if known == *first { second } else { first };
            match (&source, &target) {
                (None, None) => {
                    (source, target) = (Some((*first).to_owned()), Some((*second).to_owned()));
                }
                (Some(known), None) => target = Some((*other(known)).to_owned()),
                (None, Some(known)) => source = Some((*other(known)).to_owned()),
                _ => {}
            }
        }
        let (Some(source), Some(target)) = (source, target) else {
            return Err(Error::Columns {
                path: table.path().to_owned(),
                what: format!(
                    "which columns hold the pairs cannot be told from {}: --source-column and --target-column name them",
                    quoted(&names)
                ),
            });
        };
        if source == target {
            let expected = "two different columns";
            return Err(Error::argument(
                "--target-column",
                format!("`{target}` for both sides"),
                expected,
            ));
        }
        let reads = match kind {
            Kind::Translation => "translated into",
            Kind::Summarization => "summarized as",
        };
        self.notes.push(format!(
            "`{}` is {reads} `{}` (--source-column, --target-column)",
            short(&source),
            short(&target)
        ));
        if [&source, &target]
            .iter()
            .any(|name| name.split_whitespace().count() > 3)
        {
            self.warnings.push(
                "the first row was read as the names of the columns and looks like a pair: give the file a header".to_owned(),
            );
        }
        Ok((source, target))
    }

    /// Looks for sides that were swapped.
    fn suspect(&mut self, kind: Kind) {
        let length =
            |texts: &[String]| texts.iter().map(|text| text.chars().count()).sum::<usize>();
        let (source, target) = (length(&self.sources), length(&self.targets));
        if kind == Kind::Summarization && target > source {
            self.warnings.push(format!(
                "the summaries in `{}` are longer than the texts in `{}` ({} characters on average against {}): are the columns swapped?",
                short(&self.target_column),
                short(&self.source_column),
                target / self.len(),
                source / self.len()
            ));
        }
        let same = self
            .sources
            .iter()
            .zip(&self.targets)
            .filter(|(a, b)| a == b)
            .count();
        if 4 * same > self.len() {
            self.warnings.push(format!(
                "{same} of {} pairs have the same text on both sides",
                self.len()
            ));
        }
    }
}

/// White space is one blank, characters that are no text are left out, and a letter with its marks is one character where
/// Unicode has one (NFC): the pieces of the tokenizer are of such text, so a model can write nothing else, and references
/// are compared with what it could have written.
pub(super) fn tidy(text: &str) -> String {
    let mut tidied = String::with_capacity(text.len());
    for letter in text.nfc() {
        if letter.is_whitespace() {
            if !tidied.is_empty() && !tidied.ends_with(' ') {
                tidied.push(' ');
            }
        } else if !letter.is_control() {
            tidied.push(letter);
        }
    }
    tidied.truncate(tidied.trim_end().len());
    tidied
}

fn file_name(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}

/// Both counts, and the first line from which the two no longer look alike in length.
fn different_lengths(
    source: &Path,
    target: &Path,
    sources: &[String],
    targets: &[String],
) -> Error {
    let length = |line: &String| line.chars().count() as f64 + 1.0;
    let mut ratios: Vec<f64> = sources
        .iter()
        .zip(targets)
        .map(|(source, target)| length(target) / length(source))
        .collect();
    ratios.sort_by(f64::total_cmp);
    let ratio = ratios.get(ratios.len() / 2).copied().unwrap_or(1.0);
    let odd = |(source, target): (&String, &String)| {
        let (source, target) = (
            source.chars().count() as f64 * ratio,
            target.chars().count() as f64,
        );
        (source.max(target) + 8.0) / (source.min(target) + 8.0) > 3.0
    };
    let first = sources.iter().zip(targets).position(odd);
    let shorter = sources.len().min(targets.len());
    let hint = match first {
        Some(line) => format!(
            "the first lines that do not fit each other in length are {}",
            line + 1
        ),
        None => format!("up to line {shorter} the two fit each other in length"),
    };
    Error::table(
        target,
        None,
        format!(
            "{} lines, {} has {}: a line of the one belongs to the same line of the other; {hint}",
            targets.len(),
            source.display(),
            sources.len()
        ),
    )
}

/// Pairs as pieces.
#[derive(Clone, Debug, Default)]
pub(super) struct Examples {
    /// The pair that each is.
    pub(super) rows: Vec<usize>,
    pub(super) sources: Vec<Vec<u32>>,
    pub(super) targets: Vec<Vec<u32>>,
    /// Sources of which the end is not read.
    pub(super) cut: usize,
    /// Pairs whose target is too long to be learned from.
    pub(super) too_long: usize,
}

impl Examples {
    /// Encodes the pairs; sources are cut at the limit, pairs with a longer target left out, both counted.
    pub(super) fn encode(
        vocabularies: &Vocabularies,
        pairs: &Pairs,
        max_source: usize,
        max_target: usize,
    ) -> Result<Self> {
        let mut examples = Self::default();
        let sources = vocabularies.sources(&pairs.sources)?;
        let targets = vocabularies.targets(&pairs.targets)?;
        for (row, (mut source, target)) in sources.into_iter().zip(targets).enumerate() {
            if target.len() > max_target {
                examples.too_long += 1;
                continue;
            }
            if source.len() > max_source {
                examples.cut += 1;
                source.truncate(max_source);
            }
            examples.rows.push(row);
            examples.sources.push(source);
            examples.targets.push(target);
        }
        Ok(examples)
    }

    pub(super) fn len(&self) -> usize {
        self.sources.len()
    }
}

/// A text with a blank before its first word, which is thus the same piece as behind other words.
pub(super) fn begun(text: &str) -> String {
    format!(" {text}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blanks_become_one_and_what_is_no_text_goes() {
        assert_eq!(tidy("  a \t\n b\u{0}c \u{200b}語\r\n"), "a bc \u{200b}語");
        assert_eq!(tidy(&" ".repeat(10_000)), "");
        assert_eq!(tidy("e\u{301}albero"), "éalbero");
    }

    #[test]
    fn two_files_of_different_length_are_refused_with_the_first_line_that_does_not_fit() {
        let lines = |lines: &[&str]| {
            lines
                .iter()
                .map(|line| (*line).to_owned())
                .collect::<Vec<_>>()
        };
        let sources = lines(&[
            "a short line",
            "a rather long line that goes on and on and on and on",
            "end of it",
        ]);
        let targets = lines(&["una riga corta", "fine"]);
        let error = different_lengths(Path::new("a.en"), Path::new("a.it"), &sources, &targets);
        assert_eq!(
            error.to_string(),
            "a.it: 2 lines, a.en has 3: a line of the one belongs to the same line of the other; \
             the first lines that do not fit each other in length are 2"
        );
    }
}
