# SPDX-License-Identifier: Apache-2.0
"""What every kernel checks before native code sees a pointer, for numpy arrays and torch tensors alike."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from linfdeploy.errors import KernelError
from linfdeploy.kernels import _cpu

if TYPE_CHECKING:
    import torch

__all__ = [
    "KEPT_BITS",
    "Array",
    "FloatArray",
    "IndexArray",
    "Pair",
    "Window",
    "check_kept_bits",
    "check_pair",
    "check_power",
    "check_power_now",
    "check_same_shape",
    "check_sort_weights",
    "dtype_name",
    "pair_from",
    "tensors",
    "threads_for_numpy",
    "window_over",
]

Array: TypeAlias = npt.NDArray[Any]
FloatArray: TypeAlias = npt.NDArray[np.float32]
IndexArray: TypeAlias = npt.NDArray[np.int64]
Pair: TypeAlias = tuple[int, int]

KEPT_BITS = 37.0
"""Terms of an l_p distance below 2^-37 of the largest change nothing that float32 would show."""
MOST_KEPT_BITS = 64

# As in cpu/linf_dist_conv.h: no arithmetic on sizes overflows.
MAX_WINDOW = 2**16
# The CUDA kernels count elements, and the bytes of a row, in 32 bits; matrix.cuh rounds the bytes up.
MAX_ON_CUDA = 2**31 - 1
# As in include/linf/geometry.h.
MAX_ROW_ON_CUDA = 2**31 - 64


@dataclass(frozen=True)
class Window:
    """How a convolution's window moves, each vertically and horizontally, and the places (H', W') it has."""

    stride: Pair
    padding: Pair
    dilation: Pair
    places: Pair


def check_pair(
    op: str, x: Array | torch.Tensor, w: Array | torch.Tensor, dtypes: Sequence[str] = ("float32",)
) -> None:
    """Checks that `x` (N, I) and `w` (O, I) are matrices on one device, of one dtype, with the same I >= 1.

    Raises:
        KernelError: Naming the argument, what was found and what was expected.
    """
    for name, value in (("x", x), ("w", w)):
        _check_matrix(op, name, value, dtypes)
    _check_one_device(op, x=x, w=w)
    if dtype_name(x) != dtype_name(w):
        raise KernelError(f"{op}: x is {x.dtype} and w is {w.dtype}; expected one dtype")
    if x.shape[1] != w.shape[1] or x.shape[1] == 0:
        raise KernelError(
            f"{op}: x is {_shape(x)} and w is {_shape(w)}; expected x (N, I) and w (O, I) with the same I >= 1"
        )
    _check_counts(op, x, w, x.shape[0] * w.shape[0])


def check_same_shape(op: str, lower: FloatArray | torch.Tensor, upper: FloatArray | torch.Tensor) -> None:
    """Checks that the two ends of a box have one shape and device.

    Raises:
        KernelError: They differ.
    """
    _check_matrix(op, "upper", upper)
    _check_one_device(op, lower=lower, upper=upper)
    if lower.shape != upper.shape:
        raise KernelError(f"{op}: lower is {_shape(lower)} and upper is {_shape(upper)}; expected one shape")


def check_sort_weights(op: str, x: FloatArray | torch.Tensor, c: FloatArray | torch.Tensor) -> None:
    """Checks that `c` is (K,) float32 on the device of `x` (N, I), with 1 <= K <= min(I, MOST_TERMS).

    Raises:
        KernelError: It is not.
    """
    _check_array(op, "c", c, 1, "weights (K,)")
    _check_one_device(op, x=x, c=c)
    most = min(int(x.shape[1]), _cpu.MOST_TERMS)
    if not 1 <= c.shape[0] <= most:
        raise KernelError(f"{op}: c has {c.shape[0]} weights for {x.shape[1]} inputs; expected 1 to {most}")


def window_over(
    op: str,
    x: FloatArray | torch.Tensor,
    w: FloatArray | torch.Tensor,
    stride: int | Pair,
    padding: int | Pair,
    dilation: int | Pair,
) -> Window:
    """Checks that `x` (N, C, H, W) and `w` (O, C, kH, kW) are float32 on one device and that the window fits.

    Raises:
        KernelError: Naming the argument, what was found and what was expected.
    """
    for name, value in (("x", x), ("w", w)):
        _check_array(op, name, value, 4, "images (N, C, H, W)" if name == "x" else "filters (O, C, kH, kW)")
    _check_one_device(op, x=x, w=w)
    moves = _pair(op, "stride", stride, 1), _pair(op, "padding", padding, 0), _pair(op, "dilation", dilation, 1)
    if x.shape[1] != w.shape[1] or not all(w.shape[1:]) or max(w.shape[2:]) > MAX_WINDOW:
        raise KernelError(
            f"{op}: x is {_shape(x)} and w is {_shape(w)}; expected x (N, C, H, W) and w (O, C, kH, kW) "
            f"with the same C >= 1 and 1 <= kH, kW <= {MAX_WINDOW}"
        )
    high, wide = (
        (size + 2 * pad - step * (kernel - 1) - 1) // move + 1
        for size, kernel, move, pad, step in zip(x.shape[2:], w.shape[2:], *moves, strict=True)
    )
    if high < 1 or wide < 1:
        raise KernelError(
            f"{op}: x is {_shape(x)}, w is {_shape(w)}, padding {moves[1]} and dilation {moves[2]}; "
            "expected a window that fits into the padded image"
        )
    _check_counts(op, x, w, x.shape[0] * w.shape[0] * high * wide)
    return Window(*moves, (high, wide))


def pair_from(values: Sequence[int]) -> Pair:
    """Returns two numbers that torch handed on as a list."""
    vertical, horizontal = values
    return vertical, horizontal


def check_power(op: str, p: float) -> None:
    """Checks 1 <= p < infinity.

    Raises:
        KernelError: `p` is outside.
    """
    if not (1.0 <= p < math.inf):
        raise KernelError(f"{op}: p is {p}; expected 1 <= p < inf (for p = inf use linf_dist)")


def check_kept_bits(op: str, kept_bits: float) -> None:
    """Checks that `kept_bits` is 0 or from 1 to 64; powers below 2^-90 are clamped anyway.

    Raises:
        KernelError: It is outside.
    """
    if kept_bits != 0 and not 1 <= kept_bits <= MOST_KEPT_BITS:
        raise KernelError(
            f"{op}: kept_bits is {kept_bits}; expected 0, to keep every term, or 1 to {MOST_KEPT_BITS}"
        )


def check_power_now(op: str, x: torch.Tensor, p_now: torch.Tensor) -> None:
    """Checks that `p_now` is float32 of shape (1,), on the card that `x` is on.

    Raises:
        KernelError: It is not, or `x` is on no card: what runs on a CPU runs at once, with the p of the call.
    """
    if x.device.type == "cpu":
        raise KernelError(f"{op}: p_now is given and x is on {x.device}; expected CUDA tensors: leave p_now out")
    if tuple(p_now.shape) != (1,) or dtype_name(p_now) != "float32" or p_now.device != x.device:
        raise KernelError(
            f"{op}: p_now is {p_now.dtype} of shape {_shape(p_now)} on {p_now.device}; "
            f"expected float32 of shape (1,) on {x.device}"
        )


def tensors(op: str, *values: object) -> tuple[torch.Tensor, ...]:
    """Returns the values, which must all be torch tensors.

    Raises:
        KernelError: One is not; arrays of two kinds are never mixed.
    """
    import torch

    for value in values:
        if not isinstance(value, torch.Tensor):
            found = ", ".join(type(value).__name__ for value in values)
            raise KernelError(f"{op}: arguments are {found}; expected numpy arrays only or torch tensors only")
    return values  # type: ignore[return-value]  # checked one by one above


def dtype_name(value: Array | torch.Tensor) -> str:
    """Returns the name that numpy and torch share for a dtype, such as `float32`."""
    return str(value.dtype).removeprefix("torch.")


def threads_for_numpy() -> int:
    """Returns the threads that numpy calls use: OMP_NUM_THREADS, or the processors this process may use."""
    configured = os.environ.get("OMP_NUM_THREADS", "")
    if configured.isdigit() and int(configured) > 0:
        return int(configured)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _pair(op: str, name: str, value: int | Pair, least: int) -> Pair:
    both = (value, value) if isinstance(value, int) else value
    whole = isinstance(both, tuple) and len(both) == 2 and all(type(part) is int for part in both)
    if not whole or not all(least <= part <= MAX_WINDOW for part in both):
        raise KernelError(
            f"{op}: {name} is {value!r}; expected an integer of {least} to {MAX_WINDOW}, or two in a tuple: "
            "vertically, horizontally"
        )
    return both


def _check_matrix(op: str, name: str, value: Array | torch.Tensor, dtypes: Sequence[str] = ("float32",)) -> None:
    _check_array(op, name, value, 2, "a matrix", dtypes)


def _check_array(
    op: str,
    name: str,
    value: Array | torch.Tensor,
    rank: int,
    expected: str,
    dtypes: Sequence[str] = ("float32",),
) -> None:
    if len(value.shape) != rank:
        raise KernelError(f"{op}: {name} has shape {_shape(value)}; expected {expected}")
    if dtype_name(value) not in dtypes:
        known = " or ".join(filter(None, (", ".join(dtypes[:-1]), dtypes[-1])))
        raise KernelError(f"{op}: {name} is {value.dtype}; expected {known}")
    device = _device(value)
    if getattr(device, "type", "cpu") not in {"cpu", "cuda", "meta"}:
        raise KernelError(f"{op}: {name} is on {device}; expected a CPU or CUDA tensor: call .cpu() first")


def _check_one_device(op: str, **values: Array | torch.Tensor) -> None:
    (first, one), (second, other) = ((name, _device(value)) for name, value in values.items())
    if one != other:
        raise KernelError(f"{op}: {first} is on {one} and {second} is on {other}; expected one device")


def _check_counts(op: str, x: Array | torch.Tensor, w: Array | torch.Tensor, results: int) -> None:
    if getattr(_device(x), "type", "cpu") != "cuda":
        return
    counts = {"x": math.prod(x.shape), "w": math.prod(w.shape), "the result": results}
    for name, count in counts.items():
        if count > MAX_ON_CUDA:
            mend = "split w" if name == "w" else "make the batch smaller"
            raise KernelError(f"{op}: {name} has {count} elements; expected at most {MAX_ON_CUDA} on CUDA: {mend}")
    row = math.prod(w.shape[1:]) * w.dtype.itemsize
    if row > MAX_ROW_ON_CUDA:
        raise KernelError(f"{op}: w has rows of {row} bytes; expected at most {MAX_ROW_ON_CUDA} on CUDA: split w")


def _device(value: Array | torch.Tensor) -> Any:
    """Where a tensor is; numpy's arrays say `cpu`, if anything."""
    return getattr(value, "device", "cpu")


def _shape(value: Array | torch.Tensor) -> tuple[int, ...]:
    return tuple(int(size) for size in value.shape)
