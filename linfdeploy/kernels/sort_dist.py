# SPDX-License-Identifier: Apache-2.0
"""The sorted distance `y = sum_k c_k |x - w|_(k)` of the K largest differences, and its interval bounds."""

from __future__ import annotations

from typing import TYPE_CHECKING, overload

import numpy as np

from linfdeploy.kernels import _cpu
from linfdeploy.kernels.checks import (
    FloatArray,
    IndexArray,
    check_pair,
    check_same_shape,
    check_sort_weights,
    tensors,
    threads_for_numpy,
)

if TYPE_CHECKING:
    import torch

__all__ = ["MOST_TERMS", "sort_dist", "sort_dist_argtop", "sort_dist_bounds"]

MOST_TERMS = _cpu.MOST_TERMS
"""The most differences that a sorted distance can weigh."""


@overload
def sort_dist(x: FloatArray, w: FloatArray, c: FloatArray, grid: int | None = None) -> FloatArray: ...
@overload
def sort_dist(x: torch.Tensor, w: torch.Tensor, c: torch.Tensor) -> torch.Tensor: ...
def sort_dist(
    x: FloatArray | torch.Tensor,
    w: FloatArray | torch.Tensor,
    c: FloatArray | torch.Tensor,
    grid: int | None = None,
) -> FloatArray | torch.Tensor:
    """Returns the sorted distance of every row of `x` to every row of `w`.

    The result's bits depend on nothing but the arguments: each difference is rounded once, and the sum runs from
    the largest difference to the smallest, each product and each partial sum rounded once. A NaN in the input
    leaves the result undefined.

    Args:
        x: (N, I) float32, inputs.
        w: (O, I) float32, weights. Differentiable, like `x`, for tensors.
        c: (K,) float32, not negative, with 1 <= K <= I and K <= MOST_TERMS: the weight of the largest difference,
            of the second largest, and so on.
        grid: For numpy alone: rounds each distance to the nearest multiple of `2^-grid`, halves upwards. Distances
            must be below `2^(23 - grid)`. None: they stay as they are.

    Returns:
        (N, O) float32, `sum_k c_k |x[n] - w[o]|_(k)`, of the kind of `x`.

    Raises:
        KernelError: A shape, dtype or device that does not fit.

    Example:
        >>> sort_dist(np.float32([[0, 3]]), np.float32([[1, 1], [0, 0]]), np.float32([0.75, 0.25]))
        array([[1.75, 2.25]], dtype=float32)
    """
    if isinstance(x, np.ndarray) and isinstance(w, np.ndarray) and isinstance(c, np.ndarray):
        check_pair("sort_dist", x, w)
        check_sort_weights("sort_dist", x, c)
        y = np.empty((x.shape[0], w.shape[0]), np.float32)
        rows = np.ascontiguousarray(x), np.ascontiguousarray(w)
        _cpu.sort_dist(*rows, np.ascontiguousarray(c), _steps(grid), y, threads_for_numpy())
        return y
    from linfdeploy.kernels.torch import sort_dist as op

    return op.sort_dist(*tensors("sort_dist", x, w, c))


def sort_dist_argtop(x: FloatArray, w: FloatArray, terms: int) -> IndexArray:
    """Returns which inputs have the largest differences, falling; of equal ones, the lowest input comes first.

    Args:
        x: (N, I) float32.
        w: (O, I) float32.
        terms: K, how many, at most I and MOST_TERMS.

    Returns:
        (N, O, K) int64.

    Raises:
        KernelError: A shape or dtype that does not fit.
    """
    check_pair("sort_dist_argtop", x, w)
    check_sort_weights("sort_dist_argtop", x, np.zeros(terms, np.float32))
    index = np.empty((x.shape[0], w.shape[0], terms), np.int64)
    _cpu.sort_dist_argtop(np.ascontiguousarray(x), np.ascontiguousarray(w), index, threads_for_numpy())
    return index


@overload
def sort_dist_bounds(
    lower: FloatArray, upper: FloatArray, w: FloatArray, c: FloatArray, grid: int | None = None
) -> tuple[FloatArray, FloatArray]: ...
@overload
def sort_dist_bounds(
    lower: torch.Tensor, upper: torch.Tensor, w: torch.Tensor, c: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]: ...
def sort_dist_bounds(
    lower: FloatArray | torch.Tensor,
    upper: FloatArray | torch.Tensor,
    w: FloatArray | torch.Tensor,
    c: FloatArray | torch.Tensor,
    grid: int | None = None,
) -> tuple[FloatArray, FloatArray] | tuple[torch.Tensor, torch.Tensor]:
    """Bounds `sort_dist` over boxes, at the forward pass's own roundings.

    Guarantees `y_lower <= sort_dist(x, w, c, grid) <= y_upper`, computed in float32, for every float32 `x` with
    `lower <= x <= upper`: sorting, the weighted sum and every rounding are monotone in each difference.

    Args:
        lower: (N, I) float32, lower ends.
        upper: (N, I) float32, upper ends, nowhere below `lower`.
        w: (O, I) float32, weights.
        c: (K,) float32, as in `sort_dist`.
        grid: As in `sort_dist`.

    Returns:
        `y_lower` and `y_upper`, each (N, O) float32.

    Raises:
        KernelError: A shape, dtype or device that does not fit.
    """
    if isinstance(lower, np.ndarray) and isinstance(upper, np.ndarray) and isinstance(w, np.ndarray):
        assert isinstance(c, np.ndarray)
        check_pair("sort_dist_bounds", lower, w)
        check_same_shape("sort_dist_bounds", lower, upper)
        check_sort_weights("sort_dist_bounds", lower, c)
        y_lower = np.empty((lower.shape[0], w.shape[0]), np.float32)
        y_upper = np.empty_like(y_lower)
        boxes = np.ascontiguousarray(lower), np.ascontiguousarray(upper), np.ascontiguousarray(w)
        _cpu.sort_dist_bounds(*boxes, np.ascontiguousarray(c), _steps(grid), y_lower, y_upper, threads_for_numpy())
        return y_lower, y_upper
    from linfdeploy.kernels.torch import sort_dist as op

    return op.sort_dist_bounds(*tensors("sort_dist_bounds", lower, upper, w, c))


def _steps(grid: int | None) -> float:
    return 0.0 if grid is None else 2.0**grid
