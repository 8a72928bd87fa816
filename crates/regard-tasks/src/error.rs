//! Everything that can go wrong with what a user hands in.

use std::fmt::Display;
use std::io;
use std::path::{Path, PathBuf};

/// `Result` with this crate's [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

/// What was wrong: which file or argument, what was found, what is expected. Never a panic on a user's data.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file could not be read.
    #[error("{}: cannot be read: {source}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },

    /// A file or folder could not be written.
    #[error("{}: cannot be written: {source}", .path.display())]
    Write {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },

    /// A table is not what its name says, or breaks off, or would lose rows.
    #[error("{}{}: {what}", .path.display(), at_line(.line.as_ref()))]
    Table {
        /// The file.
        path: PathBuf,
        /// The line of the file, from 1.
        line: Option<u64>,
        /// Found and expected.
        what: String,
    },

    /// A table has no such column.
    #[error("{}: no column `{column}`{}; it has {}", .path.display(), did_you_mean(.nearest.as_deref()), quoted(.found))]
    MissingColumn {
        /// The file.
        path: PathBuf,
        /// What was asked for.
        column: String,
        /// The columns there are.
        found: Vec<String>,
        /// The one spelled most alike, if any is.
        nearest: Option<String>,
    },

    /// The columns cannot be told from their names and values.
    #[error("{}: {what}", .path.display())]
    Columns {
        /// The file.
        path: PathBuf,
        /// What is unclear, the candidates and the flag that settles it.
        what: String,
    },

    /// A picture cannot be read.
    #[error("{place}: {what}")]
    Picture {
        /// The file, or the row of a table.
        place: String,
        /// Found and expected.
        what: String,
    },

    /// An argument cannot be meant.
    #[error("`{name}`: found {found}, expected {expected}")]
    Argument {
        /// The argument.
        name: String,
        /// What was given.
        found: String,
        /// What would do.
        expected: String,
    },

    /// A setting is out of its range.
    #[error("setting `{name}` is {found}, expected {expected}")]
    Setting {
        /// The setting.
        name: String,
        /// What was given.
        found: String,
        /// What would do.
        expected: String,
    },

    /// A tokenizer cannot be trained, read or applied.
    #[error("tokenizer: {0}")]
    Tokenizer(String),

    /// A model folder is damaged, of another kind, or hostile.
    #[error("{}: {field}: found {found}, expected {expected}", .path.display())]
    Bundle {
        /// The file, or the folder.
        path: PathBuf,
        /// The part of it.
        field: String,
        /// What is there.
        found: String,
        /// What would do.
        expected: String,
    },

    /// The training was asked to stop and wrote a checkpoint.
    #[error("stopped after step {step}; the same command with --resume continues")]
    Interrupted {
        /// The last step that counts.
        step: u64,
    },

    /// The training met a number that is not finite.
    #[error("step {step}: {what}; nothing of this step was kept")]
    NonFinite {
        /// The step.
        step: u64,
        /// The culprit.
        what: String,
    },

    /// A checkpoint cannot be used.
    #[error("{}: not a usable checkpoint: {what}", .path.display())]
    Checkpoint {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
}

impl Error {
    /// An argument that cannot be meant.
    pub fn argument(name: impl Into<String>, found: impl Display, expected: impl Display) -> Self {
        Self::Argument {
            name: name.into(),
            found: found.to_string(),
            expected: expected.to_string(),
        }
    }

    /// A setting out of its range.
    pub fn setting(name: impl Into<String>, found: impl Display, expected: impl Display) -> Self {
        Self::Setting {
            name: name.into(),
            found: found.to_string(),
            expected: expected.to_string(),
        }
    }

    pub(crate) fn read(path: &Path, source: io::Error) -> Self {
        Self::Read {
            path: path.to_owned(),
            source,
        }
    }

    pub(crate) fn write(path: &Path, source: io::Error) -> Self {
        Self::Write {
            path: path.to_owned(),
            source,
        }
    }

    pub(crate) fn table(
        path: &Path,
        line: impl Into<Option<u64>>,
        what: impl Into<String>,
    ) -> Self {
        Self::Table {
            path: path.to_owned(),
            line: line.into(),
            what: what.into(),
        }
    }

    pub(crate) fn bundle(
        path: &Path,
        field: impl Display,
        found: impl Display,
        expected: impl Display,
    ) -> Self {
        Self::Bundle {
            path: path.to_owned(),
            field: field.to_string(),
            found: found.to_string(),
            expected: expected.to_string(),
        }
    }
}

fn at_line(line: Option<&u64>) -> String {
    line.map(|line| format!(", line {line}"))
        .unwrap_or_default()
}

fn did_you_mean(nearest: Option<&str>) -> String {
    nearest
        .map(|nearest| format!(" (did you mean `{nearest}`?)"))
        .unwrap_or_default()
}

/// Names in backticks; a file of a thousand columns, or of one that is a whole text, does not flood the terminal.
pub(crate) fn quoted<S: AsRef<str>>(names: &[S]) -> String {
    const SHOWN: usize = 20;
    let mut list: Vec<String> = names
        .iter()
        .take(SHOWN)
        .map(|name| format!("`{}`", short(name.as_ref())))
        .collect();
    if names.len() > SHOWN {
        list.push(format!("… ({} in all)", names.len()));
    }
    list.join(", ")
}

/// The beginning of a text, on one line, for a message.
pub(crate) fn short(text: &str) -> String {
    const SHOWN: usize = 40;
    let mut shown: String = text
        .chars()
        .take(SHOWN)
        .flat_map(char::escape_debug)
        .collect();
    shown = shown.replace("\\'", "'").replace("\\\"", "\"");
    if text.chars().nth(SHOWN).is_some() {
        shown.push('…');
    }
    shown
}
