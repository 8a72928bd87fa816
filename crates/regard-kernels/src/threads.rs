//! Where what is computed in parallel begins.

use crate::Precision;

/// Runs `work` on one of rayon's threads: what is computed in parallel there begins at once. From any other thread each
/// product is handed over and waited for, which takes as long as a small one: 64 × 256 · 256 × 256 took 67 µs on two threads
/// so, and 44 from within. The [`Precision`] of here holds there, too.
pub fn within<R: Send>(work: impl FnOnce() -> R + Send) -> R {
    let precision = Precision::here();
    rayon::scope(|_| precision.run(work))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_within_runs_on_a_thread_of_the_pool_with_the_same_precision() {
        assert!(rayon::current_thread_index().is_none());
        assert!(within(rayon::current_thread_index).is_some());
        let there = Precision::Bf16.run(|| within(Precision::here));
        assert_eq!(there, Precision::Bf16);
    }
}
