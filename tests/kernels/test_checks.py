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
from torch._subclasses import FakeTensorMode

from linfdeploy.errors import KernelError
from linfdeploy.kernels import _cuda, linf_dist, linf_dist_argmax, linf_dist_bounds, linf_dist_conv, lp_dist
from linfdeploy.kernels.checks import MAX_ROW_ON_CUDA, check_pair, threads_for_numpy
from linfdeploy.kernels.torch import linf_dist as ops
from linfdeploy.kernels.torch.lp_dist import lp_dist_kind

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


def _on_cuda(*shape: int, dtype: str = "float32", device: str = "cuda:0") -> torch.Tensor:
    """A tensor without memory, which a fake mode must be active for."""
    return torch.empty(shape, dtype=getattr(torch, dtype), device=device)


@pytest.mark.parametrize("op", PAIR_OPS)
def test_cuda_tensors_have_results_on_their_device(op: str) -> None:
    with FakeTensorMode():
        results = PAIR_OPS[op](_on_cuda(2, 3), _on_cuda(4, 3))
        for y in results if isinstance(results, tuple) else (results,):
            assert isinstance(y, torch.Tensor)
            assert (y.shape, y.device) == ((2, 4), torch.device("cuda:0"))


@pytest.mark.parametrize("op", PAIR_OPS)
@pytest.mark.parametrize(("one", "other"), [("cuda:0", "cpu"), ("cpu", "cuda:1"), ("cuda:1", "cuda:0")])
def test_two_devices(op: str, one: str, other: str) -> None:
    with FakeTensorMode(), _refused(f"{op}: x is on {one} and w is on {other}; expected one device"):
        PAIR_OPS[op](_on_cuda(2, 3, device=one), _on_cuda(4, 3, device=other))


def test_two_devices_of_a_box_and_of_a_convolution() -> None:
    with FakeTensorMode():
        x, w, elsewhere = _on_cuda(2, 3), _on_cuda(4, 3), _on_cuda(2, 3, device="cpu")
        with _refused("linf_dist_bounds: lower is on cuda:0 and upper is on cpu; expected one device"):
            linf_dist_bounds(x, elsewhere, w)
        with _refused("linf_dist_conv: x is on cuda:0 and w is on cpu; expected one device"):
            linf_dist_conv(_on_cuda(1, 1, 4, 4), _on_cuda(1, 1, 2, 2, device="cpu"))


@pytest.mark.parametrize("op", PAIR_OPS)
def test_too_many_elements_for_cuda(op: str) -> None:
    half, most = 2**16, 2**31 - 1
    with FakeTensorMode():
        with _refused(f"{op}: x has {2**31} elements; expected at most {most} on CUDA: make the batch smaller"):
            PAIR_OPS[op](_on_cuda(half, 2**15), _on_cuda(1, 2**15))
        with _refused(f"{op}: w has {2**31} elements; expected at most {most} on CUDA: split w"):
            PAIR_OPS[op](_on_cuda(1, 2**15), _on_cuda(half, 2**15))
        with _refused(
            f"{op}: the result has {2**31} elements; expected at most {most} on CUDA: make the batch smaller"
        ):
            PAIR_OPS[op](_on_cuda(half, 1), _on_cuda(2**15, 1))
        with _refused(f"{op}: w has rows of {2**31} bytes; expected at most {2**31 - 64} on CUDA: split w"):
            PAIR_OPS[op](_on_cuda(1, 2**29), _on_cuda(1, 2**29))
        # One fewer is taken, and the CPU's kernels count in 64 bits.
        assert PAIR_OPS[op](_on_cuda(half, 2**15 - 1), _on_cuda(1, 2**15 - 1)) is not None
        assert PAIR_OPS[op](*(_on_cuda(rows, 2**15, device="cpu") for rows in (half, 1))) is not None


def test_too_many_places_for_cuda() -> None:
    text = f"the result has {2**31} elements; expected at most {2**31 - 1} on CUDA: make the batch smaller"
    with FakeTensorMode(), _refused(f"linf_dist_conv: {text}"):
        linf_dist_conv(_on_cuda(2**11, 1, 2**5, 2**5), _on_cuda(2**10, 1, 1, 1))


def test_p_now_is_for_cuda_tensors() -> None:
    x, w = torch.zeros(2, 3), torch.zeros(4, 3)
    with _refused("lp_dist: p_now is given and x is on cpu; expected CUDA tensors: leave p_now out"):
        lp_dist(x, w, 8.0, torch.ones(1))
    found = "arguments are ndarray, ndarray, Tensor; expected numpy arrays only or torch tensors only"
    with _refused(f"lp_dist: {found}"):
        lp_dist(x.numpy(), w.numpy(), 8.0, torch.ones(1))  # type: ignore[call-overload]


@pytest.mark.parametrize(
    ("now", "found"),
    [
        ({"shape": (1,), "device": "cpu"}, "torch.float32 of shape (1,) on cpu"),
        ({"shape": (1,), "device": "cuda:1"}, "torch.float32 of shape (1,) on cuda:1"),
        ({"shape": (), "device": "cuda:0"}, "torch.float32 of shape () on cuda:0"),
        ({"shape": (2,), "device": "cuda:0"}, "torch.float32 of shape (2,) on cuda:0"),
        ({"shape": (1,), "dtype": "float64", "device": "cuda:0"}, "torch.float64 of shape (1,) on cuda:0"),
    ],
)
def test_p_now_is_one_number_on_the_same_card(now: dict[str, Any], found: str) -> None:
    with FakeTensorMode():
        x, w, p_now = _on_cuda(2, 3), _on_cuda(4, 3), _on_cuda(*now.pop("shape"), **now)
        assert lp_dist(x, w, 8.0, _on_cuda(1)).shape == (2, 4)
        with _refused(f"lp_dist: p_now is {found}; expected float32 of shape (1,) on cuda:0"):
            lp_dist(x, w, 8.0, p_now)


def test_kinds_of_p() -> None:
    assert lp_dist_kind(8.0) == lp_dist_kind(8.0)
    with _refused("lp_dist_kind: p is 0.5; expected 1 <= p < inf (for p = inf use linf_dist)"):
        lp_dist_kind(0.5)


@pytest.mark.parametrize("device", ["cpu", "cuda:0"])
def test_a_card_finds_the_index_in_the_forward_pass(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # Autograd records nothing for a device that torch was not built for: the ops themselves stand in.
    monkeypatch.setattr(ops, "_linf_dist", lambda x, w: "distances")
    calls: list[str] = []

    def argmax(x: torch.Tensor, w: torch.Tensor) -> tuple[str, str]:
        calls.append("argmax")
        return "distances", "index"

    monkeypatch.setattr(ops, "linf_dist_argmax", argmax)
    with FakeTensorMode():
        x, w = _on_cuda(2, 3, device=device), _on_cuda(4, 3, device=device)
        linf_dist(x, w)
        with torch.no_grad():
            linf_dist(x.requires_grad_(), w)
        assert calls == []
        linf_dist(x, w)
        linf_dist(x.detach(), w.requires_grad_())
    assert calls == (["argmax"] * 2 if device == "cuda:0" else [])


def test_python_and_kernels_refuse_the_same_rows() -> None:
    assert MAX_ROW_ON_CUDA == _cuda.MAX_ROW_BYTES
    # The last stage of a row goes beyond its end: no position there is above 2^31 - 1.
    stage = 4 * 16
    assert _cuda.MAX_ROW_BYTES + stage - 1 < 2**31 <= _cuda.MAX_ROW_BYTES + stage
