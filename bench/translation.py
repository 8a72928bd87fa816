#!/usr/bin/env python3
"""A translator of Regard beside a PyTorch Transformer (quality) and beside CTranslate2 (speed of decoding).

    regard train translation --data data/debian-en-it/train.tsv --group package --out en-it --set epochs=2
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
import random
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
        if self.model.get("source_vocabulary"):
            sys.exit(f"{path} has a vocabulary for each side; this script compares models with one for both")
        self.tokenizer = Tokenizer.from_file(str(self.path / "tokenizer.json"))
        self.end = self.model["vocabulary"] - 1

    def encode(self, texts, limit):
        encoded = self.tokenizer.encode_batch([" " + text for text in texts], add_special_tokens=False)
        return [one.ids[:limit] or [1] for one in encoded]

    def pieces(self):
        return [self.tokenizer.id_to_token(i) or f"<{i}>" for i in range(self.end)] + [END]


# --- the same model in CTranslate2 -----------------------------------------------------------------------------------


def convert(folder, weights, out):
    """Writes weights under Regard's names as a CTranslate2 model."""
    from ctranslate2.specs import common_spec, transformer_spec
    from transformer import sinusoidal

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

    def __init__(self, folder, weights, threads=2, place=None):
        import ctranslate2

        self.folder = folder
        if place is None:
            self.place = tempfile.TemporaryDirectory()
            place = self.place.name
            convert(folder, weights, place)
        self.model = ctranslate2.Translator(
            place, device="cpu", compute_type="float32", inter_threads=1, intra_threads=threads
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
    from transformer import Transformer, batches, optimizer_of, step

    torch.manual_seed(arguments.seed)
    torch.set_num_threads(arguments.threads)
    draw = random.Random(arguments.seed)
    folder = Folder(arguments.model)
    sizes = folder.model
    texts = pairs(arguments.data)
    held_out = set(draw.sample(range(len(texts)), folder.report["validation_pairs"]))
    kept = [text for at, text in enumerate(texts) if at not in held_out]
    sources = folder.encode([source for source, _ in kept], sizes["max_source"])
    targets = folder.encode([target for _, target in kept], 1 << 30)
    rows = [(s, t) for s, t in zip(sources, targets) if len(t) <= sizes["max_target"]]
    model = Transformer(sizes)
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters, {len(rows):,} pairs", flush=True)
    optimizer = optimizer_of(model, arguments.optimizer == "muon")
    steps, started, seen = folder.report["training"]["steps"], time.time(), 0
    queue, total = [], 0.0
    for done in range(steps):
        queue = queue or batches(rows, arguments.batch_tokens, draw)
        batch = queue.pop()
        total += step(
            model, optimizer, batch, folder.end, done / steps,
            arguments.learning_rate, arguments.warmup, arguments.label_smoothing,
        )
        seen += sum(len(s) + len(t) + 1 for s, t in batch)
        if (done + 1) % 20 == 0:
            seconds = time.time() - started
            left = seconds / (done + 1) * (steps - done - 1) / 60
            print(f"step {done + 1}/{steps}  loss {total / 20:.3f}  {seen / seconds:,.0f} tokens/s  {left:.0f} min left", flush=True)
            total = 0.0
        if (done + 1) % 500 == 0 or done + 1 == steps:
            # Regard's weights are [inputs, outputs].
            turned = lambda name, p: p.T if ".weight" in name and p.ndim == 2 and "tokens" not in name else p
            named = model.named_parameters()
            save_file({name: np.ascontiguousarray(turned(name, p.detach().numpy())) for name, p in named}, str(arguments.out))
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
        source, first = Path(place) / "source.txt", Path(place) / "one.txt"
        source.write_text("\n".join(texts) + "\n", encoding="utf-8")
        first.write_text(texts[0] + "\n", encoding="utf-8")
        theirs = Translator(folder, load_file(str(folder.path / "model.safetensors")))
        theirs.translate(texts[:32])
        regard = lambda file: [arguments.regard, "predict", str(folder.path), "--input", str(file), "--beam", str(arguments.beam)]
        times = {"ctranslate2": [], "regard": []}
        for _ in range(arguments.rounds):
            began = time.perf_counter()
            written = theirs.translate(texts, arguments.beam, arguments.batch)
            times["ctranslate2"].append(time.perf_counter() - began)
            # What opening the model takes is not counted, as it is not for CTranslate2.
            opening, _, _ = run(regard(first))
            whole, ours, memory = run(regard(source))
            times["regard"].append(whole - opening)
        same = sum(a == b for a, b in zip(ours, written))
        tokens = {
            "ctranslate2": sum(map(len, folder.encode(written, 1 << 30))),
            "regard": sum(map(len, folder.encode(ours, 1 << 30))),
        }
        middle = {name: statistics.median(all) for name, all in times.items()}
        for name in times:
            print(f"{name:12} {middle[name]:7.2f} s  {tokens[name] / middle[name]:8,.0f} tokens/s")
        ratio = tokens["regard"] / middle["regard"] / (tokens["ctranslate2"] / middle["ctranslate2"])
        print(f"tokens a second, ours over theirs: {ratio:.2f}; {same} of {len(texts)} texts are the same")
        itself = [sys.executable, __file__, "peak", arguments.model, theirs.place.name, str(source)]
        _, peaks, _ = run([*itself, "--beam", str(arguments.beam), "--batch", str(arguments.batch)])
        print(f"peak memory: regard {memory:.0f} MiB; ctranslate2 {peaks[-1]}")


def high_water(process="self"):
    """Most memory that a process had at a time, in MiB. Its `ru_maxrss` would also hold what its parent had."""
    status = Path(f"/proc/{process}/status").read_text()
    return next((int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmHWM")), 0)


def run(command):
    """Seconds, lines and peak memory in MiB of a program."""
    memory = 0
    with tempfile.TemporaryFile() as out:
        began = time.perf_counter()
        program = subprocess.Popen(command, stdout=out, stderr=subprocess.DEVNULL)
        while program.poll() is None:
            memory = max(memory, high_water(program.pid))
            time.sleep(0.02)
        seconds = time.perf_counter() - began
        if program.returncode:
            sys.exit(f"{command} ended with {program.returncode}")
        out.seek(0)
        return seconds, out.read().decode().splitlines(), memory


def peak(arguments):
    """The memory of CTranslate2 alone: a process that opens the converted model and translates."""
    import ctranslate2  # noqa: F401

    texts = Path(arguments.source).read_text(encoding="utf-8").splitlines()
    folder = Folder(arguments.model)
    folder.encode(texts[:1], 1)
    before = high_water()
    Translator(folder, None, place=arguments.place).translate(texts, arguments.beam, arguments.batch)
    print(f"{high_water():.0f} MiB, of which Python and its modules {before:.0f}")


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
    one.add_argument("--batch-tokens", type=int, default=1000)
    one.add_argument("--optimizer", choices=["adamw", "muon"], default="muon")
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
    three = commands.add_parser("peak", help="what `speed` runs to measure CTranslate2's memory")
    for name in ("model", "place", "source"):
        three.add_argument(name)
    three.add_argument("--beam", type=int, default=5)
    three.add_argument("--batch", type=int, default=32)
    three.set_defaults(run=peak)
    arguments = parser.parse_args()
    arguments.run(arguments)


if __name__ == "__main__":
    sys.exit(main())
