//! From rows to batches.
