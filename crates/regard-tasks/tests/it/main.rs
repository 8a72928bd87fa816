//! What the tasks promise, one file a subject.

mod bad_pairs;
mod bundle;
mod columns;
mod explanation;
mod hostile_bundle;
mod image_recognition;
mod linear;
mod metrics;
mod picture_sources;
mod pictures;
mod scripts;
mod sequence_to_sequence;
mod splits;
mod tables;
mod text_metrics;
mod tokenizer;
mod training;
