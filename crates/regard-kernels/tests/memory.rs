//! Memory grows with the length of the sequences, not with its square. In a process of its own: it counts every
//! allocation that is made.
#![expect(
    unsafe_code,
    reason = "a global allocator is unsafe to write; this one only counts"
)]
#![expect(
    clippy::print_stderr,
    reason = "the figures are part of the record of a run"
)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use ndarray::Array4;
use regard_kernels::{Attention, Causal};

struct Counting;

static NOW: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

// SAFETY: both are handed to the system's allocator as they come; `realloc` and `alloc_zeroed` are made of them.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let now = NOW.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        PEAK.fetch_max(now, Ordering::Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        NOW.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// The result, and the most that was allocated at a time beyond what was there before.
fn peak<R>(f: impl FnOnce() -> R) -> (R, usize) {
    let before = NOW.load(Ordering::Relaxed);
    PEAK.store(before, Ordering::Relaxed);
    let result = f();
    (result, PEAK.load(Ordering::Relaxed) - before)
}

#[test]
fn memory_grows_with_the_length_and_not_with_its_square() {
    const HEADS: usize = 2;
    const WIDTH: usize = 16;
    let bytes = |length: usize| {
        let x = Array4::from_shape_fn((1, HEADS, length, WIDTH), |(_, h, i, c)| {
            ((h + i * c) % 7) as f32 / 7.0
        });
        let attention = Attention::new().causal(Causal::TopLeft);
        let (forward, of_forward) = peak(|| {
            attention
                .forward(x.view(), x.view(), x.view())
                .expect("a good call")
        });
        let (out, lse) = (forward.out.view(), forward.log_sum_exp.view());
        let (_, of_backward) =
            peak(|| attention.backward(x.view(), x.view(), x.view(), out, lse, x.view()));
        (of_forward, of_backward)
    };
    bytes(64); // the threads and their room, which stay
    let (short, long) = (1024, 4096);
    let ((forward_short, backward_short), (forward_long, backward_long)) =
        (bytes(short), bytes(long));
    eprintln!(
        "forward {forward_short} → {forward_long}, backward {backward_short} → {backward_long} bytes"
    );
    // Four times the length: at most four times the memory, and a constant that does not count.
    let grew_with_length = |short: usize, long: usize| long <= 4 * short + (4 << 20);
    assert!(grew_with_length(forward_short, forward_long));
    assert!(grew_with_length(backward_short, backward_long));
    // A score matrix would take this much, and nothing near it is ever allocated.
    let scores = HEADS * long * long * size_of::<f32>();
    assert!(
        forward_long < scores / 20 && backward_long < scores / 10,
        "{forward_long}, {backward_long} of {scores}"
    );
}
