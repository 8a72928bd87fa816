//! What a writer answers.

use serde::{Deserialize, Serialize};

/// A text that was written.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Alternative {
    /// The text.
    pub text: String,
    /// By what alternatives are ranked: the logarithm of the probability, over the length.
    pub score: f32,
    /// Natural logarithm of its probability.
    pub log_probability: f32,
}

/// What was written for a source.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Written {
    /// The best text.
    pub text: String,
    /// The best, and the others that were asked for, best first.
    pub alternatives: Vec<Alternative>,
    /// Pieces of the source that were not read, because it is too long.
    pub cut_source_pieces: usize,
    /// The bound on the length ended the text, not the model.
    pub cut: bool,
}

/// What a model is made of.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Inspection {
    /// Facts, name and value.
    pub lines: Vec<(String, String)>,
    /// Parameters by part.
    pub parts: Vec<(String, usize)>,
    /// All of them.
    pub parameters: usize,
    /// Multiplications and additions to read and write 20 pieces.
    pub operations: u64,
}
