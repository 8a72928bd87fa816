//! What the tasks promise, one file a subject.

mod bundle;
mod columns;
mod explanation;
mod hostile_bundle;
mod linear;
mod metrics;
mod splits;
mod tables;
mod tokenizer;
mod training;
