//! Tables of texts from files: CSV, TSV, JSON lines and Parquet, read through Arrow.
//!
//! Arrow's readers are quick and quiet: an open quotation mark swallows the rest of a file without a word, and a row is
//! known by its number, not by its line. So a text file is first scanned here, in one pass that knows lines, and handed
//! on only when every row of it will arrive.

mod csv;
mod json;
mod parquet;
mod source;

use std::path::{Path, PathBuf};

use arrow_array::RecordBatch;
use arrow_array::cast::AsArray;
use sha2::{Digest, Sha256};

use crate::error::short;
use crate::{Error, Result};

/// Rows and named columns of text, and the line of the file that each row came from.
#[derive(Clone, Debug)]
pub struct Table {
    path: PathBuf,
    fingerprint: String,
    columns: Vec<Column>,
    batches: Vec<RecordBatch>,
    lines: Lines,
    notes: Vec<String>,
}

/// What a format's reader hands over.
struct Contents {
    columns: Vec<Column>,
    batches: Vec<RecordBatch>,
    lines: Lines,
    notes: Vec<String>,
}

/// A column of the file; one that cannot be read as text says why when it is asked for.
#[derive(Clone, Debug)]
struct Column {
    name: String,
    /// What is there instead of text, and where.
    unreadable: Option<(Option<u64>, String)>,
}

impl Column {
    fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            unreadable: None,
        }
    }
}

/// Where the rows begin in the file.
#[derive(Clone, Debug)]
enum Lines {
    Known(Vec<u64>),
    /// A binary file has records, not lines.
    Records(usize),
}

impl Table {
    /// Reads a `.csv`, `.tsv`, `.tab`, `.jsonl`, `.ndjson`, `.json` (each also `.gz`) or `.parquet` file.
    ///
    /// A `.csv` file may also be separated by semicolons or tabs, if its header is; [`Table::notes`] says so. A `.json`
    /// file holds one object a line, or one array of objects.
    ///
    /// # Errors
    ///
    /// When the file cannot be read, is empty or has only a header, is not UTF-8, holds NUL bytes, has a quotation mark
    /// that is not closed, rows of different lengths or two columns of one name, is not JSON where it says so, or is
    /// truncated. The message names the line.
    pub fn read(path: &Path) -> Result<Self> {
        let format = Format::of(path)?;
        let bytes = source::read(path)?;
        let fingerprint = hexadecimal(&Sha256::digest(&bytes));
        let bytes = if format.gzip {
            source::unzip(path, &bytes)?
        } else {
            bytes
        };
        if bytes.iter().all(u8::is_ascii_whitespace) {
            return Err(Error::table(path, None, "the file is empty"));
        }
        let contents = match format.kind {
            Kind::Csv => csv::read(path, source::text(path, &bytes)?, None),
            Kind::Tsv => csv::read(path, source::text(path, &bytes)?, Some(b'\t')),
            Kind::Json => json::read(path, source::text(path, &bytes)?),
            Kind::Parquet => parquet::read(path),
        }?;
        let table = Self {
            path: path.to_owned(),
            fingerprint,
            columns: contents.columns,
            batches: contents.batches,
            lines: contents.lines,
            notes: contents.notes,
        };
        let found: usize = table.batches.iter().map(RecordBatch::num_rows).sum();
        if found != table.rows() {
            let what = format!(
                "read {found} rows of {}: this is a bug in Regard, nothing was kept",
                table.rows()
            );
            return Err(Error::table(path, None, what));
        }
        if found == 0 {
            let what = format!(
                "the file has a header (`{}`) and no rows",
                short(&table.names().join("`, `"))
            );
            return Err(Error::table(path, None, what));
        }
        Ok(table)
    }

    /// Reads the lines of a text file (also `.gz`), each without its end, and the SHA-256 of its bytes.
    ///
    /// # Errors
    ///
    /// When the file cannot be read, is truncated or is not UTF-8.
    pub fn lines_of(path: &Path) -> Result<(Vec<String>, String)> {
        let bytes = source::read(path)?;
        let fingerprint = hexadecimal(&Sha256::digest(&bytes));
        let bytes = match path.extension().is_some_and(|end| end == "gz") {
            true => source::unzip(path, &bytes)?,
            false => bytes,
        };
        let text = source::text(path, &bytes)?;
        Ok((text.lines().map(str::to_owned).collect(), fingerprint))
    }

    /// The columns, in the order of the file.
    pub fn names(&self) -> Vec<&str> {
        self.columns
            .iter()
            .map(|column| column.name.as_str())
            .collect()
    }

    /// How many rows there are, the header not counted.
    pub fn rows(&self) -> usize {
        match &self.lines {
            Lines::Known(lines) => lines.len(),
            Lines::Records(records) => *records,
        }
    }

    /// The line of the file (of a Parquet file, the record) on which a row begins, from 1.
    ///
    /// # Panics
    ///
    /// If there is no such row.
    pub fn line(&self, row: usize) -> u64 {
        assert!(row < self.rows(), "row {row} of {}", self.rows());
        match &self.lines {
            Lines::Known(lines) => lines[row],
            Lines::Records(_) => row as u64 + 1,
        }
    }

    /// The values of a column, as text; `None` = nothing there (an empty CSV field, a JSON `null` or missing field).
    ///
    /// # Errors
    ///
    /// When there is no such column (the message lists those there are), or it holds lists, objects or bytes.
    pub fn column(&self, name: &str) -> Result<Vec<Option<String>>> {
        let Some(column) = self.columns.iter().find(|column| column.name == name) else {
            return Err(Error::MissingColumn {
                path: self.path.clone(),
                column: name.to_owned(),
                found: self.names().into_iter().map(str::to_owned).collect(),
                nearest: nearest(name, &self.names()),
            });
        };
        if let Some((line, what)) = &column.unreadable {
            let what = format!(
                "the column `{name}` holds {what}, expected text, numbers or true and false"
            );
            return Err(Error::table(&self.path, *line, what));
        }
        let mut values = Vec::with_capacity(self.rows());
        for batch in &self.batches {
            let array = batch
                .column_by_name(name)
                .and_then(|array| array.as_string_opt::<i32>());
            let Some(array) = array else {
                return Err(Error::table(
                    &self.path,
                    None,
                    format!("the column `{name}` was not read as text"),
                ));
            };
            values.extend(array.iter().map(|value| value.map(str::to_owned)));
        }
        Ok(values)
    }

    /// Whether a column holds bytes, or objects that may have them: what [`bytes`](Self::bytes) reads.
    pub(crate) fn holds_bytes(&self, name: &str) -> bool {
        let column = self.columns.iter().find(|column| column.name == name);
        let unreadable = column.and_then(|column| column.unreadable.as_ref());
        matches!(self.lines, Lines::Records(_))
            && unreadable.is_some_and(|(_, what)| what == "bytes" || what == "objects")
    }

    /// The values of a Parquet file's column of bytes, or of objects with a field `bytes`.
    pub(crate) fn bytes(&self, name: &str) -> Result<Vec<Option<Vec<u8>>>> {
        parquet::bytes(&self.path, name)
    }

    /// SHA-256 of the file's bytes, in hexadecimal.
    pub fn fingerprint(&self) -> String {
        self.fingerprint.clone()
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What was inferred or passed over in reading, in sentences: a separator, blank lines.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }
}

struct Format {
    kind: Kind,
    gzip: bool,
}

enum Kind {
    Csv,
    Tsv,
    Json,
    Parquet,
}

impl Format {
    fn of(path: &Path) -> Result<Self> {
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .to_lowercase();
        let (name, gzip) = match name.strip_suffix(".gz") {
            Some(inner) => (inner.to_owned(), true),
            None => (name, false),
        };
        let kind = match name.rsplit_once('.').map(|(_, extension)| extension) {
            Some("csv") => Kind::Csv,
            Some("tsv" | "tab") => Kind::Tsv,
            Some("jsonl" | "ndjson" | "json") => Kind::Json,
            Some("parquet") if !gzip => Kind::Parquet,
            _ => {
                return Err(Error::table(
                    path,
                    None,
                    "the name does not say what the file holds, expected one that ends in .csv, .tsv, .jsonl, .json \
                     (each may be followed by .gz) or .parquet",
                ));
            }
        };
        Ok(Self { kind, gzip })
    }
}

/// Lower-case hexadecimal, as `sha256sum` prints it.
pub(crate) fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The name spelled most alike, if it is alike at all: one letter differs, or two of every five, or only their case.
fn nearest(name: &str, names: &[&str]) -> Option<String> {
    let wanted = name.to_lowercase();
    let distance = |other: &str| edit_distance(&wanted, &other.to_lowercase());
    let best = names.iter().min_by_key(|other| distance(other))?;
    (distance(best) * 5 <= (wanted.chars().count() * 2).max(5)).then(|| (*best).to_owned())
}

/// Letters to insert, delete or replace to get from one word to the other (Levenshtein).
fn edit_distance(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (i, a) in from.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in to.iter().enumerate() {
            let replaced = diagonal + usize::from(a != *b);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[to.len()]
}

/// Rows per Arrow batch: a string array holds at most 2³¹ bytes, so the longest row decides. Half of that is used.
fn batch_rows(longest_row: usize) -> usize {
    ((1 << 30) / longest_row.max(1)).clamp(1, 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_is_near() {
        assert_eq!(
            nearest("txt", &["id", "text", "label"]).as_deref(),
            Some("text")
        );
        assert_eq!(
            nearest("Label", &["id", "text", "label"]).as_deref(),
            Some("label")
        );
        assert_eq!(
            nearest("lable", &["id", "text", "label"]).as_deref(),
            Some("label")
        );
        assert_eq!(nearest("sentiment", &["id", "text", "label"]), None);
        assert_eq!(edit_distance("kitten", "sitting"), 3);
    }
}
