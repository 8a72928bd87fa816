//! What a text classifier answers with.

use serde::{Deserialize, Serialize};

use crate::answers::LabelProbability;

/// The answer for one text.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Prediction {
    /// The most probable label.
    pub label: String,
    /// Its probability.
    pub probability: f32,
    /// Every label, most probable first.
    pub probabilities: Vec<LabelProbability>,
    /// Tokens beyond the model's limit that were not read; 0 = the whole text was read.
    pub truncated_tokens: usize,
}

/// A word of the text and its share of the attention.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AttendedWord {
    /// The word as it stands in the text.
    pub text: String,
    /// First byte of the word in the text.
    pub start: usize,
    /// One past its last byte.
    pub end: usize,
    /// Attention on the word, averaged over the pooling heads; the weights of a text sum to 1.
    pub weight: f32,
}

/// What the model looked at to answer one text.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Explanation {
    /// The text that was asked about.
    pub text: String,
    /// The answer.
    pub prediction: Prediction,
    /// Words in the order of the text.
    pub words: Vec<AttendedWord>,
    /// How the weights were got, in a sentence.
    pub method: String,
}
