# SPDX-License-Identifier: Apache-2.0
"""The l_inf-distance convolution: the distance of every window of an image to every filter."""

from __future__ import annotations

from typing import TYPE_CHECKING, overload

import numpy as np

from linfdeploy.kernels import _cpu
from linfdeploy.kernels.checks import FloatArray, Pair, tensors, threads_for_numpy, window_over

if TYPE_CHECKING:
    import torch

__all__ = ["linf_dist_conv"]


@overload
def linf_dist_conv(
    x: FloatArray, w: FloatArray, stride: int | Pair = 1, padding: int | Pair = 0, dilation: int | Pair = 1
) -> FloatArray: ...
@overload
def linf_dist_conv(
    x: torch.Tensor, w: torch.Tensor, stride: int | Pair = 1, padding: int | Pair = 0, dilation: int | Pair = 1
) -> torch.Tensor: ...
def linf_dist_conv(
    x: FloatArray | torch.Tensor,
    w: FloatArray | torch.Tensor,
    stride: int | Pair = 1,
    padding: int | Pair = 0,
    dilation: int | Pair = 1,
) -> FloatArray | torch.Tensor:
    """Returns the l_inf distance of every window of every image to every filter.

    Places outside an image hold zeros, which take part in the maximum. The result's bits depend on nothing but the
    arguments, as with `linf_dist`. The windows are gathered block by block: the unfolded input, kH kW times as
    large as the images, is never in memory as a whole.

    Args:
        x: (N, C, H, W) float32, images.
        w: (O, C, kH, kW) float32, filters.
        stride: Step of the window; one number, or vertically and horizontally.
        padding: Rows and columns of zeros at each side.
        dilation: Distance between neighbouring places of a window.

    Returns:
        (N, O, H', W') float32, of the kind of `x`; not differentiable. H' is
        `(H + 2 padding - dilation (kH - 1) - 1) // stride + 1`, and W' likewise.

    Raises:
        KernelError: A shape, dtype or device that does not fit.

    Example:
        >>> image, filters = np.float32([[[[0, 3, 1]]]]), np.float32([[[[1, 1]]]])
        >>> linf_dist_conv(image, filters)
        array([[[[2., 2.]]]], dtype=float32)
    """
    if isinstance(x, np.ndarray) and isinstance(w, np.ndarray):
        window = window_over("linf_dist_conv", x, w, stride, padding, dilation)
        y = np.empty((x.shape[0], w.shape[0], *window.places), np.float32)
        arrays = np.ascontiguousarray(x), np.ascontiguousarray(w), y
        _cpu.linf_dist_conv(*arrays, window.stride, window.padding, window.dilation, threads_for_numpy())
        return y
    from linfdeploy.kernels.torch import linf_dist_conv as op

    images, filters = tensors("linf_dist_conv", x, w)
    return op.linf_dist_conv(images, filters, stride, padding, dilation)
