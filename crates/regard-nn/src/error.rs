//! A configuration that no model can be built from.

/// Which number of a configuration is wrong, what it is, and what it should be.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("`{field}` is {found}, expected {expected}")]
pub struct ConfigError {
    /// The field's name.
    pub field: &'static str,
    /// What it holds.
    pub found: String,
    /// What it may hold.
    pub expected: String,
}

impl ConfigError {
    pub(crate) fn new(
        field: &'static str,
        found: impl std::fmt::Display,
        expected: impl Into<String>,
    ) -> Self {
        Self {
            field,
            found: found.to_string(),
            expected: expected.into(),
        }
    }
}
