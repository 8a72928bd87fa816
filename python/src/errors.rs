//! What the kernels refuse, as `regard.RegardError`.

use pyo3::exceptions::PyMemoryError;
use pyo3::prelude::*;
use regard_kernels::Error;

pyo3::import_exception!(regard._errors, RegardError);

/// What the kernels call an argument, and what it is called in Python.
const NAMES: [(&str, &str); 5] = [
    ("mask", "attn_mask"),
    ("blocks", "block_mask"),
    ("dropout", "dropout_p"),
    ("log_sum_exp", "lse"),
    ("d_log_sum_exp", "d_lse"),
];

/// The exception of an error of the kernels; what there is no memory for is Python's `MemoryError`.
pub fn refused(error: Error) -> PyErr {
    let message = NAMES
        .iter()
        .fold(error.to_string(), |message, (theirs, ours)| {
            message.replace(&format!("`{theirs}`"), &format!("`{ours}`"))
        });
    if let Error::Memory { .. } = error {
        return PyMemoryError::new_err(message);
    }
    // The first word between backticks is the argument, in every message of the kernels.
    let argument = message.split('`').nth(1).unwrap_or_default().to_owned();
    let (found, expected) = match &error {
        Error::Shape {
            found, expected, ..
        }
        | Error::Broadcast {
            found, expected, ..
        } => (format!("{found:?}"), format!("{expected:?}")),
        Error::Heads { heads, kv_heads } => (kv_heads.to_string(), format!("a divisor of {heads}")),
        Error::Length {
            found, expected, ..
        } => (found.to_string(), expected.to_string()),
        Error::TooManyKeys { found, keys, .. } => (found.to_string(), format!("at most {keys}")),
        Error::Softcap { found } => (found.clone(), "a positive finite number".into()),
        Error::Dropout { found } => (found.clone(), "at least 0 and below 1".into()),
        Error::BlockSize { rows, columns } => {
            (format!("({rows}, {columns})"), "at least (1, 1)".into())
        }
        Error::NoGradient { option, .. } => ("asked for".into(), format!("a `{option}`")),
        Error::MissingIsa { isa, available } => (isa.to_string(), format!("{available:?}")),
        Error::UnknownIsa { found, .. } => (
            found.clone(),
            "scalar, avx2, avx512, avx512bf16, amx or neon".into(),
        ),
        _ => (String::new(), String::new()),
    };
    RegardError::new_err((message, argument, found, expected))
}

/// The exception for an argument that is found to be one thing and expected to be another.
pub fn refuse(argument: &str, found: &str, expected: &str) -> PyErr {
    RegardError::new_err((
        format!("`{argument}` is {found}, expected {expected}"),
        argument.to_owned(),
        found.to_owned(),
        expected.to_owned(),
    ))
}
