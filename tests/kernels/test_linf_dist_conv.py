# SPDX-License-Identifier: Apache-2.0
"""The convolution against windows cut out one by one, for each instruction set, in numpy and torch."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import oracles
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from oracles import Float32

from linfdeploy.errors import KernelError
from linfdeploy.kernels import _cpu, linf_dist, linf_dist_conv

Pair = tuple[int, int]


def _images(seed: int, shape: tuple[int, ...], filters: tuple[int, ...]) -> tuple[Float32, Float32]:
    rng = np.random.default_rng(seed)
    return oracles.awkward_float32(rng, shape), oracles.awkward_float32(rng, filters)


def _expected(x: Float32, w: Float32, stride: Pair, padding: Pair, dilation: Pair) -> Float32:
    return oracles.linf_dist_conv(x, w, stride, (*padding, *padding), dilation)


def _assert_same_bits(y: Float32, expected: Float32) -> None:
    assert y.shape == expected.shape
    np.testing.assert_array_equal(oracles.bits(y), oracles.bits(expected))


# (N, C, H, W), (O, kH, kW), stride, padding, dilation
CASES = [
    ((1, 1, 1, 1), (1, 1, 1), (1, 1), (0, 0), (1, 1)),
    ((2, 3, 7, 9), (5, 3, 3), (1, 1), (1, 1), (1, 1)),
    ((3, 2, 8, 5), (4, 3, 2), (2, 1), (0, 1), (1, 1)),
    ((2, 1, 11, 13), (3, 2, 5), (3, 2), (2, 4), (4, 2)),
    ((1, 2, 3, 4), (2, 1, 3), (1, 1), (7, 9), (1, 5)),  # windows that see nothing but zeros
    ((2, 2, 1, 20), (3, 1, 2), (1, 3), (0, 8), (1, 19)),  # an image between two places of a window
    ((3, 5, 17, 19), (33, 5, 3), (1, 1), (2, 1), (1, 1)),
    ((1, 40, 9, 9), (7, 5, 5), (2, 2), (2, 2), (2, 2)),
    ((600, 1, 2, 3), (2, 2, 2), (1, 1), (0, 0), (1, 1)),  # blocks of windows that span images
    ((1, 1, 64, 64), (1, 1, 1), (1, 1), (0, 0), (1, 1)),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_bits(isa: str, case: tuple[Any, Any, Pair, Pair, Pair]) -> None:
    shape, (outputs, *kernel), stride, padding, dilation = case
    x, w = _images(0, shape, (outputs, shape[1], *kernel))
    expected = _expected(x, w, stride, padding, dilation)
    _assert_same_bits(linf_dist_conv(x, w, stride, padding, dilation), expected)
    y = linf_dist_conv(torch.from_numpy(x), torch.from_numpy(w), stride, padding, dilation)
    _assert_same_bits(y.numpy(), expected)


@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True)
@given(st.data())
def test_bits_of_any_geometry(isa: str, data: st.DataObject) -> None:
    def pair(least: int, most: int) -> Pair:
        return data.draw(st.tuples(st.integers(least, most), st.integers(least, most)))

    batch, channels, outputs = (data.draw(st.integers(1, 4)) for _ in range(3))
    size, kernel, stride, padding, dilation = pair(1, 12), pair(1, 4), pair(1, 5), pair(0, 5), pair(1, 4)
    reach = [step * (k - 1) + 1 for step, k in zip(dilation, kernel, strict=True)]
    size = tuple(max(s, r - 2 * p) for s, r, p in zip(size, reach, padding, strict=True))  # type: ignore[assignment]
    x, w = _images(1, (batch, channels, *size), (outputs, channels, *kernel))
    _assert_same_bits(linf_dist_conv(x, w, stride, padding, dilation), _expected(x, w, stride, padding, dilation))


@pytest.mark.parametrize("threads", [1, 2, 3, 7, 300])
def test_threads_do_not_change_bits(isa: str, threads: int) -> None:
    x, w = _images(2, (5, 3, 33, 31), (20, 3, 3, 3))
    y = np.full((5, 20, 17, 31), np.nan, np.float32)
    _cpu.linf_dist_conv(x, w, y, (2, 1), (1, 1), (1, 1), threads)
    _assert_same_bits(y, _expected(x, w, (2, 1), (1, 1), (1, 1)))


def test_a_window_as_large_as_the_image_is_the_dense_distance(isa: str) -> None:
    x, w = _images(3, (7, 3, 5, 6), (4, 3, 5, 6))
    y = linf_dist_conv(x, w)
    _assert_same_bits(y.reshape(7, 4), linf_dist(x.reshape(7, -1), w.reshape(4, -1)))


def test_one_number_serves_both_directions() -> None:
    x, w = _images(4, (2, 2, 9, 8), (3, 2, 3, 2))
    _assert_same_bits(linf_dist_conv(x, w, 2, 1, 3), linf_dist_conv(x, w, (2, 2), (1, 1), (3, 3)))
    _assert_same_bits(linf_dist_conv(x, w), linf_dist_conv(x, w, (1, 1), (0, 0), (1, 1)))


def test_zeros_around_the_image_take_part() -> None:
    x, w = np.full((1, 1, 1, 1), 5, np.float32), np.full((1, 1, 1, 3), 9, np.float32)
    assert linf_dist_conv(x, w, padding=(0, 1)).item() == 9


def test_empty_batches_and_no_filters() -> None:
    x, w = np.zeros((0, 2, 5, 5), np.float32), np.zeros((3, 2, 2, 2), np.float32)
    assert linf_dist_conv(x, w).shape == (0, 3, 4, 4)
    assert linf_dist_conv(torch.from_numpy(x), torch.from_numpy(w)).shape == (0, 3, 4, 4)
    assert linf_dist_conv(np.zeros((1, 2, 5, 5), np.float32), w[:0]).shape == (1, 0, 4, 4)


def test_strided_and_read_only_arrays() -> None:
    x, w = _images(5, (2, 4, 9, 8), (3, 4, 2, 2))
    x, w = x[:, ::2, ::-1], w[:, ::2]
    x.flags.writeable = w.flags.writeable = False
    _assert_same_bits(linf_dist_conv(x, w), _expected(np.ascontiguousarray(x), w, (1, 1), (0, 0), (1, 1)))


def test_a_callers_flush_to_zero_changes_no_bit() -> None:
    tiny = np.float32(2.0**-140)
    x, w = np.full((1, 1, 4, 4), tiny), np.full((2, 1, 2, 2), -tiny)
    torch.set_flush_denormal(True)
    try:
        y = linf_dist_conv(x, w)
    finally:
        torch.set_flush_denormal(False)
    assert (y == np.float32(2.0**-139)).all()
    assert (y > 0).all()


def test_torch_knows_the_op() -> None:
    x, w = torch.randn(2, 3, 6, 5), torch.randn(4, 3, 2, 3)
    arguments = ([2, 1], [1, 0], [1, 1], [4, 3])
    torch.library.opcheck(torch.ops.linfdeploy.linf_dist_conv.default, (x, w, *arguments))


def test_no_gradient() -> None:
    x, w = torch.randn(1, 1, 3, 3, requires_grad=True), torch.randn(1, 1, 2, 2)
    with pytest.raises(RuntimeError, match="no autograd"):
        linf_dist_conv(x, w).sum().backward()  # type: ignore[no-untyped-call]


Zeros = Callable[..., Any]


@pytest.fixture(params=["numpy", "torch"])
def zeros(request: pytest.FixtureRequest) -> Zeros:
    if request.param == "numpy":
        return lambda *shape: np.zeros(shape, np.float32)
    return torch.zeros


FORMS = "expected x (N, C, H, W) and w (O, C, kH, kW) with the same C >= 1 and 1 <= kH, kW <= 65536"


@pytest.mark.parametrize(
    ("x", "w", "options", "text"),
    [
        ((2, 3, 4), (1, 3, 1, 1), {}, "x has shape (2, 3, 4); expected images (N, C, H, W)"),
        ((2, 3, 4, 4), (1, 3), {}, "w has shape (1, 3); expected filters (O, C, kH, kW)"),
        ((2, 3, 4, 4), (1, 2, 1, 1), {}, f"x is (2, 3, 4, 4) and w is (1, 2, 1, 1); {FORMS}"),
        ((2, 0, 4, 4), (1, 0, 1, 1), {}, f"x is (2, 0, 4, 4) and w is (1, 0, 1, 1); {FORMS}"),
        ((2, 1, 4, 4), (1, 1, 0, 1), {}, f"x is (2, 1, 4, 4) and w is (1, 1, 0, 1); {FORMS}"),
        (
            (2, 1, 4, 4),
            (1, 1, 3, 3),
            {"dilation": 2},
            "x is (2, 1, 4, 4), w is (1, 1, 3, 3), padding (0, 0) and dilation (2, 2); "
            "expected a window that fits into the padded image",
        ),
        *[
            (
                (2, 1, 4, 4),
                (1, 1, 1, 1),
                {name: value},
                f"{name} is {value!r}; expected an integer of {least} to 65536, or two in a tuple: "
                "vertically, horizontally",
            )
            for name, value, least in [
                ("stride", 0, 1),
                ("stride", (1, 0), 1),
                ("padding", -1, 0),
                ("padding", 2**16 + 1, 0),
                ("dilation", (1, 2, 3), 1),
                ("dilation", 1.0, 1),
                ("stride", "ab", 1),
                ("stride", (True, 1), 1),
            ]
        ],
    ],
)
def test_refuses(x: Any, w: Any, options: dict[str, Any], text: str, zeros: Zeros) -> None:
    with pytest.raises(KernelError, match=f"^linf_dist_conv: {re.escape(text)}$"):
        linf_dist_conv(zeros(*x), zeros(*w), **options)


def test_refuses_other_types(zeros: Zeros) -> None:
    double: Any = (
        np.zeros((1, 1, 2, 2)) if zeros is not torch.zeros else torch.zeros(1, 1, 2, 2, dtype=torch.float64)
    )
    with pytest.raises(KernelError, match=r"^linf_dist_conv: x is (torch\.)?float64; expected float32$"):
        linf_dist_conv(double, zeros(1, 1, 1, 1))
    mixed: Any = np.zeros((1, 1, 2, 2), np.float32)
    with pytest.raises(KernelError, match="expected numpy arrays only or torch tensors only"):
        linf_dist_conv(mixed, torch.zeros(1, 1, 1, 1))
