"""Makes opinfo.npz: PyTorch's own samples for `scaled_dot_product_attention`, with values and gradients in float64.

Run with: pip install torch==2.15.0 expecttest numpy && python make_opinfo.py

The samples with dropout are made without it, because no two libraries drop the same weights; so each of
them is another one again, and is left out: 13 of 25 stay.
"""

import json
from pathlib import Path

import numpy as np
import torch
from torch.testing._internal.common_methods_invocations import op_db

torch.manual_seed(0)
[op] = [op for op in op_db if op.name == "nn.functional.scaled_dot_product_attention"]
arrays, options = {}, []
samples = [sample for sample in op.sample_inputs("cpu", torch.float32) if sample.kwargs.get("dropout_p", 0.0) == 0.0]
for at, sample in enumerate(samples):
    given = {name: value for name, value in sample.kwargs.items() if name not in ("attn_mask", "dropout_p")}
    mask = sample.kwargs.get("attn_mask")
    inputs = [x.detach().double().requires_grad_() for x in (sample.input, *sample.args)]
    wide_mask = mask if mask is None or mask.dtype == torch.bool else mask.detach().double()
    out = torch.nn.functional.scaled_dot_product_attention(*inputs, attn_mask=wide_mask, **given)
    d_out = torch.randn(out.shape)
    gradients = torch.autograd.grad(out, inputs, d_out.double())
    for name, value in zip(("q", "k", "v", "d_out"), (sample.input, *sample.args, d_out)):
        arrays[f"{at}.{name}"] = value.detach().numpy()
    for name, value in zip(("out", "dq", "dk", "dv"), (out, *gradients)):
        arrays[f"{at}.{name}"] = value.detach().numpy()
    if mask is not None:
        arrays[f"{at}.attn_mask"] = mask.detach().numpy()
    options.append(given)
np.savez_compressed(Path(__file__).with_name("opinfo.npz"), options=json.dumps(options), **arrays)
print(f"{len(options)} samples")
