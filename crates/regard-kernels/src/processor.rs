//! Which processor a thread runs on, and how it leaves it to another thread.
//!
//! A thread that is woken begins, as a rule, on the processor of the one that woke it, and stays behind it until the system
//! looks around, some milliseconds later. On a virtual machine it does so although another processor is free: one that sleeps counts
//! as taken, since the host may have given it away.

/// A processor's number; none where the system does not say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Processor(Option<usize>);

impl Processor {
    /// That of this thread, now.
    #[cfg(target_os = "linux")]
    pub(crate) fn here() -> Self {
        Processor(Some(rustix::thread::sched_getcpu()))
    }

    /// Moves this thread to another processor, if it is on this one and may be elsewhere. It is free to go anywhere afterwards:
    /// a thread that is bound cannot go where there is room.
    #[cfg(target_os = "linux")]
    pub(crate) fn leave(self) {
        use rustix::thread::{sched_getaffinity, sched_setaffinity};
        if self != Self::here() {
            return;
        }
        let (Some(here), Ok(allowed)) = (self.0, sched_getaffinity(None)) else {
            return;
        };
        let mut others = allowed;
        others.unset(here);
        // Where there are no others this fails, and nothing has changed.
        if sched_setaffinity(None, &others).is_ok() {
            // Fails only where the system has changed meanwhile what is allowed, and then it has set that itself.
            sched_setaffinity(None, &allowed).ok();
        }
    }

    #[cfg(not(target_os = "linux"))]
    pub(crate) fn here() -> Self {
        Processor(None)
    }

    #[cfg(not(target_os = "linux"))]
    pub(crate) fn leave(self) {}
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;
    use rustix::thread::sched_getaffinity;

    #[test]
    fn a_thread_leaves_a_processor_and_may_come_back() {
        let before = sched_getaffinity(None).unwrap();
        for _ in 0..100 {
            let here = Processor::here();
            here.leave();
            assert_eq!(sched_getaffinity(None).unwrap(), before);
            if before.count() == 1 {
                assert_eq!(Processor::here(), here);
            }
        }
    }
}
