//! Checkpoints: one file that is either the old state or the new one, never half of each.

use std::cell::Cell;
use std::collections::HashMap;
use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use regard_nn::parameters::NamedTensor;
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde::{Deserialize, Serialize};

use crate::report::CurvePoint;
use crate::{Error, Result};

/// Where a run stands; everything in it that is not a tensor. Its fractions are kept beside the tensors, as numbers:
/// decimal digits could come back as their neighbours, and the better of two equal epochs would change.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// Optimizer steps done.
    pub step: u64,
    /// Whole epochs done.
    pub epoch: usize,
    /// Batches done of the epoch under way.
    pub batch: usize,
    /// Sum of the losses of those batches.
    #[serde(skip)]
    pub loss_sum: f64,
    /// Epoch with the best validation score, counted from 1; 0 = none yet.
    pub best_epoch: usize,
    /// Its score.
    #[serde(skip)]
    pub best_score: f64,
    /// Its loss.
    #[serde(skip)]
    pub best_loss: f64,
    /// One point an epoch.
    #[serde(skip)]
    pub curve: Vec<CurvePoint>,
    /// Why the run ended; `None` = it has not.
    pub stopped: Option<String>,
}

impl Progress {
    fn fractions(&self) -> Vec<f64> {
        let mut fractions = vec![self.loss_sum, self.best_score, self.best_loss];
        for point in &self.curve {
            let scores = [
                point.train_loss,
                point.validation_loss,
                point.validation_accuracy,
            ];
            fractions.push(point.epoch);
            fractions.extend(scores);
        }
        fractions
    }

    /// `None` if there are too few, or a point of the curve is not whole.
    fn set_fractions(&mut self, fractions: &[f64]) -> Option<()> {
        let (singles, points) = fractions.split_at_checked(3)?;
        let (points, []) = points.as_chunks::<4>() else {
            return None;
        };
        (self.loss_sum, self.best_score, self.best_loss) = (singles[0], singles[1], singles[2]);
        let point =
            |[epoch, train_loss, validation_loss, validation_accuracy]: &[f64; 4]| CurvePoint {
                epoch: *epoch,
                train_loss: *train_loss,
                validation_loss: *validation_loss,
                validation_accuracy: *validation_accuracy,
            };
        self.curve = points.iter().map(point).collect();
        Some(())
    }
}

/// What a checkpoint file holds.
#[derive(Debug)]
pub struct Saved {
    /// Where the run stood.
    pub progress: Progress,
    /// The weights at that step.
    pub model: Vec<NamedTensor>,
    /// The optimizer's state at that step.
    pub optimizer: Vec<NamedTensor>,
    /// The average of the weights, where one is kept.
    pub average: Vec<NamedTensor>,
    /// The weights of the best epoch so far.
    pub best: Vec<NamedTensor>,
}

/// The file that a run is saved to and resumed from.
#[derive(Debug)]
pub struct Checkpoint {
    path: PathBuf,
    every_steps: Option<u64>,
    written: Cell<Instant>,
}

/// The tensor of what is no weight.
const FRACTIONS: &str = "fractions";
/// The groups of tensors in the file, told apart by the first part of their names.
const GROUPS: [&str; 4] = ["model", "optimizer", "average", "best"];

impl Checkpoint {
    /// A checkpoint at `path`; `every_steps` writes it by steps instead of by the clock.
    pub fn at(path: PathBuf, every_steps: Option<u64>) -> Self {
        Self {
            path,
            every_steps,
            written: Cell::new(Instant::now()),
        }
    }

    /// Whether it is time to write again.
    pub(super) fn due(&self, step: u64, interval: Duration) -> bool {
        match self.every_steps {
            Some(steps) => step.is_multiple_of(steps.max(1)),
            None => self.written.get().elapsed() >= interval,
        }
    }

    /// Writes the state to a temporary sibling and renames it over the last one; the tensors in the order of [`Saved`].
    pub(super) fn write(&self, progress: &Progress, tensors: [&[NamedTensor]; 4]) -> Result<()> {
        let mut views = Vec::new();
        for (group, tensors) in GROUPS.into_iter().zip(tensors) {
            for tensor in tensors {
                let bytes = bytes_of(&tensor.values);
                let name = format!("{group}/{}", tensor.name);
                views.push((name, Dtype::F32, tensor.shape.clone(), bytes));
            }
        }
        let fractions = progress.fractions();
        let bytes = fractions.iter().flat_map(|value| value.to_le_bytes());
        views.push((
            FRACTIONS.to_owned(),
            Dtype::F64,
            vec![fractions.len()],
            bytes.collect(),
        ));
        let views = views
            .iter()
            .map(|(name, dtype, shape, bytes)| {
                let view = TensorView::new(*dtype, shape.clone(), bytes);
                Ok((name.as_str(), view.map_err(|error| self.error(&error))?))
            })
            .collect::<Result<Vec<_>>>()?;
        let progress = serde_json::to_string(progress).map_err(|error| self.error(&error))?;
        let about = HashMap::from([("progress".to_owned(), progress)]);
        let bytes =
            safetensors::serialize(views, Some(about)).map_err(|error| self.error(&error))?;
        let folder = self.path.parent().unwrap_or(std::path::Path::new("."));
        let saved = tempfile::NamedTempFile::new_in(folder).and_then(|mut file| {
            file.write_all(&bytes)?;
            file.as_file().sync_data()?;
            file.persist(&self.path).map_err(|error| error.error)
        });
        saved.map_err(|source| Error::Write {
            path: self.path.clone(),
            source,
        })?;
        self.written.set(Instant::now());
        Ok(())
    }

    /// The last state written, if any.
    pub fn read(&self) -> Result<Option<Saved>> {
        let bytes = match fs::read(&self.path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(source) => {
                return Err(Error::Read {
                    path: self.path.clone(),
                    source,
                });
            }
        };
        let (_, about) = SafeTensors::read_metadata(&bytes).map_err(|error| self.error(&error))?;
        let progress = about
            .metadata()
            .as_ref()
            .and_then(|about| about.get("progress"));
        let progress = progress.ok_or_else(|| self.error(&"it has no `progress`"))?;
        let mut progress: Progress =
            serde_json::from_str(progress).map_err(|error| self.error(&error))?;
        let tensors = SafeTensors::deserialize(&bytes).map_err(|error| self.error(&error))?;
        let [mut model, mut optimizer, mut average, mut best] = [const { Vec::new() }; 4];
        for (name, view) in tensors.iter() {
            if name == FRACTIONS {
                let chunks = view.data().as_chunks::<8>().0;
                let fractions: Vec<f64> = chunks
                    .iter()
                    .map(|bytes| f64::from_le_bytes(*bytes))
                    .collect();
                let set = progress.set_fractions(&fractions);
                set.ok_or_else(|| self.error(&"its numbers are not whole"))?;
                continue;
            }
            let (group, name) = name.split_once('/').unwrap_or(("", name));
            let values = view
                .data()
                .as_chunks::<4>()
                .0
                .iter()
                .map(|bytes| f32::from_le_bytes(*bytes))
                .collect();
            let tensor = NamedTensor {
                name: name.to_owned(),
                shape: view.shape().to_vec(),
                values,
            };
            match GROUPS.iter().position(|known| *known == group) {
                Some(0) => model.push(tensor),
                Some(1) => optimizer.push(tensor),
                Some(2) => average.push(tensor),
                Some(_) => best.push(tensor),
                None => return Err(self.error(&format!("unknown tensor `{name}`"))),
            }
        }
        Ok(Some(Saved {
            progress,
            model,
            optimizer,
            average,
            best,
        }))
    }

    pub(super) fn error(&self, what: &dyn std::fmt::Display) -> Error {
        Error::Checkpoint {
            path: self.path.clone(),
            what: what.to_string(),
        }
    }
}

fn bytes_of(values: &[f32]) -> Vec<u8> {
    values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect()
}
