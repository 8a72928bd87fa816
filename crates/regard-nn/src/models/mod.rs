//! Whole models.

pub mod sequence_to_sequence;
pub mod text_classifier;
pub mod vision_transformer;
