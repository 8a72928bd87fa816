//! Whole models.

pub mod text_classifier;
