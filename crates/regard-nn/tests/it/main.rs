//! Behaviour of regard-nn, seen from outside.

mod closeness;
mod fused;
mod golden;
mod gradients;
mod mechanisms;
mod operation;
mod optimizer;
mod parameters;
mod pointer;
mod precision;
mod sequence_to_sequence;
mod text_classifier;
mod vision_transformer;
