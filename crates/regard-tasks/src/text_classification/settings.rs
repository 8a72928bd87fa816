//! Everything a user can turn, with the default that is taken when they do not.

use serde::{Deserialize, Serialize};

/// How much of attention the model has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ModelKind {
    /// Chosen from the data and the time there is.
    #[default]
    Auto,
    /// Mean pooling, no attention: the baseline.
    Mean,
    /// Attention pooling with learned queries over word embeddings.
    Pooling,
    /// A Transformer encoder under the attention pooling.
    Transformer,
}

/// Settings of a training run; `None` = inferred from the data, and said aloud.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// The kind of model.
    pub model: ModelKind,
}
