//! The algorithms, in safe Rust, generic over [`Simd`](crate::simd::Simd): nothing here knows the processor.
//!
//! Both passes work on blocks of scores that fit a cache, with the **queries in the lanes**: a block is
//! `[keys, queries]`, so the maximum, the sum and the rescaling of the softmax are plain vector operations, and keys
//! and values are read where they lie, one broadcast number at a time.
//!
//! What is split over the threads depends on the lengths alone, never on the number of threads, and each result is
//! summed by one task in a fixed order: so results are bit-identical for any number of threads.

mod backward;
mod bias_gradient;
mod exponential;
mod forward;
mod pairs;
mod scores;
mod tiles;

pub(crate) use backward::{Upstream, backward};
pub(crate) use forward::forward;

use rayon::prelude::*;

/// Below this many operations a call is over before a second thread is awake (some 20 µs).
const WORTH_A_THREAD: usize = 1 << 20;

/// Runs `f` on every task, on the threads of the caller's pool. `operations` is the work of all of them.
fn for_each<T: Send>(tasks: Vec<T>, operations: usize, f: impl Fn(T) + Send + Sync) {
    if tasks.len() < 2 || operations < WORTH_A_THREAD {
        tasks.into_iter().for_each(f);
        return;
    }
    // A bundle is large enough to be worth fetching and small enough to leave no thread waiting at the end.
    let bundle = (tasks.len() * (WORTH_A_THREAD / 2) / operations).max(1);
    tasks.into_par_iter().with_max_len(bundle).for_each(f);
}
