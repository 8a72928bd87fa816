"""The Transformer of `regard train translation` in PyTorch, layer for layer, under the same names.

`pointer=True` adds a head of its own over the source whose weights are added, as probabilities of the source's tokens, to
those of the vocabulary (See et al. 2017). `bench/pointer.py` measures whether that helps.
"""

import math

import numpy as np
import torch
from optimizer import Optimizer, share_of_rate
from torch import nn
from torch.nn import functional as F


def sinusoidal(length, width):
    position = np.arange(length)[:, None]
    c = np.arange(width)[None, :]
    angle = position / 10_000.0 ** ((c - c % 2) / width)
    return np.where(c % 2 == 0, np.sin(angle), np.cos(angle)).astype(np.float32)


class Attention(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        for name in ("query", "key", "value", "output"):
            setattr(self, name, nn.Linear(width, width))

    def forward(self, x, source, mask=None, causal=False):
        split = lambda y: y.unflatten(-1, (self.heads, -1)).transpose(1, 2)
        q, k, v = split(self.query(x)), split(self.key(source)), split(self.value(source))
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal)
        return self.output(y.transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    def __init__(self, width, inner, dropout):
        super().__init__()
        self.dropout = dropout
        self.inner = nn.Linear(width, inner)
        self.outer = nn.Linear(inner, width)

    def forward(self, x):
        return self.outer(F.dropout(F.gelu(self.inner(x)), self.dropout, self.training))


class Encoder(nn.Module):
    def __init__(self, sizes):
        super().__init__()
        width, self.dropout = sizes["width"], sizes["dropout"]
        self.attention_norm, self.attention = nn.LayerNorm(width), Attention(width, sizes["heads"])
        self.feed_forward_norm = nn.LayerNorm(width)
        self.feed_forward = FeedForward(width, sizes["feed_forward"], self.dropout)

    def forward(self, x, mask):
        drop = lambda y: F.dropout(y, self.dropout, self.training)
        y = self.attention_norm(x)
        x = x + drop(self.attention(y, y, mask))
        return x + drop(self.feed_forward(self.feed_forward_norm(x)))


class Decoder(nn.Module):
    def __init__(self, sizes):
        super().__init__()
        width, heads, self.dropout = sizes["width"], sizes["heads"], sizes["dropout"]
        self.self_norm, self.self_attention = nn.LayerNorm(width), Attention(width, heads)
        self.source_norm, self.source_attention = nn.LayerNorm(width), Attention(width, heads)
        self.feed_forward_norm = nn.LayerNorm(width)
        self.feed_forward = FeedForward(width, sizes["feed_forward"], self.dropout)

    def forward(self, x, source, mask):
        drop = lambda y: F.dropout(y, self.dropout, self.training)
        y = self.self_norm(x)
        x = x + drop(self.self_attention(y, y, causal=True))
        x = x + drop(self.source_attention(self.source_norm(x), source, mask))
        return x + drop(self.feed_forward(self.feed_forward_norm(x)))


class Transformer(nn.Module):
    """`sizes`: the `model` of a folder's config.json."""

    def __init__(self, sizes, pointer=False):
        super().__init__()
        width, self.dropout = sizes["width"], sizes["dropout"]
        self.tokens = nn.Embedding(sizes["vocabulary"], width)
        nn.init.normal_(self.tokens.weight, std=width**-0.5)
        self.encoder = nn.ModuleList(Encoder(sizes) for _ in range(sizes["encoder_layers"]))
        self.encoder_norm = nn.LayerNorm(width)
        self.decoder = nn.ModuleList(Decoder(sizes) for _ in range(sizes["decoder_layers"]))
        self.decoder_norm = nn.LayerNorm(width)
        self.register_buffer("positions", torch.tensor(sinusoidal(2048, width)), persistent=False)
        if pointer:
            self.copy_query, self.copy_key = nn.Linear(width, width), nn.Linear(width, width)
            self.copy_gate = nn.Linear(width, 1)
        self.pointer = pointer
        # PyTorch's own random weights, but biases are zero and what is added to the sum begins at nothing, as Regard's.
        for name, p in self.named_parameters():
            if name.endswith(".bias") or name.endswith((".output.weight", ".outer.weight")):
                nn.init.zeros_(p)

    def embedded(self, ids):
        x = self.tokens(ids) * math.sqrt(self.tokens.embedding_dim) + self.positions[: ids.shape[1]]
        return F.dropout(x, self.dropout, self.training)

    def read(self, source, visible):
        x = self.embedded(source)
        for layer in self.encoder:
            x = layer(x, visible[:, None, None, :])
        return self.encoder_norm(x)

    def written(self, read, visible, target):
        h = self.embedded(target)
        for layer in self.decoder:
            h = layer(h, read, visible[:, None, None, :])
        return self.decoder_norm(h)

    def copied(self, h, read, visible):
        """Log-weights over the source, and the logits of writing from the vocabulary rather than copying."""
        scores = self.copy_query(h) @ self.copy_key(read).transpose(1, 2) / math.sqrt(h.shape[-1])
        scores = scores.masked_fill(~visible[:, None, :], -math.inf)
        return F.log_softmax(scores, -1), self.copy_gate(h)[..., 0]

    def loss(self, source, visible, target, wanted, smoothing):
        """Mean over the tokens of `wanted` that are not −1."""
        read = self.read(source, visible)
        h = self.written(read, visible, target)
        real = wanted >= 0
        logits = F.linear(h[real], self.tokens.weight)
        if not self.pointer:
            return F.cross_entropy(logits, wanted[real], label_smoothing=smoothing)
        over_source, gate = self.copied(h, read, visible)
        same = source[:, None, :] == wanted[:, :, None]
        # Nothing to copy is a very small probability, not none: its gradient stays a number.
        copied = over_source.masked_fill(~same, -1e4).logsumexp(-1)[real]
        log_p = F.log_softmax(logits, -1)
        own = log_p.gather(1, wanted[real][:, None])[:, 0] + F.logsigmoid(gate[real])
        mixed = torch.logaddexp(own, copied + F.logsigmoid(-gate[real]))
        return -((1 - smoothing) * mixed + smoothing * log_p.mean(-1)).mean()

    def log_probabilities(self, read, visible, source, target):
        """Of what follows each target, `[batch, vocabulary]`."""
        h = self.written(read, visible, target)[:, -1:]
        log_p = F.log_softmax(F.linear(h, self.tokens.weight), -1)[:, 0]
        if not self.pointer:
            return log_p
        over_source, gate = self.copied(h, read, visible)
        p = log_p.exp() * torch.sigmoid(gate)
        return p.scatter_add(1, source, over_source[:, 0].exp() * torch.sigmoid(-gate)).log()


def padded(texts, fill):
    longest = max(map(len, texts))
    return torch.tensor([list(text) + [fill] * (longest - len(text)) for text in texts])


def batch_of(rows, end):
    """Source, its visible part, target behind the end token, and what is wanted (−1: nothing)."""
    source = padded([s for s, _ in rows], 0)
    visible = padded([[1] * len(s) for s, _ in rows], 0).bool()
    target = padded([[end, *t] for _, t in rows], 0)
    wanted = padded([[*t, end] for _, t in rows], -1)
    return source, visible, target, wanted


def batches(rows, most_tokens, random):
    """Rows of similar length together, as Regard's trainer groups them."""
    length = lambda row: max(len(row[0]), len(row[1]) + 1)
    order, found = random.sample(rows, len(rows)), []
    for at in range(0, len(order), 512 * 32):
        batch = []
        for row in sorted(order[at : at + 512 * 32], key=length):
            if batch and (len(batch) == 512 or (len(batch) + 1) * length(row) > most_tokens):
                found.append(batch)
                batch = []
            batch.append(row)
        found.append(batch)
    random.shuffle(found)
    return found


def optimizer_of(model, muon=False):
    """AdamW, or Muon for the matrices of the layers and AdamW for the rest."""
    return Optimizer(model, lambda name: muon and name.startswith(("encoder.", "decoder.")), 0.01)


def step(model, optimizer, batch, end, done, peak, warmup, smoothing):
    """One step of a run of which the share `done` is done; the loss."""
    loss = model.loss(*batch_of(batch, end), smoothing)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step(peak * share_of_rate(done, warmup))
    return loss.item()
