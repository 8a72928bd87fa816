"""The models of `bench/training.py` in PyTorch: reads a line, answers with a line, as `training_step.rs` does.

    python3 bench/training_torch.py CASE PARAMETERS THREADS PRECISION
"""

import json
import math
import sys
import time

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

VOCABULARY, CLASSES, RATE = 8000, 10, 1e-4


def read(path):
    """A safetensors file of f32: eight bytes of length, JSON, numbers."""
    with open(path, "rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        data = file.read()
    place = {name: facts for name, facts in header.items() if name != "__metadata__"}
    values = lambda at: np.frombuffer(data[at["data_offsets"][0] : at["data_offsets"][1]], "<f4").reshape(at["shape"])
    return {name: torch.from_numpy(values(at).copy()) for name, at in place.items()}


def mixed(start, count, below):
    """The numbers of `mixed` in `training_step.rs`."""
    at = np.arange(start, start + count, dtype=np.uint64)
    return ((at * np.uint64(2654435761)) % np.uint64(1 << 32) >> np.uint64(8)) % np.uint64(below)


def ids(start, rows, length, below=VOCABULARY):
    return torch.from_numpy(mixed(start, rows * length, below).astype(np.int64)).view(rows, length)


def linear(given, *names):
    """One linear map; several of the same input lie side by side, as PyTorch does it fastest."""
    weights = torch.cat([given[f"{name}.weight"].T for name in names])
    made = nn.Linear(weights.shape[1], weights.shape[0])
    made.weight.data = weights.contiguous()
    made.bias.data = torch.cat([given[f"{name}.bias"] for name in names])
    return made


def norm(given, name):
    made = nn.LayerNorm(len(given[f"{name}.weight"]))
    made.weight.data, made.bias.data = given[f"{name}.weight"], given[f"{name}.bias"]
    return made


class Rotary(nn.Module):
    def __init__(self, sequence, width):
        super().__init__()
        half = width // 2
        angles = torch.arange(sequence)[:, None].double() * 10000.0 ** (-torch.arange(half).double() / half)
        self.cosines, self.sines = (torch.cat([part, part], 1).float() for part in (angles.cos(), angles.sin()))

    def forward(self, x):
        first, second = x.chunk(2, -1)
        return x * self.cosines + torch.cat([-second, first], -1) * self.sines


class Attention(nn.Module):
    def __init__(self, given, name, heads, causal=False, crossed=False, rotary=None):
        super().__init__()
        self.heads, self.causal, self.rotary = heads, causal, rotary
        parts = [f"{name}.{part}" for part in ("query", "key", "value")]
        groups = [parts[:1], parts[1:]] if crossed else [parts]
        self.projections = nn.ModuleList(linear(given, *group) for group in groups)
        self.output = linear(given, f"{name}.output")

    def split(self, x, count):
        return x.unflatten(-1, (count, self.heads, -1)).permute(2, 0, 3, 1, 4)

    def forward(self, x, source=None):
        if source is None:
            q, k, v = self.split(self.projections[0](x), 3)
        else:
            (q,), (k, v) = self.split(self.projections[0](x), 1), self.split(self.projections[1](source), 2)
        if self.rotary is not None:
            q, k = self.rotary(q), self.rotary(k)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        return self.output(mixed.transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    def __init__(self, given, name):
        super().__init__()
        self.inner, self.outer = linear(given, f"{name}.inner"), linear(given, f"{name}.outer")

    def forward(self, x):
        return self.outer(F.gelu(self.inner(x)))


class Encoder(nn.Module):
    def __init__(self, given, name, heads, rotary=None):
        super().__init__()
        self.norms = nn.ModuleList(norm(given, f"{name}.{part}_norm") for part in ("attention", "feed_forward"))
        self.attention = Attention(given, f"{name}.attention", heads, rotary=rotary)
        self.feed_forward = FeedForward(given, f"{name}.feed_forward")

    def forward(self, x):
        x = x + self.attention(self.norms[0](x))
        return x + self.feed_forward(self.norms[1](x))


class Decoder(nn.Module):
    def __init__(self, given, name, heads):
        super().__init__()
        self.norms = nn.ModuleList(norm(given, f"{name}.{part}_norm") for part in ("self", "source", "feed_forward"))
        self.self_attention = Attention(given, f"{name}.self_attention", heads, causal=True)
        self.source_attention = Attention(given, f"{name}.source_attention", heads, crossed=True)
        self.feed_forward = FeedForward(given, f"{name}.feed_forward")

    def forward(self, x, source):
        x = x + self.self_attention(self.norms[0](x))
        x = x + self.source_attention(self.norms[1](x), source)
        return x + self.feed_forward(self.norms[2](x))


def encoders(given, heads, rotary=None):
    count = 1 + max(int(name.split(".")[1]) for name in given if name.startswith("encoder."))
    return nn.ModuleList(Encoder(given, f"encoder.{at}", heads, rotary) for at in range(count))


def parameter(given, name):
    return nn.Parameter(given[name])


class Case(nn.Module):
    """What all cases share: logits and classes."""

    smoothing = 0.0


    def classes(self, rows):
        return torch.from_numpy(mixed(0, rows * CLASSES, CLASSES)[:rows].astype(np.int64))


class Classifier(Case):
    rows = 32

    def __init__(self, given):
        super().__init__()
        self.tokens, self.encoder = parameter(given, "tokens.weight"), encoders(given, 4, Rotary(128, 64))
        self.query, self.mix = parameter(given, "pooling.attention.queries"), parameter(given, "pooling.mix")
        self.norm, self.output = norm(given, "norm"), linear(given, "output")

    def inputs(self, rows):
        return (ids(0, rows, 128),), self.classes(rows)

    def forward(self, texts):
        x = F.embedding(texts, self.tokens)
        for layer in self.encoder:
            x = layer(x)
        weights = (32.0 * (x @ self.query.T)).softmax(1).transpose(1, 2)
        return self.output(self.norm(((weights @ x) * self.mix).sum(1)))


class Translator(Case):
    rows, smoothing = 64, 0.1

    def __init__(self, given):
        super().__init__()
        self.tokens, self.encoder = parameter(given, "tokens.weight"), encoders(given, 4)
        self.decoder = nn.ModuleList(Decoder(given, f"decoder.{at}", 4) for at in range(3))
        self.encoder_norm, self.decoder_norm = norm(given, "encoder_norm"), norm(given, "decoder_norm")
        width = self.tokens.shape[1]
        pairs = torch.arange(0, width, 2).double()
        angles = torch.arange(64)[:, None].double() / 10000.0 ** (pairs / width)
        self.positions = torch.stack([angles.sin(), angles.cos()], -1).flatten(1).float()

    def inputs(self, rows):
        targets, end = ids(1 << 20, rows, 63, VOCABULARY - 1), torch.full((rows, 1), VOCABULARY - 1)
        return (ids(0, rows, 64, VOCABULARY - 1), torch.cat([end, targets], 1)), torch.cat([targets, end], 1).flatten()

    def embedded(self, texts):
        return F.embedding(texts, self.tokens) * math.sqrt(self.tokens.shape[1]) + self.positions

    def forward(self, sources, targets):
        x, h = self.embedded(sources), self.embedded(targets)
        for layer in self.encoder:
            x = layer(x)
        x = self.encoder_norm(x)
        for layer in self.decoder:
            h = layer(h, x)
        return F.linear(self.decoder_norm(h).flatten(0, 1), self.tokens)


class Vision(Case):
    rows = 128

    def inputs(self, rows):
        height, width, channels = self.sides
        pixels = mixed(0, rows * height * width * channels, 1 << 16).astype(np.float32) / 32768.0 - 1.0
        pictures = torch.from_numpy(pixels).view(rows, height, width, channels)
        return (pictures.permute(0, 3, 1, 2).contiguous(),), self.classes(rows)

    def filters(self, given, at, size):
        rows = given[f"patches.weights.{at}"]
        return nn.Parameter(rows.view(size, size, -1, rows.shape[1]).permute(3, 2, 0, 1).contiguous())


class Compact(Vision):
    sides = (28, 28, 1)

    def __init__(self, given):
        super().__init__()
        self.convolutions = nn.ParameterList(self.filters(given, at, 3) for at in range(2))
        self.positions, self.encoder = parameter(given, "positions.weight"), encoders(given, 4)
        self.norm, self.query, self.output = norm(given, "norm"), parameter(given, "pooling.queries"), linear(given, "output")

    def forward(self, x):
        for filters in self.convolutions:
            x = F.max_pool2d(F.relu(F.conv2d(x, filters, padding=1)), 3, 2, 1)
        x = x.flatten(2).transpose(1, 2) + self.positions
        for layer in self.encoder:
            x = layer(x)
        x = self.norm(x)
        return self.output((x @ self.query.T).softmax(1).transpose(1, 2).matmul(x).squeeze(1))


class Patches(Vision):
    sides = (32, 32, 3)

    def __init__(self, given):
        super().__init__()
        self.cut, self.token = self.filters(given, 0, 4), parameter(given, "class_token")
        self.positions, self.encoder = parameter(given, "positions.weight"), encoders(given, 3)
        self.norm, self.output = norm(given, "norm"), linear(given, "output")

    def forward(self, x):
        x = F.conv2d(x, self.cut, stride=4).flatten(2).transpose(1, 2) + self.positions
        x = torch.cat([self.token.expand(len(x), 1, -1), x], 1)
        for layer in self.encoder:
            x = layer(x)
        return self.output(self.norm(x)[:, 0])


CASES = {"classifier": Classifier, "translator": Translator, "compact": Compact, "patches": Patches}


def main():
    case, path, threads, precision = sys.argv[1:]
    products = lambda: torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16")
    torch.set_num_threads(int(threads))
    model = CASES[case](read(path))
    decays = lambda wanted: [p for p in model.parameters() if (p.dim() > 1) == wanted]
    groups = [{"params": decays(True), "weight_decay": 0.01}, {"params": decays(False), "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=RATE, betas=(0.9, 0.98), eps=1e-8, fused=True)
    inputs, wanted = model.inputs(model.rows)
    print("ready", flush=True)
    for line in sys.stdin:
        words = line.split()
        started = time.perf_counter()
        if words == ["step"]:
            with products():
                loss = F.cross_entropy(model(*inputs), wanted, label_smoothing=model.smoothing)
            value = loss.item()
            forward = time.perf_counter()
            loss.backward()
            backward = time.perf_counter()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            end = time.perf_counter()
            print(forward - started, backward - forward, end - backward, value, flush=True)
        elif words[:1] == ["answer"]:
            asked, _ = model.inputs(int(words[1]))
            with torch.inference_mode(), products():
                started = time.perf_counter()
                square = model(*asked).float().square().mean().item()
                print(time.perf_counter() - started, square, flush=True)
        else:
            sys.exit(f"cannot answer `{line}`")


if __name__ == "__main__":
    main()
