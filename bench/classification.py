"""Train and score the text classifier on the benchmark sets, and write the table of docs/benchmarks.md.

Run with:
    cargo build --release
    for name in debian-sections reuters-r8 20newsgroups spam; do cargo xtask data $name; done
    python3 bench/classification.py [NAME…] [--seeds 1,2,3] [-- more arguments for `regard train classification`]

Only the standard library is needed. Every figure comes from the report.json of a run that this script started; the
script changes nothing of the defaults but the test file. Rows that miss their bar are named, and the exit code says so.
"""

import argparse
import json
import pathlib
import platform
import shutil
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
# Test accuracy to reach, what to aim at, and the minutes it may take on two cores.
BARS = {
    "debian-sections": (0.77, 0.80, 5),
    "reuters-r8": (0.955, 0.97, 5),
    "20newsgroups": (0.78, 0.82, 10),
    "spam": (None, None, 3),
}
BEGIN, END = "<!-- classification: begin -->", "<!-- classification: end -->"


def run(name, seed, more):
    """One training run; its report and its wall-clock seconds."""
    folder = ROOT / "data" / name
    out = ROOT / "target" / "bench" / f"{name}-{seed}"
    for leftover in (out, out.with_name(out.name + ".training")):
        shutil.rmtree(leftover, ignore_errors=True)
    out.parent.mkdir(parents=True, exist_ok=True)
    command = [ROOT / "target/release/regard", "train", "classification", "--data", folder / "train.csv",
               "--test", folder / "test.csv", "--out", out, "--seed", str(seed), *more]
    if name in ("debian-sections",):
        command += ["--group", "group"]
    started = time.monotonic()
    subprocess.run([str(part) for part in command], check=True, cwd=ROOT)
    return json.loads((out / "report.json").read_text()), time.monotonic() - started


def interval(score):
    return f"{score['value']:.3f} ({score['low']:.3f}–{score['high']:.3f})"


def lead(difference):
    return f"{100 * difference['value']:+.1f} ({100 * difference['low']:+.1f} to {100 * difference['high']:+.1f})"


def cpu():
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=list(BARS))
    parser.add_argument("--seeds", default="1")
    own, more = (sys.argv[1:], [])
    if "--" in own:
        at = own.index("--")
        own, more = own[:at], own[at + 1:]
    arguments = parser.parse_args(own)

    rows, missed = [], []
    for name in arguments.names:
        bar, aim, minutes = BARS[name]
        for seed in arguments.seeds.split(","):
            report, seconds = run(name, int(seed), more)
            accuracy = report["scores"]["accuracy"]
            rivals = {rival["name"]: rival for rival in report["rivals"]}
            value = accuracy["value"]
            verdict = "reported" if bar is None else "reached" if value >= aim else "bar reached" if value >= bar else "MISSED"
            if seconds > 60 * minutes:
                verdict += f", LATE (allowed {minutes} min)"
            if "MISSED" in verdict or "LATE" in verdict:
                missed.append(f"{name} (seed {seed}): {verdict}, {value:.4f} in {seconds:.0f} s")
            mean = rivals.get("same model, mean pooling")
            linear = rivals.get("linear SVM on TF-IDF")
            rows.append([
                name, seed, f"{report['model']['kind']}, {report['model']['parameters'] / 1e6:.1f} M",
                f"{rivals['majority class']['accuracy']['value']:.3f}",
                interval(accuracy), interval(report["scores"]["macro_f1"]),
                lead(mean["difference"]) if mean else "–", f"{linear['accuracy']['value']:.3f}" if linear else "–",
                lead(linear["difference"]) if linear else "–",
                "–" if bar is None else f"{bar} / {aim}", f"{seconds:.0f} s", verdict,
            ])
    head = ["data", "seed", "model", "majority", "accuracy (95 %)", "macro-F1 (95 %)", "lead over mean pooling, points",
            "linear SVM", "lead over linear SVM, points", "bar / aim", "whole run", ""]
    table = "\n".join("| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *rows])
    version = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout.strip()
    text = (f"{BEGIN}\nMeasured {time.strftime('%Y-%m-%d')} on {cpu()}, 2 cores, commit {version}, by "
            f"`python3 bench/classification.py {' '.join(sys.argv[1:])}`.\n\n{table}\n\n"
            + ("Missed: " + "; ".join(missed) + ".\n" if missed else "No bar was missed.\n") + END)
    page = ROOT / "docs" / "benchmarks.md"
    old = page.read_text() if page.exists() else f"# Benchmarks\n\n{BEGIN}\n{END}\n"
    before, rest = old.split(BEGIN, 1)
    page.write_text(before + text + rest.split(END, 1)[1])
    print(table)
    sys.exit(1 if missed else 0)


if __name__ == "__main__":
    main()
