use std::hint::black_box;
use std::time::Instant;

use clap::Args;
use ndarray::{Array2, Array4};
use rayon::prelude::*;
use regard_kernels::{Attention, Causal, Isa, Precision, product};
use serde::Serialize;

use crate::failure::Usage;
use crate::terminal::{Table, note, print};

/// This machine's kernels, measured: matrix products, attention, memory.
#[derive(Debug, Args)]
#[command(
    after_help = "REGARD_ISA chooses another instruction set, RAYON_NUM_THREADS another number of threads.\n\
                        Beside PyTorch: bench/attention.py and bench/training.py of the project."
)]
pub(crate) struct Bench {
    /// How long each row is measured.
    #[arg(long, value_name = "SECONDS", default_value_t = 0.5)]
    seconds: f64,
    /// Print JSON instead of a table.
    #[arg(long)]
    json: bool,
}

/// What was measured: the median of the runs.
#[derive(Debug, Serialize)]
struct Row {
    what: String,
    milliseconds: f64,
    rate: f64,
    unit: &'static str,
}

/// Numbers of the arrays that are copied: 64 MB each, more than most caches hold.
const COPIED: usize = 16 << 20;

impl Bench {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        if !(0.0..=3600.0).contains(&self.seconds) {
            let message = format!("--seconds is {}, expected 0 to 3600", self.seconds);
            return Err(Usage::new(message).into());
        }
        let chosen = Isa::chosen()?;
        let threads = rayon::current_num_threads();
        let rows = self.rows();
        if self.json {
            let facts = serde_json::json!({
                "instruction_set": chosen.to_string(),
                "precision": Precision::faster(chosen).to_string(),
                "threads": threads,
                "rows": rows,
            });
            return Ok(print(&format!("{facts:#}\n"))?);
        }
        let mut table = Table::new(["", ">median", ">rate"]);
        for row in &rows {
            let rate = match row.rate {
                rate if rate < 10.0 => format!("{rate:.1} {}", row.unit),
                rate => format!("{rate:.0} {}", row.unit),
            };
            let median = format!("{:.2} ms", row.milliseconds);
            table.row([row.what.clone(), median, rate]);
        }
        print(&table.render())?;
        note(&instruction_set(chosen));
        note(&precision(chosen, &rows));
        note(&format!("{threads} threads"));
        Ok(())
    }

    fn rows(&self) -> Vec<Row> {
        let mut rows = Vec::new();
        for [m, k, n] in [[1024, 1024, 1024], [4096, 256, 1024]] {
            let (left, right) = (numbers2([m, k], 1), numbers2([k, n], 2));
            for precision in [Precision::F32, Precision::Bf16] {
                rows.push(self.row(
                    format!("product of {m} × {k} and {k} × {n}, {precision}"),
                    (2 * m * k * n) as f64,
                    "GFLOP/s",
                    || precision.run(|| product(left.view(), right.view(), None)),
                ));
            }
        }
        for (name, shape, causal) in [
            ("8 × 8 × 128 × 64", [8, 8, 128, 64], None),
            (
                "1 × 4 × 1024 × 64 causal",
                [1, 4, 1024, 64],
                Some(Causal::TopLeft),
            ),
        ] {
            rows.extend(self.attention(name, shape, causal));
        }
        let (from, mut to) = (vec![1.0_f32; COPIED], vec![0.0_f32; COPIED]);
        // Read once and written once; what a processor reads before it writes is not counted.
        let bytes = (2 * COPIED * size_of::<f32>()) as f64;
        rows.push(self.row("memory, copied".to_owned(), bytes, "GB/s", || {
            to.par_chunks_mut(1 << 16)
                .zip(from.par_chunks(1 << 16))
                .for_each(|(to, from)| to.copy_from_slice(from));
            black_box(&to);
        }));
        rows
    }

    fn attention(&self, name: &str, shape: [usize; 4], causal: Option<Causal>) -> [Row; 2] {
        let [batch, heads, length, width] = shape;
        let [q, k, v, d_out] = [1, 2, 3, 4].map(|seed| numbers4(shape, seed));
        let mut attention = Attention::new();
        if let Some(causal) = causal {
            attention = attention.causal(causal);
        }
        let forward = || match attention.forward(q.view(), k.view(), v.view()) {
            Ok(forward) => forward,
            Err(error) => unreachable!("the shapes are constants: {error}"),
        };
        let pairs = length * length / if causal.is_some() { 2 } else { 1 };
        // Two products forward, and five backward.
        let operations = (4 * batch * heads * pairs * width) as f64;
        [
            self.row(
                format!("attention {name}, forward"),
                operations,
                "GFLOP/s",
                forward,
            ),
            self.row(
                format!("attention {name}, forward and backward"),
                3.5 * operations,
                "GFLOP/s",
                || {
                    let done = forward();
                    let (out, lse) = (done.out.view(), done.log_sum_exp.view());
                    attention.backward(q.view(), k.view(), v.view(), out, lse, d_out.view())
                },
            ),
        ]
    }

    /// Runs until the time is over, at least once. The first run, which touches memory for the first time, is not counted
    /// unless there is no other.
    fn row<R>(
        &self,
        what: String,
        work: f64,
        unit: &'static str,
        mut run: impl FnMut() -> R,
    ) -> Row {
        let mut seconds = Vec::new();
        let started = Instant::now();
        loop {
            let before = Instant::now();
            black_box(run());
            seconds.push(before.elapsed().as_secs_f64());
            if started.elapsed().as_secs_f64() >= self.seconds {
                break;
            }
        }
        if seconds.len() > 1 {
            seconds.remove(0);
        }
        seconds.sort_by(f64::total_cmp);
        let median = seconds[seconds.len() / 2];
        Row {
            what,
            milliseconds: median * 1e3,
            rate: work / median.max(1e-9) / 1e9,
            unit,
        }
    }
}

/// Which one is used, and why.
fn instruction_set(chosen: Isa) -> String {
    let others: Vec<String> = Isa::available().iter().map(Isa::to_string).collect();
    let others = others.join(", ");
    let why = match std::env::var_os("REGARD_ISA") {
        Some(name) if !name.is_empty() => "REGARD_ISA asks for it",
        _ => "the widest that this processor has",
    };
    format!("instruction set {chosen}: {why} (it has {others})")
}

/// What `--precision auto` trains with, and why: `rows` begin with a product in both.
fn precision(chosen: Isa, rows: &[Row]) -> String {
    let times = rows[0].milliseconds / rows[1].milliseconds.max(1e-9);
    let automatic = Precision::faster(chosen);
    let why = match (automatic, chosen.multiplies_bf16()) {
        (Precision::Bf16, _) if chosen == Isa::Amx => "multiplies bf16 in tiles",
        (Precision::Bf16, _) => {
            "multiplies two of bf16 where it multiplies one of f32, on AMD's processors"
        }
        (Precision::F32, true) => "multiplies bf16 no faster, where it was measured",
        (Precision::F32, false) => "does not multiply bf16, only imitates it",
    };
    format!(
        "precision auto trains in {automatic}: {chosen} {why}; bf16 is {times:.2} times as fast as f32 in the first product"
    )
}

/// Numbers between −1 and 1 that look like none.
fn number(at: usize, seed: usize) -> f32 {
    let bits = (at + 1).wrapping_mul(2_654_435_761 + 2 * seed) >> 7;
    (bits % 4096) as f32 / 2048.0 - 1.0
}

fn numbers2([rows, columns]: [usize; 2], seed: usize) -> Array2<f32> {
    Array2::from_shape_fn((rows, columns), |(r, c)| number(r * columns + c, seed))
}

fn numbers4(shape: [usize; 4], seed: usize) -> Array4<f32> {
    let [_, heads, length, width] = shape;
    Array4::from_shape_fn(shape, |(b, h, i, c)| {
        number(((b * heads + h) * length + i) * width + c, seed)
    })
}
