//! The threads that everything is computed on: rayon's, each on a processor of its own, and begun from within.

use crate::Precision;

/// Builds rayon's pool for a program that computes: where it has as many threads as there are processors that the process may
/// use, each stays on its own. To be called once, before anything else; a pool that is there already stays as it is, and
/// `REGARD_PIN=0` leaves the threads to the system. A library leaves its pool to the program, so nothing here calls this.
///
/// A thread sleeps when there has been nothing to do for some microseconds, and a system may wake it where its waker runs:
/// there it waits until the waker is done, and two threads take as long as one. On a 2-core AMD EPYC under Linux 6.18 the
/// product of 64 × 256 and 256 × 256, after a pause, took 125 µs so, 91 with its threads in their places, and 59 with those and
/// begun [`within`]; without a pause 67 and 41.
///
/// Programs beside this one cost no more than before: what a thread does not get to is taken over by the others.
pub fn start() {
    if std::env::var_os("REGARD_PIN").is_some_and(|value| value == "0") {
        return;
    }
    let processors = processors();
    let stay = move |thread: usize| {
        if rayon::current_num_threads() == processors.len() {
            stay_on(processors[thread]);
        }
    };
    // The only error is that there is a pool already, which is the program's own affair.
    let _ = rayon::ThreadPoolBuilder::new()
        .start_handler(stay)
        .build_global();
}

/// Runs `work` on one of rayon's threads: what is computed in parallel there begins at once. From any other thread each
/// product is handed over and waited for, which takes as long as a small one. The [`Precision`] of here holds there, too.
pub fn within<R: Send>(work: impl FnOnce() -> R + Send) -> R {
    let precision = Precision::here();
    rayon::scope(|_| precision.run(work))
}

/// The numbers of the processors that the process may use; none where the system does not say.
fn processors() -> Vec<usize> {
    #[cfg(target_os = "linux")]
    if let Ok(allowed) = rustix::thread::sched_getaffinity(None) {
        let all = 0..rustix::thread::CpuSet::MAX_CPU;
        return all.filter(|number| allowed.is_set(*number)).collect();
    }
    Vec::new()
}

/// Keeps the thread that calls on that processor.
fn stay_on(processor: usize) {
    #[cfg(target_os = "linux")]
    {
        let mut only = rustix::thread::CpuSet::new();
        only.set(processor);
        // Refused where a processor was taken away in between: the thread is as well off anywhere.
        let _ = rustix::thread::sched_setaffinity(None, &only);
    }
    #[cfg(not(target_os = "linux"))]
    let _ = processor;
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn a_thread_stays_where_it_is_put_and_what_it_begins_runs_within() {
        let processors = processors();
        let last = *processors.last().unwrap();
        std::thread::spawn(move || {
            stay_on(last);
            assert_eq!(super::processors(), [last]);
        })
        .join()
        .unwrap();
        assert_eq!(super::processors(), processors, "other threads do not");
        assert!(rayon::current_thread_index().is_none());
        assert!(within(rayon::current_thread_index).is_some());
        let there = Precision::Bf16.run(|| within(Precision::here));
        assert_eq!(there, Precision::Bf16);
    }
}
