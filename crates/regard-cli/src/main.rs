//! The `regard` command: train, score, use and look into attention models.
//!
//! Data goes to standard output, everything else to standard error. Exit codes: 0 done, 1 failed, 2 wrong usage,
//! 130 interrupted.

use std::process::ExitCode;

use clap::Parser;

mod commands;
mod failure;
mod input;
mod settings;
mod terminal;

/// Burn allocates a tensor for every operation; the system's allocator gives the pages back each time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    match commands::Regard::parse().run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failure::report(&error),
    }
}
