//! Comma-, semicolon- and tab-separated values, as RFC 4180 has them.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::{Array, RecordBatch};
use arrow_csv::ReaderBuilder;
use arrow_schema::{ArrowError, DataType, Field, Schema};

use super::{Column, Contents, Lines, batch_rows};
use crate::error::short;
use crate::{Error, Result};

/// Most columns: Arrow reserves room for a batch of rows from their number.
const MAX_COLUMNS: usize = 4096;
/// Most bytes of one row: an Arrow string array holds 2³¹ bytes.
const MAX_ROW: usize = 1 << 30;

/// Reads a separated file; without a `separator`, the header tells which it is.
pub(super) fn read(path: &Path, text: &str, separator: Option<u8>) -> Result<Contents> {
    let mut notes = Vec::new();
    let separator = separator.unwrap_or_else(|| {
        let found = sniff(text);
        if found != b',' {
            let name = separator_name(found);
            notes.push(format!("the header has {name}s and no comma, so the fields are read as separated by {name}s"));
        }
        found
    });
    let scan = Scan::of(path, text, separator)?;
    if let Some(first) = scan.blank_lines.first() {
        let (lines, were) = if scan.blank_lines.len() == 1 {
            ("line", "was")
        } else {
            ("lines", "were")
        };
        let count = scan.blank_lines.len();
        notes.push(format!(
            "{count} blank {lines} {were} passed over (the first is line {first})"
        ));
    }
    let failed = |error: ArrowError| Error::table(path, None, error.to_string());
    let names = header(text, separator, scan.columns).map_err(failed)?;
    let names = checked_names(path, scan.header_line, names)?;
    let reader = ReaderBuilder::new(Arc::new(schema(&names)))
        .with_header(true)
        .with_delimiter(separator)
        .with_batch_size(batch_rows(scan.longest))
        .build_buffered(text.as_bytes())
        .map_err(failed)?;
    let batches = reader
        .collect::<std::result::Result<Vec<RecordBatch>, _>>()
        .map_err(failed)?;
    Ok(Contents {
        columns: names.into_iter().map(Column::new).collect(),
        batches,
        lines: Lines::Known(scan.lines),
        notes,
    })
}

/// The separator that the header shows most of; a comma if it shows none.
fn sniff(text: &str) -> u8 {
    let mut counts = [(b',', 0_usize), (b';', 0), (b'\t', 0)];
    let mut quoted = false;
    for byte in text.trim_start_matches(['\r', '\n']).bytes() {
        match byte {
            b'"' => quoted = !quoted,
            b'\n' | b'\r' if !quoted => break,
            _ if quoted => {}
            _ => counts
                .iter_mut()
                .filter(|(separator, _)| *separator == byte)
                .for_each(|(_, count)| *count += 1),
        }
    }
    // A header with a comma in it is what the file's name says.
    if counts[0].1 > 0 || counts[1].1 + counts[2].1 == 0 {
        return b',';
    }
    if counts[1].1 >= counts[2].1 {
        b';'
    } else {
        b'\t'
    }
}

fn separator_name(separator: u8) -> &'static str {
    match separator {
        b';' => "semicolon",
        b'\t' => "tab",
        _ => "comma",
    }
}

/// The fields of the header; an empty one has no name.
fn header(
    text: &str,
    separator: u8,
    columns: usize,
) -> std::result::Result<Vec<Option<String>>, ArrowError> {
    let places: Vec<String> = (0..columns).map(|at| at.to_string()).collect();
    let mut reader = ReaderBuilder::new(Arc::new(schema(&places)))
        .with_delimiter(separator)
        .with_bounds(0, 1)
        .build_buffered(text.as_bytes())?;
    let Some(batch) = reader.next().transpose()? else {
        return Ok(vec![None; columns]);
    };
    let name = |at: usize| {
        let column = batch.column(at).as_string::<i32>();
        let name =
            (!column.is_empty() && column.is_valid(0)).then(|| column.value(0).trim().to_owned());
        name.filter(|name| !name.is_empty())
    };
    Ok((0..columns).map(name).collect())
}

/// Every column with a name of its own: one without a name is called by its place.
pub(super) fn checked_names(
    path: &Path,
    line: impl Into<Option<u64>>,
    names: Vec<Option<String>>,
) -> Result<Vec<String>> {
    let named = names.into_iter().enumerate();
    let names: Vec<String> = named
        .map(|(at, name)| name.unwrap_or_else(|| format!("column {}", at + 1)))
        .collect();
    let mut seen = HashMap::new();
    for (at, name) in names.iter().enumerate() {
        if let Some(before) = seen.insert(name.as_str(), at) {
            let (name, first, second) = (short(name), before + 1, at + 1);
            let what = format!(
                "columns {first} and {second} are both named `{name}`, expected names that differ"
            );
            return Err(Error::table(path, line, what));
        }
    }
    Ok(names)
}

/// Every column as text, so that a label `01` stays `01`.
pub(super) fn schema<S: AsRef<str>>(names: &[S]) -> Schema {
    Schema::new(
        names
            .iter()
            .map(|name| Field::new(name.as_ref(), DataType::Utf8, true))
            .collect::<Vec<_>>(),
    )
}

/// What one pass over the file finds: where each row begins, and that every row is whole.
#[derive(Debug)]
struct Scan {
    header_line: u64,
    columns: usize,
    /// Line of each row after the header.
    lines: Vec<u64>,
    blank_lines: Vec<u64>,
    /// Bytes of the longest row.
    longest: usize,
}

impl Scan {
    fn of(path: &Path, text: &str, separator: u8) -> Result<Self> {
        let mut scan = Self {
            header_line: 0,
            columns: 0,
            lines: Vec::new(),
            blank_lines: Vec::new(),
            longest: 0,
        };
        let mut at = Place {
            bytes: text.as_bytes(),
            at: 0,
            line: 1,
        };
        while at.peek().is_some() {
            if at.end_of_line() {
                scan.blank_lines.push(at.line - 1);
                continue;
            }
            let (start, line) = (at.at, at.line);
            let fields = at.record(path, separator, scan.columns)?;
            scan.longest = scan.longest.max(at.at - start);
            if scan.longest > MAX_ROW {
                return Err(Error::table(
                    path,
                    line,
                    format!("this row has more than {MAX_ROW} bytes (1 GiB)"),
                ));
            }
            if scan.columns == 0 {
                if fields > MAX_COLUMNS {
                    let what =
                        format!("the header has {fields} columns, expected at most {MAX_COLUMNS}");
                    return Err(Error::table(path, line, what));
                }
                (scan.columns, scan.header_line) = (fields, line);
            } else if fields != scan.columns {
                return Err(Error::table(
                    path,
                    line,
                    ragged(fields, scan.columns, separator),
                ));
            } else {
                scan.lines.push(line);
            }
        }
        if scan.columns == 0 {
            return Err(Error::table(path, None, "the file is empty"));
        }
        Ok(scan)
    }
}

fn ragged(found: usize, expected: usize, separator: u8) -> String {
    let name = separator_name(separator);
    let fields = if found == 1 { "field" } else { "fields" };
    let hint = if found > expected {
        format!(": a field that holds a {name} must stand in quotation marks")
    } else {
        format!(", separated by {name}s")
    };
    format!("this row has {found} {fields}, expected {expected} as in the header{hint}")
}

/// A place in the file.
struct Place<'a> {
    bytes: &'a [u8],
    at: usize,
    line: u64,
}

impl Place<'_> {
    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    /// Steps over `\n`, `\r\n` or a lone `\r`, if one is here.
    fn end_of_line(&mut self) -> bool {
        let length = match (self.peek(), self.bytes.get(self.at + 1)) {
            (Some(b'\r'), Some(b'\n')) => 2,
            (Some(b'\r' | b'\n'), _) => 1,
            _ => return false,
        };
        self.at += length;
        self.line += 1;
        true
    }

    /// Steps over one record and its end of line; how many fields it has. `columns` is 0 for the header.
    fn record(&mut self, path: &Path, separator: u8, columns: usize) -> Result<usize> {
        let mut fields = 1;
        loop {
            if self.peek() == Some(b'"') {
                self.quoted_field(path, separator, columns)?;
            }
            // A quotation mark within a field that does not begin with one is a letter: `a 5" screen`.
            while self
                .peek()
                .is_some_and(|byte| byte != separator && !matches!(byte, b'\n' | b'\r'))
            {
                self.at += 1;
            }
            if self.peek() == Some(separator) {
                self.at += 1;
                fields += 1;
            } else {
                self.end_of_line();
                return Ok(fields);
            }
        }
    }

    fn quoted_field(&mut self, path: &Path, separator: u8, columns: usize) -> Result<()> {
        let (start, opened) = (self.at + 1, self.line);
        self.at += 1;
        loop {
            match self.peek() {
                None => {
                    let what = "the quotation mark that opens a field here is never closed; one within a field is doubled (\"\")";
                    return Err(Error::table(path, opened, what));
                }
                Some(b'"') if self.bytes.get(self.at + 1) == Some(&b'"') => self.at += 2,
                Some(b'"') => break,
                Some(_) if self.end_of_line() => {}
                Some(_) => self.at += 1,
            }
        }
        self.swallows_rows(
            path,
            &self.bytes[start..self.at],
            opened,
            separator,
            columns,
        )?;
        self.at += 1;
        while self
            .peek()
            .is_some_and(|byte| matches!(byte, b' ' | b'\t') && byte != separator)
        {
            self.at += 1;
        }
        match self.peek() {
            None | Some(b'\r' | b'\n') => Ok(()),
            Some(byte) if byte == separator => Ok(()),
            Some(_) => {
                let rest = String::from_utf8_lossy(
                    &self.bytes[self.at..self.bytes.len().min(self.at + 40)],
                );
                let rest = short(
                    rest.trim_end_matches('\u{FFFD}')
                        .lines()
                        .next()
                        .unwrap_or_default(),
                );
                let what = format!(
                    "the quoted field that opens here is closed on line {} and followed by `{rest}`, expected a {} or the \
                     end of the line; a quotation mark within a field is doubled (\"\")",
                    self.line,
                    separator_name(separator)
                );
                Err(Error::table(path, opened, what))
            }
        }
    }

    /// An open quotation mark may find its partner by accident, many rows later. A field of twenty lines and more, each of
    /// which would be a row of this very table, is such an accident.
    fn swallows_rows(
        &self,
        path: &Path,
        field: &[u8],
        opened: u64,
        separator: u8,
        columns: usize,
    ) -> Result<()> {
        const LINES: u64 = 20;
        if columns < 2 || self.line - opened < LINES {
            return Ok(());
        }
        let mut lines = field
            .split(|byte| *byte == b'\n')
            .skip(1)
            .collect::<Vec<_>>();
        lines.pop(); // the first and the last line are parts of rows
        let row =
            |line: &&[u8]| line.iter().filter(|byte| **byte == separator).count() + 1 == columns;
        if lines.len() as u64 + 1 >= LINES && lines.iter().all(row) {
            let what = format!(
                "the quoted field that opens here runs to line {}, over {} lines that each look like a row: a quotation \
                 mark is missing or too many",
                self.line,
                lines.len()
            );
            return Err(Error::table(path, opened, what));
        }
        Ok(())
    }
}
