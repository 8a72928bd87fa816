//! The model folder: everything to use a model, and to know that nobody touched it.
//!
//! | file | holds |
//! |---|---|
//! | `config.json` | format version, task, and what it takes to rebuild the model and its preprocessing |
//! | `model.safetensors` | the weights, f32 |
//! | `tokenizer.json` | the tokenizer, as Hugging Face's `tokenizers` reads it; none where a task reads no text |
//! | `labels.json` | the labels, in the order of the model's outputs |
//! | `report.json`, `README.md` | the data, the scores, how it was trained |
//! | `check.json` | SHA-256 and size of every other file, and some inputs with the outputs they must have |
//!
//! Writing is all or nothing. Opening trusts no number before it has been compared with the size of a file.

mod open;
mod weights;
mod write;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use regard_nn::parameters::NamedTensor;
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use open::{Opened, open, open_without_labels, task_of};
pub use write::write;

use crate::{Error, Result};

/// The version of the folder's layout, in `config.json` and `check.json`.
pub const FORMAT: u64 = 1;

const CONFIG: &str = "config.json";
const MODEL: &str = "model.safetensors";
const TOKENIZER: &str = "tokenizer.json";
const LABELS: &str = "labels.json";
const REPORT: &str = "report.json";
const README: &str = "README.md";
const CHECK: &str = "check.json";

/// The files without which a folder is no model, and the most bytes that are read of each.
const REQUIRED: [(&str, u64); 5] = [
    (CONFIG, 1 << 20),
    (MODEL, 8 << 30),
    (LABELS, 4 << 20),
    (REPORT, 16 << 20),
    (README, 16 << 20),
];
/// The same for the tokenizer, which not every task has.
const TOKENIZER_LIMIT: u64 = 64 << 20;
/// The same for `check.json`, which names itself nowhere.
const CHECK_LIMIT: u64 = 16 << 20;
/// The same for a page that is none of them.
const PAGE_LIMIT: u64 = 256 << 20;

/// An input and the output the model gave when it was written.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sample {
    /// The input.
    pub input: String,
    /// The output, as the task serialises it.
    pub output: Value,
}

/// What goes into a model folder.
#[derive(Clone, Debug)]
pub struct BundleParts {
    /// The task that made it, such as `text-classification`; only this task opens it.
    pub task: String,
    /// An object: everything to rebuild the model and its preprocessing.
    pub config: Value,
    /// The weights.
    pub tensors: Vec<NamedTensor>,
    /// The `tokenizer.json`; `None` where the task reads no text.
    pub tokenizer: Option<String>,
    /// The labels, in the order of the model's outputs.
    pub labels: Vec<String>,
    /// The report of the training.
    pub report: Value,
    /// The report in words.
    pub readme: String,
    /// Inputs with their outputs, for a later opening to compare.
    pub samples: Vec<Sample>,
    /// More files: name and text.
    pub pages: Vec<(String, String)>,
}

/// `check.json`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Check {
    format: u64,
    task: String,
    files: BTreeMap<String, FileCheck>,
    samples: Vec<Sample>,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileCheck {
    bytes: u64,
    sha256: String,
}

/// Refuses a target that holds something else than a model: a typing mistake must not cost a user's files.
///
/// # Errors
///
/// When `folder` exists and is neither an empty folder nor a model folder of Regard.
pub fn check_target(folder: &Path) -> Result<()> {
    let refuse = |found: &str| {
        let found = format!("{found} in {}", folder.display());
        Err(Error::argument(
            "--out",
            found,
            "a new folder, an empty one, or a model of Regard to replace",
        ))
    };
    match fs::metadata(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(source) => return Err(Error::write(folder, source)),
        Ok(about) if !about.is_dir() => return refuse("a file"),
        Ok(_) => {}
    }
    let mut entries = fs::read_dir(folder).map_err(|source| Error::write(folder, source))?;
    if entries.next().is_none() {
        return Ok(());
    }
    let check = open::read_limited(&folder.join(CHECK), CHECK_LIMIT).ok();
    let check = check.and_then(|bytes| serde_json::from_slice::<Value>(&bytes).ok());
    let ours =
        check.is_some_and(|check| check["format"].is_u64() && check["files"][MODEL].is_object());
    if ours {
        Ok(())
    } else {
        refuse("files that are no model")
    }
}

/// Whether a name is that of a file in the folder itself, and not a hidden one.
fn is_plain(name: &str) -> bool {
    !name.is_empty() && !name.starts_with('.') && !name.contains(['/', '\\', '\0', ':'])
}

/// JSON as a value, or an error that names the file.
pub(crate) fn from_json<T: serde::de::DeserializeOwned>(
    json: &serde_json::Value,
    path: &Path,
) -> Result<T> {
    T::deserialize(json)
        .map_err(|error| Error::bundle(path, "contents", error, "what Regard writes"))
}

/// A value as JSON.
pub(crate) fn to_json<T: Serialize>(value: &T) -> Result<serde_json::Value> {
    serde_json::to_value(value)
        .map_err(|error| Error::argument("the model folder", error, "values that JSON can hold"))
}
