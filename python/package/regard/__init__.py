"""Exact attention on a CPU, forward and backward, every variant.

``out = softmax(cap(q kᵀ · scale) + bias) v``, fused: the scores are never stored. Arrays are NumPy's or torch's (on the
CPU), float32, float64, float16 or bfloat16, with any strides; nothing is copied on the way in or out. Results do not
depend on the number of threads, to the last bit.

>>> import numpy as np, regard
>>> x = np.random.default_rng(0).standard_normal((2, 4, 10, 16), dtype=np.float32)
>>> regard.attention(x, x, x, is_causal=True).shape
(2, 4, 10, 16)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, TypedDict, Unpack

from . import _arguments, _regard
from ._errors import RegardError

__all__ = [
    "Cpu",
    "Gradients",
    "Options",
    "RegardError",
    "attention",
    "attention_backward",
    "attention_scores",
    "attention_weights",
    "cpu",
    "get_num_threads",
    "key_sums",
    "merge",
    "peak",
    "set_num_threads",
    "top_weights",
]
__version__ = "0.1.0"


class Options(TypedDict, total=False):
    """What `attention` can be told; its documentation says what each means."""

    attn_mask: Any
    bias: Any
    is_causal: bool
    causal: str | int | Sequence[int] | None
    offsets: Sequence[int] | None
    window: tuple[int | None, int | None] | None
    prefix: Sequence[int] | None
    visible_keys: Sequence[int] | None
    documents: tuple[Any, Any] | None
    block_mask: tuple[Any, tuple[int, int]] | None
    scale: float | None
    softcap: float | None
    slopes: Sequence[float] | None
    sinks: Sequence[float] | None
    dropout_p: float
    seed: int
    isa: str | None


def attention(q: Any, k: Any, v: Any, *, return_lse: bool = False, out: Any = None, **options: Unpack[Options]) -> Any:
    """Attention of every query over the keys that it may see.

    Shapes: `q` [batch, heads, queries, head_dim]; `k` [batch, kv_heads, keys, head_dim], where `kv_heads` divides
    `heads` and head `h` reads `h // (heads // kv_heads)`; `v` [batch, kv_heads, keys, value_dim]; the result
    [batch, heads, queries, value_dim].

    Options; all of them compose, in this order:

    - `scale`: what the dot products are multiplied by; 1/√head_dim if it is not given.
    - `softcap`: the scaled scores s become cap · tanh(s / cap).
    - `bias`, or an `attn_mask` of numbers: added; broadcasts to [batch, heads, queries, keys]. −inf hides a pair.
    - `slopes`: a number a head, what a score falls by with each key between the pair (ALiBi).
    - `is_causal=True` is `causal='top_left'`, as in PyTorch; `causal='bottom_right'` lets queries and keys end together;
      `causal=n` lets query i see the keys j ≤ i + n; a list has an n for each batch row.
    - `offsets`: for each batch row, how far along the keys its queries stand, for windows and slopes without `causal`.
    - `window=(left, right)`: neighbours that a query sees on each side of the key it stands at; None is no limit.
    - `prefix`: for each batch row, how many keys at the front everyone sees, whatever causal and window say.
    - `visible_keys`: for each batch row, how many keys are no padding.
    - `documents=(of_query, of_key)`: integers [batch, queries] and [batch, keys]; a query sees its own document only.
    - `block_mask=(visible, (rows, columns))`: a boolean for each block of rows × columns pairs.
    - `attn_mask` of booleans: True = may attend.
    - `sinks`: a number a head, the score of one key more whose value is 0.
    - `dropout_p`, `seed`: weights are dropped after the softmax; the same seed drops the same ones.
    - `isa`: 'scalar', 'avx2', 'avx512' or 'neon', instead of the best one there is (or of the variable REGARD_ISA).

    With `return_lse` the result is `(out, lse)`, the natural logarithm of each row's sum of exponentials, float32 (float64
    for float64). `out` is an array to write to. A query that sees nothing gives 0, and −inf as its lse.

    Raises RegardError, which names the argument, what was found and what was expected.
    """
    arrays = _arguments.triple(q, k, v)
    given = None if out is None else _arguments.floats("out", out, 4, "[batch, heads, queries, value_dim]")
    result, lse = _regard.forward(*arrays, _arguments.options(options), given)
    result = out if out is not None else _arguments.like(result, q)
    return (result, _arguments.like(lse, q)) if return_lse else result


class Gradients(NamedTuple):
    """What `attention_backward` gives; the last three only where they are asked for."""

    q: Any
    k: Any
    v: Any
    bias: Any = None
    sinks: Any = None
    slopes: Any = None


def attention_backward(
    d_out: Any,
    q: Any,
    k: Any,
    v: Any,
    out: Any,
    lse: Any,
    *,
    d_lse: Any = None,
    bias_gradient: bool = False,
    sinks_gradient: bool = False,
    slopes_gradient: bool = False,
    **options: Unpack[Options],
) -> Gradients:
    """The gradients of a loss from its gradient `d_out` with respect to the output.

    `out` and `lse` are what `attention(…, return_lse=True)` gave for the same arrays and options; `d_lse` is the gradient
    with respect to the lse, of a loss that depends on it. The gradient of the bias is summed over what the bias was
    broadcast over, to its shape with leading axes up to four; it is float32 (float64 for float64), as are those of the
    sinks and slopes.
    """
    arrays = _arguments.triple(q, k, v)
    of_out = "[batch, heads, queries, value_dim]"
    found = _regard.backward(
        _arguments.floats("d_out", d_out, 4, of_out),
        *arrays,
        _arguments.floats("out", out, 4, of_out),
        _arguments.floats("lse", lse, 3, "[batch, heads, queries]"),
        None if d_lse is None else _arguments.floats("d_lse", d_lse, 3, "[batch, heads, queries]"),
        _arguments.options(options),
        (bool(bias_gradient), bool(sinks_gradient), bool(slopes_gradient)),
    )
    return Gradients(**{name: None if value is None else _arguments.like(value, q) for name, value in found.items()})


def attention_weights(q: Any, k: Any, **options: Unpack[Options]) -> Any:
    """The weights themselves, [batch, heads, queries, keys], by the definition and before dropout.

    Their memory grows with the square of the length: for looking at. `top_weights` and `key_sums` say what most of them
    say in memory that grows with the length.
    """
    return _in_full(q, k, options, scores=False)


def attention_scores(q: Any, k: Any, **options: Unpack[Options]) -> Any:
    """What the weights are the softmax of, −inf where a pair is not visible; otherwise as `attention_weights`."""
    return _in_full(q, k, options, scores=True)


def _in_full(q: Any, k: Any, options: Options, *, scores: bool) -> Any:
    of_q, of_k, _ = _arguments.triple(q, k, k)
    return _arguments.like(_regard.weights(of_q, of_k, _arguments.options(options), scores), q)


def top_weights(q: Any, k: Any, count: int, **options: Unpack[Options]) -> tuple[Any, Any]:
    """The `count` largest weights of each query: `(keys, weights)`, each [batch, heads, queries, count], largest first.

    Where a query sees fewer keys, the key is −1 and its weight 0.
    """
    of_q, of_k, _ = _arguments.triple(q, k, k)
    number = _arguments.count("count", count)
    keys, weights = _regard.top_weights(of_q, of_k, number, _arguments.options(options))
    return _arguments.like(keys, q), _arguments.like(weights, q)


def key_sums(q: Any, k: Any, **options: Unpack[Options]) -> Any:
    """What each key gets of the weight of all queries, [batch, heads, keys]: which keys of a cache are worth keeping."""
    of_q, of_k, _ = _arguments.triple(q, k, k)
    return _arguments.like(_regard.key_sums(of_q, of_k, _arguments.options(options)), q)


def merge(out_a: Any, lse_a: Any, out_b: Any, lse_b: Any) -> tuple[Any, Any]:
    """`(out, lse)` of attention over two sets of keys together, from what it gives over each."""
    outs = [_arguments.floats(name, out, 4, "[batch, heads, queries, value_dim]") for name, out in (("out_a", out_a), ("out_b", out_b))]
    lses = [_arguments.floats(name, lse, 3, "[batch, heads, queries]") for name, lse in (("lse_a", lse_a), ("lse_b", lse_b))]
    out, lse = _regard.merge(outs[0], lses[0], outs[1], lses[1])
    return _arguments.like(out, out_a), _arguments.like(lse, out_a)


class Cpu(NamedTuple):
    """What `cpu` gives."""

    available: tuple[str, ...]
    chosen: str
    threads: int


def cpu() -> Cpu:
    """The instruction sets of this processor, the one that is used, and the number of threads."""
    available, chosen = _regard.instruction_sets()
    return Cpu(tuple(available), chosen, _regard.num_threads())


def peak(isa: str | None = None) -> float:
    """GFLOP/s in single precision that the threads reach together where nothing has to be read: what to measure a rate by.

    With the instruction set named, or the one that is used. It takes some tenths of a second.
    """
    return _regard.peak(_arguments.isa_name(isa))


def set_num_threads(count: int) -> None:
    """Sets how many threads the calls after this one use; at first, as many as the machine has or RAYON_NUM_THREADS says."""
    _regard.set_num_threads(_arguments.count("count", count))


def get_num_threads() -> int:
    """How many threads a call uses."""
    return _regard.num_threads()
