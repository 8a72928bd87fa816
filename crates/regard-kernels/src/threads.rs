//! Where what is computed in parallel begins.

use std::cell::Cell;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::Precision;
use crate::processor::Processor;

/// How long a thread looks for work that it does not find before it sleeps, and waits for another's before it does. Between two
/// products there is up to .2 ms of work for one thread alone. A thread that sleeps meanwhile begins late, and as a rule behind
/// the one that woke it (see [`Processor`]). On two processors of a virtual machine, what is said first being the work itself:
///
/// | shared work, ms on each | pause before | rayon's pause, of some 10 µs | this one |
/// |---|---|---|---|
/// | 200 · .13 = 26 | 50 ms | 32.6 | 26.5 |
/// | 60 · .32 = 19.2 | 50 ms | 32.9 | 19.6 |
/// | 60 · .12 = 7.2 | 50 ms | 13.5 | 7.6 |
/// | 60 · .06 = 3.6 | 20 ms | 6.8 | 4.0 |
/// | 30 · .035 = 1.05 | 5 ms | 2.1 | 1.3 |
const PAUSE: Duration = Duration::from_micros(400);

/// How long a thread stays awake at most for one piece of work. In a stream of them there is always something to do, and a thread
/// that waits for its own part may have begun to look around: this is how long that part is kept waiting.
const AWAKE_AT_MOST: Duration = Duration::from_millis(100);

thread_local! {
    /// Whether this thread looks for work already.
    static AWAKE: Cell<bool> = const { Cell::new(false) };
    /// Whether what it computes is waited for: then it stays awake, too, until the others are done.
    static HURRIED: Cell<bool> = const { Cell::new(false) };
}

/// Runs `work` on one of rayon's threads: what is computed in parallel there begins at once. From any other thread each
/// product is handed over and waited for, which takes as long as a small one: 64 × 256 · 256 × 256 took 67 µs on two threads
/// so, and 44 from within. The other threads stay awake meanwhile. The [`Precision`] of here holds there, too.
pub fn within<R: Send>(work: impl FnOnce() -> R + Send) -> R {
    let precision = Precision::here();
    rayon::scope(|_| {
        wake_the_others();
        let _restored = Hurried(HURRIED.replace(true));
        precision.run(work)
    })
}

/// Whether this thread was hurried before; it is again when this is dropped.
struct Hurried(bool);

impl Drop for Hurried {
    fn drop(&mut self) {
        HURRIED.set(self.0);
    }
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
    let turns = within(|| {
        rayon::broadcast(|_| {
            precision.run(|| {
                let mine = std::iter::repeat_with(take).take_while(|at| *at < parts.len());
                mine.map(|at| (at, work(&parts[at]))).collect::<Vec<_>>()
            })
        })
    });
    let mut done: Vec<(usize, R)> = turns.into_iter().flatten().collect();
    done.sort_by_key(|(at, _)| *at);
    done.into_iter().map(|(_, result)| result).collect()
}

/// Runs `work` on every task, `together` of them at a time, on the threads of the caller's pool.
///
/// The caller's thread works, too, and begins at once: a call is often over in less time than it takes to wake a thread
/// (some 50 µs where a virtual machine's processor sleeps). Which thread does which task is left to the moment. Products of matrices ask
/// from a thread of the pool (`rayon::scope`): a step of training whose caller worked beside its pool was 7 to 16 % slower.
pub(crate) fn share_out<T: Send>(tasks: Vec<T>, together: usize, work: impl Fn(T) + Send + Sync) {
    let threads = rayon::current_num_threads().min(tasks.len().div_ceil(together));
    if threads < 2 {
        return tasks.into_iter().for_each(work);
    }
    let queue = Mutex::new(tasks.into_iter());
    let at_work = AtomicUsize::new(0);
    let take_turns = || {
        loop {
            let turn: Vec<T> = {
                let mut queue = queue.lock().unwrap_or_else(PoisonError::into_inner);
                at_work.fetch_add(1, Ordering::Relaxed);
                queue.by_ref().take(together).collect()
            };
            let done = turn.is_empty();
            turn.into_iter().for_each(&work);
            at_work.fetch_sub(1, Ordering::Release);
            if done {
                return;
            }
        }
    };
    let leave = elsewhere();
    rayon::in_place_scope(|scope| {
        for _ in 1..threads {
            scope.spawn(|_| {
                leave();
                take_turns();
            });
        }
        take_turns();
        if HURRIED.get() {
            look_for_work(|| at_work.load(Ordering::Acquire) > 0);
        }
    });
}

/// Asks every other thread of the pool to look for work until it found none for a while, elsewhere than here.
fn wake_the_others() {
    let leave = elsewhere();
    rayon::spawn_broadcast(move |_| {
        // A thread with an answer of its own comes here while it waits for a part of it: nothing of another's is to delay that.
        if !HURRIED.get() && !AWAKE.get() && leave() {
            AWAKE.set(true);
            let begun = Instant::now();
            look_for_work(|| begun.elapsed() < AWAKE_AT_MOST);
            AWAKE.set(false);
        }
    });
    // Who woke behind this thread leaves now.
    std::thread::yield_now();
}

/// What moves another thread than this one to another processor than this one's; `false` on this thread, which may well do itself
/// what it asked others for.
fn elsewhere() -> impl Fn() -> bool + Send + Sync + 'static {
    let (own, here) = (rayon::current_thread_index(), Processor::here());
    move || {
        let other = rayon::current_thread_index() != own;
        if other {
            here.leave();
        }
        other
    }
}

/// Does what there is to do `while_` it is worth while, until there was nothing for a while. Ends by itself, whoever forgets to
/// tell it: a thread that waits for a part of its own can begin this, too, and who would tell it may be waiting for that part.
fn look_for_work(while_: impl Fn() -> bool) {
    let mut last = Instant::now();
    while while_() && last.elapsed() < PAUSE {
        match rayon::yield_now() {
            Some(rayon::Yield::Executed) => last = Instant::now(),
            // The processor is another program's, if one wants it.
            _ => std::thread::yield_now(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_task_is_done_once_by_any_number_of_threads() {
        for threads in [1, 2, 3, 7] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
            let pool = pool.unwrap();
            for (count, together) in [(0, 1), (1, 1), (101, 1), (101, 3), (101, 200)] {
                let share = || {
                    let done: Vec<AtomicUsize> = (0..count).map(|_| AtomicUsize::new(0)).collect();
                    share_out((0..count).collect(), together, |at: usize| {
                        done[at].fetch_add(1, Ordering::Relaxed);
                    });
                    done.into_iter().all(|done| done.into_inner() == 1)
                };
                assert!(pool.install(share), "{threads} threads, {count} tasks");
                assert!(
                    pool.install(|| within(share)),
                    "{threads}, {count}, hurried"
                );
            }
        }
    }

    #[test]
    fn work_that_panics_leaves_nobody_hurried() {
        let hurried = rayon::scope(|_| {
            let panicked = std::panic::catch_unwind(|| within(|| panic!("on purpose")));
            (panicked.is_err(), HURRIED.get())
        });
        assert_eq!(hurried, (true, false));
    }

    #[test]
    fn threads_that_stay_awake_do_not_keep_each_other_waiting() {
        // Answers inside answers, from several threads at once: whoever waits for a part of its own may look for work meanwhile.
        fn nested(depth: usize) -> usize {
            if depth == 0 {
                return 1;
            }
            let (left, right) = rayon::join(|| within(|| nested(depth - 1)), || nested(depth - 1));
            left + right
        }
        let begun = Instant::now();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let parts = side_by_side(&[5, 4, 3], |depth| within(|| nested(*depth)));
                    assert_eq!(parts, [32, 16, 8]);
                });
            }
        });
        assert!(
            begun.elapsed() < Duration::from_secs(30),
            "{:?}",
            begun.elapsed()
        );
    }

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
