//! JSON: one object a line, or one array of objects.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use arrow_json::ReaderBuilder;
use serde::Deserialize;
use serde::de::{Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::{Column, Contents, Lines, batch_rows, csv};
use crate::error::short;
use crate::{Error, Result};

/// Most fields over all objects.
const MAX_COLUMNS: usize = 4096;

/// Reads objects; a field that some lack is empty there, one that holds a list or an object somewhere is unreadable.
pub(super) fn read(path: &Path, text: &str) -> Result<Contents> {
    let mut found = Found::default();
    if text.trim_start().starts_with('[') {
        found.array(path, text)
    } else {
        found.lines(path, text)
    }?;
    let readable: Vec<&str> = found
        .columns
        .iter()
        .filter(|column| column.unreadable.is_none())
        .map(|column| column.name.as_str())
        .collect();
    if readable.is_empty() && !found.rows.is_empty() {
        let what = "no field of the objects holds text or numbers, expected objects like {\"text\": \"…\", \"label\": \"…\"}";
        return Err(Error::table(path, found.at.first().copied(), what));
    }
    let longest = found.rows.iter().map(Range::len).max().unwrap_or(0);
    let batch = batch_rows(longest);
    let mut batches = Vec::new();
    let mut decoder = ReaderBuilder::new(Arc::new(csv::schema(&readable)))
        .with_batch_size(batch)
        .with_coerce_primitive(true)
        .build_decoder()
        .map_err(|error| Error::table(path, None, error.to_string()))?;
    for (rows, at) in found.rows.chunks(batch).zip(found.at.chunks(batch)) {
        let failed = |error: arrow_schema::ArrowError| {
            Error::table(path, at[0], format!("or a line after: {error}"))
        };
        for row in rows {
            decoder
                .decode(&text.as_bytes()[row.clone()])
                .map_err(failed)?;
        }
        batches.extend(decoder.flush().map_err(failed)?);
    }
    Ok(Contents {
        columns: found.columns,
        batches,
        lines: Lines::Known(found.at),
        notes: Vec::new(),
    })
}

/// The objects of a file: where they are and which fields they have.
#[derive(Default)]
struct Found {
    columns: Vec<Column>,
    places: HashMap<String, usize>,
    rows: Vec<Range<usize>>,
    /// Line of each object.
    at: Vec<u64>,
}

impl Found {
    fn lines(&mut self, path: &Path, text: &str) -> Result<()> {
        let mut start = 0;
        for (at, line) in text.split('\n').enumerate() {
            let range = start..start + line.len();
            start = range.end + 1;
            if line.trim().is_empty() {
                continue;
            }
            let at = at as u64 + 1;
            let object: Object =
                serde_json::from_str(line).map_err(|error| unreadable(path, at, &error))?;
            self.add(path, object, range, at)?;
        }
        Ok(())
    }

    fn array(&mut self, path: &Path, text: &str) -> Result<()> {
        let mut lines = LineCount {
            text,
            to: 0,
            line: 1,
        };
        let gap = |from: usize| from + text[from..].len() - text[from..].trim_start().len();
        let mut at = gap(0) + 1;
        loop {
            at = gap(at);
            if self.rows.is_empty() && text[at..].starts_with(']') {
                break;
            }
            let line = lines.at(at);
            let mut stream = serde_json::Deserializer::from_str(&text[at..]).into_iter::<Object>();
            let object = match stream.next() {
                Some(Ok(object)) => object,
                Some(Err(error)) => {
                    return Err(unreadable(path, line + error.line() as u64 - 1, &error));
                }
                None => {
                    return Err(Error::table(
                        path,
                        line,
                        "the array breaks off, expected an object or `]`",
                    ));
                }
            };
            let range = at..at + stream.byte_offset();
            at = gap(range.end);
            self.add(path, object, range, line)?;
            match text.as_bytes().get(at) {
                Some(b',') => at += 1,
                Some(b']') => break,
                _ => {
                    let rest = short(&text[at..]);
                    let what = format!(
                        "found `{rest}` after an object, expected `,` or the `]` that closes the array"
                    );
                    return Err(Error::table(path, lines.at(at), what));
                }
            }
        }
        at += 1;
        let rest = text[at..].trim();
        if !rest.is_empty() {
            let what = format!("found `{}` after the array, expected nothing", short(rest));
            return Err(Error::table(path, lines.at(gap(at)), what));
        }
        Ok(())
    }

    fn add(&mut self, path: &Path, object: Object, range: Range<usize>, line: u64) -> Result<()> {
        for (name, value) in object.0 {
            let place = match self.places.entry(name) {
                Entry::Occupied(entry) => *entry.get(),
                Entry::Vacant(entry) => {
                    self.columns.push(Column::new(entry.key().clone()));
                    *entry.insert(self.columns.len() - 1)
                }
            };
            if self.columns.len() > MAX_COLUMNS {
                let what = format!(
                    "more than {MAX_COLUMNS} different fields, expected the same few in every object"
                );
                return Err(Error::table(path, line, what));
            }
            if let Value::Nested(what) = value {
                self.columns[place]
                    .unreadable
                    .get_or_insert_with(|| (Some(line), what.to_owned()));
            }
        }
        self.rows.push(range);
        self.at.push(line);
        Ok(())
    }
}

/// Counts lines forwards, once over the text.
struct LineCount<'a> {
    text: &'a str,
    to: usize,
    line: u64,
}

impl LineCount<'_> {
    fn at(&mut self, to: usize) -> u64 {
        self.line += self.text[self.to..to].matches('\n').count() as u64;
        self.to = to;
        self.line
    }
}

fn unreadable(path: &Path, line: u64, error: &serde_json::Error) -> Error {
    let said = error.to_string();
    let said = said.split(" at line ").next().unwrap_or(&said);
    // A value of the wrong kind has no place, only a line.
    let place = match error.column() {
        0 => String::new(),
        column => format!(" (column {column})"),
    };
    let what = format!("{said}{place}, expected one JSON object a line, or one array of objects");
    Error::table(path, line, what)
}

/// An object's fields, in its order, each once.
struct Object(Vec<(String, Value)>);

enum Value {
    Scalar,
    Nested(&'static str),
}

impl<'de> Deserialize<'de> for Object {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct Fields;
        impl<'de> Visitor<'de> for Fields {
            type Value = Object;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(
                self,
                mut map: A,
            ) -> std::result::Result<Object, A::Error> {
                let mut fields: Vec<(String, Value)> = Vec::new();
                while let Some((name, value)) = map.next_entry::<String, Value>()? {
                    // Few fields an object: looking through them is quicker than hashing.
                    if fields.len() >= MAX_COLUMNS {
                        return Err(A::Error::custom(format!(
                            "more than {MAX_COLUMNS} fields in one object"
                        )));
                    }
                    if fields.iter().any(|(other, _)| *other == name) {
                        return Err(A::Error::custom(format!(
                            "the field `{}` occurs twice",
                            short(&name)
                        )));
                    }
                    fields.push((name, value));
                }
                Ok(Object(fields))
            }
        }
        deserializer.deserialize_map(Fields)
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct Any;
        impl<'de> Visitor<'de> for Any {
            type Value = Value;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a value")
            }

            fn visit_str<E>(self, _: &str) -> std::result::Result<Value, E> {
                Ok(Value::Scalar)
            }

            fn visit_bool<E>(self, _: bool) -> std::result::Result<Value, E> {
                Ok(Value::Scalar)
            }

            fn visit_u64<E>(self, _: u64) -> std::result::Result<Value, E> {
                Ok(Value::Scalar)
            }

            fn visit_i64<E>(self, _: i64) -> std::result::Result<Value, E> {
                Ok(Value::Scalar)
            }

            fn visit_f64<E>(self, _: f64) -> std::result::Result<Value, E> {
                Ok(Value::Scalar)
            }

            fn visit_unit<E>(self) -> std::result::Result<Value, E> {
                Ok(Value::Scalar)
            }

            fn visit_seq<A: SeqAccess<'de>>(
                self,
                mut list: A,
            ) -> std::result::Result<Value, A::Error> {
                while list.next_element::<IgnoredAny>()?.is_some() {}
                Ok(Value::Nested("a list"))
            }

            fn visit_map<A: MapAccess<'de>>(
                self,
                mut map: A,
            ) -> std::result::Result<Value, A::Error> {
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Ok(Value::Nested("an object"))
            }
        }
        deserializer.deserialize_any(Any)
    }
}
