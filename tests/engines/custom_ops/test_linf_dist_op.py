# SPDX-License-Identifier: Apache-2.0
"""The operator LinfDist of the library, in handwritten models, against its definition in numpy."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt
import oracles
import pytest
import torch
from custom_op_models import Arrays, needs_library, one_node, run, session

pytestmark = needs_library

CONSTANTS = [(), ("W", "B"), ("W",), ("B",), ("X", "W", "B")]
# N, I, O
SIZES = [(0, 3, 2), (1, 1, 1), (1, 17, 3), (5, 3, 1), (7, 33, 9), (31, 1, 5), (64, 300, 70), (3, 1000, 400)]


def operands(size: tuple[int, int, int], dtype: Any = np.float32) -> dict[str, npt.NDArray[Any]]:
    n, i, o = size
    rng = np.random.default_rng(n + i + o)
    shapes = {"X": (n, i), "W": (o, i), "B": (o,)}
    if dtype == np.float32:
        return {name: oracles.awkward_float32(rng, shape) for name, shape in shapes.items()}
    return {name: awkward_half(rng, shape) for name, shape in shapes.items()}


def awkward_half(rng: np.random.Generator, shape: tuple[int, ...]) -> npt.NDArray[np.float16]:
    """Every exponent that cannot overflow, denormals, both zeros and small integers that tie."""
    bits = rng.integers(0, 2**16, shape, dtype=np.uint16)
    wild = ((bits & 0x83FF) | (rng.integers(0, 29, shape, dtype=np.uint16) << 10)).view(np.float16)
    denormal, zero = (bits & np.uint16(0x83FF)).view(np.float16), (bits & np.uint16(0x8000)).view(np.float16)
    small = rng.integers(-3, 4, shape).astype(np.float16)
    return np.choose(rng.integers(0, 4, shape), [wild, denormal, zero, small]).astype(np.float16)


def by_definition(values: Arrays) -> npt.NDArray[Any]:
    x, w, b = values["X"], values["W"], values["B"]
    with np.errstate(over="ignore"):
        result: npt.NDArray[Any] = np.abs(x[:, None] - w[None]).max(-1) + b
    assert result.dtype == x.dtype
    return result


def assert_same(found: npt.NDArray[Any], expected: npt.NDArray[Any]) -> None:
    assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
    kind = {2: np.uint16, 4: np.uint32}[found.dtype.itemsize]
    np.testing.assert_array_equal(found.view(kind), expected.view(kind))


@pytest.mark.parametrize("constants", CONSTANTS, ids=str)
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_bits(dtype: Any, size: tuple[int, int, int], constants: tuple[str, ...]) -> None:
    values = operands(size, dtype)
    assert_same(run(one_node("LinfDist", values, constants), values), by_definition(values))


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_threads_do_not_change_bits(dtype: Any, threads: int) -> None:
    values = operands((130, 257, 131), dtype)
    expected = by_definition(values)
    for _ in range(5):
        assert_same(run(one_node("LinfDist", values, ("W", "B")), values, threads), expected)


def test_every_half_is_read_and_written_exactly() -> None:
    # |x - 0| + 0 is |x|: each of the halves, infinity included.
    every = np.arange(0x7C01, dtype=np.uint16).view(np.float16)[:, None]
    values = {"X": -every, "W": np.zeros((1, 1), np.float16), "B": np.zeros(1, np.float16)}
    assert_same(run(one_node("LinfDist", values), values), every)


def test_half_rounds_the_distance_before_the_bias() -> None:
    # 2048.5 rounds to 2048; adding 0.5 to what was not rounded would give 2050 instead of 2048.
    values = {
        "X": np.full((1, 1), 2047.0, np.float16),
        "W": np.full((1, 1), -1.5, np.float16),
        "B": np.full(1, 0.75, np.float16),
    }
    assert run(one_node("LinfDist", values), values).item() == 2048.0


@pytest.mark.parametrize("batch", [5, 0, 1, 64])
def test_one_session_takes_any_batch(batch: int) -> None:
    values = operands((batch, 20, 30))
    model = one_node("LinfDist", operands((1, 20, 30)) | {"W": values["W"], "B": values["B"]}, ("W", "B"))
    used = session(model)
    for size in (batch, 3, batch):
        x = operands((size, 20, 30))["X"]
        assert_same(used.run(None, {"X": x})[0], by_definition({**values, "X": x}))


def test_calls_at_once() -> None:
    values = operands((40, 100, 60))
    used, expected = session(one_node("LinfDist", values, ("W", "B")), 2), by_definition(values)
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(lambda _: used.run(None, {"X": values["X"]})[0], range(40)):
            assert_same(found, expected)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_a_callers_flush_to_zero_changes_no_bit(dtype: Any, threads: int) -> None:
    values = operands((150, 80, 130), dtype)
    if dtype == np.float32:
        values = {name: value * np.float32(2.0**-130) for name, value in values.items()}
    expected = by_definition(values)
    model = one_node("LinfDist", values, ("W", "B"))
    torch.set_flush_denormal(True)
    try:
        found = run(model, values, threads)
    finally:
        torch.set_flush_denormal(False)
    assert_same(found, expected)


def test_shapes_are_known_before_anything_runs() -> None:
    values = operands((2, 20, 30))
    model = one_node("LinfDist", values, ("W", "B"))
    model.graph.input[0].type.tensor_type.shape.dim.add().dim_param = "N"
    model.graph.input[0].type.tensor_type.shape.dim.add().dim_value = 20
    model.graph.output[0].type.tensor_type.ClearField("shape")
    assert session(model).get_outputs()[0].shape == ["N", 30]
    for value in model.graph.input:
        value.type.tensor_type.elem_type = 10  # float16
    model.graph.output[0].type.tensor_type.elem_type = 10
    for tensor in model.graph.initializer:
        tensor.CopyFrom(_half(tensor))
    assert session(model).get_outputs()[0].shape == ["N", 30]
    assert session(model).get_outputs()[0].type == "tensor(float16)"


def _half(tensor: Any) -> Any:
    from onnx import numpy_helper

    with np.errstate(over="ignore"):
        return numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), tensor.name)


W_FORM = "expected (O, I) with O, I >= 1"


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("constants", [(), ("W", "B")], ids=str)
@pytest.mark.parametrize(
    ("x", "w", "b", "text"),
    [
        ((2, 3), (4, 5), (4,), "X is (2, 3); expected (N, 5), since W is (4, 5)"),
        ((2, 3, 1), (4, 3), (4,), "X is (2, 3, 1); expected (N, 3), since W is (4, 3)"),
        ((3,), (4, 3), (4,), "X is (3,); expected (N, 3), since W is (4, 3)"),
        ((), (4, 3), (4,), "X is (); expected (N, 3), since W is (4, 3)"),
        ((2, 3), (4,), (4,), f"W is (4,); {W_FORM}"),
        ((2, 3), (4, 3, 1, 1, 1), (4,), f"W is of rank 5; {W_FORM}"),
        ((2, 3), (0, 3), (0,), f"W is (0, 3); {W_FORM}"),
        ((2, 0), (4, 0), (4,), f"W is (4, 0); {W_FORM}"),
        ((2, 3), (4, 3), (5,), "W is (4, 3) and B is (5,); expected W (O, I) and B (O,) with the same O"),
        ((2, 3), (4, 3), (1,), "W is (4, 3) and B is (1,); expected W (O, I) and B (O,) with the same O"),
        ((2, 3), (4, 3), (4, 1), "W is (4, 3) and B is (4, 1); expected W (O, I) and B (O,) with the same O"),
        ((2, 3), (4, 3), (), "W is (4, 3) and B is (); expected W (O, I) and B (O,) with the same O"),
    ],
)
def test_refuses(x: Any, w: Any, b: Any, text: str, constants: tuple[str, ...], dtype: Any) -> None:
    values = {name: np.zeros(shape, dtype) for name, shape in (("X", x), ("W", w), ("B", b))}
    with pytest.raises(Exception, match=rf"LinfDist: {re.escape(text)}$"):
        run(one_node("LinfDist", values, constants), values)


def test_refuses_other_types() -> None:
    values = {name: value.astype(np.float64) for name, value in operands((2, 3, 4)).items()}
    with pytest.raises(Exception, match=r"LinfDist"):
        run(one_node("LinfDist", values), values)
    mixed = operands((2, 3, 4)) | {"W": operands((2, 3, 4), np.float16)["W"]}
    with pytest.raises(Exception, match=r"LinfDist"):
        run(one_node("LinfDist", mixed), mixed)
