//! Attention beside Burn (flex) and candle (`cpu_flash`): the same numbers in the same process, turn by turn, and a table
//! of the medians.
//!
//! Run with `cargo run --release` in `bench/rust` (a first build takes minutes). It writes `docs/benchmarks.md` unless a
//! word follows, `cargo run --release -- medium`, which chooses the cases whose names contain it. `RAYON_NUM_THREADS`
//! chooses the threads.

mod case;
mod document;
mod rivals;

use std::time::{Duration, Instant};

use case::{CASES, Case};
use document::Row;
use regard_kernels::Isa;

/// For each case and pass; every one runs at least a burst.
const BUDGET: Duration = Duration::from_secs(2);
/// Counted calls one after the other.
const BURST: usize = 3;
/// Before each burst: whoever ran before has gone to sleep by then.
const PAUSE: Duration = Duration::from_millis(10);

fn main() {
    let chosen = std::env::args().nth(1);
    let isa = Isa::chosen().expect("REGARD_ISA names an instruction set of this machine");
    let peak = regard_kernels::peak(isa).expect("it is there") / 1e9;
    println!(
        "{isa}, {} threads; peak {peak:.0} GFLOP/s",
        rayon::current_num_threads()
    );
    println!("{}", document::HEAD);
    let named = |case: &&Case| {
        chosen
            .as_ref()
            .is_none_or(|word| case.name.contains(word.as_str()))
    };
    let rows: Vec<Row> = CASES
        .iter()
        .filter(named)
        .map(|case| measured(case, peak))
        .collect();
    if chosen.is_none() {
        document::write(&rows, isa, peak);
    }
}

fn measured(case: &Case, peak: f64) -> Row {
    let numbers = case.numbers();
    let ours = rivals::ours(case, &numbers);
    let burn = rivals::burn(case, &numbers);
    let candle = rivals::candle(case, &numbers);
    let found = ours.forward();
    same(case, "Burn", &found, &burn.forward());
    let mut calls: Vec<Box<dyn FnMut() + '_>> = vec![
        Box::new(|| drop(ours.forward())),
        Box::new(|| drop(burn.run())),
    ];
    if let Some(candle) = &candle {
        same(case, "candle", &found, &candle.forward());
        calls.push(Box::new(|| drop(candle.run())));
    }
    let forward = turn_by_turn(calls);
    let both = case.fits_burns_backward().then(|| {
        for (ours, theirs) in ours.gradients().iter().zip(burn.gradients()) {
            same(case, "Burn's gradient", ours, &theirs);
        }
        let times = turn_by_turn(vec![
            Box::new(|| drop(ours.gradients())),
            Box::new(|| burn.step()),
        ]);
        (times[0], times[1])
    });
    let row = Row {
        case: *case,
        peak,
        forward: forward[0],
        burn: forward[1],
        candle: forward.get(2).copied(),
        both,
    };
    println!("{row}");
    row
}

/// The median seconds of each, in bursts one after the other. The first call of a burst, which may have to wake a
/// processor, is not counted.
fn turn_by_turn(mut calls: Vec<Box<dyn FnMut() + '_>>) -> Vec<f64> {
    let mut times = vec![Vec::new(); calls.len()];
    let start = Instant::now();
    while times[0].is_empty() || start.elapsed() < BUDGET {
        for (call, times) in calls.iter_mut().zip(&mut times) {
            std::thread::sleep(PAUSE);
            call();
            for _ in 0..BURST {
                let start = Instant::now();
                call();
                times.push(start.elapsed().as_secs_f64());
            }
        }
    }
    for times in &mut times {
        times.sort_by(f64::total_cmp);
    }
    times.iter().map(|times| times[times.len() / 2]).collect()
}

/// All compute the same: the largest difference is rounding.
fn same(case: &Case, whose: &str, found: &[f32], theirs: &[f32]) {
    assert_eq!(found.len(), theirs.len(), "{}: {whose}", case.name);
    let largest = theirs
        .iter()
        .fold(1.0f32, |largest, x| largest.max(x.abs()));
    let apart = found
        .iter()
        .zip(theirs)
        .fold(0.0f32, |apart, (a, b)| apart.max((a - b).abs()));
    assert!(
        apart <= 2e-4 * largest,
        "{}: {whose} differs by {apart}",
        case.name
    );
}
