"""What `regard` promises, from outside: values, strides, types, odd cases, errors, threads."""

import threading
import time

import ml_dtypes
import numpy as np
import pytest
import regard

RNG = np.random.default_rng(7)


def numbers(*shape, dtype=np.float32):
    return RNG.standard_normal(shape).astype(dtype)


def by_definition(q, k, v, bias=0.0, visible=True, scale=None):
    """In float64 and in the plainest words."""
    q, k, v = (x.astype(np.float64) for x in (q, k, v))
    group = q.shape[1] // k.shape[1]
    k, v = (np.repeat(x, group, axis=1) for x in (k, v))
    scores = q @ k.swapaxes(-1, -2) * (scale or q.shape[-1] ** -0.5) + bias
    scores = np.where(visible, scores, -np.inf)
    powers = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True) @ v


def test_it_is_the_definition():
    q, k, v = numbers(2, 6, 33, 20), numbers(2, 3, 47, 20), numbers(2, 3, 47, 9)
    i, j = np.arange(33)[:, None], np.arange(47)
    np.testing.assert_allclose(regard.attention(q, k, v), by_definition(q, k, v), atol=2e-6)
    found = regard.attention(q, k, v, causal="bottom_right", window=(11, None), scale=0.3)
    visible = (j <= i + 14) & (j >= i + 14 - 11)
    np.testing.assert_allclose(found, by_definition(q, k, v, visible=visible, scale=0.3), atol=2e-6)
    bias = numbers(6, 1, 47)
    np.testing.assert_allclose(regard.attention(q, k, v, attn_mask=bias), by_definition(q, k, v, bias), atol=2e-6)
    mask = numbers(33, 47) > -1
    np.testing.assert_allclose(regard.attention(q, k, v, attn_mask=mask), by_definition(q, k, v, visible=mask), atol=2e-6)
    ids = np.arange(33)[None] // 8, np.arange(47)[None] // 10
    same = ids[0][0][:, None] == ids[1][0]
    two = tuple(np.broadcast_to(x, (2, x.shape[1])) for x in ids)
    np.testing.assert_allclose(regard.attention(q, k, v, documents=two), by_definition(q, k, v, visible=same), atol=2e-6)
    blocks = np.tril(np.ones((5, 6), dtype=bool))
    whole = np.kron(blocks, np.ones((8, 8), dtype=bool))[:33, :47]
    found = regard.attention(q, k, v, block_mask=(blocks, (8, 8)))
    np.testing.assert_allclose(found, by_definition(q, k, v, visible=whole), atol=2e-6)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, ml_dtypes.bfloat16])
def test_strides_of_any_kind_are_read_where_they_lie(dtype):
    base = numbers(2, 40, 4, 24, dtype=dtype)
    whole = np.ascontiguousarray(base.transpose(0, 2, 1, 3))
    expected = regard.attention(whole, whole, whole)
    assert expected.dtype == dtype
    heads_inside = base.transpose(0, 2, 1, 3)
    np.testing.assert_array_equal(regard.attention(heads_inside, heads_inside, heads_inside), expected)
    backwards = np.ascontiguousarray(whole[:, ::-1, ::-1])[:, ::-1, ::-1]
    np.testing.assert_array_equal(regard.attention(backwards, backwards, backwards), expected)
    one_row = np.broadcast_to(whole[:, :, :1], whole.shape)
    found = regard.attention(one_row, one_row, one_row)
    np.testing.assert_allclose(found.astype(np.float64), one_row.astype(np.float64), rtol=1e-2)


def test_gradients_are_slopes_along_random_directions():
    q, k, v = (numbers(1, 2, 9, 5, dtype=np.float64) for _ in range(3))
    bias, d_out = numbers(1, 2, 1, 9, dtype=np.float64), numbers(1, 2, 9, 5, dtype=np.float64)
    d_lse = numbers(1, 2, 9, dtype=np.float64)
    options = {"is_causal": True, "softcap": 1.5, "sinks": [0.5, -0.25], "slopes": [0.125, 0.5], "dropout_p": 0.25, "seed": 3}

    def loss(q, k, v, bias):
        out, lse = regard.attention(q, k, v, bias=bias, return_lse=True, **options)
        return (out * d_out).sum() + (lse * d_lse).sum()

    out, lse = regard.attention(q, k, v, bias=bias, return_lse=True, **options)
    found = regard.attention_backward(
        d_out, q, k, v, out, lse, d_lse=d_lse, bias=bias, bias_gradient=True, sinks_gradient=True, slopes_gradient=True, **options
    )
    assert found.sinks.shape == found.slopes.shape == (2,)
    h = 1e-5
    steps = [numbers(*x.shape, dtype=np.float64) for x in (q, k, v, bias)]
    up = loss(*(x + h * step for x, step in zip((q, k, v, bias), steps)))
    down = loss(*(x - h * step for x, step in zip((q, k, v, bias), steps)))
    along = sum((gradient * step).sum() for gradient, step in zip(found[:4], steps))
    assert abs((up - down) / (2 * h) - along) < 1e-7


def test_a_query_that_sees_nothing_gives_zero():
    q, k = numbers(1, 1, 4, 8), numbers(1, 1, 3, 8)
    out, lse = regard.attention(q, k, k, causal=-2, return_lse=True)
    assert (out[0, 0, :2] == 0).all() and np.isneginf(lse[0, 0, :2]).all()
    assert regard.attention(q, k[:, :, :0], k[:, :, :0]).shape == (1, 1, 4, 8)
    assert regard.attention(q[:, :, :0], k, k).shape == (1, 1, 0, 8)


def test_a_nan_reaches_only_the_rows_that_see_it():
    q, k = numbers(1, 1, 5, 8), numbers(1, 1, 5, 8)
    v = k.copy()
    v[0, 0, 3] = np.nan
    out = regard.attention(q, k, v, is_causal=True)
    assert np.isfinite(out[0, 0, :3]).all() and np.isnan(out[0, 0, 3:]).all()


def test_weights_whole_or_the_largest_or_summed_are_the_same():
    q, k = numbers(1, 4, 30, 16), numbers(1, 2, 40, 16)
    weights = regard.attention_weights(q, k, causal="bottom_right")
    np.testing.assert_allclose(weights.sum(axis=-1), 1, rtol=1e-6)
    np.testing.assert_allclose(regard.key_sums(q, k, causal="bottom_right"), weights.sum(axis=2), atol=2e-5)
    keys, top = regard.top_weights(q, k, 12, causal="bottom_right")
    np.testing.assert_allclose(top, -np.sort(-weights, axis=-1)[..., :12], atol=2e-6)
    seen = keys >= 0
    np.testing.assert_allclose(np.take_along_axis(weights, np.where(seen, keys, 0), -1)[seen], top[seen], atol=2e-6)
    assert (keys[0, 0, 0] >= 0).sum() == 11 and top[0, 0, 0, 11] == 0


def test_two_parts_of_the_keys_merge_to_the_whole():
    q, k, v = (numbers(1, 2, 20, 8) for _ in range(3))
    parts = [regard.attention(q, k[:, :, part], v[:, :, part], return_lse=True) for part in (slice(0, 7), slice(7, 20))]
    np.testing.assert_allclose(regard.merge(*parts[0], *parts[1])[0], regard.attention(q, k, v), atol=1e-6)


def test_the_output_is_written_where_it_is_wanted():
    x = numbers(2, 3, 10, 8)
    out = np.empty((2, 10, 3, 8), np.float32).transpose(0, 2, 1, 3)
    assert regard.attention(x, x, x, out=out) is out
    np.testing.assert_array_equal(out, regard.attention(x, x, x))


def test_any_number_of_threads_gives_the_same_bits():
    q, k = numbers(2, 4, 150, 32), numbers(2, 2, 700, 32)
    before = regard.get_num_threads()
    results = []
    for count in (1, 2, 3, 7):
        regard.set_num_threads(count)
        out, lse = regard.attention(q, k, k, return_lse=True)
        results.append((out, *regard.attention_backward(out, q, k, k, out, lse)[:3]))
    regard.set_num_threads(before)
    for result in results[1:]:
        for a, b in zip(result, results[0]):
            np.testing.assert_array_equal(a, b)


def test_other_python_threads_run_meanwhile():
    x = numbers(1, 8, 3000, 64)
    ticks, done = [], threading.Event()

    def tick():
        while not done.is_set():
            ticks.append(time.perf_counter())
            time.sleep(0.001)

    thread = threading.Thread(target=tick)
    thread.start()
    start = time.perf_counter()
    regard.attention(x, x, x)
    end = time.perf_counter()
    done.set()
    thread.join()
    within = [at for at in ticks if start < at < end]
    assert len(within) > 3, f"{len(within)} ticks in {end - start:.3f} s"


@pytest.mark.parametrize(
    ("change", "argument", "message"),
    [
        ({"k": numbers(2, 4, 7, 9)}, "k", "`k` has shape [2, 4, 7, 9], expected [2, 4, 7, 8] (the batch and head_dim of `q`)"),
        ({"k": numbers(2, 3, 7, 8), "v": numbers(2, 3, 7, 8)}, "k", "`k` has 3 heads, which does not divide the 4 heads of `q`"),
        ({"q": numbers(4, 7, 8)}, "q", "`q` is an array of 3 axes, expected 4: [batch, heads, queries, head_dim]"),
        ({"v": numbers(2, 4, 7, 8, dtype=np.float64)}, "v", "`v` is an array of float64, expected float32, as `q`"),
        ({"q": [[1.0]]}, "q", "`q` is a list, expected a NumPy array, a torch tensor on the CPU, or what speaks DLPack"),
        ({"q": np.zeros((2, 4, 7, 8), int)}, "q", "`q` is an array of int64, expected float32, float64, float16 or bfloat16"),
        ({"attn_mask": np.ones((2, 2, 7, 7), bool)}, "attn_mask", "does not broadcast to [2, 4, 7, 7]"),
        ({"attn_mask": np.ones((7, 7), int)}, "attn_mask", "bool (True = may attend) or numbers, which are added"),
        ({"bias": numbers(5, 5)}, "bias", "does not broadcast to [2, 4, 7, 7]"),
        ({"causal": True}, "causal", "they differ where there are more keys than queries"),
        ({"causal": "bottom-right"}, "causal", "`causal` is bottom-right, expected"),
        ({"window": 5}, "window", "`window` is 5, expected (left, right), None for no limit"),
        ({"window": (-1, 0)}, "window", "`window` is -1, expected at least 0"),
        ({"visible_keys": [7, 8]}, "visible_keys[1]", "`visible_keys[1]` is 8, expected at most the 7 keys of `k`"),
        ({"visible_keys": [7]}, "visible_keys", "`visible_keys` has 1 elements, expected 2 (one per batch row)"),
        ({"softcap": 0.0}, "softcap", "`softcap` is 0, expected a positive finite number"),
        ({"softcap": "x"}, "softcap", "`softcap` is a str, expected a number"),
        ({"sinks": [1.0]}, "sinks", "`sinks` has 1 elements, expected 4 (one per head of `q`)"),
        ({"dropout_p": 1.0}, "dropout_p", "the probability of `dropout_p` is 1, expected at least 0 and below 1"),
        ({"isa": "sse9"}, "isa", "`isa` is `sse9`, expected one of scalar, avx2, avx512, avx512bf16, amx, neon"),
        ({"out": numbers(2, 4, 7, 9)}, "out", "`out` has shape [2, 4, 7, 9], expected [2, 4, 7, 8]"),
        ({"block_mask": (np.ones((1, 1), bool), (0, 4))}, "block_mask", "the size of `block_mask` is 0 × 4, expected at least 1 × 1"),
        ({"documents": np.zeros((2, 7))}, "documents", "`documents` is float64 with shape"),
        ({"attn_mask": np.full((7, 7), 2, np.uint8).view(bool)}, "attn_mask", "only the bytes 0 (False) and 1 (True)"),
        ({"isa": 3}, "isa", "`isa` is a int, expected a name"),
        ({"is_causal": np.ones(2, bool)}, "is_causal", "expected True or False"),
    ],
)
def test_what_does_not_fit_is_named(change, argument, message):
    given = {"q": numbers(2, 4, 7, 8), "k": numbers(2, 4, 7, 8), "v": numbers(2, 4, 7, 8), **change}
    with pytest.raises(regard.RegardError) as caught:
        regard.attention(given.pop("q"), given.pop("k"), given.pop("v"), **given)
    assert message in str(caught.value)
    assert caught.value.argument == argument
    assert isinstance(caught.value, ValueError)


def test_an_output_that_is_also_read_is_refused():
    x = numbers(2, 3, 10, 8)
    with pytest.raises(regard.RegardError, match="`out` is .* writable memory that overlaps no other argument"):
        regard.attention(x, x, x, out=x)
    still = x.copy()
    still.flags.writeable = False
    with pytest.raises(regard.RegardError, match="`out`"):
        regard.attention(x, x, x, out=still)


def test_an_output_whose_elements_share_memory_is_refused():
    x = numbers(2, 3, 10, 8)
    for strides in ((0, 0, 0, 4), (960, 320, 16, 4)):
        shared = np.lib.stride_tricks.as_strided(np.zeros(512, np.float32), x.shape, strides)
        with pytest.raises(regard.RegardError, match="`out` is an array of which elements share memory"):
            regard.attention(x, x, x, out=shared)


def test_more_memory_than_there_is_ends_in_an_exception():
    q = numbers(1, 1, 2, 8)
    endless = np.broadcast_to(np.zeros((1, 1, 1, 8), np.float32), (1, 1, 2**45, 8))
    for call in (
        lambda: regard.attention(endless, q, q),
        lambda: regard.attention_weights(q, endless),
        lambda: regard.top_weights(q, endless, 2**45),
        lambda: regard.key_sums(q, endless),
    ):
        with pytest.raises(MemoryError):
            call()
    with pytest.raises(regard.RegardError, match="`count` is 3, expected at most the 2 keys of `k`"):
        regard.top_weights(q, q, 3)
    with pytest.raises(regard.RegardError, match="`count` is 10000000, expected from 1 to 1024"):
        regard.set_num_threads(10**7)


def test_documents_are_read_right_from_a_field_of_records():
    x = numbers(2, 3, 7, 8)
    records = np.zeros((2, 7), dtype=[("flag", "u1"), ("document", "<i4")])
    records["document"] = np.arange(7) // 3
    whole, field = np.ascontiguousarray(records["document"]), records["document"]
    found = regard.attention(x, x, x, documents=(field, field))
    np.testing.assert_array_equal(found, regard.attention(x, x, x, documents=(whole, whole)))


def test_numbers_that_are_not_aligned_are_refused():
    records = np.zeros((1, 1, 4, 8), dtype=[("flag", "u1"), ("x", "f4")])
    with pytest.raises(regard.RegardError, match="`q` is not aligned"):
        regard.attention(records["x"], records["x"], records["x"])


def test_an_option_that_there_is_not_is_a_type_error():
    x = numbers(1, 1, 2, 2)
    with pytest.raises(TypeError, match="there is no option `is_casual`"):
        regard.attention(x, x, x, is_casual=True)


def test_the_processor_is_described():
    cpu = regard.cpu()
    assert "scalar" in cpu.available and cpu.chosen in cpu.available and cpu.threads >= 1
    assert regard.peak() > 0.1 and regard.peak("scalar") > 0.1
    with pytest.raises(regard.RegardError, match="`isa` is `sse9`, expected one of"):
        regard.peak("sse9")


class Foreign:
    """An array of a library that speaks DLPack and that NumPy knows nothing of."""

    def __init__(self, array):
        self.array = array

    def __dlpack__(self, **how):
        return self.array.__dlpack__(**how)

    def __dlpack_device__(self):
        return self.array.__dlpack_device__()


def test_arrays_of_other_libraries_are_read_where_they_lie():
    x = numbers(2, 3, 10, 8)
    foreign = Foreign(x)
    np.testing.assert_array_equal(regard.attention(foreign, foreign, foreign), regard.attention(x, x, x))


def test_torch_tensors_go_in_and_come_out():
    torch = pytest.importorskip("torch")
    for dtype in (torch.float32, torch.float64, torch.float16, torch.bfloat16):
        q = torch.randn(2, 6, 4, 8).to(dtype).transpose(1, 2)
        out, lse = regard.attention(q, q, q, is_causal=True, return_lse=True)
        assert out.dtype == dtype and out.shape == q.shape
        expected = torch.nn.functional.scaled_dot_product_attention(q.double(), q.double(), q.double(), is_causal=True)
        assert (out.double() - expected).abs().max() < 0.02
        with pytest.raises(regard.RegardError, match="`q` is a tensor that NumPy cannot look at"):
            regard.attention(q.to_sparse(), q, q)
        gradients = regard.attention_backward(out, q.requires_grad_(), q, q, out, lse, is_causal=True)
        assert gradients.q.shape == q.shape and gradients.q.dtype == dtype
