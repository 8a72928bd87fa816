//! Where what is computed in parallel begins.

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::Precision;

/// Runs `work` on one of rayon's threads: what is computed in parallel there begins at once. From any other thread each
/// product is handed over and waited for, which takes as long as a small one: 64 × 256 · 256 × 256 took 67 µs on two threads
/// so, and 44 from within. The [`Precision`] of here holds there, too.
pub fn within<R: Send>(work: impl FnOnce() -> R + Send) -> R {
    let precision = Precision::here();
    rayon::scope(|_| precision.run(work))
}

/// What `work` makes of each part, in their order: every thread of the pool takes one part after the other, so begin with the
/// largest. A single part has all threads, as [`within`].
///
/// For work of many small products: dozens of times an answer all threads wait for the last one to be done with its share,
/// and parts that need nothing of each other wait once. What a part computes in parallel is still shared with threads that
/// have no part left.
pub fn side_by_side<P: Sync, R: Send>(parts: &[P], work: impl Fn(&P) -> R + Sync) -> Vec<R> {
    if parts.len() < 2 {
        return within(|| parts.iter().map(&work).collect());
    }
    let precision = Precision::here();
    let next = AtomicUsize::new(0);
    let take = || next.fetch_add(1, Ordering::Relaxed);
    // Not `par_iter`: a thread that waits within a part would begin another one, and hold what both need.
    let turns = rayon::broadcast(|_| {
        precision.run(|| {
            let mine = std::iter::repeat_with(take).take_while(|at| *at < parts.len());
            mine.map(|at| (at, work(&parts[at]))).collect::<Vec<_>>()
        })
    });
    let mut done: Vec<(usize, R)> = turns.into_iter().flatten().collect();
    done.sort_by_key(|(at, _)| *at);
    done.into_iter().map(|(_, result)| result).collect()
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

    #[test]
    fn the_work_of_parts_comes_back_in_their_order_and_with_the_precision_of_here() {
        let rows: Vec<usize> = (0..97).collect();
        for size in [1, 3, 97] {
            let parts: Vec<&[usize]> = rows.chunks(size).collect();
            // The first parts take longest, so that later ones end before them.
            let late = |part: &&[usize]| {
                let late = 97 - part[0] as u64;
                std::thread::sleep(std::time::Duration::from_micros(20 * late));
                (part.to_vec(), Precision::here())
            };
            let done = Precision::Bf16.run(|| side_by_side(&parts, late));
            for ((rows, precision), part) in done.iter().zip(&parts) {
                assert_eq!((rows.as_slice(), *precision), (*part, Precision::Bf16));
            }
            assert_eq!(done.len(), parts.len());
        }
        assert!(side_by_side(&[] as &[usize], |part| *part).is_empty());
    }
}
