//! From a table to a model folder.

use std::path::PathBuf;

use super::Settings;
use crate::columns::ColumnChoice;
use crate::report::Report;
use crate::trainer::Listener;
use crate::Result;

/// What `regard train classification` is asked to do.
#[derive(Clone, Debug, Default)]
pub struct TrainRequest {
    /// Files to learn from; more than one are read as one table.
    pub data: Vec<PathBuf>,
    /// File to stop early on; `None` = a part of `data` is held out.
    pub validation: Option<PathBuf>,
    /// File to score on; `None` = the validation part is scored, and the report says so.
    pub test: Option<PathBuf>,
    /// Folder to write the model to.
    pub out: PathBuf,
    /// Columns the user named.
    pub columns: ColumnChoice,
    /// Settings the user gave.
    pub settings: Settings,
    /// Wall-clock budget; model and epochs are fitted to it.
    pub minutes: Option<f64>,
    /// Seed of data order, dropout and initial weights.
    pub seed: u64,
    /// Continue the run that was interrupted in `out`.
    pub resume: bool,
    /// Where to compute: `cpu`, or a GPU back end that was compiled in.
    pub device: String,
    /// Train and score the rivals of the report (mean pooling, linear model).
    pub rivals: bool,
}

/// Trains a classifier and writes its folder.
pub fn train(_request: &TrainRequest, _listener: &mut dyn Listener) -> Result<Report> {
    unimplemented!()
}
