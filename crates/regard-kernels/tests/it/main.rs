//! What the crate promises, checked from outside.

mod agreement;
mod case;
mod door;
mod gradients;
mod odd_cases;
mod textbook;
mod threads;
