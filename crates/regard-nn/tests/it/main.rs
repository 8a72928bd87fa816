//! Behaviour of regard-nn, seen from outside.

mod closeness;
#[cfg(any(
    feature = "cuda",
    feature = "rocm",
    feature = "vulkan",
    feature = "metal"
))]
mod devices;
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
