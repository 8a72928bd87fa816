"""Arguments as users give them, made into what the kernels take: arrays of four axes, lists, plain numbers.

Nothing is copied that does not have to be: a view with more axes, or of another library's memory, is still a view.
"""

from __future__ import annotations

import operator
import sys
from typing import Any

import numpy as np

from ._errors import RegardError, refuse

FLOATS = ("float32", "float64", "float16", "bfloat16")

# Types of numbers that were found to be of these: asking one for its name takes longer than a small call computes.
_known: set[np.dtype] = set()


def array(name: str, value: Any) -> np.ndarray:
    """A NumPy array over the memory of `value`: of an array, of a torch tensor on the CPU, of whatever speaks DLPack."""
    if isinstance(value, np.ndarray):
        return value
    if is_torch(value):
        return from_torch(name, value)
    if hasattr(value, "__dlpack__"):
        try:
            return np.from_dlpack(value)
        except (BufferError, RuntimeError, TypeError) as error:
            raise refuse(name, f"an array that NumPy cannot look at ({error})", "an array in this machine's memory") from error
    try:
        return np.asarray(memoryview(value))
    except TypeError:
        raise refuse(name, f"a {type(value).__name__}", "a NumPy array, a torch tensor on the CPU, or what speaks DLPack") from None


def is_torch(value: Any) -> bool:
    """Whether it is a tensor of torch, which is not imported to find out."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, getattr(torch, "Tensor", ()))


def from_torch(name: str, tensor: Any) -> np.ndarray:
    import torch

    if not tensor.is_cpu:
        raise refuse(name, f"a tensor on {tensor.device}", "a tensor on the CPU")
    if tensor.requires_grad:
        tensor = tensor.detach()
    try:
        if tensor.dtype is torch.bfloat16:
            import ml_dtypes

            return tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
        return tensor.numpy()
    except (RuntimeError, TypeError) as error:  # sparse, or to be negated when it is read
        raise refuse(name, f"a tensor that NumPy cannot look at ({error})", "a dense tensor in memory") from error


def like(result: np.ndarray, example: Any) -> Any:
    """A torch tensor over the memory of the result, if the example is one; the result itself otherwise."""
    if not is_torch(example):
        return result
    import torch

    if result.dtype.itemsize == 2 and result.dtype.name == "bfloat16":
        return torch.from_numpy(result.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(result)


def floats(name: str, value: Any, axes: int, meaning: str) -> np.ndarray:
    """An array of floating-point numbers with as many axes."""
    found = array(name, value)
    if found.dtype not in _known:
        if found.dtype.name not in FLOATS:
            raise refuse(name, f"an array of {found.dtype.name}", "float32, float64, float16 or bfloat16")
        if not found.dtype.isnative:
            raise refuse(name, "an array of the other byte order", "this machine's")
        _known.add(found.dtype)
    if found.ndim != axes:
        raise refuse(name, f"an array of {found.ndim} axes", f"{axes}: {meaning}")
    return found


def triple(q: Any, k: Any, v: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`q`, `k` and `v`, of one type."""
    of_q = floats("q", q, 4, "[batch, heads, queries, head_dim]")
    of_k = floats("k", k, 4, "[batch, kv_heads, keys, head_dim]")
    of_v = floats("v", v, 4, "[batch, kv_heads, keys, value_dim]")
    for name, other in (("k", of_k), ("v", of_v)):
        if other.dtype != of_q.dtype:
            raise refuse(name, f"an array of {other.dtype.name}", f"{of_q.dtype.name}, as `q`")
    return of_q, of_k, of_v


def over_scores(name: str, value: Any) -> np.ndarray:
    """An array of at most four axes, with leading axes of length 1 up to `[batch, heads, queries, keys]`."""
    found = array(name, value)
    if found.ndim > 4:
        raise refuse(name, f"an array of {found.ndim} axes", "at most 4: [batch, heads, queries, keys]")
    return found[(np.newaxis,) * (4 - found.ndim)]


def booleans(name: str, value: Any, meaning: str) -> np.ndarray:
    """Likewise, of booleans: each byte is 0 or 1, which a view of other memory as `bool` need not hold."""
    found = over_scores(name, value)
    if found.dtype != np.bool_:
        raise refuse(name, f"an array of {found.dtype.name}", meaning)
    once = tuple(slice(1) if stride == 0 else slice(None) for stride in found.strides)
    largest = found.view(np.uint8)[once].max(initial=0)
    if largest > 1:
        raise refuse(name, f"an array of bool that holds the byte {largest}", "only the bytes 0 (False) and 1 (True)")
    return found


def count(name: str, value: Any) -> int:
    """A number of things."""
    number = integer(name, value)
    if number < 0:
        raise refuse(name, number, "at least 0")
    return number


def integer(name: str, value: Any) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        raise refuse(name, f"a {type(value).__name__}", "an integer") from None
    if not -(2**62) < number < 2**62:
        raise refuse(name, number, "an integer below 2⁶²")
    return number


def number(name: str, value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise refuse(name, f"a {type(value).__name__}", "a number") from None


def integers(name: str, value: Any, one: Any = count) -> list[int]:
    """A list of integers."""
    try:
        items = list(array(name, value)) if hasattr(value, "dtype") else list(value)
    except TypeError:
        raise refuse(name, f"a {type(value).__name__}", "a list of integers, one for each batch row") from None
    return [one(f"{name}[{at}]", item) for at, item in enumerate(items)]


def numbers(name: str, value: Any) -> list[float]:
    """A list of numbers, one for each head."""
    items = array(name, value) if hasattr(value, "dtype") else value
    try:
        found = np.asarray(items, dtype=np.float32)
    except (TypeError, ValueError):
        raise refuse(name, f"a {type(value).__name__}", "a list of numbers, one for each head") from None
    if found.ndim != 1:
        raise refuse(name, f"an array of {found.ndim} axes", "one number for each head")
    return found.tolist()


def of_documents(value: Any) -> tuple[np.ndarray, np.ndarray]:
    try:
        of_query, of_key = value
    except (TypeError, ValueError):
        raise refuse("documents", f"a {type(value).__name__}", "a pair: of each query, and of each key") from None
    both = []
    for ids in (of_query, of_key):
        ids = array("documents", ids)
        if ids.ndim != 2 or ids.dtype.kind not in "iu":
            raise refuse("documents", f"{ids.dtype.name} with shape {ids.shape}", "integers, [batch, queries] and [batch, keys]")
        narrow = np.require(ids, np.int32, "A")  # in this machine's byte order too
        if not np.array_equal(narrow, ids):
            raise refuse("documents", "a number beyond 32 bits", "numbers of 32 bits")
        both.append(narrow)
    return both[0], both[1]


def of_blocks(value: Any) -> tuple[np.ndarray, tuple[int, int]]:
    try:
        visible, (rows, columns) = value
    except (TypeError, ValueError):
        raise refuse("block_mask", f"a {type(value).__name__}", "(visible, (queries, keys) of a block)") from None
    visible = booleans("block_mask", visible, "bool, True where a block is visible")
    return visible, (count("block_mask", rows), count("block_mask", columns))


def isa_name(isa: Any) -> str | None:
    if isa is not None and not isinstance(isa, str):
        raise refuse("isa", f"a {type(isa).__name__}", "a name: 'scalar', 'avx2', 'avx512' or 'neon'")
    return isa


_NAMES = (
    "scale causal causal_offset offsets prefix visible_keys documents blocks mask bias softcap slopes sinks dropout isa"
).split()


def options(given: dict[str, Any]) -> dict[str, Any] | None:
    """The options as `_regard` takes them; `None` if there are none."""
    return _options(**given) if given else None


def _options(
    *,
    attn_mask: Any = None,
    bias: Any = None,
    is_causal: bool = False,
    causal: Any = None,
    offsets: Any = None,
    window: Any = None,
    prefix: Any = None,
    visible_keys: Any = None,
    documents: Any = None,
    block_mask: Any = None,
    scale: Any = None,
    softcap: Any = None,
    slopes: Any = None,
    sinks: Any = None,
    dropout_p: Any = 0.0,
    seed: Any = 0,
    isa: str | None = None,
    **unknown: Any,
) -> dict[str, Any]:
    if unknown:
        raise TypeError(f"there is no option `{next(iter(unknown))}`")
    found = dict.fromkeys(_NAMES)
    if not isinstance(is_causal, bool) and np.ndim(is_causal) != 0:
        raise refuse("is_causal", f"a {type(is_causal).__name__}", "True or False")
    if is_causal:
        if causal is not None:
            raise refuse("causal", repr(causal), "only one of `is_causal` (which is causal='top_left') and `causal`")
        causal = "top_left"
    if isinstance(causal, str):
        found["causal"] = causal
    elif causal is not None and (np.ndim(causal) > 0 or isinstance(causal, (list, tuple))):
        if offsets is not None:
            raise refuse("offsets", "given beside a list in `causal`", "one of both: they say the same")
        found["causal"], offsets = "top_left", causal
    elif causal is not None:
        if isinstance(causal, (bool, np.bool_)):
            raise refuse("causal", causal, "'top_left' or 'bottom_right': they differ where there are more keys than queries")
        found["causal_offset"] = integer("causal", causal)
    if offsets is not None:
        found["offsets"] = integers("offsets", offsets, integer)
    if window is None:
        found["window"] = (None, None)
    else:
        try:
            left, right = window
        except (TypeError, ValueError):
            raise refuse("window", repr(window), "(left, right), None for no limit") from None
        found["window"] = tuple(None if side is None else count("window", side) for side in (left, right))
    if attn_mask is not None:
        mask = over_scores("attn_mask", attn_mask)
        if mask.dtype == np.bool_:
            found["mask"] = booleans("attn_mask", mask, "bool")
        elif mask.dtype.name not in FLOATS:
            raise refuse("attn_mask", f"an array of {mask.dtype.name}", "bool (True = may attend) or numbers, which are added")
        elif bias is not None:
            raise refuse("bias", "given beside an `attn_mask` of numbers", "one of both: each is added to the scores")
        else:
            bias = attn_mask
    if bias is not None:
        found["bias"] = over_scores("bias", bias)
    for name, value in (("prefix", prefix), ("visible_keys", visible_keys)):
        if value is not None:
            found[name] = integers(name, value)
    if documents is not None:
        found["documents"] = of_documents(documents)
    if block_mask is not None:
        found["blocks"] = of_blocks(block_mask)
    for name, value in (("scale", scale), ("softcap", softcap)):
        if value is not None:
            found[name] = number(name, value)
    for name, value in (("slopes", slopes), ("sinks", sinks)):
        if value is not None:
            found[name] = numbers(name, value)
    probability = number("dropout_p", dropout_p)
    if probability != 0.0:
        found["dropout"] = (probability, count("seed", seed))
    found["isa"] = isa_name(isa)
    return found


__all__ = ["RegardError", "array", "floats", "integer", "like", "options", "triple"]
