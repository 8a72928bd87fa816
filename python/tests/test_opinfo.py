"""PyTorch's own samples for `scaled_dot_product_attention`: values and gradients (golden/make_opinfo.py made them)."""

import json
from pathlib import Path

import numpy as np
import pytest
import regard

GOLDEN = np.load(Path(__file__).parent / "golden" / "opinfo.npz")
OPTIONS = json.loads(str(GOLDEN["options"]))


def four_axes(x, batch):
    """[batch, heads, …]; PyTorch's three axes are one head each, and what is missing is broadcast."""
    x = x if x.ndim == 4 else x[:, None] if batch is None else np.broadcast_to(x, (batch, *x.shape))
    return x


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("at", range(len(OPTIONS)))
def test_attention_and_its_gradients_are_pytorchs(at, dtype):
    given = {name.split(".")[1]: GOLDEN[name] for name in GOLDEN.files if name.startswith(f"{at}.")}
    batch = given["k"].shape[0] if given["k"].ndim == 4 else None
    q, k, v, d_out = (four_axes(given[name].astype(dtype), batch) for name in ("q", "k", "v", "d_out"))
    options = {"is_causal": OPTIONS[at].get("is_causal", False), "attn_mask": given.get("attn_mask")}
    out, lse = regard.attention(q, k, v, return_lse=True, **options)
    gradients = regard.attention_backward(d_out, q, k, v, out, lse, **options)
    # PyTorch's samples lie between -9 and 9, so scores reach some hundreds: rounding them is an error of as many units in
    # the weights, and in all that follows.
    scores = np.abs(regard.attention_scores(q, k)).max()
    rounding = 4 * np.finfo(dtype).eps * scores
    for name, found in (("out", out), ("dq", gradients.q), ("dk", gradients.k), ("dv", gradients.v)):
        expected = given[name]
        if found.size != expected.size:  # what was broadcast takes the sum
            found = found.sum(axis=0)
        found = found.reshape(expected.shape)
        np.testing.assert_allclose(found, expected, rtol=0, atol=rounding * np.abs(expected).max(), err_msg=name)


def test_there_are_samples_of_every_kind():
    assert len(OPTIONS) == 13
