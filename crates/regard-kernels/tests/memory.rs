//! What a call allocates beside its arguments and results: nothing that grows with the square of a length. In a process of
//! its own: it counts every allocation that is made.
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
use std::sync::{Mutex, MutexGuard, PoisonError};

use ndarray::{Array3, Array4, ArrayView4, s};
use regard_kernels::{
    Attention, Cache, CacheNumber, Causal, Element, GradientsMut, Upstream, bf16, f16,
};

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

/// One test at a time: the allocations of all are counted together.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The result, and the most that was allocated at a time beyond what was there before, on threads that have not worked yet:
/// the room that they keep is counted.
fn peak<R: Send>(f: impl FnOnce() -> R + Send) -> (R, usize) {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(THREADS).build();
    let pool = pool.expect("threads");
    let before = NOW.load(Ordering::Relaxed);
    PEAK.store(before, Ordering::Relaxed);
    let result = pool.install(f);
    let peak = PEAK.load(Ordering::Relaxed);
    // Threads that end later would give back what the next measurement counts from.
    std::mem::forget(pool);
    (result, peak - before)
}

/// What a call may take beside its arguments and results: for each thread, and for each query of a head (which tasks there
/// are, and what the forward pass keeps).
const THREADS: usize = 2;
const OF_A_THREAD: usize = 4 << 20;
const OF_A_QUERY: usize = 16;

const HEADS: usize = 4;
const KV_HEADS: usize = 2;
const WIDTH: usize = 64;

/// Bytes beside arguments and results: of forward, of backward, and of decoding the last query from a cache.
fn beside<E: Element<Sum = f32> + CacheNumber>(
    [heads, kv_heads]: [usize; 2],
    length: usize,
    width: usize,
) -> [usize; 3] {
    let numbers = |heads: usize| {
        Array4::from_shape_fn((1, heads, length, width), |(_, h, i, c)| {
            E::from_f64(((h + i * (c + 1)) % 7) as f64 / 7.0)
        })
    };
    let (q, k, v) = (numbers(heads), numbers(kv_heads), numbers(kv_heads));
    // A window keeps the test short; what is kept does not depend on it.
    let attention = Attention::new()
        .causal(Causal::TopLeft)
        .window(Some(64), None);
    let mut out = numbers(heads);
    let mut lse = Array3::zeros((1, heads, length));
    let (q, k, v) = (q.view(), k.view(), v.view());
    let ((), of_forward) = peak(|| {
        attention
            .forward_into(q, k, v, out.view_mut(), lse.view_mut())
            .expect("a good call");
    });
    let (mut dq, mut dk, mut dv) = (numbers(heads), numbers(kv_heads), numbers(kv_heads));
    let upstream = Upstream {
        out: out.view(),
        log_sum_exp: lse.view(),
        d_out: q,
        d_log_sum_exp: None,
    };
    let into = GradientsMut {
        q: dq.view_mut(),
        k: dk.view_mut(),
        v: dv.view_mut(),
    };
    let (_, of_backward) = peak(|| {
        attention
            .backward_into(q, k, v, &upstream, into)
            .expect("a good call")
    });
    let mut cache = Cache::<E>::new((1, kv_heads, length, width), width).expect("there is room");
    let wide = |view: ArrayView4<'_, E>| view.mapv(|x| x.to_f64() as f32);
    cache
        .append(wide(k).view(), wide(v).view())
        .expect("there is room");
    let last = q.slice(s![.., .., length - 1.., ..]);
    let (_, of_decoding) = peak(|| {
        Attention::new()
            .decode(last, &cache.view())
            .expect("a good call")
    });
    [of_forward, of_backward, of_decoding]
}

#[test]
fn beside_arguments_and_results_a_call_takes_four_mebibytes_a_thread() {
    let _alone = alone();
    // With as many heads as the second has, a thread sums the gradients of a whole head where it has room for them.
    for (heads, length, width) in [
        ([HEADS, KV_HEADS], 1024, WIDTH),
        ([HEADS, KV_HEADS], 4096, WIDTH),
        ([8, 8], 4096, 2 * WIDTH),
        ([HEADS, KV_HEADS], 16384, WIDTH),
    ] {
        let bound = THREADS * OF_A_THREAD + OF_A_QUERY * heads[0] * length;
        for (name, [forward, backward, decoding]) in [
            ("float32", beside::<f32>(heads, length, width)),
            ("bfloat16", beside::<bf16>(heads, length, width)),
            ("float16", beside::<f16>(heads, length, width)),
        ] {
            eprintln!(
                "{name}, {heads:?} × {length} × {width}: forward {forward}, backward {backward}, decoding {decoding} bytes"
            );
            for bytes in [forward, backward, decoding] {
                assert!(bytes <= bound, "{name}, {length}: {bytes} of {bound}");
            }
        }
    }
}

/// A thousand thousand keys of which all are the same row, so that the test itself takes no memory.
#[test]
fn decoding_takes_no_more_beside_a_longer_cache() {
    let _alone = alone();
    const KEYS: usize = 1 << 20;
    let batch = 16;
    let q = Array4::<f32>::ones((batch, HEADS, 1, WIDTH));
    let row = Array4::<f32>::ones((1, 1, 1, WIDTH));
    let k = row.broadcast((batch, KV_HEADS, KEYS, WIDTH)).expect("fits");
    // A window keeps the test short; what is kept does not depend on it.
    let attention = Attention::new().causal(Causal::BottomRight);
    let attention = attention.window(Some(64), None);
    let (forward, bytes) = peak(|| attention.forward(q.view(), k.view(), k.view()));
    forward.expect("a good call");
    eprintln!("decoding, {KEYS} keys: {bytes} bytes");
    assert!(bytes <= THREADS * OF_A_THREAD, "{bytes}");
}
