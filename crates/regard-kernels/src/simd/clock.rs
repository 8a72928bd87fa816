//! How long threads have been multiplying matrices: what a training run shows of its time.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

static NANOSECONDS: AtomicU64 = AtomicU64::new(0);

/// Time of threads in the products of matrices, packing included, since the program began: with two threads at most two
/// seconds a second. Attention multiplies inside its own kernels and is not counted, nor is what is done with rows that are
/// complete.
pub fn product_time() -> Duration {
    Duration::from_nanos(NANOSECONDS.load(Ordering::Relaxed))
}

/// Counts a task of a product. Reading the clock twice takes 50 ns; the shortest tasks take some microseconds.
pub(super) fn counted<R>(task: impl FnOnce() -> R) -> R {
    let started = Instant::now();
    let out = task();
    let nanoseconds = started.elapsed().as_nanos() as u64;
    NANOSECONDS.fetch_add(nanoseconds, Ordering::Relaxed);
    out
}
