//! Behaviour of regard-nn, seen from outside.

mod closeness;
mod golden;
mod gradients;
mod mechanisms;
mod operation;
mod optimizer;
mod parameters;
mod text_classifier;
