# SPDX-License-Identifier: Apache-2.0
"""torch custom op `linfdeploy::lp_dist`."""

from __future__ import annotations

from typing import Any

import torch

from linfdeploy.kernels import _cpu
from linfdeploy.kernels.checks import check_pair, check_power

__all__ = ["lp_dist"]


@torch.library.custom_op("linfdeploy::lp_dist", mutates_args=(), device_types="cpu")
def _lp_dist(x: torch.Tensor, w: torch.Tensor, p: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The distances, their largest terms and the sums of powers of ratios to these, which the gradient needs."""
    y, largest, powers = (x.new_empty(x.shape[0], w.shape[0]) for _ in range(3))
    rows = x.detach().contiguous(), w.detach().contiguous()
    _cpu.lp_dist(*rows, p, y, largest, powers, torch.get_num_threads())
    return y, largest, powers


@torch.library.custom_op("linfdeploy::lp_dist_backward", mutates_args=(), device_types="cpu")
def _lp_dist_backward(
    x: torch.Tensor,
    w: torch.Tensor,
    p: float,
    largest: torch.Tensor,
    powers: torch.Tensor,
    grad_y: torch.Tensor,
    needed: list[bool],
) -> tuple[torch.Tensor, torch.Tensor]:
    """The gradients of x and w; one that is not needed is empty."""
    x, w = x.detach().contiguous(), w.detach().contiguous()
    grad_x, grad_w = (torch.empty_like(t) if need else None for t, need in zip((x, w), needed, strict=True))
    saved = largest.contiguous(), powers.contiguous(), grad_y.detach().contiguous()
    _cpu.lp_dist_backward(x, w, p, *saved, grad_x, grad_w, torch.get_num_threads())
    return x.new_empty(0) if grad_x is None else grad_x, w.new_empty(0) if grad_w is None else grad_w


@_lp_dist.register_fake
def _(x: torch.Tensor, w: torch.Tensor, p: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    y, largest, powers = (x.new_empty(x.shape[0], w.shape[0]) for _ in range(3))
    return y, largest, powers


@_lp_dist_backward.register_fake
def _(
    x: torch.Tensor,
    w: torch.Tensor,
    p: float,
    largest: torch.Tensor,
    powers: torch.Tensor,
    grad_y: torch.Tensor,
    needed: list[bool],
) -> tuple[torch.Tensor, torch.Tensor]:
    # Contiguous, like the kernel's, whatever the layout of x and w.
    grad_x, grad_w = (t.new_empty(t.shape if need else 0) for t, need in zip((x, w), needed, strict=True))
    return grad_x, grad_w


def _save(ctx: Any, inputs: tuple[torch.Tensor, torch.Tensor, float], output: tuple[torch.Tensor, ...]) -> None:
    x, w, ctx.p = inputs
    _, largest, powers = output
    ctx.mark_non_differentiable(largest, powers)
    ctx.save_for_backward(x, w, largest, powers)


def _differentiate(
    ctx: Any, grad_y: torch.Tensor, *_: torch.Tensor
) -> tuple[torch.Tensor | None, torch.Tensor | None, None]:
    x, w, largest, powers = ctx.saved_tensors
    needed = list(ctx.needs_input_grad[:2])
    grad_x, grad_w = _lp_dist_backward(x, w, ctx.p, largest, powers, grad_y, needed)
    return grad_x if needed[0] else None, grad_w if needed[1] else None, None


_lp_dist.register_autograd(_differentiate, setup_context=_save)


def lp_dist(x: torch.Tensor, w: torch.Tensor, p: float, p_now: torch.Tensor | None = None) -> torch.Tensor:
    """See `linfdeploy.kernels.lp_dist`; differentiable in `x` and `w`.

    `p_now`, (1,) float32, holds p at the moment the kernels run; `p` then only chooses them.
    """
    check_pair("lp_dist", x, w)
    p = p if p_now is None else float(p_now)
    check_power("lp_dist", p)
    y: torch.Tensor = _lp_dist(x, w, p)[0]
    return y
