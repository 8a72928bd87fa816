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


def multi_head(P, path, queries, keys, heads, kv_heads, lengths=None, causal=False, turned=False):
    def split(x, heads):
        return x.unflatten(-1, (heads, -1)).transpose(1, 2)

    q = split(linear(P, f"{path}query", queries), heads)
    k = split(linear(P, f"{path}key", keys), kv_heads)
    v = split(linear(P, f"{path}value", keys), kv_heads)
    if turned:
        q, k = rotary(q), rotary(k)
    visible = torch.ones(q.shape[0], 1, q.shape[2], k.shape[2], dtype=torch.bool)
    if lengths is not None:
        visible &= (torch.arange(k.shape[2]) < lengths[:, None])[:, None, None, :]
    if causal:
        visible &= torch.ones(q.shape[2], k.shape[2], dtype=torch.bool).tril()
    mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=visible, enable_gqa=True)
    return linear(P, f"{path}output", mixed.transpose(1, 2).flatten(2))


def multi_head_shapes(prefix, width, heads, kv_heads):
    kv_width = width // heads * kv_heads
    shapes = {}
    for name, outputs in [("query", width), ("key", kv_width), ("value", kv_width), ("output", width)]:
        shapes[f"{prefix}{name}.weight"] = (width, outputs)
        shapes[f"{prefix}{name}.bias"] = (outputs,)
    return shapes


def encoder_layer(P, path, x, heads, lengths):
    y = norm(P, f"{path}attention_norm", x)
    x = x + multi_head(P, f"{path}attention.", y, y, heads, heads, lengths, turned=True)
    inner = F.gelu(linear(P, f"{path}feed_forward.inner", norm(P, f"{path}feed_forward_norm", x)))
    return x + linear(P, f"{path}feed_forward.outer", inner)


def encoder_layer_shapes(prefix, width, heads, inner):
    return {
        f"{prefix}attention_norm.weight": (width,),
        f"{prefix}attention_norm.bias": (width,),
        **multi_head_shapes(f"{prefix}attention.", width, heads, heads),
        f"{prefix}feed_forward_norm.weight": (width,),
        f"{prefix}feed_forward_norm.bias": (width,),
        f"{prefix}feed_forward.inner.weight": (width, inner),
        f"{prefix}feed_forward.inner.bias": (inner,),
        f"{prefix}feed_forward.outer.weight": (inner, width),
        f"{prefix}feed_forward.outer.bias": (width,),
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


def write_multi_head(name, heads, kv_heads, cross, **options):
    P = parameters(multi_head_shapes("", 12, heads, kv_heads))
    x = torch.randn(3, 7, 12, requires_grad=True)
    inputs = {"x": x}
    if cross:
        inputs["keys"] = torch.randn(3, 5, 12, requires_grad=True)
    keys = inputs.get("keys", x)
    lengths = torch.tensor([keys.shape[1], 2, 1])
    out = multi_head(P, "", x, keys, heads, kv_heads, lengths, **options)
    write(name, P, inputs | {"lengths": lengths}, out)


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
    visible = torch.arange(tokens.shape[1]) < lengths[:, None]
    for layer in range(LAYERS if kind == "transformer" else 0):
        x = encoder_layer(P, f"encoder.{layer}.", x, HEADS, lengths)
    if kind == "mean":
        z = (x * visible[..., None]).sum(1) / lengths[:, None]
    else:
        scores = (32 * x @ P["pooling.attention.queries"].T).masked_fill(~visible[..., None], -math.inf)
        pooled = torch.einsum("bsh,bsd->bhd", scores.softmax(1), x)
        z = (pooled * P["pooling.mix"]).sum(1)
    return linear(P, "output", norm(P, "norm", z))


def write_model(kind):
    P = parameters(model_shapes(kind))
    if kind != "mean":
        # As short as learned queries are: scores 32 times as large would leave nothing of the weights but 0 and 1.
        P["pooling.attention.queries"].data /= 32
    lengths = torch.tensor([9, 1, 4, 7])
    visible = torch.arange(9) < lengths[:, None]
    tokens = torch.randint(2, VOCABULARY, (4, 9)) * visible
    bigrams = torch.randint(0, BUCKETS, (4, 9)) * visible
    inputs = {"tokens": tokens, "bigrams": bigrams, "lengths": lengths}
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


if __name__ == "__main__":
    torch.manual_seed(20261123)
    torch.set_num_threads(1)
    write_multi_head("multi_head_self", 3, 3, cross=False, causal=True, turned=True)
    write_multi_head("multi_head_cross_grouped", 4, 2, cross=True)
    P = parameters(encoder_layer_shapes("", 12, 3, 20))
    x = torch.randn(3, 7, 12, requires_grad=True)
    lengths = torch.tensor([7, 3, 1])
    write("encoder_layer", P, {"x": x, "lengths": lengths}, encoder_layer(P, "", x, 3, lengths))
    for kind in ["mean", "pooling", "transformer"]:
        write_model(kind)
