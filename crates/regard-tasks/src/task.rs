//! The one trait that the front ends meet at.

use std::path::Path;

use crate::Result;

/// What every task offers. The command line, and later the server and Python, are written against it.
pub trait Task: Sized {
    /// What a user hands in: a text, a picture.
    type Input;
    /// What comes back; it serialises to the JSON that `regard predict --json` prints.
    type Output: serde::Serialize;

    /// Opens a model folder, after checking every file in it.
    fn open(bundle: &Path) -> Result<Self>;

    /// Answers every input, in order.
    fn run(&self, inputs: &[Self::Input]) -> Result<Vec<Self::Output>>;
}
