//! The chores of the repository: `cargo xtask` lists them.
//!
//! Standard library only, so that a chore starts in seconds. Whatever comes from outside comes through the
//! ordinary clients (`pip`, `npm`, `apt-get`), in a pinned version, and its SHA-256 is checked.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a chore talks to the person who runs it"
)]

mod check;
mod data;
mod demo_data;
mod sha256;

use std::process::ExitCode;

/// A chore fails with a sentence for the person who ran it.
type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

const HELP: &str = "\
cargo xtask check            what .ci/run runs, but for the Python wheel: format, lints, tests, docs
cargo xtask data NAME        fetch a benchmark set into data/NAME/: train.csv and test.csv, or IDX files
cargo xtask data all         fetch all of them
cargo xtask demo-data        make the samples that `regard demo` learns from";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let outcome = match words[..] {
        ["check"] => check::run(),
        ["data", name] => data::fetch(name),
        ["demo-data"] => demo_data::make(),
        _ => {
            eprintln!("{HELP}\n\nsets of data:\n{}", data::list());
            return if words.is_empty() || words == ["--help"] {
                ExitCode::SUCCESS
            } else {
                ExitCode::from(2)
            };
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The root of the repository.
fn root() -> std::path::PathBuf {
    std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .map_or_else(|| ".".into(), Into::into)
}
