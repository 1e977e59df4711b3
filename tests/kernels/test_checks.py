# SPDX-License-Identifier: Apache-2.0
"""What the kernels refuse, to the letter, for numpy arrays and torch tensors alike."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from linfdeploy.errors import KernelError
from linfdeploy.kernels import linf_dist, linf_dist_argmax, linf_dist_bounds, lp_dist
from linfdeploy.kernels.checks import check_pair, threads_for_numpy

Zeros = Callable[..., Any]
PAIR_OPS: dict[str, Callable[[Any, Any], object]] = {
    "linf_dist": linf_dist,
    "linf_dist_argmax": linf_dist_argmax,
    "linf_dist_bounds": lambda x, w: linf_dist_bounds(x, x, w),
    "lp_dist": lambda x, w: lp_dist(x, w, 2.0),
}


def _numpy_zeros(shape: tuple[int, ...], dtype: str = "float32") -> np.typing.NDArray[Any]:
    return np.zeros(shape, dtype)


def _torch_zeros(shape: tuple[int, ...], dtype: str = "float32") -> torch.Tensor:
    return torch.zeros(shape, dtype=getattr(torch, dtype))


def _refused(text: str) -> Any:
    return pytest.raises(KernelError, match=f"^{re.escape(text)}$")


@pytest.fixture(params=["numpy", "torch"])
def zeros(request: pytest.FixtureRequest) -> Zeros:
    return _numpy_zeros if request.param == "numpy" else _torch_zeros


@pytest.fixture
def prefix(zeros: Zeros) -> str:
    """What stands before a dtype's name."""
    return "" if zeros is _numpy_zeros else "torch."


@pytest.mark.parametrize("op", PAIR_OPS)
def test_mismatching_sizes(op: str, zeros: Zeros) -> None:
    with _refused(f"{op}: x is (2, 3) and w is (4, 5); expected x (N, I) and w (O, I) with the same I >= 1"):
        PAIR_OPS[op](zeros((2, 3)), zeros((4, 5)))


@pytest.mark.parametrize("op", PAIR_OPS)
def test_no_inputs(op: str, zeros: Zeros) -> None:
    with _refused(f"{op}: x is (2, 0) and w is (4, 0); expected x (N, I) and w (O, I) with the same I >= 1"):
        PAIR_OPS[op](zeros((2, 0)), zeros((4, 0)))


@pytest.mark.parametrize("op", PAIR_OPS)
@pytest.mark.parametrize("shape", [(3,), (), (2, 3, 1)])
def test_not_a_matrix(op: str, shape: tuple[int, ...], zeros: Zeros) -> None:
    with _refused(f"{op}: x has shape {shape}; expected a matrix"):
        PAIR_OPS[op](zeros(shape), zeros((4, 3)))
    with _refused(f"{op}: w has shape {shape}; expected a matrix"):
        PAIR_OPS[op](zeros((4, 3)), zeros(shape))


def _expected_dtypes(op: str) -> str:
    return "float32, float16, int16, int8 or uint8" if op == "linf_dist" else "float32"


@pytest.mark.parametrize("op", PAIR_OPS)
@pytest.mark.parametrize("dtype", ["float64", "int32", "bool"])
def test_wrong_dtype(op: str, dtype: str, zeros: Zeros, prefix: str) -> None:
    with _refused(f"{op}: x is {prefix}{dtype}; expected {_expected_dtypes(op)}"):
        PAIR_OPS[op](zeros((2, 3), dtype), zeros((4, 3)))
    with _refused(f"{op}: w is {prefix}{dtype}; expected {_expected_dtypes(op)}"):
        PAIR_OPS[op](zeros((2, 3)), zeros((4, 3), dtype))


@pytest.mark.parametrize("op", ["linf_dist_argmax", "linf_dist_bounds", "lp_dist"])
def test_low_precision_is_for_the_forward_alone(op: str, zeros: Zeros, prefix: str) -> None:
    with _refused(f"{op}: x is {prefix}float16; expected float32"):
        PAIR_OPS[op](zeros((2, 3), "float16"), zeros((4, 3), "float16"))


def test_mixed_dtypes(zeros: Zeros, prefix: str) -> None:
    with _refused(f"linf_dist: x is {prefix}uint8 and w is {prefix}int8; expected one dtype"):
        linf_dist(zeros((2, 3), "uint8"), zeros((4, 3), "int8"))


def test_swapped_bytes() -> None:
    with _refused(f"linf_dist: x is >f4; expected {_expected_dtypes('linf_dist')}"):
        linf_dist(np.zeros((2, 3), ">f4"), np.zeros((2, 3), np.float32))


def test_other_devices() -> None:
    # Stands for a tensor on a device that this machine need not have.
    x = SimpleNamespace(shape=(2, 3), dtype="torch.float32", device=torch.device("mps:0"))
    with _refused("linf_dist: x is on mps:0; expected a CPU or CUDA tensor: call .cpu() first"):
        check_pair("linf_dist", x, torch.zeros(2, 3))  # type: ignore[arg-type]


@pytest.mark.parametrize("op", ["linf_dist", "linf_dist_argmax", "lp_dist"])
def test_mixed_kinds(op: str) -> None:
    with _refused(f"{op}: arguments are ndarray, Tensor; expected numpy arrays only or torch tensors only"):
        PAIR_OPS[op](_numpy_zeros((2, 3)), _torch_zeros((4, 3)))
    with _refused(f"{op}: arguments are Tensor, ndarray; expected numpy arrays only or torch tensors only"):
        PAIR_OPS[op](_torch_zeros((2, 3)), _numpy_zeros((4, 3)))


def test_mixed_kinds_of_a_box() -> None:
    with _refused(
        "linf_dist_bounds: arguments are ndarray, ndarray, Tensor; "
        "expected numpy arrays only or torch tensors only"
    ):
        PAIR_OPS["linf_dist_bounds"](_numpy_zeros((2, 3)), _torch_zeros((4, 3)))


def test_ends_of_a_box_must_match(zeros: Zeros, prefix: str) -> None:
    with _refused("linf_dist_bounds: lower is (2, 3) and upper is (1, 3); expected one shape"):
        linf_dist_bounds(zeros((2, 3)), zeros((1, 3)), zeros((4, 3)))
    with _refused("linf_dist_bounds: upper has shape (3,); expected a matrix"):
        linf_dist_bounds(zeros((2, 3)), zeros((3,)), zeros((4, 3)))
    with _refused(f"linf_dist_bounds: upper is {prefix}float64; expected float32"):
        linf_dist_bounds(zeros((2, 3)), zeros((2, 3), "float64"), zeros((4, 3)))


@pytest.mark.parametrize("p", [0.0, 0.999, -2.0, math.inf, -math.inf, math.nan])
def test_impossible_powers(p: float, zeros: Zeros) -> None:
    with _refused(f"lp_dist: p is {p}; expected 1 <= p < inf (for p = inf use linf_dist)"):
        lp_dist(zeros((2, 3)), zeros((4, 3)), p)


def test_a_kernel_error_is_a_value_error(zeros: Zeros) -> None:
    with pytest.raises(ValueError, match="same I >= 1"):
        linf_dist(zeros((2, 3)), zeros((4, 5)))


@pytest.mark.parametrize("configured", ["3", "1", "64"])
def test_threads_follow_the_environment(monkeypatch: pytest.MonkeyPatch, configured: str) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", configured)
    assert threads_for_numpy() == int(configured)


@pytest.mark.parametrize("configured", [None, "", "0", "-1", "2,4", "many"])
def test_threads_default_to_the_processors(monkeypatch: pytest.MonkeyPatch, configured: str | None) -> None:
    if configured is None:
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    else:
        monkeypatch.setenv("OMP_NUM_THREADS", configured)
    assert threads_for_numpy() >= 1
