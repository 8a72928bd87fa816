#!/usr/bin/env python3
"""Does a pointer (copy) mechanism help a summarizer that writes pieces of words?

    cargo xtask data debian-synopsis
    python3 bench/pointer.py

The same small Transformer in PyTorch with and without one, the same initial weights, batches and steps, on a part of
Debian's descriptions and synopses; ROUGE of held-out ones of other source packages, written greedily, after every epoch.

Needs: torch, tokenizers, rouge-score.
"""

import argparse
import csv
import random
import time

import torch
from rouge_score import rouge_scorer
from tokenizers import ByteLevelBPETokenizer
from transformer import Transformer, batches, optimizer_of, padded, step

csv.field_size_limit(1 << 30)


def read(path):
    with open(path, newline="", encoding="utf-8") as file:
        return [(row["source"], row["target"], row["package"]) for row in csv.DictReader(file, delimiter="\t")]


@torch.no_grad()
def write(model, sources, end, longest=24):
    """The likeliest token, again and again."""
    written = []
    for at in range(0, len(sources), 100):
        source = padded(sources[at : at + 100], 0)
        visible = padded([[1] * len(s) for s in sources[at : at + 100]], 0).bool()
        read = model.read(source, visible)
        target = torch.full((len(source), 1), end)
        for _ in range(longest):
            best = model.log_probabilities(read, visible, source, target).argmax(-1)
            target = torch.cat([target, best[:, None]], 1)
        for row in target[:, 1:].tolist():
            written.append(row[: row.index(end)] if end in row else row)
    return written


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="data/debian-synopsis/train.tsv")
    parser.add_argument("--pairs", type=int, default=8_000)
    parser.add_argument("--scored", type=int, default=400)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--vocabulary", type=int, default=4000)
    parser.add_argument("--most-pieces", type=int, default=64)
    parser.add_argument("--batch-tokens", type=int, default=1500)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", choices=["with", "without"])
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)

    rows = read(arguments.data)
    packages = sorted({package for _, _, package in rows})
    random.Random(arguments.seed).shuffle(packages)
    place = {package: at for at, package in enumerate(packages)}
    rows.sort(key=lambda row: place[row[2]])
    learned, scored = rows[: arguments.pairs], rows[-arguments.scored :]
    assert not {row[2] for row in learned} & {row[2] for row in scored}
    tokenizer = ByteLevelBPETokenizer()
    tokenizer.train_from_iterator(
        [" " + text for source, target, _ in learned for text in (source, target)],
        vocab_size=arguments.vocabulary, min_frequency=2, show_progress=False,
    )
    end = tokenizer.get_vocab_size()
    encode = lambda texts: [one.ids for one in tokenizer.encode_batch([" " + text for text in texts])]
    sources = [ids[: arguments.most_pieces] for ids in encode([row[0] for row in learned])]
    pairs = [(s, t) for s, t in zip(sources, encode([row[1] for row in learned])) if len(t) <= 48]
    held_out = [ids[: arguments.most_pieces] for ids in encode([row[0] for row in scored])]
    sizes = {"vocabulary": end + 1, "width": 128, "heads": 4, "encoder_layers": 2, "decoder_layers": 2,
             "feed_forward": 384, "dropout": 0.1}
    scorer = rouge_scorer.RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=True)
    for pointer in (False, True):
        if arguments.only not in (None, "with" if pointer else "without"):
            continue
        torch.manual_seed(arguments.seed)
        draw = random.Random(arguments.seed)
        model = Transformer(sizes, pointer)
        optimizer, began = optimizer_of(model), time.time()
        steps = 0
        for epoch in range(arguments.epochs):
            model.train()
            todo = batches(pairs, arguments.batch_tokens, draw)
            for at, batch in enumerate(todo):
                done = (epoch + at / len(todo)) / arguments.epochs
                step(model, optimizer, batch, end, done, arguments.learning_rate, 0.05, 0.1)
            steps += len(todo)
            model.eval()
            written = [tokenizer.decode(ids).strip() for ids in write(model, held_out, end)]
            each = [scorer.score(row[1], text) for row, text in zip(scored, written)]
            rouge = [100 * sum(one[name].fmeasure for one in each) / len(each) for name in ("rouge1", "rouge2", "rougeL")]
            print(f"{'with' if pointer else 'without'} pointer, epoch {epoch + 1}, {steps} steps, {time.time() - began:.0f} s: "
                  f"ROUGE-1/2/L {rouge[0]:.1f} / {rouge[1]:.1f} / {rouge[2]:.1f}", flush=True)


if __name__ == "__main__":
    main()
