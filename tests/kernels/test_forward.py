# SPDX-License-Identifier: Apache-2.0
"""The forward of every low-precision dtype against numpy: the whole range, odd sizes, all instruction sets."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from linfdeploy.kernels import _cpu, linf_dist
from linfdeploy.kernels.forward import FORWARD_DTYPES, RESULT_DTYPES

Array = npt.NDArray[Any]
INTEGERS = ("int8", "uint8", "int16")
SIZES = range(1, 71)
FEW, MANY = (3, 5, 19), (45, 35, 21)
HALVES = np.arange(2**16, dtype=np.uint16).view(np.float16)
FINITE_HALVES = HALVES[np.isfinite(HALVES)]


def _integers(rng: np.random.Generator, dtype: str, shape: tuple[int, int], narrow: bool) -> Array:
    """Random integers and, often, the ends of the range, of which a narrow one is half."""
    info = np.iinfo(dtype)
    low, high = int(info.min), int(info.max)
    if narrow:
        low, high = low // 4, low // 4 + (high - low) // 2
    values = rng.integers(low, high, shape, endpoint=True)
    return np.where(rng.random(shape) < 0.1, rng.choice([low, high], shape), values).astype(dtype)


def _float16(values: npt.ArrayLike) -> Array:
    return np.asarray(values, np.float16)


def _halves(rng: np.random.Generator, shape: tuple[int, int]) -> Array:
    """Any finite float16: mostly subnormal, or next to one another, or arbitrary."""
    few = _float16(rng.standard_normal(shape) * rng.choice([2.0**-24, 2.0**-15, 1.0], shape))
    return np.where(rng.random(shape) < 0.5, few, rng.choice(FINITE_HALVES, shape)).astype(np.float16)


def _pair(
    seed: int, dtype: str, batch: int, outputs: int, inputs: int, narrow: bool = False
) -> tuple[Array, Array]:
    rng = np.random.default_rng(seed)
    if dtype.startswith("float"):
        return _halves(rng, (batch, inputs)).astype(dtype), _halves(rng, (outputs, inputs)).astype(dtype)
    return _integers(rng, dtype, (batch, inputs), narrow), _integers(rng, dtype, (outputs, inputs), narrow)


def _by_definition(x: Array, w: Array) -> Array:
    """Integers in 64 bits; float16 in numpy's own float16 arithmetic, which rounds every difference."""
    wide = x.dtype if x.dtype == np.float16 else np.dtype(np.int64)
    with np.errstate(over="ignore"):
        y: Array = np.abs(x.astype(wide)[:, None] - w.astype(wide)[None]).max(-1)
    return y.astype(RESULT_DTYPES[x.dtype.name])


def _assert_same_bits(x: Array, w: Array) -> None:
    y, expected = linf_dist(x, w), _by_definition(x, w)
    assert y.dtype == expected.dtype
    np.testing.assert_array_equal(y.view(f"u{y.itemsize}"), expected.view(f"u{y.itemsize}"))


@pytest.mark.parametrize("around", [FEW, MANY], ids=["few", "many"])
@pytest.mark.parametrize("dimension", range(3), ids=["batch", "outputs", "inputs"])
@pytest.mark.parametrize("dtype", [*INTEGERS, "float16"])
def test_bits_at_every_size(isa: str, dtype: str, dimension: int, around: tuple[int, int, int]) -> None:
    for size in SIZES:
        batch, outputs, inputs = (size if i == dimension else other for i, other in enumerate(around))
        _assert_same_bits(*_pair(size, dtype, batch, outputs, inputs, narrow=size % 2 == 0))


@pytest.mark.parametrize("narrow", [False, True])
@pytest.mark.parametrize("dtype", [*INTEGERS, "float16"])
def test_bits_across_blocks(isa: str, dtype: str, narrow: bool) -> None:
    _assert_same_bits(*_pair(0, dtype, 67, 300, 1100, narrow))


@pytest.mark.parametrize("dtype", ["int8", "uint8"])
def test_every_pair_of_bytes(isa: str, dtype: str) -> None:
    # One input: y is |x - w| itself, for all 2^16 pairs, in panels and row by row.
    values = np.arange(256).astype(np.uint8).view(dtype)[:, None]
    _assert_same_bits(values, values)
    for part in np.split(values, 64):
        _assert_same_bits(part, values)


@pytest.mark.parametrize("dtype", INTEGERS)
def test_the_ends_of_a_narrow_range(isa: str, dtype: str) -> None:
    # Just narrow, and just not: the two paths meet here.
    info, half = np.iinfo(dtype), (int(np.iinfo(dtype).max) - int(np.iinfo(dtype).min)) // 2
    for start in (int(info.min), int(info.min) + half, int(info.max) - half):
        for span in (half - 1, half, half + 1):
            if start + span <= info.max:
                values = np.array([[start], [start + span]] * 8, dtype)
                _assert_same_bits(values, values)


def test_every_float16_against_some(isa: str) -> None:
    some = _float16([0, -0.0, 1, -1, 2**-24, -(2**-24), 2**-14, 65504, -65504, 0.1, 1000.5])[:, None]
    _assert_same_bits(FINITE_HALVES[:, None], some)
    _assert_same_bits(some[:3], FINITE_HALVES[:, None])
    _assert_same_bits(_float16([[np.inf], [-np.inf]]), FINITE_HALVES[:, None])


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True
)
@given(
    dtype=st.sampled_from([*INTEGERS, "float16"]),
    sizes=st.tuples(*[st.integers(1, 70)] * 3),
    seed=st.integers(0, 2**32 - 1),
    narrow=st.booleans(),
)
def test_bits(isa: str, dtype: str, sizes: tuple[int, int, int], seed: int, narrow: bool) -> None:
    _assert_same_bits(*_pair(seed, dtype, *sizes, narrow=narrow))


@pytest.mark.parametrize("dtype", FORWARD_DTYPES)
def test_torch_gives_the_same_bits(dtype: str) -> None:
    x, w = _pair(3, dtype, 9, 20, 33)
    y = linf_dist(torch.from_numpy(x), torch.from_numpy(w))
    assert str(y.dtype) == f"torch.{RESULT_DTYPES[dtype]}"
    np.testing.assert_array_equal(y.numpy(), linf_dist(x, w))
    assert torch.equal(
        linf_dist(torch.from_numpy(x)[:, ::2], torch.from_numpy(w)[:, ::2]).float(),
        linf_dist(torch.from_numpy(x[:, ::2].copy()), torch.from_numpy(w[:, ::2].copy())).float(),
    )


def test_low_precision_has_no_gradient() -> None:
    x = torch.ones(2, 3, dtype=torch.float16, requires_grad=True)
    assert not linf_dist(x, torch.zeros(4, 3, dtype=torch.float16)).requires_grad


@pytest.mark.parametrize("dtype", FORWARD_DTYPES)
def test_fake_tensors_have_the_dtype_of_the_result(dtype: str) -> None:
    x, w = (torch.ones(size, 7, dtype=getattr(torch, dtype)) for size in (2, 3))
    torch.library.opcheck(torch.ops.linfdeploy.linf_dist.default, (x, w))


@pytest.fixture
def flush_denormals() -> Any:
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor cannot flush denormals")
    yield
    torch.set_flush_denormal(False)


@pytest.mark.parametrize("sizes", [(2, 3, 9), (40, 200, 160)])
def test_a_callers_flush_to_zero_changes_nothing(
    isa: str, flush_denormals: None, sizes: tuple[int, int, int]
) -> None:
    batch, outputs, inputs = sizes
    x = np.broadcast_to(np.arange(inputs, dtype=np.uint32), (batch, inputs)).copy().view(np.float32)
    w = np.zeros((outputs, inputs), np.float32)
    for threads in (1, 4):
        y = np.empty((batch, outputs), np.float32)
        _cpu.linf_dist(x, w, y, threads)
        assert (y.view(np.uint32) == inputs - 1).all()
    # The caller's setting is in force again.
    assert (torch.full((1,), 2.0**-140) * 1).item() == 0
