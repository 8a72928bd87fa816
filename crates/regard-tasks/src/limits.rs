//! Settings that cannot be meant: each is refused by name, with what was found and what would do.

use crate::{Error, Result};

/// At least 0 and less than `below`.
pub(crate) fn share(name: &str, value: Option<f64>, below: f64) -> Result<()> {
    match value {
        Some(value) if !(0.0..below).contains(&value) => {
            let expected = format!("at least 0 and less than {below}");
            Err(Error::setting(name, value, expected))
        }
        _ => Ok(()),
    }
}

/// From `least` to `most`.
pub(crate) fn count(name: &str, value: Option<usize>, least: usize, most: usize) -> Result<()> {
    match value {
        Some(value) if !(least..=most).contains(&value) => {
            Err(Error::setting(name, value, format!("{least} to {most}")))
        }
        _ => Ok(()),
    }
}

/// Larger than 0.
pub(crate) fn positive(name: &str, value: Option<f64>) -> Result<()> {
    match value {
        Some(value) if !(value > 0.0 && value.is_finite()) => {
            Err(Error::setting(name, value, "a positive number"))
        }
        _ => Ok(()),
    }
}
