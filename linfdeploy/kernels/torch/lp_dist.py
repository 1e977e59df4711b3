# SPDX-License-Identifier: Apache-2.0
"""torch custom op `linfdeploy::lp_dist`."""

from __future__ import annotations

from typing import Any

import torch

from linfdeploy.kernels import _cpu
from linfdeploy.kernels.checks import check_pair, check_power

__all__ = ["lp_dist"]


@torch.library.custom_op("linfdeploy::lp_dist", mutates_args=(), device_types="cpu")
def _lp_dist(x: torch.Tensor, w: torch.Tensor, p: float) -> torch.Tensor:
    y = x.new_empty(x.shape[0], w.shape[0])
    _cpu.lp_dist(x.detach().contiguous(), w.detach().contiguous(), p, y, torch.get_num_threads())
    return y


@torch.library.custom_op("linfdeploy::lp_dist_backward", mutates_args=(), device_types="cpu")
def _lp_dist_backward(
    x: torch.Tensor, w: torch.Tensor, p: float, y: torch.Tensor, grad_y: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    x, w = x.detach().contiguous(), w.detach().contiguous()
    grad_x, grad_w = torch.empty_like(x), torch.empty_like(w)
    _cpu.lp_dist_backward(x, w, p, y, grad_y.detach().contiguous(), grad_x, grad_w, torch.get_num_threads())
    return grad_x, grad_w


@_lp_dist.register_fake
def _(x: torch.Tensor, w: torch.Tensor, p: float) -> torch.Tensor:
    return x.new_empty(x.shape[0], w.shape[0])


@_lp_dist_backward.register_fake
def _(
    x: torch.Tensor, w: torch.Tensor, p: float, y: torch.Tensor, grad_y: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    # Contiguous, like the kernel's, whatever the layout of x and w.
    return x.new_empty(x.shape), w.new_empty(w.shape)


def _save(ctx: Any, inputs: tuple[torch.Tensor, torch.Tensor, float], output: torch.Tensor) -> None:
    x, w, ctx.p = inputs
    ctx.save_for_backward(x, w, output)


def _differentiate(ctx: Any, grad_y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None]:
    x, w, y = ctx.saved_tensors
    grad_x, grad_w = _lp_dist_backward(x, w, ctx.p, y.detach(), grad_y)
    return grad_x, grad_w, None


_lp_dist.register_autograd(_differentiate, setup_context=_save)


def lp_dist(x: torch.Tensor, w: torch.Tensor, p: float) -> torch.Tensor:
    """See `linfdeploy.kernels.lp_dist`; differentiable in `x` and `w`."""
    check_pair("lp_dist", x, w)
    check_power("lp_dist", p)
    y: torch.Tensor = _lp_dist(x, w, p)
    return y
