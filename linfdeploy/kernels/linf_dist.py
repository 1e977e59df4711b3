# SPDX-License-Identifier: Apache-2.0
"""The l_inf distance `y = max_i |x_i - w_i|` and its interval bounds."""

from __future__ import annotations

from typing import TYPE_CHECKING, overload

import numpy as np

from linfdeploy.kernels import _cpu
from linfdeploy.kernels.checks import (
    Array,
    FloatArray,
    IndexArray,
    check_pair,
    check_same_shape,
    dtype_name,
    tensors,
    threads_for_numpy,
)
from linfdeploy.kernels.forward import FORWARD_DTYPES, RESULT_DTYPES, forward

if TYPE_CHECKING:
    import torch

__all__ = ["linf_dist", "linf_dist_argmax", "linf_dist_bounds"]


@overload
def linf_dist(x: FloatArray, w: FloatArray) -> FloatArray: ...
@overload
def linf_dist(x: Array, w: Array) -> Array: ...
@overload
def linf_dist(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor: ...
def linf_dist(x: Array | torch.Tensor, w: Array | torch.Tensor) -> Array | torch.Tensor:
    """Returns the l_inf distance of every row of `x` to every row of `w`.

    The result's bits depend on nothing but the arguments: each difference is rounded once, and absolute value and
    maximum are exact. Flush-to-zero, set by the caller, changes nothing. A NaN in the input leaves the result
    undefined. Integers are exact for all values.

    Args:
        x: (N, I) float32, float16, int16, int8 or uint8, inputs.
        w: (O, I) of the same dtype, weights. Differentiable, like `x`, for tensors of float32.

    Returns:
        (N, O), `max_i |x[n, i] - w[o, i]|`, of the kind of `x`: float32, float16, uint16 for int16, uint8 for int8
        and uint8.

    Raises:
        KernelError: A shape, dtype or device that does not fit.

    Example:
        >>> linf_dist(np.float32([[0, 3]]), np.float32([[1, 1], [0, 2]]))
        array([[2., 1.]], dtype=float32)
    """
    if isinstance(x, np.ndarray) and isinstance(w, np.ndarray):
        check_pair("linf_dist", x, w, FORWARD_DTYPES)
        y = np.empty((x.shape[0], w.shape[0]), RESULT_DTYPES[dtype_name(x)])
        forward(np.ascontiguousarray(x), np.ascontiguousarray(w), y, np.uint16, threads_for_numpy())
        return y
    from linfdeploy.kernels.torch import linf_dist as op

    return op.linf_dist(*tensors("linf_dist", x, w))


@overload
def linf_dist_argmax(x: FloatArray, w: FloatArray) -> tuple[FloatArray, IndexArray]: ...
@overload
def linf_dist_argmax(x: torch.Tensor, w: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]: ...
def linf_dist_argmax(
    x: FloatArray | torch.Tensor, w: FloatArray | torch.Tensor
) -> tuple[FloatArray, IndexArray] | tuple[torch.Tensor, torch.Tensor]:
    """Returns the l_inf distances and, for each, the lowest input index that attains the maximum.

    Args:
        x: (N, I) float32.
        w: (O, I) float32.

    Returns:
        The distances, (N, O) float32, and the indices, (N, O) int64.

    Raises:
        KernelError: A shape, dtype or device that does not fit.
    """
    if isinstance(x, np.ndarray) and isinstance(w, np.ndarray):
        check_pair("linf_dist_argmax", x, w)
        y = np.empty((x.shape[0], w.shape[0]), np.float32)
        index = np.empty(y.shape, np.int64)
        _cpu.linf_dist_argmax(np.ascontiguousarray(x), np.ascontiguousarray(w), y, index, threads_for_numpy())
        return y, index
    from linfdeploy.kernels.torch import linf_dist as op

    return op.linf_dist_argmax(*tensors("linf_dist_argmax", x, w))


@overload
def linf_dist_bounds(lower: FloatArray, upper: FloatArray, w: FloatArray) -> tuple[FloatArray, FloatArray]: ...
@overload
def linf_dist_bounds(
    lower: torch.Tensor, upper: torch.Tensor, w: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]: ...
def linf_dist_bounds(
    lower: FloatArray | torch.Tensor, upper: FloatArray | torch.Tensor, w: FloatArray | torch.Tensor
) -> tuple[FloatArray, FloatArray] | tuple[torch.Tensor, torch.Tensor]:
    """Bounds `linf_dist` over boxes, at the forward pass's own roundings.

    Guarantees `y_lower <= linf_dist(x, w) <= y_upper`, computed in float32, for every float32 `x` with
    `lower <= x <= upper`: rounding is monotone, so no slack is needed and both ends are attained.

    Args:
        lower: (N, I) float32, lower ends.
        upper: (N, I) float32, upper ends, nowhere below `lower`.
        w: (O, I) float32, weights.

    Returns:
        `y_lower` and `y_upper`, each (N, O) float32.

    Raises:
        KernelError: A shape, dtype or device that does not fit.
    """
    if isinstance(lower, np.ndarray) and isinstance(upper, np.ndarray) and isinstance(w, np.ndarray):
        check_pair("linf_dist_bounds", lower, w)
        check_same_shape("linf_dist_bounds", lower, upper)
        y_lower = np.empty((lower.shape[0], w.shape[0]), np.float32)
        y_upper = np.empty_like(y_lower)
        boxes = np.ascontiguousarray(lower), np.ascontiguousarray(upper)
        _cpu.linf_dist_bounds(*boxes, np.ascontiguousarray(w), y_lower, y_upper, threads_for_numpy())
        return y_lower, y_upper
    from linfdeploy.kernels.torch import linf_dist as op

    return op.linf_dist_bounds(*tensors("linf_dist_bounds", lower, upper, w))
