#!/usr/bin/env python3
"""An image classifier of Regard beside the same model and recipe in PyTorch.

    cargo build --release --locked --workspace --bins --examples
    cargo xtask data fashion-mnist
    target/release/regard train vision --data data/fashion-mnist --out model --no-rivals
    python3 bench/vision.py train model --data data/fashion-mnist     # accuracy after the same recipe
    python3 bench/vision.py epoch model --data data/fashion-mnist     # seconds an epoch, turn by turn
    python3 bench/vision.py answer model --data data/fashion-mnist    # seconds an answer, batch 1 and 64, turn by turn

`train` gives PyTorch the sizes, pictures, augmentation (moves and mirror images), optimizer, schedule and number of epochs of
the model folder, with PyTorch's own random numbers (the outputs of both parts of a layer begin at zero, as ours), and says
whether its accuracy lies in the interval of the folder's. `answer` runs Regard's weights in both and compares their accuracy
first. The recipe's numbers are the defaults of `regard train vision`; name here what was set there. For the digits of 8×8,
whose mirror images are none, that is `--no-flip`. Both get as many threads as `--threads` says.

Needs: torch, numpy, safetensors.
"""

import argparse
import json
import math
import os
import re
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from optimizer import Optimizer, share_of_rate
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F

ROOT = Path(__file__).resolve().parent.parent


def idx(path):
    """An IDX file of bytes."""
    data = path.read_bytes()
    axes = data[3]
    shape = np.frombuffer(data, ">u4", axes, 4)
    return torch.from_numpy(np.frombuffer(data, np.uint8, offset=4 + 4 * axes).reshape(tuple(shape)).copy())


class Encoder(nn.Module):
    def __init__(self, sizes, skipped):
        super().__init__()
        width, self.heads, self.skipped = sizes["width"], sizes["heads"], skipped
        self.attention_norm, self.feed_forward_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.projection, self.output = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.inner, self.outer = nn.Linear(width, sizes["feed_forward"]), nn.Linear(sizes["feed_forward"], width)
        for linear in (self.output, self.outer):
            nn.init.zeros_(linear.weight)
        for linear in (self.projection, self.output, self.inner, self.outer):
            nn.init.zeros_(linear.bias)

    def joined(self, x, part):
        if self.training and self.skipped:
            kept = torch.rand(len(x), 1, 1) >= self.skipped
            part = part * kept / (1 - self.skipped)
        return x + part

    def forward(self, x):
        q, k, v = self.projection(self.attention_norm(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x = self.joined(x, self.output(mixed))
        return self.joined(x, self.outer(F.gelu(self.inner(self.feed_forward_norm(x)))))


class Model(nn.Module):
    """The compact transformer of the folder's `config.json`."""

    def __init__(self, sizes):
        super().__init__()
        layers, width, channels = sizes["cut"]["convolution"]["layers"], sizes["width"], sizes["channels"]
        assert sizes["summary"] == "attention" and sizes["positions"] == "learned" and sizes["dropout"] == 0
        self.convolutions, rows, columns = nn.ModuleList(), sizes["picture_height"], sizes["picture_width"]
        for layer in range(layers):
            outputs = max(width >> (layers - 1 - layer), 1)
            self.convolutions.append(nn.Conv2d(channels, outputs, 3, padding=1, bias=False))
            nn.init.normal_(self.convolutions[-1].weight, std=math.sqrt(2 / (9 * channels)))
            channels, rows, columns = outputs, (rows + 1) // 2, (columns + 1) // 2
        self.positions = nn.Parameter(0.02 * torch.randn(rows * columns, width))
        skipped = lambda layer: sizes["stochastic_depth"] * layer / max(sizes["layers"] - 1, 1)
        self.encoder = nn.ModuleList(Encoder(sizes, skipped(layer)) for layer in range(sizes["layers"]))
        self.norm, self.query = nn.LayerNorm(width), nn.Parameter(0.02 * torch.randn(1, width))
        self.classes = nn.Linear(width, sizes["classes"])
        nn.init.normal_(self.classes.weight, std=0.02)
        nn.init.zeros_(self.classes.bias)

    def forward(self, x):
        for convolution in self.convolutions:
            x = F.max_pool2d(F.relu(convolution(x)), 3, 2, 1)
        x = x.flatten(2).transpose(1, 2) + self.positions
        for layer in self.encoder:
            x = layer(x)
        x = self.norm(x)
        weights = (x @ self.query[0]).softmax(-1)
        return self.classes((weights[:, :, None] * x).sum(1))

    def take(self, weights):
        """Regard's weights: matrices are [inputs, outputs], a convolution's rows go by place, then channel."""
        set_to = lambda parameter, value: parameter.data.copy_(value)
        for at, convolution in enumerate(self.convolutions):
            outputs, inputs = convolution.weight.shape[:2]
            set_to(convolution.weight, weights[f"patches.weights.{at}"].view(3, 3, inputs, outputs).permute(3, 2, 0, 1))
        for at, layer in enumerate(self.encoder):
            name = lambda one: f"encoder.{at}.{one}"
            for norm in ("attention_norm", "feed_forward_norm"):
                set_to(getattr(layer, norm).weight, weights[name(f"{norm}.weight")])
                set_to(getattr(layer, norm).bias, weights[name(f"{norm}.bias")])
            three = [name(f"attention.{one}") for one in ("query", "key", "value")]
            set_to(layer.projection.weight, torch.cat([weights[f"{one}.weight"].T for one in three]))
            set_to(layer.projection.bias, torch.cat([weights[f"{one}.bias"] for one in three]))
            for linear, path in ((layer.output, "attention.output"), (layer.inner, "feed_forward.inner"), (layer.outer, "feed_forward.outer")):
                set_to(linear.weight, weights[name(f"{path}.weight")].T)
                set_to(linear.bias, weights[name(f"{path}.bias")])
        set_to(self.positions, weights["positions.weight"])
        set_to(self.norm.weight, weights["norm.weight"])
        set_to(self.norm.bias, weights["norm.bias"])
        set_to(self.query, weights["pooling.queries"])
        set_to(self.classes.weight, weights["output.weight"].T)
        set_to(self.classes.bias, weights["output.bias"])


class Folder:
    """A model folder of Regard and the pictures it was trained on."""

    def __init__(self, arguments):
        self.path, self.data = Path(arguments.model), arguments.data
        config = json.loads((self.path / "config.json").read_text())
        self.sizes, self.report = config["model"], json.loads((self.path / "report.json").read_text())
        # The files number the labels in the order of labels.txt, the model in alphabetical order.
        answers = json.loads((self.path / "labels.json").read_text())
        names = arguments.data / "labels.txt"
        names = names.read_text().split("\n") if names.exists() else map(str, range(len(answers)))
        self.answers = torch.tensor([answers.index(name) for name in names if name])
        self.mean, self.deviation = config["pixels"]["mean"][0], config["pixels"]["deviation"][0]
        assert self.sizes["channels"] == 1, "grey pictures in IDX files"
        if arguments.shift is None:
            arguments.shift = -(-min(self.sizes["picture_height"], self.sizes["picture_width"]) // 14)

    def part(self, name):
        """Pictures, and for each the place of its label among the model's answers."""
        pictures, labels = (idx(self.data / f"{name}-{kind}-ubyte") for kind in ("images-idx3", "labels-idx1"))
        return pictures, self.answers[labels.long()]

    def numbers(self, pictures):
        return (pictures[:, None].float() / 255 - self.mean) / self.deviation


def moved(pictures, shift, mirrored):
    """Each picture moved by at most `shift` pixels, its edge repeated, and half of them mirrored."""
    count, side = len(pictures), pictures.shape[1:]
    move = torch.randint(-shift, shift + 1, (count, 2))
    rows = (torch.arange(side[0]) - move[:, :1]).clamp(0, side[0] - 1)
    columns = (torch.arange(side[1]) - move[:, 1:]).clamp(0, side[1] - 1)
    if mirrored:
        turned = torch.rand(count, 1) < 0.5
        columns = torch.where(turned, columns.flip(1), columns)
    return pictures[torch.arange(count)[:, None, None], rows[:, :, None], columns[:, None, :]]


def optimizer_of(model):
    """Muon for the matrices of the layers and every convolution but the first, AdamW for the rest."""
    inside = lambda name: name.startswith("encoder.") or name.startswith("convolutions.") and ".0." not in name
    return Optimizer(model, inside, 0.05, parts=lambda name: 3 if "projection" in name else 1)


def epoch(model, optimizer, folder, pictures, labels, arguments, done, epochs, steps=None):
    """One pass; how many pictures were seen."""
    model.train()
    order, seen = torch.randperm(len(pictures)), 0
    batches = order.split(arguments.batch_rows)
    for at, rows in enumerate(batches[:steps]):
        rate = share_of_rate((done + at / len(batches)) / epochs, 0.05)
        x = folder.numbers(moved(pictures[rows], arguments.shift, arguments.flip))
        loss = F.cross_entropy(model(x), labels[rows], label_smoothing=0.1)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step(arguments.learning_rate * rate)
        seen += len(rows)
    return seen


@torch.no_grad()
def accuracy(model, folder, pictures, labels):
    model.eval()
    answers = torch.cat([model(folder.numbers(rows)).argmax(1) for rows in pictures.split(128)])
    return (answers == labels).float().mean().item()


def train(folder, arguments):
    pictures, labels = folder.part("train")
    order = torch.randperm(len(pictures))
    held_out = folder.report["data"]["validation_rows"]
    validation, kept = order[:held_out], order[held_out:]
    model = Model(folder.sizes)
    optimizer = optimizer_of(model)
    # A run that stopped early had a schedule for more epochs than it did.
    training = folder.report["training"]
    planned = re.search(r"at most (\d+) epochs", " ".join(training["notes"]))
    epochs = int(planned[1]) if planned and "(--minutes)" not in " ".join(training["notes"]) else round(training["epochs"])
    started, best, best_at, saved = time.time(), -1.0, 0, None
    for done in range(epochs):
        epoch(model, optimizer, folder, pictures[kept], labels[kept], arguments, done, epochs)
        score = accuracy(model, folder, pictures[validation], labels[validation])
        print(f"epoch {done + 1} of {epochs}  validation {score:.4f}  {time.time() - started:.0f} s", flush=True)
        if score > best:
            best, best_at, saved = score, done, {name: value.clone() for name, value in model.state_dict().items()}
        elif done - best_at >= max(-(-epochs // 3), 5):
            break
    model.load_state_dict(saved)
    test = folder.part("t10k")
    share, ours = accuracy(model, folder, *test), folder.report["scores"]["accuracy"]
    spread = 1.96 * math.sqrt(share * (1 - share) / len(test[0]))
    print(f"PyTorch  {share:.4f} [{share - spread:.4f}, {share + spread:.4f}]  {time.time() - started:.0f} s")
    print(f"Regard   {ours['value']:.4f} [{ours['low']:.4f}, {ours['high']:.4f}]  {folder.report['training']['seconds']:.0f} s")
    print(f"PyTorch is {'within' if ours['low'] <= share <= ours['high'] else 'outside of'} the interval of Regard")


def per_epoch(folder, arguments):
    """Both over as many steps, in turn, without their first ones; ours are counted by its progress."""
    pictures, labels = folder.part("train")
    rows = folder.report["data"]["train_rows"]
    rates = {"PyTorch": [], "Regard": []}
    threads = {**os.environ, "RAYON_NUM_THREADS": str(arguments.threads)}
    for _ in range(arguments.rounds):
        model = Model(folder.sizes)
        optimizer = optimizer_of(model)
        epoch(model, optimizer, folder, pictures, labels, arguments, 0, 10, steps=5)
        started = time.time()
        seen = epoch(model, optimizer, folder, pictures, labels, arguments, 0, 10, steps=arguments.steps)
        rates["PyTorch"].append(seen / (time.time() - started))
        with tempfile.TemporaryDirectory() as place:
            command = [ROOT / "target/release/regard", "train", "vision", "--data", arguments.data, "--out", f"{place}/model", "--no-rivals"]
            command += ["--set", f"batch_rows={arguments.batch_rows}", "--set", f"flip={str(arguments.flip).lower()}"]
            process = subprocess.Popen(list(map(str, command)), stderr=subprocess.PIPE, text=True, env=threads)
            first = last = None
            for line in process.stderr:
                found = re.search(r"step ([\d,]+) of ", line)
                step = int(found[1].replace(",", "")) if found else 0
                if step >= 5:
                    last = step, time.time()
                    first = first or last
                if first and step >= first[0] + arguments.steps:
                    break
            process.terminate()
            process.communicate()
            if last == first:
                raise SystemExit("`regard train vision` ended before it said how fast it was")
            rates["Regard"].append((last[0] - first[0]) * arguments.batch_rows / (last[1] - first[1]))
        print({name: round(values[-1], 1) for name, values in rates.items()}, flush=True)
    median = {name: statistics.median(values) for name, values in rates.items()}
    for name, rate in median.items():
        print(f"{name:8} {rate:7.1f} pictures/s  {rows / rate:6.1f} s an epoch of {rows:,}")
    print(f"ratio PyTorch's time / Regard's: {median['Regard'] / median['PyTorch']:.2f}")


def answer(folder, arguments):
    pictures, labels = folder.part("t10k")
    threads = {**os.environ, "RAYON_NUM_THREADS": str(arguments.threads)}
    model = Model(folder.sizes)
    model.take(load_file(folder.path / "model.safetensors"))
    share = accuracy(model, folder, pictures, labels)
    ours = folder.report["scores"]["accuracy"]["value"]
    print(f"the same weights: PyTorch {share:.4f}, Regard {ours:.4f}")
    if abs(share - ours) > 3e-4:
        raise SystemExit("that is not the same model")
    model.eval()
    with tempfile.NamedTemporaryFile() as file, torch.inference_mode():
        Path(file.name).write_bytes(pictures[:1024].numpy().tobytes())
        for batch in (1, 64):
            times = {"PyTorch": [], "Regard": []}
            for _ in range(arguments.rounds):
                seconds = []
                for at in range(arguments.answers + 3):
                    rows = pictures[at * batch % 960 :][:batch]
                    started = time.perf_counter()
                    model(folder.numbers(rows)).softmax(1).numpy()
                    seconds.append(time.perf_counter() - started)
                times["PyTorch"].append(statistics.median(seconds[3:]))
                command = [ROOT / "target/release/examples/picture_speed", folder.path, file.name, batch, arguments.answers]
                done = subprocess.run(list(map(str, command)), check=True, capture_output=True, text=True, env=threads)
                times["Regard"].append(float(done.stdout))
            median = {name: 1e3 * statistics.median(values) for name, values in times.items()}
            print(f"batch {batch:2}: PyTorch {median['PyTorch']:.3f} ms, Regard {median['Regard']:.3f} ms, ratio {median['PyTorch'] / median['Regard']:.2f}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["train", "epoch", "answer"])
    parser.add_argument("model")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--batch-rows", type=int, default=64)
    parser.add_argument("--learning-rate", type=float, default=3e-3)
    parser.add_argument("--shift", type=int, help="pixels of a move at most [default: a 14th of the shorter side]")
    parser.add_argument("--flip", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--answers", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.manual_seed(arguments.seed)
    torch.set_num_threads(arguments.threads)
    what = {"train": train, "epoch": per_epoch, "answer": answer}[arguments.what]
    what(Folder(arguments), arguments)


if __name__ == "__main__":
    main()
