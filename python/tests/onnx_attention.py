"""The ONNX operator `Attention` (opset 23 to 25) said in the words of `regard`.

Only shapes, caches and names are translated here; what is computed, `regard` computes.
"""

import numpy as np
import regard


def attention(q, k, v, attn_mask=None, past_key=None, past_value=None, nonpad=None, **attributes):
    """Y, present key, present value, and what `qk_matmul_output_mode` asks for."""
    mode = attributes.get("qk_matmul_output_mode", 0)
    flat = q.ndim == 3
    if flat:  # [batch, sequence, heads · width]
        heads, kv_heads = attributes["q_num_heads"], attributes["kv_num_heads"]
        q, k, v = (split(x, n) for x, n in ((q, heads), (k, kv_heads), (v, kv_heads)))
    if past_key is not None:
        k, v = np.concatenate((past_key, k), axis=2), np.concatenate((past_value, v), axis=2)
    queries, keys = q.shape[2], k.shape[2]

    options = {"scale": attributes.get("scale")}
    if nonpad is not None:
        options["visible_keys"] = nonpad
        options["offsets"] = nonpad - queries
    elif past_key is not None:
        options["offsets"] = [past_key.shape[2]] * q.shape[0]
    if attributes.get("is_causal"):
        options["causal"] = "top_left"
    left, right = (attributes.get(f"{side}_window_size", -1) for side in ("left", "right"))
    options["window"] = tuple(None if size < 0 else size for size in (left, right))
    if attn_mask is not None:
        missing = keys - attn_mask.shape[-1]  # a mask that ends early hides what follows
        hidden = False if attn_mask.dtype == bool else -np.inf
        options["attn_mask"] = np.pad(attn_mask, [(0, 0)] * (attn_mask.ndim - 1) + [(0, missing)], constant_values=hidden)
    softcap = attributes.get("softcap", 0.0)
    capped = {**options, "softcap": softcap or None}

    y = regard.attention(q, k, v, **capped)
    plain = {"scale": options["scale"]}
    asked = {
        0: lambda: regard.attention_scores(q, k, **plain),
        1: lambda: regard.attention_scores(q, k, **plain, softcap=softcap or None),
        2: lambda: regard.attention_scores(q, k, **capped),
        3: lambda: regard.attention_weights(q, k, **capped),
    }[mode]()
    if flat:
        y = y.transpose(0, 2, 1, 3).reshape(y.shape[0], queries, -1)
    return y, k, v, asked.astype(q.dtype)


def split(x, heads):
    """[batch, sequence, heads · width] as [batch, heads, sequence, width], without a copy."""
    return x.reshape(*x.shape[:2], heads, -1).transpose(0, 2, 1, 3)
