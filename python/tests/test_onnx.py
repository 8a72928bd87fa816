"""The node tests of the ONNX operator `Attention`, all 93 of the `onnx` wheel 1.23.2."""

import warnings

import numpy as np
import pytest
from onnx import helper
from onnx.backend.test.case.node import collect_testcases
from onnx_attention import attention

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # other operators' cases, made on the way
    CASES = [
        case
        for case in collect_testcases(None)
        if case.name.startswith("test_attention") and [node.op_type for node in case.model.graph.node] == ["Attention"]
    ]


def test_all_cases_are_there():
    assert len(CASES) == 93


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_attention_is_what_onnx_says(case):
    node = case.model.graph.node[0]
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    for given, expected in case.data_sets:
        by_name = iter(given)
        arguments = [next(by_name) if name else None for name in node.input]
        results = attention(*arguments, **attributes)
        wanted = [result for name, result in zip(node.output, results) if name]
        for found, expected in zip(wanted, expected, strict=True):
            assert found.shape == expected.shape and found.dtype == expected.dtype
            # as the ONNX runner compares: of bfloat16, which has 8 bits, two units in the last place
            rtol = max(case.rtol, 2**-6) if found.dtype.name == "bfloat16" else case.rtol
            found, expected = found.astype(np.float64), expected.astype(np.float64)
            np.testing.assert_allclose(found, expected, rtol=rtol, atol=case.atol)
