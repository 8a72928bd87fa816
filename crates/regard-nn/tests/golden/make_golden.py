"""Writes the golden tensors of this folder: layers and models in PyTorch, with their gradients and a loss curve.

Run with:  python make_golden.py     (needs torch 2.15.0; writes *.safetensors beside itself)

Parameters have the names and layouts of regard-nn (a linear map's weight is [inputs, outputs]); every tensor of a file
is `parameter.<path>`, `gradient.<path>`, `input.<name>` or `output.<name>`.
"""

import json
import math
import struct
from pathlib import Path

import torch
import torch.nn.functional as F

HERE = Path(__file__).parent


def save(name, tensors):
    """The safetensors format by hand: length of the header, header, data."""
    header, data = {}, b""
    for key, tensor in tensors.items():
        tensor = tensor.detach().contiguous()
        kind = {torch.float32: "F32", torch.int64: "I64"}[tensor.dtype]
        raw = tensor.numpy().tobytes()
        header[key] = {"dtype": kind, "shape": list(tensor.shape), "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    (HERE / f"{name}.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + data)


def parameters(shapes):
    """Random everywhere, also where a model would start at zero: nothing may hide behind a zero."""
    made = {}
    for path, shape in shapes.items():
        value = torch.randn(shape) * (0.3 if len(shape) > 1 else 0.1)
        if path.endswith("norm.weight"):
            value += 1.0
        made[path] = value.requires_grad_()
    return made


def linear(P, path, x):
    return x @ P[f"{path}.weight"] + P[f"{path}.bias"]


def norm(P, path, x):
    return F.layer_norm(x, x.shape[-1:], P[f"{path}.weight"], P[f"{path}.bias"])


def rotary(x):
    half = x.shape[-1] // 2
    frequencies = 10000.0 ** (-torch.arange(half, dtype=torch.float64) / half)
    angles = torch.outer(torch.arange(x.shape[-2], dtype=torch.float64), frequencies)
    cos, sin = angles.cos().float(), angles.sin().float()
    first, second = x[..., :half], x[..., half:]
    return torch.cat([first * cos - second * sin, second * cos + first * sin], -1)


def multi_head(P, path, queries, keys, heads, kv_heads, causal=False, turned=False):
    """Of one sequence: `[queries, width]`, `[keys, width]`."""

    def split(x, heads):
        return x.unflatten(-1, (heads, -1)).transpose(0, 1)[None]

    q = split(linear(P, f"{path}query", queries), heads)
    k = split(linear(P, f"{path}key", keys), kv_heads)
    v = split(linear(P, f"{path}value", keys), kv_heads)
    if turned:
        q, k = rotary(q), rotary(k)
    mixed = F.scaled_dot_product_attention(q, k, v, is_causal=causal, enable_gqa=True)
    return linear(P, f"{path}output", mixed[0].transpose(0, 1).flatten(1))


def each(function, lengths, *packed):
    """Of each sequence alone: what lies one after the other is taken apart and put together again."""
    parts = [x.split(of) for x, of in zip(packed, lengths)]
    return torch.cat([function(*sequence) for sequence in zip(*parts)])


def multi_head_shapes(prefix, width, heads, kv_heads):
    kv_width = width // heads * kv_heads
    shapes = {}
    for name, outputs in [("query", width), ("key", kv_width), ("value", kv_width), ("output", width)]:
        shapes[f"{prefix}{name}.weight"] = (width, outputs)
        shapes[f"{prefix}{name}.bias"] = (outputs,)
    return shapes


def feed_forward(P, path, x, activation=F.gelu):
    inner = activation(linear(P, f"{path}feed_forward.inner", norm(P, f"{path}feed_forward_norm", x)))
    return x + linear(P, f"{path}feed_forward.outer", inner)


def encoder_layer(P, path, x, heads):
    """Of one sequence."""
    y = norm(P, f"{path}attention_norm", x)
    x = x + multi_head(P, f"{path}attention.", y, y, heads, heads, turned=True)
    return feed_forward(P, path, x)


def decoder_layer(P, x, source, heads):
    """Of one sequence and its source."""
    y = norm(P, "self_norm", x)
    x = x + multi_head(P, "self_attention.", y, y, heads, heads, causal=True)
    x = x + multi_head(P, "source_attention.", norm(P, "source_norm", x), source, heads, heads)
    return feed_forward(P, "", x)


def norm_shapes(path, width):
    return {f"{path}.weight": (width,), f"{path}.bias": (width,)}


def feed_forward_shapes(prefix, width, inner):
    return {
        **norm_shapes(f"{prefix}feed_forward_norm", width),
        f"{prefix}feed_forward.inner.weight": (width, inner),
        f"{prefix}feed_forward.inner.bias": (inner,),
        f"{prefix}feed_forward.outer.weight": (inner, width),
        f"{prefix}feed_forward.outer.bias": (width,),
    }


def encoder_layer_shapes(prefix, width, heads, inner):
    return {
        **norm_shapes(f"{prefix}attention_norm", width),
        **multi_head_shapes(f"{prefix}attention.", width, heads, heads),
        **feed_forward_shapes(prefix, width, inner),
    }


def decoder_layer_shapes(width, heads, inner):
    return {
        **norm_shapes("self_norm", width),
        **multi_head_shapes("self_attention.", width, heads, heads),
        **norm_shapes("source_norm", width),
        **multi_head_shapes("source_attention.", width, heads, heads),
        **feed_forward_shapes("", width, inner),
    }


def write(name, P, inputs, out, extra=None):
    """Saves a case: the gradients are those of Σ out · seed, with a random seed."""
    seed = torch.randn(out.shape)
    (out * seed).sum().backward()
    tensors = {f"parameter.{path}": value for path, value in P.items()}
    tensors |= {f"gradient.{path}": value.grad for path, value in P.items()}
    tensors |= {f"input.{key}": value for key, value in inputs.items()}
    tensors |= {f"gradient.input.{key}": value.grad for key, value in inputs.items() if value.grad is not None}
    tensors |= {"input.seed": seed, "output.out": out}
    save(name, tensors | (extra or {}))


LENGTHS, SOURCES = [7, 2, 1], [5, 3, 6]


def counts(lengths):
    return torch.tensor(lengths)


def packed(lengths, width=12):
    return torch.randn(sum(lengths), width, requires_grad=True)


def write_multi_head(name, heads, kv_heads, cross, **options):
    """x + part(norm(x))"""
    P = parameters({**norm_shapes("norm", 12), **multi_head_shapes("attention.", 12, heads, kv_heads)})
    x = packed(LENGTHS)
    if cross:
        keys = packed(SOURCES)
        part = lambda x, keys: multi_head(P, "attention.", norm(P, "norm", x), keys, heads, kv_heads, **options)
        out = x + each(part, [LENGTHS, SOURCES], x, keys)
        inputs = {"x": x, "keys": keys, "lengths": counts(LENGTHS), "key_lengths": counts(SOURCES)}
    else:
        def part(x):
            y = norm(P, "norm", x)
            return multi_head(P, "attention.", y, y, heads, kv_heads, **options)

        out = x + each(part, [LENGTHS], x)
        inputs = {"x": x, "lengths": counts(LENGTHS)}
    write(name, P, inputs, out)


def write_cross_entropy():
    """Summed, with smoothed labels, of a table's scores."""
    P = parameters({"table": (23, 12)})
    h, targets = packed([9]), torch.randint(0, 23, (9,))
    loss = F.cross_entropy(h @ P["table"].T, targets, label_smoothing=0.1, reduction="sum")
    write("cross_entropy", P, {"h": h, "targets": targets}, loss[None])


# The sizes of the three models; `tests/it/golden.rs` has the same.
VOCABULARY, BUCKETS, CLASSES, WIDTH, LAYERS, HEADS, INNER, POOLING = 40, 16, 5, 16, 2, 2, 24, 3


def model_shapes(kind):
    shapes = {"tokens.weight": (VOCABULARY, WIDTH), "bigrams.weight": (BUCKETS, WIDTH)}
    if kind == "transformer":
        for layer in range(LAYERS):
            shapes |= encoder_layer_shapes(f"encoder.{layer}.", WIDTH, HEADS, INNER)
    if kind != "mean":
        shapes |= {"pooling.attention.queries": (POOLING, WIDTH), "pooling.mix": (POOLING, WIDTH)}
    return shapes | {
        "norm.weight": (WIDTH,),
        "norm.bias": (WIDTH,),
        "output.weight": (WIDTH, CLASSES),
        "output.bias": (CLASSES,),
    }


def model(P, kind, tokens, bigrams, lengths):
    x = P["tokens.weight"][tokens] + P["bigrams.weight"][bigrams]
    for layer in range(LAYERS if kind == "transformer" else 0):
        x = each(lambda x: encoder_layer(P, f"encoder.{layer}.", x, HEADS), [lengths], x)

    def pooled(x):
        """`[1, width]` of one text."""
        if kind == "mean":
            return x.mean(0, keepdim=True)
        weights = (32 * x @ P["pooling.attention.queries"].T).softmax(0)
        return (weights.T @ x * P["pooling.mix"]).sum(0, keepdim=True)

    return linear(P, "output", norm(P, "norm", each(pooled, [lengths], x)))


def write_model(kind):
    P = parameters(model_shapes(kind))
    if kind != "mean":
        # As short as learned queries are: scores 32 times as large would leave nothing of the weights but 0 and 1.
        P["pooling.attention.queries"].data /= 32
    lengths = [9, 1, 4, 7]
    tokens = torch.randint(2, VOCABULARY, (sum(lengths),))
    bigrams = torch.randint(0, BUCKETS, (sum(lengths),))
    inputs = {"tokens": tokens, "bigrams": bigrams, "lengths": counts(lengths)}
    start = {path: value.detach().clone() for path, value in P.items()}
    # Twenty steps as regard-nn takes them: no decay on parameters of one axis, gradients clipped to length 1.
    labels = torch.tensor([0, 3, 4, 1])
    Q = {path: value.clone().requires_grad_() for path, value in start.items()}
    decays = [value for value in Q.values() if value.dim() > 1]
    others = [value for value in Q.values() if value.dim() == 1]
    groups = [{"params": decays, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=3e-3, betas=(0.9, 0.98), eps=1e-8)
    losses = []
    for _ in range(20):
        loss = F.cross_entropy(model(Q, kind, tokens, bigrams, lengths), labels)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(Q.values(), 1.0)
        optimizer.step()
        losses.append(loss.item())
    extra = {"input.labels": labels, "output.losses": torch.tensor(losses)}
    write(kind, P, inputs, model(P, kind, tokens, bigrams, lengths), extra)


def write_mixed():
    """Both kinds of layers as autocast computes them: matrix products of bf16, everything else in f32."""
    P, x = parameters(encoder_layer_shapes("", 12, 3, 20)), packed(LENGTHS)
    with torch.autocast("cpu", torch.bfloat16):
        out = each(lambda x: encoder_layer(P, "", x, 3), [LENGTHS], x)
    write("encoder_layer_bf16", P, {"x": x, "lengths": counts(LENGTHS)}, out)
    P, x, source = parameters(decoder_layer_shapes(12, 3, 20)), packed(LENGTHS), packed(SOURCES)
    with torch.autocast("cpu", torch.bfloat16):
        out = each(lambda x, source: decoder_layer(P, x, source, 3), [LENGTHS, SOURCES], x, source)
    inputs = {"x": x, "source": source, "lengths": counts(LENGTHS), "source_lengths": counts(SOURCES)}
    write("decoder_layer_bf16", P, inputs, out)


def write_patches():
    """From pictures to vectors: twice a convolution, a rectifier and a pooling; then squares, each by one linear map."""
    P = parameters({"weights.0": (3 * 3 * 3, 4), "weights.1": (3 * 3 * 4, 8)})
    pictures = torch.randn(2, 9, 7, 3, requires_grad=True)

    def filters(weight, inputs, size):
        """`[rows · columns · inputs, outputs]` → `[outputs, inputs, rows, columns]`"""
        return weight.unflatten(0, (size, size, inputs)).permute(3, 2, 0, 1)

    x = pictures.permute(0, 3, 1, 2)
    for weight, inputs in [(P["weights.0"], 3), (P["weights.1"], 4)]:
        x = F.max_pool2d(F.relu(F.conv2d(x, filters(weight, inputs, 3), padding=1)), 3, stride=2, padding=1)
    write("convolutions", P, {"pictures": pictures}, x.flatten(2).transpose(1, 2))

    P = parameters({"weights.0": (2 * 2 * 3, 8)})
    pictures = torch.randn(2, 9, 7, 3, requires_grad=True)
    x = F.conv2d(pictures.permute(0, 3, 1, 2), filters(P["weights.0"], 3, 2), stride=2)
    write("patches", P, {"pictures": pictures}, x.flatten(2).transpose(1, 2))


if __name__ == "__main__":
    torch.manual_seed(20261123)
    torch.set_num_threads(1)
    write_multi_head("multi_head_self", 3, 3, cross=False, causal=True, turned=True)
    write_multi_head("multi_head_cross_grouped", 4, 2, cross=True)
    P, x = parameters(encoder_layer_shapes("", 12, 3, 20)), packed(LENGTHS)
    out = each(lambda x: encoder_layer(P, "", x, 3), [LENGTHS], x)
    write("encoder_layer", P, {"x": x, "lengths": counts(LENGTHS)}, out)
    P, x, source = parameters(decoder_layer_shapes(12, 3, 20)), packed(LENGTHS), packed(SOURCES)
    out = each(lambda x, source: decoder_layer(P, x, source, 3), [LENGTHS, SOURCES], x, source)
    inputs = {"x": x, "source": source, "lengths": counts(LENGTHS), "source_lengths": counts(SOURCES)}
    write("decoder_layer", P, inputs, out)
    P, x = parameters(feed_forward_shapes("", 12, 20)), packed([6])
    write("feed_forward_relu", P, {"x": x}, feed_forward(P, "", x, F.relu))
    write_cross_entropy()
    for kind in ["mean", "pooling", "transformer"]:
        write_model(kind)
    write_mixed()
    write_patches()
