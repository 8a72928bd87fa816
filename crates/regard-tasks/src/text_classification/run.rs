//! Using a trained classifier.

use std::path::Path;

use super::{Explanation, Inspection, Prediction};
use crate::columns::ColumnChoice;
use crate::metrics::Evaluation;
use crate::report::{Report, Rival};
use crate::tables::Table;
use crate::{Result, Task};

/// A trained classifier.
#[derive(Debug)]
pub struct TextClassifier {}

impl Task for TextClassifier {
    type Input = String;
    type Output = Prediction;

    fn open(_bundle: &Path) -> Result<Self> {
        unimplemented!()
    }

    fn run(&self, _inputs: &[String]) -> Result<Vec<Prediction>> {
        unimplemented!()
    }
}

impl TextClassifier {
    /// The attention that made the answer for `text`.
    pub fn explain(&self, _text: &str) -> Result<Explanation> {
        unimplemented!()
    }

    /// Scores the model on a labelled table, beside the trivial baseline; the notes name rows that were skipped or cut.
    pub fn evaluate(&self, _table: &Table, _choice: &ColumnChoice) -> Result<(Evaluation, Vec<Rival>, Vec<String>)> {
        unimplemented!()
    }

    /// The report written when the model was trained.
    pub fn report(&self) -> &Report {
        unimplemented!()
    }

    /// What the model is made of.
    pub fn inspect(&self) -> Inspection {
        unimplemented!()
    }
}
