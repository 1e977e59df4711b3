# SPDX-License-Identifier: Apache-2.0
"""torch custom op `linfdeploy::lp_dist`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from linfdeploy.kernels.checks import (
    KEPT_BITS,
    check_kept_bits,
    check_pair,
    check_power,
    check_power_now,
)
from linfdeploy.kernels.torch.backends import DEVICES, backend_of
from linfdeploy.kernels.torch.gradients import Both, Three, fake_gradients, gradients, of_needed, returned

__all__ = ["lp_dist", "lp_dist_kind"]


@torch.library.custom_op("linfdeploy::lp_dist", mutates_args=(), device_types=DEVICES)
def _lp_dist(
    x: torch.Tensor, w: torch.Tensor, p: float, p_now: torch.Tensor | None = None, kept_bits: float = KEPT_BITS
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The distances, their scales and the sums of powers of terms over the scale, which the gradient needs.

    On a CPU the scales are the largest terms; on a GPU they may be 1 where no power overflows.
    """
    results = _new_results(x, w)
    rows = x.detach().contiguous(), w.detach().contiguous()
    backend_of(x).lp_dist(rows, p, p_now, kept_bits, results)
    return results


@torch.library.custom_op("linfdeploy::lp_dist_backward", mutates_args=(), device_types=DEVICES)
def _lp_dist_backward(
    x: torch.Tensor,
    w: torch.Tensor,
    p: float,
    p_now: torch.Tensor | None,
    kept_bits: float,
    saved: Sequence[torch.Tensor],
    needed: list[bool],
) -> tuple[torch.Tensor, torch.Tensor]:
    """The gradients of x and w, from scales, sums and the gradient of y; one that is not needed is empty."""
    x, w = x.detach().contiguous(), w.detach().contiguous()
    grads = gradients(x, w, needed)
    scale, total, grad_y = (tensor.detach().contiguous() for tensor in saved)
    backend_of(x).lp_dist_backward((x, w), p, p_now, kept_bits, (scale, total, grad_y), grads)
    return returned(x, grads)


def _new_results(x: torch.Tensor, w: torch.Tensor) -> Three:
    y, scale, total = (x.new_empty(x.shape[0], w.shape[0]) for _ in range(3))
    return y, scale, total


@_lp_dist.register_fake
def _(
    x: torch.Tensor, w: torch.Tensor, p: float, p_now: torch.Tensor | None = None, kept_bits: float = KEPT_BITS
) -> Three:
    return _new_results(x, w)


@_lp_dist_backward.register_fake
def _(
    x: torch.Tensor,
    w: torch.Tensor,
    p: float,
    p_now: torch.Tensor | None,
    kept_bits: float,
    saved: Sequence[torch.Tensor],
    needed: list[bool],
) -> Both:
    return fake_gradients(x, w, needed)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Three) -> None:
    x, w, ctx.p, p_now, ctx.kept_bits = inputs
    _, scale, total = output
    ctx.mark_non_differentiable(scale, total)
    ctx.save_for_backward(x, w, p_now, scale, total)


def _differentiate(
    ctx: Any, grad_y: torch.Tensor, *_: torch.Tensor
) -> tuple[torch.Tensor | None, torch.Tensor | None, None, None, None]:
    x, w, p_now, scale, total = ctx.saved_tensors
    needed = list(ctx.needs_input_grad[:2])
    grads: Both = _lp_dist_backward(x, w, ctx.p, p_now, ctx.kept_bits, [scale, total, grad_y], needed)
    return *of_needed(grads, needed), None, None, None


_lp_dist.register_autograd(_differentiate, setup_context=_save)


def lp_dist(
    x: torch.Tensor, w: torch.Tensor, p: float, p_now: torch.Tensor | None = None, kept_bits: float = KEPT_BITS
) -> torch.Tensor:
    """See `linfdeploy.kernels.lp_dist`; differentiable in `x` and `w`."""
    check_pair("lp_dist", x, w)
    check_power("lp_dist", p)
    check_kept_bits("lp_dist", kept_bits)
    if p_now is not None:
        check_power_now("lp_dist", x, p_now)
    y: torch.Tensor = _lp_dist(x, w, p, p_now, kept_bits)[0]
    return y


def lp_dist_kind(p: float) -> int:
    """Returns which kernels of CUDA compute for this p: those of another p of the same kind.

    A captured CUDA graph that reads p from memory can be replayed as long as the kind of p stays the same.

    Args:
        p: At least 1 and finite.

    Raises:
        KernelError: A p that does not fit.
    """
    from linfdeploy.kernels import _cuda

    check_power("lp_dist_kind", p)
    return _cuda.lp_dist_kind(p)
