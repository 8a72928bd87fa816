//! `cargo xtask check`: the commands of the continuous integration, one after the other, but for the Python wheel's.

use std::process::Command;

use crate::Result;

/// Name, and arguments of `cargo`.
const STEPS: [(&str, &str); 4] = [
    ("format", "fmt --all --check"),
    ("lints", "clippy --workspace --all-targets -- -D warnings"),
    ("tests", "test --workspace"),
    ("docs", "doc --workspace --no-deps"),
];

/// Runs every step and stops at the first that fails.
pub(crate) fn run() -> Result<()> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    for (name, arguments) in STEPS {
        println!("── {name}: cargo {arguments}");
        let status = Command::new(&cargo)
            .args(arguments.split(' '))
            // Only rustdoc reads it: what is compiled stays the same for every step.
            .env("RUSTDOCFLAGS", "-D warnings")
            .current_dir(crate::root())
            .status()?;
        if !status.success() {
            return Err(format!("{name} failed: `cargo {arguments}` ended with {status}").into());
        }
    }
    println!("all {} steps passed", STEPS.len());
    Ok(())
}
