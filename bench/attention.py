"""Attention beside PyTorch and onnxruntime: the same arrays in the same process, turn by turn, and a table of the medians.

Run with: python3 bench/attention.py                 (makes its own environment: a few GB, of which PyTorch is most)
      or: python3 bench/attention.py --here          (in this Python, which has regard, torch and onnxruntime)

It writes docs/benchmarks.md, and ends with status 1 where a row is below its bar. `--help` lists the rest.
"""

import argparse
import os
import platform
import subprocess
import sys
import time
import venv
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
REPORT = ROOT / "docs" / "benchmarks.md"
RIVALS = ["torch==2.15.0", "onnxruntime==1.32.0", "onnx==1.23.2", "ml_dtypes>=0.5"]

PAUSE = 0.01  # seconds; OpenMP's threads have gone to sleep by then
BURST = 3  # counted calls one after the other


@dataclass
class Case:
    name: str
    batch: int
    heads: int
    kv_heads: int
    queries: int
    keys: int
    width: int
    causal: bool = False
    window: int | None = None
    padded: bool = False
    bias: bool = False

    @property
    def decodes(self):
        return self.queries == 1

    @property
    def operations(self):
        """4 · batch · heads · visible pairs · width forward; forward and backward 3.5 times as many."""
        pairs = self.queries * self.keys
        if self.window is not None:
            pairs = sum(min(i + 1, self.window + 1) for i in range(self.queries))
        elif self.causal:
            pairs = pairs / 2
        return 4 * self.batch * self.heads * pairs * self.width

    @property
    def cache_bytes(self):
        return 2 * self.batch * self.kv_heads * self.keys * self.width


CASES = [
    Case("short", 32, 8, 8, 128, 128, 64),
    Case("short, width 32", 32, 8, 8, 128, 128, 32),
    Case("short, width 80", 32, 8, 8, 128, 128, 80),
    Case("medium", 8, 8, 8, 512, 512, 64),
    Case("medium causal", 8, 8, 8, 512, 512, 64, causal=True),
    Case("long causal 2048", 1, 8, 8, 2048, 2048, 64, causal=True),
    Case("long causal 4096 × 128", 1, 8, 8, 4096, 4096, 128, causal=True),
    Case("long 4096", 1, 8, 8, 4096, 4096, 64),
    Case("window of 512 at 16384", 1, 8, 8, 16384, 16384, 64, causal=True, window=512),
    Case("vision", 16, 3, 3, 197, 197, 64),
    Case("padded cross-attention", 32, 8, 8, 40, 60, 64, padded=True),
    Case("decode 4096 × 128", 1, 32, 8, 1, 4096, 128),
    Case("decode 8 × 1024 × 64", 8, 32, 8, 1, 1024, 64),
    Case("bias with gradient", 8, 12, 12, 384, 384, 64, bias=True),
    Case("tiny", 64, 4, 4, 16, 16, 16),
]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--here", action="store_true", help="use this Python instead of making an environment")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--isa", choices=["avx2"], help="force an instruction set on both sides")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--cases", help="only those whose name contains this")
    parser.add_argument("--seconds", type=float, default=3.0, help="for each case and pass")
    parser.add_argument("--write", action=argparse.BooleanOptionalAction, default=True, help="docs/benchmarks.md")
    options = parser.parse_args()
    if options.isa:  # read when the libraries are loaded
        os.environ["REGARD_ISA"] = options.isa
        os.environ["ATEN_CPU_CAPABILITY"] = options.isa
        # PyTorch's products are MKL's and oneDNN's, which would go on with what the processor has.
        os.environ["MKL_ENABLE_INSTRUCTIONS"] = options.isa.upper()
        os.environ["ONEDNN_MAX_CPU_ISA"] = options.isa.upper()
    if not options.here:
        return again_in_an_environment()
    return measure(options)


def again_in_an_environment():
    """The same command in bench/.venv, which has the rivals and the wheel of this checkout."""
    place = ROOT / "bench" / ".venv"
    python = place / "bin" / "python"
    if not python.exists():
        venv.create(place, with_pip=True)
    subprocess.run([python, "-m", "pip", "install", "--quiet", *RIVALS, str(ROOT / "python")], check=True)
    return subprocess.run([python, __file__, "--here", *sys.argv[1:]], check=False).returncode


def measure(options):
    import numpy as np
    import regard
    import torch

    torch.set_num_threads(options.threads)
    regard.set_num_threads(options.threads)
    torch.manual_seed(0)
    cpu = regard.cpu()
    peak, product = regard.peak(), matrix_product_rate(torch, np, options)
    ceiling = Ceiling(peak, product)
    print(f"{cpu.chosen}, {options.threads} threads, {options.dtype}; {ceiling}", flush=True)

    if options.write and marks(options)[0] not in REPORT.read_text():
        sys.exit(f"docs/benchmarks.md has no place for this table ({marks(options)[0]}): make one, or say --no-write")
    rows = []
    for case in CASES:
        if options.cases and options.cases not in case.name:
            continue
        row = Row(case, *forward_times(case, options), *backward_times(case, options), ceiling.rate, 4 if options.dtype == "float32" else 2)
        rows.append(row)
        print(row, flush=True)
    misses = judge(rows, options, cpu)
    if options.write and not options.cases:
        write(rows, misses, options, cpu, ceiling)
    for miss in misses:
        print(f"below its bar: {miss}")
    return 1 if misses else 0


@dataclass
class Ceiling:
    """GFLOP/s that this machine reaches: multiplying and adding in registers, and in a large matrix product."""

    peak: float
    product: float

    @property
    def rate(self):
        """The higher one: a product of half numbers may have instructions that the peak in float32 has not."""
        return max(self.peak, self.product)

    def __str__(self):
        return f"multiply-adds in registers {self.peak:.0f} GFLOP/s, matrix product {self.product:.0f} GFLOP/s"


def matrix_product_rate(torch, np, options):
    """GFLOP/s of the better of PyTorch's and NumPy's product of 2048 × 2048."""
    size = 2048
    a = torch.randn(size, size).to(getattr(torch, options.dtype))
    products = [lambda: a @ a]
    if options.dtype == "float32":
        wide = a.numpy()
        products.append(lambda: wide @ wide)
    best = min(seconds(product) for product in products for _ in range(5))
    return 2 * size**3 / best / 1e9


def seconds(call):
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def turn_by_turn(calls, budget):
    """The median seconds of each, in bursts one after the other until the budget is used, at least three bursts each.

    A pause before each burst: a pool that spins after its work, waiting for more, would take the processor from whoever is
    next. The first call of a burst is not counted: calls of attention follow each other in a model, and how long a virtual
    machine takes to wake a processor that has slept is not what is measured.
    """
    times = [[] for _ in calls]
    start = time.perf_counter()
    while len(times[0]) < 3 * BURST or time.perf_counter() - start < budget:
        for call, of_call in zip(calls, times):
            time.sleep(PAUSE)
            call()
            of_call += [seconds(call) for _ in range(BURST)]
    return [sorted(of_call)[len(of_call) // 2] for of_call in times]


def tensors(case, options):
    import torch

    dtype = getattr(torch, options.dtype)
    q = torch.randn(case.batch, case.heads, case.queries, case.width).to(dtype)
    k, v = (torch.randn(case.batch, case.kv_heads, case.keys, case.width).to(dtype) for _ in range(2))
    return q, k, v


def ours(case, q):
    """The options of a case in regard's words, and the bias."""
    import torch

    options, bias = {}, None
    if case.causal:
        options["is_causal"] = True
    if case.window is not None:
        options["window"] = (case.window, None)
    if case.padded:
        options["visible_keys"] = torch.linspace(5, case.keys, case.batch).int().tolist()
    if case.bias:
        bias = torch.randn(1, case.heads, case.queries, case.keys, dtype=q.dtype)
    return options, bias


def torch_attention(case, options):
    """PyTorch's best way to say a case, as a function of q, k, v and the bias; what does not depend on them is made here."""
    import torch
    from torch.nn.functional import scaled_dot_product_attention as attention

    if case.window is not None:
        # A mask of 16384 × 16384 takes seconds; queries in blocks, each with the keys that it reaches, do not.
        size, blocks = 512, []
        for start in range(0, case.queries, size):
            first = max(0, start - case.window)
            i = torch.arange(start, start + size)[:, None]
            j = torch.arange(first, start + size)
            reached = slice(first, start + size)
            blocks.append((slice(start, start + size), reached, (j <= i) & (j >= i - case.window)))

        def windowed(q, k, v, _):
            outs = [attention(q[:, :, i], k[:, :, j], v[:, :, j], attn_mask=mask) for i, j, mask in blocks]
            return torch.cat(outs, dim=2)

        return windowed
    padding = None
    if case.padded:
        visible = torch.tensor(options["visible_keys"])
        padding = (torch.arange(case.keys) < visible[:, None])[:, None, None, :]
    grouped = {"enable_gqa": True} if case.heads != case.kv_heads else {}

    def plain(q, k, v, bias):
        mask = padding if bias is None else bias
        return attention(q, k, v, attn_mask=mask, is_causal=case.causal, **grouped)

    return plain


def forward_times(case, options):
    """Seconds of ours, of PyTorch, and of onnxruntime where it can be asked."""
    import regard
    import torch

    q, k, v = tensors(case, options)
    said, bias = ours(case, q)
    if bias is not None:
        said["bias"] = bias
    calls = [lambda: regard.attention(q, k, v, **said)]

    theirs = torch_attention(case, said)

    def rival():
        with torch.no_grad():
            return theirs(q, k, v, bias)

    calls.append(rival)
    same(case, "out", calls[0](), rival(), "PyTorch's")
    session = onnx_session(case, options)
    if session is not None:
        feeds = {"q": q.numpy(), "k": k.numpy(), "v": v.numpy()}
        if session.fused:  # it wants [batch, sequence, heads · width]
            flat = (case.batch, -1, case.heads * case.width)
            feeds = {name: x.transpose(0, 2, 1, 3).reshape(flat).copy() for name, x in feeds.items()}
        calls.append(lambda: session.run(feeds))
        found = torch.from_numpy(calls[2]())
        if session.fused:
            found = found.reshape(case.batch, case.queries, case.heads, case.width).transpose(1, 2)
        same(case, "out", calls[0](), found, "onnxruntime's")
    times = turn_by_turn(calls, options.seconds)
    return times if len(times) == 3 else [*times, None]


def onnx_session(case, options):
    if options.dtype != "float32" or case.window is not None or case.padded or case.bias or options.isa:
        return None
    import onnxruntime
    from onnx import TensorProto, helper

    fused = case.heads == case.kv_heads and case.queries == case.keys and not case.causal
    if fused:
        node = helper.make_node("MultiHeadAttention", ["q", "k", "v"], ["y"], domain="com.microsoft", num_heads=case.heads)
        opsets = [helper.make_opsetid("", 23), helper.make_opsetid("com.microsoft", 1)]
    else:
        node = helper.make_node("Attention", ["q", "k", "v"], ["y"], is_causal=int(case.causal))
        opsets = [helper.make_opsetid("", 23)]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in "qkvy"]
    model = helper.make_model(helper.make_graph([node], "attention", values[:3], values[3:]), opset_imports=opsets, ir_version=10)
    how = onnxruntime.SessionOptions()
    how.intra_op_num_threads = options.threads
    how.add_session_config_entry("session.intra_op.allow_spinning", "0")  # a spinning pool slows whoever comes next
    return Session(onnxruntime.InferenceSession(model.SerializeToString(), how), fused)


@dataclass
class Session:
    """onnxruntime's attention; `fused` is the operator that stores no scores."""

    session: object
    fused: bool

    def run(self, feeds):
        return self.session.run(None, feeds)[0]


def backward_times(case, options):
    """Seconds of forward and backward together, of ours and of PyTorch."""
    import regard
    import torch

    if case.decodes:
        return None, None
    q, k, v = tensors(case, options)
    said, bias = ours(case, q)
    d_out = torch.randn(case.batch, case.heads, case.queries, case.width).to(q.dtype)
    asked = {"bias": bias, "bias_gradient": True} if bias is not None else {}

    def our_step():
        out, lse = regard.attention(q, k, v, return_lse=True, **({"bias": bias} if bias is not None else {}), **said)
        return regard.attention_backward(d_out, q, k, v, out, lse, **asked, **said)

    leaves = [x.detach().clone().requires_grad_() for x in (q, k, v, *([bias] if bias is not None else []))]

    theirs = torch_attention(case, said)

    def rival_step():
        out = theirs(*leaves[:3], leaves[3] if bias is not None else None)
        return torch.autograd.grad(out, leaves, d_out)

    for name, found, expected in zip(("dq", "dk", "dv", "d_bias"), our_step(), rival_step()):
        same(case, name, found, expected, "PyTorch's")
    return turn_by_turn([our_step, rival_step], options.seconds)


def same(case, name, found, expected, whose):
    """Both compute the same: the largest difference is rounding."""
    largest = expected.float().abs().max().item()
    allowed = (0.03 if expected.element_size() == 2 else 2e-4) * max(1.0, largest)
    difference = (found.float() - expected.float()).abs().max().item()
    if not difference <= allowed:
        sys.exit(f"{case.name}: {name} differs by {difference} from {whose}")


@dataclass
class Row:
    case: Case
    forward: float
    torch_forward: float
    onnx_forward: float | None
    both: float | None
    torch_both: float | None
    ceiling: float
    size: int  # bytes of a number

    @property
    def forward_ratio(self):
        """Of the better rival."""
        return min(self.torch_forward, self.onnx_forward or float("inf")) / self.forward

    @property
    def both_ratio(self):
        return None if self.both is None else self.torch_both / self.both

    def cells(self):
        rate = self.case.operations / self.forward / 1e9
        of_pass = f"{rate:.0f} GFLOP/s ({100 * rate / self.ceiling:.0f} %)"
        if self.case.decodes:
            of_pass = f"{self.case.cache_bytes * self.size / self.forward / 1e9:.1f} GB/s"
        cells = [self.case.name, f"{1e3 * self.forward:.2f} ms", of_pass, f"{self.torch_forward / self.forward:.2f}"]
        cells.append("–" if self.onnx_forward is None else f"{self.onnx_forward / self.forward:.2f}")
        if self.both is None:
            return [*cells, "–", "–", "–"]
        rate = 3.5 * self.case.operations / self.both / 1e9
        share = f"{rate:.0f} GFLOP/s ({100 * rate / self.ceiling:.0f} %)"
        return [*cells, f"{1e3 * self.both:.2f} ms", share, f"{self.both_ratio:.2f}"]

    def __str__(self):
        return "  ".join(f"{cell:>{width}}" for cell, width in zip(self.cells(), (24, 12, 22, 6, 6, 12, 22, 6)))


def mean(ratios):
    """The geometric one."""
    product = 1.0
    for ratio in ratios:
        product *= ratio
    return product ** (1 / max(1, len(ratios)))


def groups(rows):
    """Forward, forward and backward, decoding: the ratios of each."""
    return {
        "forward": [(row.case.name, row.forward_ratio) for row in rows if not row.case.decodes],
        "forward and backward": [(row.case.name, row.both_ratio) for row in rows if row.both is not None],
        "decoding": [(row.case.name, row.forward_ratio) for row in rows if row.case.decodes],
    }


def judge(rows, options, cpu):
    """What is below its bar. Without AVX-512 there is one: with AVX2 on both sides, at least as fast in the mean."""
    float32 = {"forward": (1.0, 1.3), "forward and backward": (1.0, 1.6), "decoding": (1.0, 1.3)}
    bfloat16 = {"forward": (1.0, 1.6), "forward and backward": (1.5, 2.5), "decoding": (1.0, 1.3)}
    bars = float32 if options.dtype == "float32" else bfloat16
    if cpu.chosen == "avx2":
        bars = dict.fromkeys(bars, (0.0, 1.0))
    misses = []
    for name, ratios in groups(rows).items():
        of_row, of_mean = bars[name]
        misses += [f"{case}, {name}: {ratio:.2f} of {of_row}" for case, ratio in ratios if ratio < of_row]
        found = mean([ratio for _, ratio in ratios])
        if ratios:
            print(f"{name}: {found:.2f} in the mean, bar {of_mean}")
        if ratios and found < of_mean:
            misses.append(f"{name} in the mean: {found:.2f} of {of_mean}")
    return misses


def marks(options):
    """The lines of docs/benchmarks.md that the table stands between."""
    which = " ".join(["attention", options.dtype, *([options.isa] if options.isa else [])])
    return tuple(f"<!-- {which}: {edge} -->" for edge in ("begin", "end"))


def write(rows, misses, options, cpu, ceiling):
    with open("/proc/cpuinfo") as info:
        model = next((line.split(":")[1].strip() for line in info if line.startswith("model name")), platform.processor())
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout.strip()
    command = "python3 bench/attention.py" + "".join(
        f" --{key} {value}" for key, value in (("isa", options.isa), ("dtype", options.dtype)) if value and value != "float32"
    )
    lines = [
        f"Measured {time.strftime('%Y-%m-%d')} on {model}, {options.threads} threads, {cpu.chosen}, commit {commit}, by",
        f"`{command}`. Multiplying and adding in registers reaches {ceiling.peak:.0f} GFLOP/s, the matrix product of the better of",
        f"PyTorch and NumPy {ceiling.product:.0f}; a share is of the higher one. A ratio is the rival's time over ours: above 1 ours is faster.",
        "",
        "| case | forward | rate (share of the ceiling) | PyTorch / ours | onnxruntime / ours | forward + backward | rate (share) | PyTorch / ours |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
        *("| " + " | ".join(row.cells()) + " |" for row in rows),
        "",
        *(f"In the mean, {of}: {mean([ratio for _, ratio in ratios]):.2f}." for of, ratios in groups(rows).items() if ratios),
        "",
        *(["Below the bar:", "", *(f"- {miss}" for miss in misses)] if misses else ["No bar was missed."]),
    ]
    begin, end = marks(options)
    before, rest = REPORT.read_text().split(begin)
    _, after = rest.split(end)
    REPORT.write_text(before + begin + "\n" + "\n".join(lines) + "\n" + end + after)


if __name__ == "__main__":
    sys.exit(main())
