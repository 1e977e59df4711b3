# SPDX-License-Identifier: Apache-2.0
"""torch custom op `linfdeploy::sort_dist_conv`: `sort_dist` of every window, forward only, on the CPU."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from linfdeploy.kernels.checks import Pair, pair_from, window_over
from linfdeploy.kernels.torch.sort_dist import sort_dist

__all__ = ["sort_dist_conv"]


@torch.library.custom_op("linfdeploy::sort_dist_conv", mutates_args=(), device_types="cpu")
def _sort_dist_conv(
    x: torch.Tensor,
    w: torch.Tensor,
    c: torch.Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    places: Sequence[int],
) -> torch.Tensor:
    shown = F.unfold(x.detach(), w.shape[2:], 1, pair_from(padding), pair_from(stride)).transpose(1, 2)
    rows = sort_dist(shown.reshape(-1, shown.shape[2]), w.detach().flatten(1), c.detach())
    return rows.view(len(x), -1, len(w)).transpose(1, 2).reshape(len(x), len(w), *places)


@_sort_dist_conv.register_fake
def _(
    x: torch.Tensor,
    w: torch.Tensor,
    c: torch.Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    places: Sequence[int],
) -> torch.Tensor:
    return x.new_empty(x.shape[0], w.shape[0], *places)


def sort_dist_conv(
    x: torch.Tensor, w: torch.Tensor, c: torch.Tensor, stride: int | Pair, padding: int | Pair
) -> torch.Tensor:
    """Returns the sorted distance of every window of every image to every filter; not differentiable.

    Places outside an image hold zeros, which take part. The bits are those of `linfdeploy.kernels.sort_dist` on
    the windows' rows.

    Args:
        x: (N, C, H, W) float32, images.
        w: (O, C, kH, kW) float32, filters.
        c: (K,) float32, as in `linfdeploy.kernels.sort_dist`.
        stride: Step of the window; one number, or vertically and horizontally.
        padding: Rows and columns of zeros at each side.

    Returns:
        (N, O, H', W') float32, with the places of `linfdeploy.kernels.linf_dist_conv`.

    Raises:
        KernelError: A shape, dtype or device that does not fit.
    """
    window = window_over("sort_dist_conv", x, w, stride, padding, 1)
    y: torch.Tensor = _sort_dist_conv(x, w, c, window.stride, window.padding, window.places)
    return y
