//! The threads that the kernels run on: as many as the machine has (or `RAYON_NUM_THREADS` says), unless a program
//! wants another number. They sleep between calls.

use std::sync::{Arc, RwLock};

use pyo3::prelude::*;
use rayon::{ThreadPool, ThreadPoolBuilder};

use crate::errors::refuse;

/// More are a mistake, and starting them takes minutes.
const MOST: usize = 1024;

static CHOSEN: RwLock<Option<Arc<ThreadPool>>> = RwLock::new(None);

fn chosen() -> Option<Arc<ThreadPool>> {
    CHOSEN
        .read()
        .unwrap_or_else(|poisoned| poisoned.into_inner())
        .clone()
}

/// Runs `f` on the threads that were chosen.
pub fn on_them<R: Send>(f: impl FnOnce() -> R + Send) -> R {
    match chosen() {
        Some(pool) => pool.install(f),
        None => f(),
    }
}

/// Sets how many threads the calls after this one use.
#[pyfunction]
pub fn set_num_threads(count: usize) -> PyResult<()> {
    if !(1..=MOST).contains(&count) {
        return Err(refuse(
            "count",
            &count.to_string(),
            &format!("from 1 to {MOST}"),
        ));
    }
    // As many as there are anyway need no pool of their own, into which a call would have to be handed first: the thread
    // that calls begins at once.
    let pool = match count == rayon::current_num_threads() {
        true => None,
        false => ThreadPoolBuilder::new()
            .num_threads(count)
            .build()
            .map(Arc::new)
            .map(Some)
            .map_err(|error| refuse("count", &count.to_string(), &error.to_string()))?,
    };
    *CHOSEN
        .write()
        .unwrap_or_else(|poisoned| poisoned.into_inner()) = pool;
    Ok(())
}

/// How many threads a call uses.
#[pyfunction]
pub fn num_threads() -> usize {
    on_them(rayon::current_num_threads)
}
