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
    #[error("`{name}` has {found} elements, expected {expected} (one per {per})")]
    Length {
        /// The argument.
        name: &'static str,
        /// Its length.
        found: usize,
        /// The length that would have fitted.
        expected: usize,
        /// What it has one element for.
        per: &'static str,
    },
    /// More visible keys, or a longer prefix, than there are keys.
    #[error("`{name}[{row}]` is {found}, expected at most the {keys} keys of `k`")]
    TooManyKeys {
        /// The argument.
        name: &'static str,
        /// The batch row.
        row: usize,
        /// The number given for it.
        found: usize,
        /// The keys there are.
        keys: usize,
    },
    /// A gradient was asked for of something that was not given.
    #[error("`{gradient}` is asked for, but no `{option}` is given")]
    NoGradient {
        /// What asked for it.
        gradient: &'static str,
        /// What is missing.
        option: &'static str,
    },
    /// A bound of the scores that is none.
    #[error("`softcap` is {found}, expected a positive finite number")]
    Softcap {
        /// The number, as it is printed.
        found: String,
    },
    /// A probability that is none.
    #[error("the probability of `dropout` is {found}, expected at least 0 and below 1")]
    Dropout {
        /// The number, as it is printed.
        found: String,
    },
    /// Blocks of no pairs.
    #[error("the size of `blocks` is {rows} × {columns}, expected at least 1 × 1")]
    BlockSize {
        /// Queries of a block.
        rows: usize,
        /// Keys of a block.
        columns: usize,
    },
    /// Boundaries of packed sequences that do not fit.
    #[error("`{name}` is expected to start at 0, never to fall, and to end with {end}")]
    Boundaries {
        /// The argument.
        name: &'static str,
        /// The number of rows there are.
        end: usize,
    },
    /// An option that is given pair by pair, for packed sequences.
    #[error("`{name}` has no shape for packed sequences; leave it out, or pad them into a batch")]
    NotPacked {
        /// The option.
        name: &'static str,
    },
    /// A cache that cannot hold what is appended.
    #[error(
        "the cache has room for {capacity} keys a row, and row {row} has {length} of them: {added} more do not fit"
    )]
    CacheFull {
        /// The batch row.
        row: usize,
        /// The keys it has.
        length: usize,
        /// The keys that were to be added.
        added: usize,
        /// The keys it has room for.
        capacity: usize,
    },
    /// A table that names a page that is not there.
    #[error("`table[{row}, {column}]` is {found}, expected one of the {pages} pages")]
    Page {
        /// The batch row.
        row: usize,
        /// Which of its pages.
        column: usize,
        /// The page it names.
        found: usize,
        /// The pages there are.
        pages: usize,
    },
    /// More than can be allocated.
    #[error("there is not enough memory for `{name}` of shape {shape:?}")]
    Memory {
        /// The result, or the argument that is copied.
        name: &'static str,
        /// Its shape.
        shape: Vec<usize>,
    },
    /// An option that has another meaning than the caller may think where keys come from a cache.
    #[error("`{name}` cannot be given where keys come from a cache: {reason}")]
    NotCached {
        /// The option.
        name: &'static str,
        /// Why.
        reason: &'static str,
    },
    /// An instruction set that this processor does not have.
    #[error("this processor does not have the instruction set `{isa}`; it has {}", names(.available))]
    MissingIsa {
        /// The one asked for.
        isa: Isa,
        /// Those there are.
        available: Vec<Isa>,
    },
    /// An environment variable that names no instruction set.
    #[error("`{variable}` is `{found}`, expected one of {}", names(&Isa::ALL))]
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
