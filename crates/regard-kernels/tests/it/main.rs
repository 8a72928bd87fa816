//! What the crate promises, checked from outside.
#![expect(
    clippy::print_stderr,
    reason = "which instruction sets a run has exercised is part of its record"
)]
#![expect(clippy::needless_pass_by_value, reason = "views stand for references")]

mod agreement;
mod any_case;
mod caches;
mod case;
mod door;
mod elements;
mod gradients;
mod numbers;
mod odd_cases;
mod packed;
mod textbook;
mod threads;
mod tolerance;
mod weights;
