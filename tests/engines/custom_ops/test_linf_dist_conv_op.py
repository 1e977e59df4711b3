# SPDX-License-Identifier: Apache-2.0
"""The operator LinfDistConv of the library, in handwritten models, against windows cut out one by one."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import oracles
import pytest
import torch
from custom_op_models import Arrays, needs_library, one_node, run, session
from oracles import Float32

pytestmark = needs_library

# X, W, attributes
CASES: list[tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]] = [
    ((1, 1, 1, 1), (1, 1, 1, 1), {}),
    ((2, 3, 7, 9), (5, 3, 3, 3), {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}),
    ((3, 2, 8, 5), (4, 2, 3, 2), {"strides": [2, 1], "pads": [0, 1, 2, 0]}),
    ((2, 1, 11, 13), (3, 1, 2, 5), {"strides": [3, 2], "pads": [2, 4, 1, 0], "dilations": [4, 2]}),
    ((1, 2, 3, 4), (2, 2, 1, 3), {"pads": [7, 9, 8, 6], "dilations": [1, 5], "auto_pad": "NOTSET", "group": 1}),
    ((0, 2, 5, 5), (3, 2, 2, 2), {}),
    ((33, 1, 9, 7), (19, 1, 3, 3), {"kernel_shape": [3, 3], "strides": [1, 1], "dilations": [1, 1]}),
    ((4, 16, 20, 20), (33, 16, 3, 3), {"pads": [1, 1, 1, 1]}),
]


def operands(x: tuple[int, ...], w: tuple[int, ...]) -> dict[str, Float32]:
    rng = np.random.default_rng(sum(x) + sum(w))
    return {name: oracles.awkward_float32(rng, shape) for name, shape in (("X", x), ("W", w), ("B", w[:1]))}


def by_definition(values: Arrays, attributes: dict[str, Any]) -> Float32:
    moves = {"strides": [1, 1], "pads": [0, 0, 0, 0], "dilations": [1, 1]} | attributes
    stride, pads, dilation = (tuple(moves[name]) for name in ("strides", "pads", "dilations"))
    return oracles.linf_dist_conv(values["X"], values["W"], stride, pads, dilation) + values["B"][:, None, None]


def assert_same(found: Float32, expected: Float32) -> None:
    assert found.shape == expected.shape
    np.testing.assert_array_equal(oracles.bits(found), oracles.bits(expected))


@pytest.mark.parametrize("constants", [(), ("W", "B")], ids=str)
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_bits(case: tuple[Any, Any, dict[str, Any]], threads: int, constants: tuple[str, ...]) -> None:
    x, w, attributes = case
    values = operands(x, w)
    model = one_node("LinfDistConv", values, constants, **attributes)
    assert_same(run(model, values, threads), by_definition(values, attributes))


@pytest.mark.parametrize("threads", [1, 2])
def test_a_callers_flush_to_zero_changes_no_bit(threads: int) -> None:
    values = {
        name: value * np.float32(2.0**-130) for name, value in operands((4, 3, 24, 24), (9, 3, 3, 3)).items()
    }
    expected = by_definition(values, {})
    torch.set_flush_denormal(True)
    try:
        found = run(one_node("LinfDistConv", values), values, threads)
    finally:
        torch.set_flush_denormal(False)
    assert_same(found, expected)


def test_shapes_are_known_before_anything_runs() -> None:
    values = operands((1, 2, 9, 7), (3, 2, 3, 3))
    model = one_node("LinfDistConv", values, ("W", "B"), strides=[2, 1], pads=[1, 0, 0, 2], dilations=[1, 2])
    shape = model.graph.input[0].type.tensor_type.shape
    shape.dim.add().dim_param = "N"
    for size in (2, 9, 7):
        shape.dim.add().dim_value = size
    used = session(model)
    expected = used.run(None, {"X": values["X"]})[0].shape
    assert used.get_outputs()[0].shape == ["N", *expected[1:]]


FORMS = "expected X (N, C, H, W) and W (O, C, kH, kW) with the same C >= 1"
FITS = "expected a window that fits into the padded image"


@pytest.mark.parametrize(
    ("x", "w", "b", "attributes", "text"),
    [
        ((1, 2, 5), (3, 2, 1, 1), (3,), {}, f"X is (1, 2, 5) and W is (3, 2, 1, 1); {FORMS}"),
        ((1, 2, 5, 5), (3, 2), (3,), {}, f"X is (1, 2, 5, 5) and W is (3, 2); {FORMS}"),
        ((1, 2, 5, 5), (3, 1, 1, 1), (3,), {}, f"X is (1, 2, 5, 5) and W is (3, 1, 1, 1); {FORMS}"),
        ((1, 2, 5, 5), (0, 2, 1, 1), (0,), {}, f"X is (1, 2, 5, 5) and W is (0, 2, 1, 1); {FORMS}"),
        ((1, 2, 5, 5), (3, 2, 1, 1), (2,), {}, "W is (3, 2, 1, 1) and B is (2,); expected B (O,) with W's O"),
        ((1, 2, 5, 5), (3, 2, 1, 1), (3, 1), {}, "W is (3, 2, 1, 1) and B is (3, 1); expected B (O,) with W's O"),
        ((1, 2, 5, 5), (3, 2, 6, 1), (3,), {}, f"X is (1, 2, 5, 5) and W is (3, 2, 6, 1); {FITS}"),
        (
            (1, 2, 5, 5),
            (3, 2, 3, 3),
            (3,),
            {"dilations": [1, 3]},
            f"X is (1, 2, 5, 5) and W is (3, 2, 3, 3); {FITS}",
        ),
        (
            (1, 2, 5, 5),
            (3, 2, 3, 3),
            (3,),
            {"kernel_shape": [3, 2]},
            "W is (3, 2, 3, 3) and kernel_shape is [3, 2]; expected W (O, C, *kernel_shape)",
        ),
        (
            (1, 2, 5, 5),
            (3, 2, 0, 1),
            (3,),
            {},
            "W is (3, 2, 0, 1) and kernel_shape is [0, 0]; expected W (O, C, *kernel_shape)",
        ),
        *[
            ((1, 1, 5, 5), (1, 1, 1, 1), (1,), attributes, text)
            for attributes, text in [
                ({"group": 2}, "group is 2; expected 1"),
                ({"auto_pad": "SAME_UPPER"}, "auto_pad is SAME_UPPER; expected NOTSET: give pads"),
                ({"strides": [0, 1]}, "strides is [0, 1]; expected 2 integers of 1 to 65536"),
                ({"strides": [1]}, "strides is [1]; expected 2 integers of 1 to 65536"),
                ({"dilations": [1, 2**40]}, f"dilations is [1, {2**40}]; expected 2 integers of 1 to 65536"),
                ({"pads": [1, 1]}, "pads is [1, 1]; expected 4 integers of 0 to 65536"),
                ({"pads": [1, 1, -1, 0]}, "pads is [1, 1, -1, 0]; expected 4 integers of 0 to 65536"),
                (
                    {"pads": list(range(9))},
                    "pads is [0, 1, 2, 3, 4, 5, 6, 7, ...]; expected 4 integers of 0 to 65536",
                ),
                ({"kernel_shape": [1, 0]}, "kernel_shape is [1, 0]; expected 2 integers of 1 to 65536"),
                ({"strides": 2}, "attribute strides is of another type; expected a list of integers"),
                ({"pads": [0.5]}, "attribute pads is of another type; expected a list of integers"),
                ({"group": 1.0}, "attribute group is of another type; expected an integer"),
                ({"auto_pad": 1}, "attribute auto_pad is of another type; expected a string"),
            ]
        ],
    ],
)
def test_refuses(x: Any, w: Any, b: Any, attributes: dict[str, Any], text: str) -> None:
    values = {name: np.zeros(shape, np.float32) for name, shape in (("X", x), ("W", w), ("B", b))}
    with pytest.raises(Exception, match=rf"LinfDistConv: {re.escape(text)}$"):
        run(one_node("LinfDistConv", values, **attributes), values)


def test_float16_has_no_kernel() -> None:
    single = operands((1, 1, 3, 3), (1, 1, 2, 2))
    values = {name: np.zeros(value.shape, np.float16) for name, value in single.items()}
    with pytest.raises(Exception, match="LinfDistConv"):
        run(one_node("LinfDistConv", values), values)
