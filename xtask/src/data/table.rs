//! Labelled texts, and CSV as RFC 4180 has it.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

use crate::Result;

/// A text and what it is; `group` names what must not be torn apart by a split.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Row {
    pub(crate) text: String,
    pub(crate) label: String,
    pub(crate) group: Option<String>,
}

/// The two parts of a set.
#[derive(Default)]
pub(crate) struct Parts {
    pub(crate) train: Vec<Row>,
    pub(crate) test: Vec<Row>,
}

/// Writes `text,label` or `text,label,group`.
pub(super) fn write(path: &Path, rows: &[Row]) -> Result<()> {
    let mut file = std::io::BufWriter::new(std::fs::File::create(path)?);
    let grouped = rows.iter().any(|row| row.group.is_some());
    writeln!(file, "text,label{}", if grouped { ",group" } else { "" })?;
    for row in rows {
        write!(file, "{},{}", field(&row.text), field(&row.label))?;
        if grouped {
            write!(file, ",{}", field(row.group.as_deref().unwrap_or_default()))?;
        }
        writeln!(file)?;
    }
    file.flush()?;
    Ok(())
}

/// A field, in quotation marks where it needs them.
pub(crate) fn field(value: &str) -> String {
    if value.contains(['"', ',', '\n', '\r']) || value.trim() != value {
        format!("\"{}\"", value.replace('"', "\"\""))
    } else {
        value.to_owned()
    }
}

/// How many rows each label has, training and test together.
pub(super) fn labels(parts: &Parts) -> String {
    let mut counts = BTreeMap::<&str, (usize, usize)>::new();
    for row in &parts.train {
        counts.entry(&row.label).or_default().0 += 1;
    }
    for row in &parts.test {
        counts.entry(&row.label).or_default().1 += 1;
    }
    let words: Vec<String> = counts
        .iter()
        .map(|(label, (train, test))| format!("{label} {train}+{test}"))
        .collect();
    words.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_quoted_only_where_it_must_be() {
        assert_eq!(field("plain words"), "plain words");
        assert_eq!(field("a, b"), "\"a, b\"");
        assert_eq!(field("say \"x\""), "\"say \"\"x\"\"\"");
        assert_eq!(field("two\nlines"), "\"two\nlines\"");
        assert_eq!(field(" led by a blank"), "\" led by a blank\"");
    }
}
