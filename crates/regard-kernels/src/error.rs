//! What can be wrong at the door: which argument, what was found, what was expected.

use crate::Isa;

/// Why a call was refused. Nothing was computed and nothing was written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An array whose shape does not fit the others.
    #[error("`{name}` has shape {found:?}, expected {expected:?} ({reason})")]
    Shape {
        /// The argument.
        name: &'static str,
        /// Its shape.
        found: Vec<usize>,
        /// The shape that would have fitted.
        expected: Vec<usize>,
        /// Where the expectation comes from.
        reason: &'static str,
    },
    /// A mask or a bias that does not broadcast over the scores.
    #[error(
        "`{name}` has shape {found:?}, which does not broadcast to {expected:?} ([batch, heads, queries, keys])"
    )]
    Broadcast {
        /// The argument.
        name: &'static str,
        /// Its shape.
        found: Vec<usize>,
        /// The shape of the scores.
        expected: Vec<usize>,
    },
    /// Query heads that cannot be shared out evenly among the key heads.
    #[error("`k` has {kv_heads} heads, which does not divide the {heads} heads of `q`")]
    Heads {
        /// The heads of `q`.
        heads: usize,
        /// The heads of `k` and `v`.
        kv_heads: usize,
    },
    /// A list with the wrong number of elements.
    #[error("`{name}` has {found} elements, expected {expected} (one per batch row)")]
    Length {
        /// The argument.
        name: &'static str,
        /// Its length.
        found: usize,
        /// The length that would have fitted.
        expected: usize,
    },
    /// More visible keys than there are keys.
    #[error("`visible_keys[{row}]` is {found}, expected at most the {keys} keys of `k`")]
    VisibleKeys {
        /// The batch row.
        row: usize,
        /// The number given for it.
        found: usize,
        /// The keys there are.
        keys: usize,
    },
    /// A gradient of the bias was asked for, and there is no bias.
    #[error("`bias_gradient` is asked for, but no `bias` is given")]
    NoBias,
    /// A bound of the scores that is none.
    #[error("`softcap` is {found}, expected a positive finite number")]
    Softcap {
        /// The number, as it is printed.
        found: String,
    },
    /// A list of sinks with the wrong number of elements.
    #[error("`sinks` has {found} elements, expected {heads} (one per head of `q`)")]
    Sinks {
        /// Its length.
        found: usize,
        /// The heads of `q`.
        heads: usize,
    },
    /// A gradient of the sinks was asked for, and there are no sinks.
    #[error("`sinks_gradient` is asked for, but no `sinks` are given")]
    NoSinks,
    /// An instruction set that this processor does not have.
    #[error("this processor does not have the instruction set `{isa}`; it has {}", names(.available))]
    MissingIsa {
        /// The one asked for.
        isa: Isa,
        /// Those there are.
        available: Vec<Isa>,
    },
    /// An environment variable that names no instruction set.
    #[error("`{variable}` is `{found}`, expected one of scalar, avx2, avx512")]
    UnknownIsa {
        /// The variable.
        variable: &'static str,
        /// Its value.
        found: String,
    },
}

fn names(isas: &[Isa]) -> String {
    let names: Vec<String> = isas.iter().map(Isa::to_string).collect();
    names.join(", ")
}
