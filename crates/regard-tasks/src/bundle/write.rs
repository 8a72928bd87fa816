//! Writing: all of the folder or nothing of it.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::{
    BundleParts, CHECK, CONFIG, Check, FORMAT, FileCheck, LABELS, MODEL, README, REPORT, REQUIRED,
    TOKENIZER, TOKENIZER_LIMIT, check_target, is_plain, weights,
};
use crate::tables::hexadecimal;
use crate::{Error, Result};

/// Writes a model folder.
///
/// The files are written to a hidden folder beside the target, forced to the disk and moved into place. A model that is
/// already there is replaced; should the machine stop between the two moves, it is found in `.NAME.writing-…/old`.
///
/// # Errors
///
/// When the target holds something else than a model, when weights are not finite, or when the disk refuses; then
/// nothing is left behind, and a model that was there is as it was.
pub fn write(folder: &Path, parts: &BundleParts) -> Result<()> {
    check_target(folder)?;
    let files = contents(folder, parts)?;
    place(folder, &files).map_err(|source| Error::write(folder, source))
}

/// Every file's name and bytes; `check.json`, which speaks of the others, is the last.
fn contents(folder: &Path, parts: &BundleParts) -> Result<Vec<(String, Vec<u8>)>> {
    let mut files: Vec<(String, Vec<u8>)> = vec![
        (CONFIG.to_owned(), pretty(folder, &config(folder, parts)?)?),
        (
            MODEL.to_owned(),
            weights::to_bytes(&folder.join(MODEL), &parts.tensors)?,
        ),
        (LABELS.to_owned(), pretty(folder, &json!(parts.labels))?),
        (REPORT.to_owned(), pretty(folder, &parts.report)?),
        (README.to_owned(), parts.readme.clone().into_bytes()),
    ];
    if let Some(tokenizer) = &parts.tokenizer {
        files.push((TOKENIZER.to_owned(), tokenizer.clone().into_bytes()));
    }
    for (name, text) in &parts.pages {
        if !is_plain(name) || name == CHECK || files.iter().any(|(other, _)| other == name) {
            return Err(Error::bundle(
                folder,
                "a page's name",
                format!("`{name}`"),
                "a plain file name of its own",
            ));
        }
        files.push((name.clone(), text.clone().into_bytes()));
    }
    // What opening would refuse must not be written.
    for (name, limit) in REQUIRED.into_iter().chain([(TOKENIZER, TOKENIZER_LIMIT)]) {
        let bytes = files
            .iter()
            .find(|(other, _)| other == name)
            .map_or(0, |(_, bytes)| bytes.len() as u64);
        if bytes > limit {
            return Err(Error::bundle(
                &folder.join(name),
                "size",
                format!("{bytes} bytes"),
                format!("at most {limit}"),
            ));
        }
    }
    let about = |bytes: &Vec<u8>| FileCheck {
        bytes: bytes.len() as u64,
        sha256: hexadecimal(&Sha256::digest(bytes)),
    };
    let check = Check {
        format: FORMAT,
        task: parts.task.clone(),
        files: files
            .iter()
            .map(|(name, bytes)| (name.clone(), about(bytes)))
            .collect::<BTreeMap<_, _>>(),
        samples: parts.samples.clone(),
    };
    files.push((CHECK.to_owned(), pretty(folder, &json!(check))?));
    Ok(files)
}

/// The task's configuration with what every model folder says of itself in front.
fn config(folder: &Path, parts: &BundleParts) -> Result<Value> {
    let mut config = json!({
        "format": FORMAT,
        "task": parts.task,
        "made_by": concat!("regard ", env!("CARGO_PKG_VERSION")),
    });
    let path = folder.join(CONFIG);
    let Some(more) = parts.config.as_object() else {
        return Err(Error::bundle(
            &path,
            "the configuration",
            &parts.config,
            "an object",
        ));
    };
    for (name, value) in more {
        if !config[name].is_null() {
            return Err(Error::bundle(
                &path,
                "the configuration",
                format!("a field `{name}`"),
                "another name",
            ));
        }
        config[name] = value.clone();
    }
    Ok(config)
}

fn pretty(folder: &Path, value: &Value) -> Result<Vec<u8>> {
    let mut bytes =
        serde_json::to_vec_pretty(value).map_err(|error| Error::write(folder, error.into()))?;
    bytes.push(b'\n');
    Ok(bytes)
}

fn place(folder: &Path, files: &[(String, Vec<u8>)]) -> io::Result<()> {
    // A link is written through, not replaced.
    let folder = if folder.exists() {
        folder.canonicalize()?
    } else {
        std::path::absolute(folder)?
    };
    let name = folder
        .file_name()
        .ok_or_else(|| io::Error::other("this is no name for a folder"))?;
    let parent = folder.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(parent)?;
    let prefix = format!(".{}.writing-", name.to_string_lossy());
    // Goes away with all that is in it, whatever happens from here on.
    let work = tempfile::Builder::new()
        .prefix(&prefix)
        .tempdir_in(parent)?;
    let (new, old) = (work.path().join("new"), work.path().join("old"));
    fs::create_dir(&new)?;
    for (name, bytes) in files {
        let mut file = File::create_new(new.join(name))?;
        file.write_all(bytes)?;
        file.sync_all()?;
    }
    sync_folder(&new)?;
    let replaces = folder.exists();
    if replaces {
        fs::rename(&folder, &old)?;
    }
    if let Err(error) = fs::rename(&new, &folder) {
        if replaces {
            fs::rename(&old, &folder)?;
        }
        return Err(error);
    }
    sync_folder(parent)
}

/// Forces a folder's entries to the disk, where the system knows how.
fn sync_folder(folder: &Path) -> io::Result<()> {
    if cfg!(unix) {
        File::open(folder)?.sync_all()
    } else {
        Ok(())
    }
}
