//! The table, as it is printed and as `docs/benchmarks.md` has it.

use std::fmt;
use std::path::Path;
use std::process::Command;

use regard_kernels::Isa;

use crate::case::Case;

const BEGIN: &str = "<!-- attention rust: begin -->";
const END: &str = "<!-- attention rust: end -->";
pub const HEAD: &str = "| case | forward | rate (share of the peak) | Burn / ours | candle / ours | forward + backward | rate (share) | Burn / ours |
| --- | --- | --- | --- | --- | --- | --- | --- |";

/// Seconds of a case.
pub struct Row {
    pub case: Case,
    /// GFLOP/s.
    pub peak: f64,
    pub forward: f64,
    pub burn: f64,
    pub candle: Option<f64>,
    /// Forward and backward, ours and Burn's.
    pub both: Option<(f64, f64)>,
}

impl Row {
    fn rate(&self, operations: f64, seconds: f64) -> String {
        let rate = operations / seconds / 1e9;
        format!("{rate:.0} GFLOP/s ({:.0} %)", 100.0 * rate / self.peak)
    }

    fn of_burn(&self) -> Option<f64> {
        Some(self.burn / self.forward)
    }

    fn of_candle(&self) -> Option<f64> {
        Some(self.candle? / self.forward)
    }

    fn of_both(&self) -> Option<f64> {
        self.both.map(|(ours, burn)| burn / ours)
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (case, milliseconds) = (self.case, |seconds: f64| format!("{:.2} ms", 1e3 * seconds));
        let ratio =
            |ratio: Option<f64>| ratio.map_or("–".to_owned(), |ratio| format!("{ratio:.2}"));
        let rate = match case.decodes() {
            true => format!("{:.1} GB/s", case.cache_bytes() as f64 / self.forward / 1e9),
            false => self.rate(case.operations(), self.forward),
        };
        let (both, of_both) = match self.both {
            Some((ours, _)) => (milliseconds(ours), self.rate(3.5 * case.operations(), ours)),
            None => ("–".to_owned(), "–".to_owned()),
        };
        let forward = milliseconds(self.forward);
        let (burn, candle) = (ratio(self.of_burn()), ratio(self.of_candle()));
        let learned = ratio(self.of_both());
        write!(
            f,
            "| {} | {forward} | {rate} | {burn} | {candle} | {both} | {of_both} | {learned} |",
            case.name
        )
    }
}

/// Writes the section between its marks.
pub fn write(rows: &[Row], isa: Isa, peak: f64) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let said = |program: &str, arguments: &[&str]| {
        let output = Command::new(program)
            .args(arguments)
            .current_dir(&root)
            .output();
        output.map_or(String::new(), |output| {
            String::from_utf8_lossy(&output.stdout).trim().to_owned()
        })
    };
    let model = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = model
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split(": ").nth(1));
    let mut text = format!(
        "Measured {} on {}, {} threads, {isa}, commit {}, by `cargo run --release` in `bench/rust`: Burn 0.22.1 (flex),\n\
         candle-nn 0.11.0 (`cpu_flash`), compiled for this processor. Multiplying and adding in registers reaches {peak:.0}\n\
         GFLOP/s. A ratio is the rival's time over ours: above 1 ours is faster. Burn's backward is left out where its copies\n\
         of the scores would take more than 3 GB; candle has none.\n\n{HEAD}\n",
        said("date", &["+%Y-%m-%d"]),
        model.unwrap_or("an unknown processor"),
        rayon::current_num_threads(),
        said("git", &["rev-parse", "--short", "HEAD"]),
    );
    for row in rows {
        text += &format!("{row}\n");
    }
    text += "\n";
    for (of, ratios) in [
        (
            "forward, Burn",
            rows.iter().filter_map(Row::of_burn).collect::<Vec<f64>>(),
        ),
        (
            "forward, candle",
            rows.iter().filter_map(Row::of_candle).collect(),
        ),
        (
            "forward and backward, Burn",
            rows.iter().filter_map(Row::of_both).collect(),
        ),
    ] {
        let mean = ratios.iter().map(|ratio| ratio.ln()).sum::<f64>() / ratios.len() as f64;
        let least = ratios.iter().copied().fold(f64::INFINITY, f64::min);
        text += &format!(
            "In the geometric mean, {of}: {:.2}; the least: {least:.2}.\n",
            mean.exp()
        );
    }
    let place = root.join("docs/benchmarks.md");
    let document = std::fs::read_to_string(&place).expect("docs/benchmarks.md is there");
    let parts = document
        .split_once(BEGIN)
        .and_then(|(before, rest)| Some((before, rest.split_once(END)?.1)));
    let (before, after) = parts.expect("docs/benchmarks.md has a place for this table");
    std::fs::write(place, format!("{before}{BEGIN}\n{text}{END}{after}"))
        .expect("it can be written");
}
