#!/usr/bin/env python3
"""A translator of Regard beside a PyTorch Transformer (quality) and beside CTranslate2 (speed of decoding).

    regard train translation --data data/debian-en-it/train.tsv --group package --out en-it
    python3 bench/translation.py train en-it --data data/debian-en-it/train.tsv --test data/debian-en-it/unseen.tsv
    python3 bench/translation.py speed en-it --test data/debian-en-it/unseen.tsv

`train` gives PyTorch the tokenizer, sizes, recipe, pairs a batch and number of steps of the model folder, with PyTorch's
own initial weights, and translates the test texts with both models by the same program (CTranslate2, beam 5). `speed`
translates the same texts, tokenization included, with CTranslate2 and with `regard predict`, turn by turn.

Needs: torch, ctranslate2, tokenizers, safetensors, sacrebleu.
"""

import argparse
import csv
import json
import math
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import sacrebleu
from safetensors.numpy import load_file, save_file
from tokenizers import Tokenizer

csv.field_size_limit(1 << 30)
END = "</s>"


def pairs(path):
    """Sources and targets of a table, as Regard reads them."""
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    tidy = lambda text: " ".join(text.split())
    rows = [(tidy(row["source"]), tidy(row["target"])) for row in rows]
    return [row for row in rows if row[0] and row[1]]


class Folder:
    """A model folder of Regard."""

    def __init__(self, path):
        self.path = Path(path)
        self.config = json.loads((self.path / "config.json").read_text())
        self.report = json.loads((self.path / "report.json").read_text())
        self.model = self.config["model"]
        self.tokenizer = Tokenizer.from_file(str(self.path / "tokenizer.json"))
        self.end = self.model["vocabulary"] - 1

    def encode(self, texts, limit):
        encoded = self.tokenizer.encode_batch([" " + text for text in texts], add_special_tokens=False)
        return [one.ids[:limit] or [1] for one in encoded]

    def pieces(self):
        return [self.tokenizer.id_to_token(i) or f"<{i}>" for i in range(self.end)] + [END]


# --- the same model in CTranslate2 -----------------------------------------------------------------------------------


def sinusoidal(length, width):
    position = np.arange(length)[:, None]
    c = np.arange(width)[None, :]
    angle = position / 10_000.0 ** ((c - c % 2) / width)
    return np.where(c % 2 == 0, np.sin(angle), np.cos(angle)).astype(np.float32)


def convert(folder, weights, out):
    """Writes weights under Regard's names as a CTranslate2 model."""
    from ctranslate2.specs import common_spec, transformer_spec

    model = folder.model
    spec = transformer_spec.TransformerSpec.from_config(
        (model["encoder_layers"], model["decoder_layers"]),
        model["heads"],
        pre_norm=True,
        activation=common_spec.Activation.GELU,
    )

    def norm(part, name):
        part.gamma, part.beta = weights[f"{name}.weight"], weights[f"{name}.bias"]

    def linear(part, *names):
        # Regard's weights are [inputs, outputs].
        part.weight = np.ascontiguousarray(np.concatenate([weights[f"{name}.weight"].T for name in names]))
        part.bias = np.concatenate([weights[f"{name}.bias"] for name in names])

    def feed_forward(part, name):
        norm(part.layer_norm, f"{name}.feed_forward_norm")
        linear(part.linear_0, f"{name}.feed_forward.inner")
        linear(part.linear_1, f"{name}.feed_forward.outer")

    def embedded(part):
        part.scale_embeddings = True
        table = part.embeddings[0] if isinstance(part.embeddings, list) else part.embeddings
        table.weight = weights["tokens.weight"]
        part.position_encodings.encodings = sinusoidal(2048, model["width"])

    embedded(spec.encoder)
    embedded(spec.decoder)
    for i, layer in enumerate(spec.encoder.layer):
        name = f"encoder.{i}"
        norm(layer.self_attention.layer_norm, f"{name}.attention_norm")
        linear(layer.self_attention.linear[0], *(f"{name}.attention.{part}" for part in ("query", "key", "value")))
        linear(layer.self_attention.linear[1], f"{name}.attention.output")
        feed_forward(layer.ffn, name)
    for i, layer in enumerate(spec.decoder.layer):
        name = f"decoder.{i}"
        norm(layer.self_attention.layer_norm, f"{name}.self_norm")
        linear(layer.self_attention.linear[0], *(f"{name}.self_attention.{part}" for part in ("query", "key", "value")))
        linear(layer.self_attention.linear[1], f"{name}.self_attention.output")
        norm(layer.attention.layer_norm, f"{name}.source_norm")
        linear(layer.attention.linear[0], f"{name}.source_attention.query")
        linear(layer.attention.linear[1], f"{name}.source_attention.key", f"{name}.source_attention.value")
        linear(layer.attention.linear[2], f"{name}.source_attention.output")
        feed_forward(layer.ffn, name)
    norm(spec.encoder.layer_norm, "encoder_norm")
    norm(spec.decoder.layer_norm, "decoder_norm")
    spec.decoder.projection.weight = weights["tokens.weight"]
    pieces = folder.pieces()
    spec.register_source_vocabulary(pieces)
    spec.register_target_vocabulary(pieces)
    spec.config.bos_token = spec.config.eos_token = spec.config.decoder_start_token = END
    spec.config.unk_token = pieces[1]
    spec.config.add_source_eos = False
    spec.config.layer_norm_epsilon = 1e-5
    spec.validate()
    spec.optimize()
    spec.save(str(out))


class Translator:
    """CTranslate2 with float32 weights and two threads."""

    def __init__(self, folder, weights, threads=2):
        import ctranslate2

        self.folder = folder
        self.place = tempfile.TemporaryDirectory()
        convert(folder, weights, self.place.name)
        self.model = ctranslate2.Translator(
            self.place.name, device="cpu", compute_type="float32", inter_threads=1, intra_threads=threads
        )

    def translate(self, texts, beam=5, batch=32):
        pieces = self.folder.pieces()
        sources = [[pieces[i] for i in ids] for ids in self.folder.encode(texts, self.folder.model["max_source"])]
        results = self.model.translate_batch(
            sources,
            beam_size=beam,
            max_batch_size=batch,
            length_penalty=1.0,
            max_decoding_length=self.folder.model["max_target"],
        )
        ids = {piece: i for i, piece in enumerate(pieces)}
        written = [[ids[piece] for piece in result.hypotheses[0]] for result in results]
        self.tokens = sum(map(len, written))
        return [" ".join(text.split()) for text in self.folder.tokenizer.decode_batch(written)]


# --- a Transformer in PyTorch ----------------------------------------------------------------------------------------


def train(arguments):
    import torch
    from torch import nn
    from torch.nn import functional as F

    torch.manual_seed(arguments.seed)
    torch.set_num_threads(arguments.threads)
    random.seed(arguments.seed)
    folder = Folder(arguments.model)
    sizes = folder.model
    width, heads, end = sizes["width"], sizes["heads"], folder.end

    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            for name in ("query", "key", "value", "output"):
                setattr(self, name, nn.Linear(width, width))

        def forward(self, x, source, mask=None, causal=False):
            split = lambda y: y.unflatten(-1, (heads, -1)).transpose(1, 2)
            q, k, v = split(self.query(x)), split(self.key(source)), split(self.value(source))
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal)
            return self.output(y.transpose(1, 2).flatten(2))

    class FeedForward(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(width, sizes["feed_forward"])
            self.outer = nn.Linear(sizes["feed_forward"], width)

        def forward(self, x):
            return self.outer(F.dropout(F.gelu(self.inner(x)), sizes["dropout"], self.training))

    class Encoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention_norm, self.attention = nn.LayerNorm(width), Attention()
            self.feed_forward_norm, self.feed_forward = nn.LayerNorm(width), FeedForward()

        def forward(self, x, mask):
            y = self.attention_norm(x)
            x = x + F.dropout(self.attention(y, y, mask), sizes["dropout"], self.training)
            return x + F.dropout(self.feed_forward(self.feed_forward_norm(x)), sizes["dropout"], self.training)

    class Decoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.self_norm, self.self_attention = nn.LayerNorm(width), Attention()
            self.source_norm, self.source_attention = nn.LayerNorm(width), Attention()
            self.feed_forward_norm, self.feed_forward = nn.LayerNorm(width), FeedForward()

        def forward(self, x, source, mask):
            drop = lambda y: F.dropout(y, sizes["dropout"], self.training)
            y = self.self_norm(x)
            x = x + drop(self.self_attention(y, y, causal=True))
            x = x + drop(self.source_attention(self.source_norm(x), source, mask))
            return x + drop(self.feed_forward(self.feed_forward_norm(x)))

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.tokens = nn.Embedding(sizes["vocabulary"], width)
            nn.init.normal_(self.tokens.weight, std=width**-0.5)
            self.encoder = nn.ModuleList(Encoder() for _ in range(sizes["encoder_layers"]))
            self.encoder_norm = nn.LayerNorm(width)
            self.decoder = nn.ModuleList(Decoder() for _ in range(sizes["decoder_layers"]))
            self.decoder_norm = nn.LayerNorm(width)
            self.register_buffer("positions", torch.tensor(sinusoidal(1024, width)), persistent=False)

        def embedded(self, ids):
            x = self.tokens(ids) * math.sqrt(width) + self.positions[: ids.shape[1]]
            return F.dropout(x, sizes["dropout"], self.training)

        def loss(self, source, visible, target, wanted):
            mask = visible[:, None, None, :]
            x = self.embedded(source)
            for layer in self.encoder:
                x = layer(x, mask)
            x, h = self.encoder_norm(x), self.embedded(target)
            for layer in self.decoder:
                h = layer(h, x, mask)
            real = wanted >= 0
            logits = F.linear(self.decoder_norm(h[real]), self.tokens.weight)
            return F.cross_entropy(logits, wanted[real], label_smoothing=arguments.label_smoothing)

    texts = pairs(arguments.data)
    held_out = random.sample(range(len(texts)), folder.report["validation_pairs"])
    kept = sorted(set(range(len(texts))) - set(held_out))
    sources = folder.encode([texts[i][0] for i in kept], sizes["max_source"])
    targets = folder.encode([texts[i][1] for i in kept], 1 << 30)
    rows = [(s, t) for s, t in zip(sources, targets) if len(t) <= sizes["max_target"]]
    length = lambda row: max(len(row[0]), len(row[1]) + 1)

    def batches():
        order = random.sample(rows, len(rows))
        found = []
        for at in range(0, len(order), 512 * 32):
            batch = []
            for row in sorted(order[at : at + 512 * 32], key=length):
                if batch and (len(batch) == 512 or (len(batch) + 1) * length(row) > arguments.batch_tokens):
                    found.append(batch)
                    batch = []
                batch.append(row)
            found.append(batch)
        random.shuffle(found)
        return found

    def padded(texts, fill):
        longest = max(map(len, texts))
        return torch.tensor([list(text) + [fill] * (longest - len(text)) for text in texts])

    model = Model()
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters, {len(rows):,} pairs", flush=True)
    decay = [p for p in model.parameters() if p.dim() > 1]
    plain = [p for p in model.parameters() if p.dim() == 1]
    groups = [{"params": decay, "weight_decay": 0.01}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.98), eps=1e-8)
    steps, started, seen = folder.report["training"]["steps"], time.time(), 0
    queue, total, done = [], 0.0, 0
    while done < steps:
        queue = queue or batches()
        batch = queue.pop()
        at = done / steps
        warm = arguments.warmup
        rate = at / warm if at < warm else 0.5 * (1 + math.cos(math.pi * (at - warm) / (1 - warm)))
        for group in optimizer.param_groups:
            group["lr"] = arguments.learning_rate * max(rate, 1e-3 if at < warm else 0.0)
        source = padded([s for s, _ in batch], 0)
        visible = padded([[1] * len(s) for s, _ in batch], 0).bool()
        target = padded([[end, *t] for _, t in batch], 0)
        wanted = padded([[*t, end] for _, t in batch], -1)
        loss = model.loss(source, visible, target, wanted)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        done += 1
        total += loss.item()
        seen += sum(len(s) + len(t) + 1 for s, t in batch)
        if done % 20 == 0:
            seconds = time.time() - started
            left = seconds / done * (steps - done) / 60
            print(f"step {done}/{steps}  loss {total / 20:.3f}  {seen / seconds:,.0f} tokens/s  {left:.0f} min left", flush=True)
            total = 0.0
        if done % 1000 == 0 or done == steps:
            # Regard's weights are [inputs, outputs].
            named = {
                name: np.ascontiguousarray(p.detach().numpy().T if ".weight" in name and p.dim() == 2 and "tokens" not in name else p.detach().numpy())
                for name, p in model.named_parameters()
            }
            save_file(named, str(arguments.out))
    print(f"trained in {time.time() - started:.0f} s")
    compare(folder, arguments)


def compare(folder, arguments):
    """BLEU and chrF of both, written by the same program."""
    test = pairs(arguments.test)
    sources, references = [s for s, _ in test], [t for _, t in test]
    for name, path in [("regard", folder.path / "model.safetensors"), ("pytorch", arguments.out)]:
        written = Translator(folder, load_file(str(path))).translate(sources)
        Path(f"{arguments.out}.{name}.txt").write_text("\n".join(written) + "\n", encoding="utf-8")
        bleu, chrf = sacrebleu.corpus_bleu(written, [references]), sacrebleu.corpus_chrf(written, [references])
        print(f"{name:8} BLEU {bleu.score:.2f}  chrF {chrf.score:.2f}  ({len(test)} pairs)", flush=True)


# --- speed of decoding -----------------------------------------------------------------------------------------------


def speed(arguments):
    folder = Folder(arguments.model)
    texts = [s for s, _ in pairs(arguments.test)][: arguments.texts]
    with tempfile.TemporaryDirectory() as place:
        source = Path(place) / "source.txt"
        source.write_text("\n".join(texts) + "\n", encoding="utf-8")
        theirs = Translator(folder, load_file(str(folder.path / "model.safetensors")))
        theirs.translate(texts[:32])
        command = [arguments.regard, "predict", str(folder.path), "--input", str(source), "--beam", str(arguments.beam)]
        first = Path(place) / "one.txt"
        first.write_text(texts[0] + "\n", encoding="utf-8")
        start = [*command[:4], str(first), *command[5:]]
        times = {"ctranslate2": [], "regard": []}
        for _ in range(arguments.rounds):
            began = time.perf_counter()
            written = theirs.translate(texts, arguments.beam, arguments.batch)
            times["ctranslate2"].append(time.perf_counter() - began)
            began = time.perf_counter()
            subprocess.run(start, check=True, capture_output=True)
            opening = time.perf_counter() - began
            began = time.perf_counter()
            ours = subprocess.run(command, check=True, capture_output=True).stdout.decode().splitlines()
            times["regard"].append(time.perf_counter() - began - opening)
        same = sum(a == b for a, b in zip(ours, written))
        tokens = {
            "ctranslate2": sum(map(len, folder.encode(written, 1 << 30))),
            "regard": sum(map(len, folder.encode(ours, 1 << 30))),
        }
        middle = {name: statistics.median(all) for name, all in times.items()}
        for name in times:
            print(f"{name:12} {middle[name]:7.2f} s  {tokens[name] / middle[name]:8,.0f} tokens/s")
        print(f"ratio {middle['ctranslate2'] / middle['regard']:.2f}; {same} of {len(texts)} texts are the same")
        print(f"peak memory: regard {resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024:.0f} MiB")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    one = commands.add_parser("train", help="train PyTorch with the folder's recipe, and score both")
    one.add_argument("model")
    one.add_argument("--data", required=True)
    one.add_argument("--test", required=True)
    one.add_argument("--out", default="pytorch.safetensors")
    one.add_argument("--threads", type=int, default=2)
    one.add_argument("--seed", type=int, default=0)
    one.add_argument("--batch-tokens", type=int, default=3000)
    one.add_argument("--learning-rate", type=float, default=2e-3)
    one.add_argument("--warmup", type=float, default=0.05)
    one.add_argument("--label-smoothing", type=float, default=0.1)
    one.set_defaults(run=train)
    two = commands.add_parser("speed", help="decoding beside CTranslate2, turn by turn")
    two.add_argument("model")
    two.add_argument("--test", required=True)
    two.add_argument("--regard", default="target/release/regard")
    two.add_argument("--texts", type=int, default=1000)
    two.add_argument("--beam", type=int, default=5)
    two.add_argument("--batch", type=int, default=32)
    two.add_argument("--rounds", type=int, default=5)
    two.set_defaults(run=speed)
    arguments = parser.parse_args()
    arguments.run(arguments)


if __name__ == "__main__":
    sys.exit(main())
