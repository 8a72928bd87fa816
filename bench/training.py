"""Steps of training and answers beside PyTorch: the same parameters, data and number of threads, turn by turn.

Run with: python3 bench/training.py                  (makes its own environment: a few GB, of which PyTorch is most)
      or: python3 bench/training.py --here           (in this Python, which has torch and numpy)

Each side is a process of its own that does one step when asked: `crates/regard-nn/examples/training_step.rs`, which this
builds, and `bench/training_torch.py`. Both start with the same parameters, and it ends with an error where their losses part.
It writes docs/benchmarks.md, and ends with status 1 where a row is below its bar. `--help` lists the rest.
"""

import argparse
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
REPORT = ROOT / "docs" / "benchmarks.md"
RIVALS = ["torch==2.15.0", "numpy"]

PAUSE = 0.05  # seconds; OpenMP's threads have gone to sleep by then
# Steps whose losses must agree. Each starts from the rounding of all before: the classifier's losses of PyTorch with AVX-512 and of PyTorch with AVX2 are
# 4e-5 of them apart in the eighth and 2.4e-4 in the tenth.
COMPARED = 8
ANSWERED = (1, 32)  # rows
PARTS = ("forward", "backward", "optimizer")

CASES = {
    "classifier": "classifier: 4 layers of 256, 32 texts of 128 tokens",
    "translator": "translator: 3 + 3 layers of 256, 4,096 tokens a side",
    "compact": "compact vision transformer, 0.5 M, 128 pictures of 28×28",
    "patches": "vision transformer of patches, 2.7 M, 128 pictures of 32×32×3",
}
STEP_BAR, ANSWER_BAR, MEMORY_BAR, AVX2_BAR, BF16_ANSWER_BAR = 1.0, 1.2, 1.0, 0.9, 1.0
# How far apart losses may be, and how far an answer from PyTorch's in f32, as a share; in bf16 losses as a share of the first. In f32 the difference is the rounding of a few thousand
# additions, and of a few steps before. In bf16 a number is rounded by up to 2⁻⁹ of it, and not everywhere by both: autocast keeps
# what lies between its operations in bf16, too.
APART = {"f32": 2e-4, "bf16": 1e-2}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--here", action="store_true", help="use this Python instead of making an environment")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--program", help="a build of training_step.rs, instead of making one")
    parser.add_argument("--isa", choices=["avx2"], help="force an instruction set on both sides")
    parser.add_argument("--precision", choices=APART, default="f32", help="of products; bf16 is autocast in PyTorch")
    parser.add_argument("--case", choices=CASES, action="append", help="only this one (may be said again)")
    parser.add_argument("--seconds", type=float, default=30.0, help="of steps for each case, and half as many of answers")
    parser.add_argument("--write", action=argparse.BooleanOptionalAction, default=True, help="docs/benchmarks.md")
    options = parser.parse_args()
    if not options.here:
        return again_in_an_environment()
    program = options.program or built()
    rows = []
    for case in options.case or CASES:
        rows.append(measure(case, program, options))
        print(rows[-1], flush=True)
    misses = judge(rows, options)
    if options.write and not options.case:
        write(rows, misses, options)
    for miss in misses:
        print(f"below its bar: {miss}")
    return 1 if misses else 0


def again_in_an_environment():
    """The same command in bench/.venv, which has the rival."""
    place = ROOT / "bench" / ".venv"
    python = place / "bin" / "python"
    if not python.exists():
        venv.create(place, with_pip=True)
    subprocess.run([python, "-m", "pip", "install", "--quiet", *RIVALS], check=True)
    return subprocess.run([python, __file__, "--here", *sys.argv[1:]], check=False).returncode


def built():
    command = ["cargo", "build", "--release", "--locked", "--quiet", "-p", "regard-nn", "--example", "training_step"]
    subprocess.run(command, cwd=ROOT, check=True)
    return ROOT / "target" / "release" / "examples" / "training_step"


class Side:
    """A process that answers a line with a line."""

    def __init__(self, command, environment):
        self.process = subprocess.Popen(
            list(map(str, command)), env={**os.environ, **environment}, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.expect("ready")
        self.before = self.memory("VmRSS")

    def expect(self, wanted=None):
        line = self.process.stdout.readline().strip()
        if not line or (wanted and line != wanted):
            sys.exit(f"{self.process.args[0]} ended, or said `{line}`")
        return line

    def ask(self, line):
        """The numbers of the answer. A pause first: a pool that spins after its work would slow whoever is next."""
        time.sleep(PAUSE)
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        return [float(number) for number in self.expect().split()]

    def memory(self, kind):
        with open(f"/proc/{self.process.pid}/status") as status:
            return next(int(line.split()[1]) for line in status if line.startswith(kind)) / 1024

    def added(self):
        """MiB at the worst moment beyond what the process held before its first step."""
        return self.memory("VmHWM") - self.before

    def end(self):
        self.process.stdin.close()
        self.process.wait()


@dataclass
class Row:
    case: str
    steps: list = field(default_factory=lambda: ([], []))  # ours and the rival's, each [forward, backward, optimizer]
    answers: dict = field(default_factory=dict)  # rows: (ours, the rival's)
    memory: tuple = (0.0, 0.0)
    apart: float = 0.0  # the largest difference of a loss or an answer, as a share

    def medians(self, part=None):
        """Seconds of ours and of the rival's."""
        of = lambda step: sum(step) if part is None else step[part]
        return [statistics.median(map(of, side)) for side in self.steps]

    def ratio(self, part=None):
        ours, theirs = self.medians(part)
        return theirs / ours

    def __str__(self):
        ours, theirs = self.medians()
        parts = "  ".join(f"{name} {self.medians(at)[0] * 1e3:.1f} ms ({self.ratio(at):.2f})" for at, name in enumerate(PARTS))
        answers = "  ".join(f"{rows}: {a * 1e3:.2f} ms ({b / a:.2f})" for rows, (a, b) in self.answers.items())
        memory = f"{self.memory[0]:.0f} and {self.memory[1]:.0f} MiB; apart {self.apart:.0e}"
        return f"{self.case}: {ours * 1e3:.1f} and {theirs * 1e3:.1f} ms, {theirs / ours:.2f}; {parts}; answers {answers}; {memory}"


def measure(case, program, options):
    row = Row(case)
    with tempfile.TemporaryDirectory() as place:
        parameters = f"{place}/parameters.safetensors"
        isa = {"REGARD_ISA": options.isa, "ATEN_CPU_CAPABILITY": options.isa} if options.isa else {}
        if options.isa:  # PyTorch's products are oneDNN's and MKL's, which listen to their own words
            isa |= {"ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"}
        ours = Side([program, case, parameters, options.precision], {"RAYON_NUM_THREADS": str(options.threads), **isa})
        torch = [sys.executable, ROOT / "bench" / "training_torch.py", case, parameters, options.threads]
        rival = Side([*torch, options.precision], isa)
        sides = (ours, rival)
        answers(row, sides, exact_answers([*torch, "f32"], isa), options)
        first, started = None, time.perf_counter()
        while len(row.steps[0]) < COMPARED or time.perf_counter() - started < options.seconds:
            found = [side.ask("step") for side in sides]
            losses = [numbers.pop() for numbers in found]
            first = first or losses[1]
            if len(row.steps[0]) < COMPARED:
                same(row, "loss", options, *losses, losses[1] if options.precision == "f32" else first)
            for steps, numbers in zip(row.steps, found):
                steps.append(numbers)
        row.memory = tuple(side.added() for side in sides)
        for side in sides:
            side.end()
    # The first two touch memory for the first time.
    row.steps = tuple(steps[2:] for steps in row.steps)
    return row


def exact_answers(command, isa):
    """Rows and PyTorch's answer to them in f32: in bf16 two that are right may lie on either side of it, twice as far from each other."""
    exact = Side(command, isa)
    found = {rows: exact.ask(f"answer {rows}")[1] for rows in ANSWERED}
    exact.end()
    return found


def answers(row, sides, exact, options):
    for rows in ANSWERED:
        times = ([], [])
        started = time.perf_counter()
        while len(times[0]) < 7 or time.perf_counter() - started < options.seconds / 4:
            found = [side.ask(f"answer {rows}") for side in sides]
            same(row, "answer", options, found[0][1], exact[rows], exact[rows])
            for of_side, numbers in zip(times, found):
                of_side.append(numbers[0])
        row.answers[rows] = tuple(statistics.median(of_side[2:]) for of_side in times)


def same(row, what, options, ours, theirs, unit):
    """Both compute the same, but for rounding."""
    apart = abs(ours - theirs) / abs(unit)
    row.apart = max(row.apart, apart)
    if not apart <= APART[options.precision]:
        sys.exit(f"{row.case}: the {what} is {ours}, expected {theirs}")


def judge(rows, options):
    misses = []
    for row in rows:
        step_bar = AVX2_BAR if options.isa else STEP_BAR
        checks = [("step", row.ratio(), step_bar)]
        if not options.isa:
            answer_bar = BF16_ANSWER_BAR if options.precision == "bf16" else ANSWER_BAR
            checks += [(f"answer to {count}", b / a, answer_bar) for count, (a, b) in row.answers.items()]
            checks.append(("memory", row.memory[1] / row.memory[0], MEMORY_BAR))
        misses += [f"{row.case}, {what}: {ratio:.2f}, bar {bar}" for what, ratio, bar in checks if ratio < bar]
    return misses


def marks(options):
    """The lines of docs/benchmarks.md that the tables stand between: in bf16 those of a machine with AMX are kept elsewhere."""
    bf16 = "training bf16" if "amx_bf16" in Path("/proc/cpuinfo").read_text() else "training bf16 without amx"
    kind = "training avx2" if options.isa else {"f32": "training", "bf16": bf16}[options.precision]
    return tuple(f"<!-- {kind}: {edge} -->" for edge in ("begin", "end"))


def write(rows, misses, options):
    about = Path("/proc/cpuinfo").read_text()
    model = next((line.split(":")[1].strip() for line in about.splitlines() if line.startswith("model name")), platform.processor())
    bf16 = " with AMX" if "amx_bf16" in about else " with AVX-512-BF16" if "avx512_bf16" in about else ""
    widest = "AVX2" if options.isa or "avx512f" not in about else "AVX-512" + bf16
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout.strip()
    said = (f" --isa {options.isa}" if options.isa else "") + (f" --precision {options.precision}" if options.precision != "f32" else "")
    command = f"python3 bench/training.py{said} --seconds {options.seconds:g}"
    computed = {
        "f32": "f32, no dropout;",
        "bf16": f"Products in\nbf16, PyTorch's by autocast; losses at most {max(row.apart for row in rows):.1e} of the first apart, answers as much from those in f32; no dropout;",
    }[options.precision]
    ms = lambda seconds: f"{seconds * 1e3:.1f} ms"
    lines = [
        f"Measured {time.strftime('%Y-%m-%d')} on {os.cpu_count()} cores of {model}, {widest}, {options.threads} threads, commit {commit}, by",
        f"`{command}`, beside PyTorch 2.15.0. A ratio is PyTorch's time over ours: above 1 ours is faster. {computed}",
        "memory is what a process held at its worst moment beyond what it held before the first step. Of 32 rows to answer ours gives a thread",
        "16 at a time, as the tasks that classify do; PyTorch answers them in one batch.",
        "",
        "| step | ours | PyTorch | ratio | forward | backward | optimizer | memory, ours and PyTorch's |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        parts = [f"{ms(row.medians(at)[0])}, {row.ratio(at):.2f}" for at in range(len(PARTS))]
        memory = "{:.0f} and {:.0f} MiB".format(*row.memory)
        cells = [CASES[row.case], *map(ms, row.medians()), f"{row.ratio():.2f}", *parts, memory]
        lines.append("| " + " | ".join(cells) + " |")
    lines += ["", "| answer, without gradients | batch 1 | ratio | batch 32 | ratio |", "| --- | --- | --- | --- | --- |"]
    for row in rows:
        cells = [cell for a, b in row.answers.values() for cell in (f"{a * 1e3:.2f} ms", f"{b / a:.2f}")]
        lines.append("| " + " | ".join([row.case, *cells]) + " |")
    lines += ["", *(["Below the bar:", "", *(f"- {miss}" for miss in misses)] if misses else ["No bar was missed."])]
    begin, end = marks(options)
    before, rest = REPORT.read_text().split(begin)
    _, after = rest.split(end)
    REPORT.write_text(before + begin + "\n" + "\n".join(lines) + "\n" + end + after)


if __name__ == "__main__":
    sys.exit(main())
