//! The folder of a run under way: what was decided, the tokenizer, the checkpoints. It stands beside the model folder it
//! will become and goes away when that is written.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::trainer::Checkpoint;
use crate::{Error, Result, bundle};

/// `OUT.training`, beside the model folder `OUT`.
#[derive(Debug)]
pub(crate) struct RunFolder {
    path: PathBuf,
}

impl RunFolder {
    /// Opens the run of the model folder `out`: a new one, or with `resume` the one that was interrupted.
    ///
    /// # Errors
    ///
    /// When `out` holds something that is not a model; when there is an unfinished run and `resume` was not asked for;
    /// when `resume` was asked for and there is nothing to resume; when the folder cannot be made.
    pub(crate) fn open(out: &Path, resume: bool) -> Result<Self> {
        bundle::check_target(out)?;
        let name = out
            .file_name()
            .ok_or_else(|| Error::argument("--out", out.display(), "a folder with a name"))?;
        let mut name = name.to_owned();
        name.push(".training");
        let path = out.with_file_name(name);
        let shown = path.display();
        // A run that failed on its data has written nothing: there is nothing to continue, and nothing to lose.
        let begun = fs::read_dir(&path).is_ok_and(|mut files| files.next().is_some());
        if begun && !resume {
            return Err(Error::argument(
                "--out",
                format!("an unfinished run in {shown}"),
                format!("--resume to continue it, or remove {shown} to start anew"),
            ));
        }
        if resume && !path.exists() {
            let found = if out.exists() {
                "a finished model and no run to continue"
            } else {
                "no run to continue"
            };
            return Err(Error::argument(
                "--resume",
                found,
                format!("the folder {shown} of an interrupted run"),
            ));
        }
        fs::create_dir_all(&path).map_err(|source| Error::Write {
            path: path.clone(),
            source,
        })?;
        Ok(Self { path })
    }

    /// The checkpoint of one phase.
    pub(crate) fn checkpoint(&self, phase: &str, every_steps: Option<u64>) -> Checkpoint {
        Checkpoint::at(self.path.join(format!("{phase}.checkpoint")), every_steps)
    }

    /// Reads a JSON file, if it is there.
    pub(crate) fn read<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>> {
        let path = self.path.join(name);
        if !path.exists() {
            return Ok(None);
        }
        let value = serde_json::from_slice(&self.read_bytes(name)?);
        value.map(Some).map_err(|error| Error::Checkpoint {
            path,
            what: error.to_string(),
        })
    }

    /// Reads a file.
    pub(crate) fn read_bytes(&self, name: &str) -> Result<Vec<u8>> {
        let path = self.path.join(name);
        fs::read(&path).map_err(|source| Error::Read { path, source })
    }

    /// Writes a value as JSON, whole or not at all.
    pub(crate) fn write<T: Serialize>(&self, name: &str, value: &T) -> Result<()> {
        let path = self.path.join(name);
        let json = serde_json::to_vec_pretty(value).map_err(|error| Error::Checkpoint {
            path,
            what: error.to_string(),
        })?;
        self.write_bytes(name, &json)
    }

    /// Writes a file, whole or not at all.
    pub(crate) fn write_bytes(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let path = self.path.join(name);
        let written = tempfile::NamedTempFile::new_in(&self.path).and_then(|mut file| {
            file.write_all(bytes)?;
            file.as_file().sync_data()?;
            file.persist(&path).map_err(|error| error.error)
        });
        written
            .map(drop)
            .map_err(|source| Error::Write { path, source })
    }

    /// Removes the folder: the model is written.
    pub(crate) fn remove(self) -> Result<()> {
        fs::remove_dir_all(&self.path).map_err(|source| Error::Write {
            path: self.path,
            source,
        })
    }
}
