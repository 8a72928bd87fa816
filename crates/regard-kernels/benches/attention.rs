//! How fast attention is on this machine, and what share of its peak that is.
//!
//! Run with `cargo bench -p regard-kernels` (all cases) or `cargo bench -p regard-kernels -- long` (those whose name
//! contains a word). `REGARD_ISA` chooses the instruction set, `RAYON_NUM_THREADS` the threads. Operations are
//! counted as 4 · batch · heads · queries · keys · head_dim forward and 10 · … backward, half of it if causal.
#![expect(clippy::print_stdout, reason = "a table is what this program is for")]

use std::time::Instant;

use ndarray::Array4;
use regard_kernels::{Attention, Causal, Isa, peak};

struct Case {
    name: &'static str,
    batch: usize,
    heads: usize,
    kv_heads: usize,
    queries: usize,
    keys: usize,
    width: usize,
    causal: bool,
}

const fn case(
    name: &'static str,
    batch: usize,
    heads: usize,
    length: usize,
    width: usize,
    causal: bool,
) -> Case {
    Case {
        name,
        batch,
        heads,
        kv_heads: heads,
        queries: length,
        keys: length,
        width,
        causal,
    }
}

const CASES: [Case; 14] = [
    case("short", 32, 8, 128, 64, false),
    case("short, width 32", 32, 8, 128, 32, false),
    case("short, width 80", 32, 8, 128, 80, false),
    case("medium", 8, 8, 512, 64, false),
    case("medium causal", 8, 8, 512, 64, true),
    case("long causal 2048", 1, 8, 2048, 64, true),
    case("long causal 4096 × 128", 1, 8, 4096, 128, true),
    case("long", 1, 8, 4096, 64, false),
    case("vision", 16, 3, 197, 64, false),
    Case {
        name: "cross",
        batch: 32,
        heads: 8,
        kv_heads: 8,
        queries: 40,
        keys: 60,
        width: 64,
        causal: false,
    },
    Case {
        name: "grouped",
        batch: 1,
        heads: 32,
        kv_heads: 8,
        queries: 512,
        keys: 512,
        width: 64,
        causal: true,
    },
    Case {
        name: "decode 4096 × 128",
        batch: 1,
        heads: 32,
        kv_heads: 8,
        queries: 1,
        keys: 4096,
        width: 128,
        causal: false,
    },
    Case {
        name: "decode 8 × 1024 × 64",
        batch: 8,
        heads: 32,
        kv_heads: 8,
        queries: 1,
        keys: 1024,
        width: 64,
        causal: false,
    },
    case("tiny", 64, 4, 16, 16, false),
];

fn numbers(shape: (usize, usize, usize, usize), seed: u32) -> Array4<f32> {
    let mut state = seed;
    Array4::from_shape_simple_fn(shape, || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    })
}

/// The median time in seconds of `f`, over at least 5 runs and a second.
fn median(mut f: impl FnMut()) -> f64 {
    f();
    let (start, mut times) = (Instant::now(), Vec::new());
    while times.len() < 5 || start.elapsed().as_secs_f64() < 1.0 {
        let start = Instant::now();
        f();
        times.push(start.elapsed().as_secs_f64());
    }
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

fn main() {
    let filter = std::env::args()
        .skip(1)
        .find(|argument| !argument.starts_with('-'))
        .unwrap_or_default();
    let isa = Isa::chosen().expect("REGARD_ISA names an instruction set of this machine");
    let peak = peak(isa).expect("the instruction set is there") / 1e9;
    let share = |rate: f64| format!(" ({:2.0} %)", 100.0 * rate / peak);
    println!(
        "{isa}, {} threads; peak {peak:.0} GFLOP/s",
        rayon::current_num_threads()
    );
    println!(
        "{:24} {:>18} {:>18} {:>18}",
        "", "forward", "backward", "both"
    );
    for case in CASES.iter().filter(|case| case.name.contains(&filter)) {
        let q = numbers((case.batch, case.heads, case.queries, case.width), 1);
        let k = numbers((case.batch, case.kv_heads, case.keys, case.width), 2);
        let v = numbers((case.batch, case.kv_heads, case.keys, case.width), 3);
        let mut attention = Attention::new().isa(isa);
        if case.causal {
            attention = attention.causal(Causal::TopLeft);
        }
        let forward = || {
            attention
                .forward(q.view(), k.view(), v.view())
                .expect("a good call")
        };
        let result = forward();
        let (out, lse) = (result.out.view(), result.log_sum_exp.view());
        let backward = || {
            attention
                .backward(q.view(), k.view(), v.view(), out, lse, q.view())
                .expect("a good call")
        };
        let pairs =
            case.batch * case.heads * case.queries * case.keys / if case.causal { 2 } else { 1 };
        let unit = (2 * pairs * case.width) as f64 / 1e9;
        let times = [median(|| drop(forward())), median(|| drop(backward()))];
        let rates = [
            2.0 * unit / times[0],
            5.0 * unit / times[1],
            7.0 * unit / (times[0] + times[1]),
        ];
        let [forward, backward, both] = rates.map(|rate| format!("{rate:.1}{}", share(rate)));
        println!("{:24} {forward:>18} {backward:>18} {both:>18}", case.name);
    }
}
