# SPDX-License-Identifier: Apache-2.0
"""torch custom op `linfdeploy::linf_dist_conv`, forward only."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from linfdeploy.kernels.checks import Pair, pair_from, window_over
from linfdeploy.kernels.torch.backends import DEVICES, backend_of

__all__ = ["linf_dist_conv"]


@torch.library.custom_op("linfdeploy::linf_dist_conv", mutates_args=(), device_types=DEVICES)
def _linf_dist_conv(
    x: torch.Tensor,
    w: torch.Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    places: Sequence[int],
) -> torch.Tensor:
    y = x.new_empty(x.shape[0], w.shape[0], *places)
    moves = pair_from(stride), pair_from(padding), pair_from(dilation)
    backend_of(x).linf_dist_conv(x.detach().contiguous(), w.detach().contiguous(), *moves, y)
    return y


@_linf_dist_conv.register_fake
def _(
    x: torch.Tensor,
    w: torch.Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    places: Sequence[int],
) -> torch.Tensor:
    return x.new_empty(x.shape[0], w.shape[0], *places)


def linf_dist_conv(
    x: torch.Tensor, w: torch.Tensor, stride: int | Pair, padding: int | Pair, dilation: int | Pair
) -> torch.Tensor:
    """See `linfdeploy.kernels.linf_dist_conv`; not differentiable."""
    window = window_over("linf_dist_conv", x, w, stride, padding, dilation)
    y: torch.Tensor = _linf_dist_conv(x, w, window.stride, window.padding, window.dilation, window.places)
    return y
