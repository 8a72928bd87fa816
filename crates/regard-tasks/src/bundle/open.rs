//! Opening: sizes before bytes, bytes before meaning.

use std::collections::{BTreeSet, HashSet};
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use regard_nn::parameters::NamedTensor;
use serde::de::DeserializeOwned;
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::{
    CHECK, CHECK_LIMIT, CONFIG, Check, FORMAT, FileCheck, LABELS, MODEL, PAGE_LIMIT, REPORT,
    REQUIRED, Sample, TOKENIZER, TOKENIZER_LIMIT, is_plain, weights,
};
use crate::error::short;
use crate::tables::hexadecimal;
use crate::tokenizer::TextTokenizer;
use crate::{Error, Result};

/// A model folder whose files are what they were when they were written.
#[derive(Debug)]
pub struct Opened {
    folder: PathBuf,
    /// The task's own configuration.
    pub config: Value,
    tokenizer: Option<TextTokenizer>,
    /// The files that were verified.
    files: BTreeSet<String>,
    /// The labels, in the order of the model's outputs, each once; none where a task has no labels.
    pub labels: Vec<String>,
    /// The report of the training.
    pub report: Value,
    /// Inputs with the outputs they must have.
    pub samples: Vec<Sample>,
    /// Bytes of `model.safetensors`.
    pub model_bytes: u64,
}

/// The task that made a model folder, as its `check.json` says; [`open`] verifies the rest.
///
/// # Errors
///
/// When the folder has no `check.json` of ours.
pub fn task_of(folder: &Path) -> Result<String> {
    if !fs::metadata(folder)
        .map_err(|source| Error::read(folder, source))?
        .is_dir()
    {
        return Err(Error::bundle(folder, "the model", "a file", "a folder"));
    }
    Ok(read_check(&folder.join(CHECK))?.task)
}

/// Opens a model folder of this task and verifies every file in it but the samples, which take the model.
///
/// # Errors
///
/// When a file is missing, has another size or SHA-256 than `check.json` says, is too large to be one of ours, or holds
/// something else than it must. The message names file, field, found and expected.
pub fn open(folder: &Path, task: &str) -> Result<Opened> {
    let opened = open_without_labels(folder, task)?;
    if opened.labels.is_empty() {
        let path = folder.join(LABELS);
        return Err(Error::bundle(&path, "the labels", "none", "at least one"));
    }
    Ok(opened)
}

/// As [`open`], for a task whose models have no labels.
///
/// # Errors
///
/// As [`open`].
pub fn open_without_labels(folder: &Path, task: &str) -> Result<Opened> {
    if !fs::metadata(folder)
        .map_err(|source| Error::read(folder, source))?
        .is_dir()
    {
        return Err(Error::bundle(folder, "the model", "a file", "a folder"));
    }
    let check = read_check(&folder.join(CHECK))?;
    if check.task != task {
        return Err(Error::bundle(
            &folder.join(CHECK),
            "task",
            format!("`{}`", short(&check.task)),
            format!("`{task}`"),
        ));
    }
    for (name, _) in REQUIRED {
        if !check.files.contains_key(name) {
            return Err(Error::bundle(
                &folder.join(CHECK),
                "files",
                format!("no `{name}`"),
                "every file of the model",
            ));
        }
    }
    for (name, expected) in &check.files {
        if !is_plain(name) || name == CHECK {
            let found = format!("`{}`", short(name));
            return Err(Error::bundle(
                &folder.join(CHECK),
                "files",
                found,
                "names of files in the folder",
            ));
        }
        verify(&folder.join(name), expected, limit_of(name))?;
    }
    let config = own_config(&folder.join(CONFIG), task)?;
    let labels = labels(&folder.join(LABELS))?;
    let tokenizer = match check.files.contains_key(TOKENIZER) {
        true => Some(tokenizer(&folder.join(TOKENIZER))?),
        false => None,
    };
    Ok(Opened {
        config,
        tokenizer,
        files: check.files.keys().cloned().collect(),
        labels,
        report: parse(&folder.join(REPORT), limit_of(REPORT))?,
        samples: check.samples,
        model_bytes: check.files[MODEL].bytes,
        folder: folder.to_owned(),
    })
}

fn tokenizer(path: &Path) -> Result<TextTokenizer> {
    TextTokenizer::from_json(&read_limited(path, TOKENIZER_LIMIT)?)
        .map_err(|error| Error::bundle(path, "the tokenizer", error, "one that Regard wrote"))
}

impl Opened {
    /// The tokenizer.
    ///
    /// # Errors
    ///
    /// When the folder has none.
    pub fn tokenizer(&self) -> Result<&TextTokenizer> {
        self.tokenizer.as_ref().ok_or_else(|| {
            let path = self.folder.join(CHECK);
            let found = format!("no `{TOKENIZER}`");
            Error::bundle(&path, "files", found, "every file of the model")
        })
    }

    /// A second tokenizer, in a file of that name.
    ///
    /// # Errors
    ///
    /// When the folder has no such file, or it is no tokenizer of ours.
    pub fn another_tokenizer(&self, name: &str) -> Result<TextTokenizer> {
        if !self.files.contains(name) {
            let path = self.folder.join(CHECK);
            let found = format!("no `{name}`");
            return Err(Error::bundle(
                &path,
                "files",
                found,
                "every file of the model",
            ));
        }
        tokenizer(&self.folder.join(name))
    }

    /// The weights: exactly those that the model expects, by name and shape.
    ///
    /// # Errors
    ///
    /// When one is missing, of another shape or type, not finite, or there are others; when the header lies about sizes.
    pub fn tensors(&self, expected: &[(String, Vec<usize>)]) -> Result<Vec<NamedTensor>> {
        weights::read(&self.folder.join(MODEL), expected)
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }
}

fn limit_of(name: &str) -> u64 {
    REQUIRED
        .iter()
        .chain(&[(TOKENIZER, TOKENIZER_LIMIT)])
        .find(|(required, _)| *required == name)
        .map_or(PAGE_LIMIT, |(_, limit)| *limit)
}

fn read_check(path: &Path) -> Result<Check> {
    let value: Value = parse(path, CHECK_LIMIT)?;
    check_format(path, &value)?;
    serde_json::from_value(value)
        .map_err(|error| Error::bundle(path, "contents", error, "what Regard writes"))
}

/// A version that is not known is said before anything else goes wrong because of it.
fn check_format(path: &Path, value: &Value) -> Result<()> {
    match value.get("format") {
        Some(format) if *format == FORMAT => Ok(()),
        Some(format) if format.as_u64().is_some_and(|format| format > FORMAT) => {
            Err(Error::bundle(
                path,
                "format",
                format,
                format!("{FORMAT}; a newer Regard wrote it"),
            ))
        }
        Some(format) => Err(Error::bundle(
            path,
            "format",
            short(&format.to_string()),
            FORMAT,
        )),
        None => Err(Error::bundle(path, "format", "nothing", FORMAT)),
    }
}

/// `config.json` without what [`super::write()`] put in front.
fn own_config(path: &Path, task: &str) -> Result<Value> {
    let mut config: Value = parse(path, limit_of(CONFIG))?;
    check_format(path, &config)?;
    if config["task"] != task {
        return Err(Error::bundle(
            path,
            "task",
            short(&config["task"].to_string()),
            format!("`{task}`"),
        ));
    }
    if let Some(config) = config.as_object_mut() {
        for name in ["format", "task", "made_by"] {
            config.shift_remove(name);
        }
    }
    Ok(config)
}

fn labels(path: &Path) -> Result<Vec<String>> {
    let labels: Vec<String> = parse(path, limit_of(LABELS))?;
    let mut seen = HashSet::new();
    match labels.iter().find(|label| !seen.insert(label.as_str())) {
        Some(twice) => Err(Error::bundle(
            path,
            "the labels",
            format!("`{}` twice", short(twice)),
            "each once",
        )),
        None => Ok(labels),
    }
}

/// Compares a file with what `check.json` says of it, without holding it in memory.
fn verify(path: &Path, expected: &FileCheck, limit: u64) -> Result<()> {
    let bytes = size(path)?;
    if bytes != expected.bytes {
        return Err(Error::bundle(
            path,
            "size",
            format!("{bytes} bytes"),
            format!("{} bytes", expected.bytes),
        ));
    }
    if bytes > limit {
        return Err(Error::bundle(
            path,
            "size",
            format!("{bytes} bytes"),
            format!("at most {limit}"),
        ));
    }
    let mut file = File::open(path)
        .map_err(|source| Error::read(path, source))?
        .take(limit);
    let mut hash = Sha256::new();
    let mut part = vec![0; 1 << 16];
    loop {
        let read = file
            .read(&mut part)
            .map_err(|source| Error::read(path, source))?;
        if read == 0 {
            break;
        }
        hash.update(&part[..read]);
    }
    let found = hexadecimal(&hash.finalize());
    if found != expected.sha256 {
        return Err(Error::bundle(
            path,
            "SHA-256",
            found,
            format!("{}: the file was altered", short(&expected.sha256)),
        ));
    }
    Ok(())
}

/// The size of a file that is one: a pipe in its place would be waited for, a folder misread.
fn size(path: &Path) -> Result<u64> {
    match fs::metadata(path) {
        Ok(about) if about.is_file() => Ok(about.len()),
        Ok(_) => Err(Error::bundle(
            path,
            "the file",
            "something that is no file",
            "a file",
        )),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Err(Error::bundle(
            path,
            "the file",
            "nothing",
            "a file; is this a whole model folder of Regard?",
        )),
        Err(source) => Err(Error::read(path, source)),
    }
}

/// Reads a file of at most `limit` bytes.
pub(super) fn read_limited(path: &Path, limit: u64) -> Result<Vec<u8>> {
    let bytes = size(path)?;
    if bytes > limit {
        return Err(Error::bundle(
            path,
            "size",
            format!("{bytes} bytes"),
            format!("at most {limit}"),
        ));
    }
    let mut read = Vec::new();
    let file = File::open(path).map_err(|source| Error::read(path, source))?;
    // `take`: the file may have grown since.
    file.take(limit)
        .read_to_end(&mut read)
        .map_err(|source| Error::read(path, source))?;
    Ok(read)
}

/// A JSON file; serde_json goes at most 128 levels deep.
fn parse<T: DeserializeOwned>(path: &Path, limit: u64) -> Result<T> {
    let bytes = read_limited(path, limit)?;
    serde_json::from_slice(&bytes)
        .map_err(|error| Error::bundle(path, "contents", error, "what Regard writes"))
}
