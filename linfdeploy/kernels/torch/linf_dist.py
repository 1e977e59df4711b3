# SPDX-License-Identifier: Apache-2.0
"""torch custom ops `linfdeploy::linf_dist`, `::linf_dist_argmax` and `::linf_dist_bounds`."""

from __future__ import annotations

from typing import Any

import torch

from linfdeploy.kernels import _cpu
from linfdeploy.kernels.checks import check_pair, check_same_shape, dtype_name
from linfdeploy.kernels.forward import FORWARD_DTYPES, RESULT_DTYPES, forward

__all__ = ["linf_dist", "linf_dist_argmax", "linf_dist_bounds"]


def _new_result(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    return x.new_empty((x.shape[0], w.shape[0]), dtype=getattr(torch, RESULT_DTYPES[dtype_name(x)]))


@torch.library.custom_op("linfdeploy::linf_dist", mutates_args=(), device_types="cpu")
def _linf_dist(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    y = _new_result(x, w)
    forward(x.detach().contiguous(), w.detach().contiguous(), y, torch.uint16, torch.get_num_threads())
    return y


@torch.library.custom_op("linfdeploy::linf_dist_argmax", mutates_args=(), device_types="cpu")
def _linf_dist_argmax(x: torch.Tensor, w: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    y = x.new_empty(x.shape[0], w.shape[0])
    index = torch.empty(y.shape, dtype=torch.int64)
    _cpu.linf_dist_argmax(x.detach().contiguous(), w.detach().contiguous(), y, index, torch.get_num_threads())
    return y, index


@torch.library.custom_op("linfdeploy::linf_dist_backward", mutates_args=(), device_types="cpu")
def _linf_dist_backward(
    x: torch.Tensor, w: torch.Tensor, index: torch.Tensor, grad_y: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    x, w = x.detach().contiguous(), w.detach().contiguous()
    grad_x, grad_w = torch.empty_like(x), torch.empty_like(w)
    _cpu.linf_dist_backward(
        x, w, index.contiguous(), grad_y.detach().contiguous(), grad_x, grad_w, torch.get_num_threads()
    )
    return grad_x, grad_w


@torch.library.custom_op("linfdeploy::linf_dist_bounds", mutates_args=(), device_types="cpu")
def _linf_dist_bounds(
    lower: torch.Tensor, upper: torch.Tensor, w: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    y_lower = lower.new_empty(lower.shape[0], w.shape[0])
    y_upper = torch.empty_like(y_lower)
    boxes = lower.detach().contiguous(), upper.detach().contiguous()
    _cpu.linf_dist_bounds(*boxes, w.detach().contiguous(), y_lower, y_upper, torch.get_num_threads())
    return y_lower, y_upper


_linf_dist.register_fake(_new_result)


@_linf_dist_argmax.register_fake
def _(x: torch.Tensor, w: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    y = x.new_empty(x.shape[0], w.shape[0])
    return y, torch.empty_like(y, dtype=torch.int64)


@_linf_dist_backward.register_fake
def _(
    x: torch.Tensor, w: torch.Tensor, index: torch.Tensor, grad_y: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    # Contiguous, like the kernel's, whatever the layout of x and w.
    return x.new_empty(x.shape), w.new_empty(w.shape)


@_linf_dist_bounds.register_fake
def _(lower: torch.Tensor, upper: torch.Tensor, w: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    y_lower = lower.new_empty(lower.shape[0], w.shape[0])
    return y_lower, torch.empty_like(y_lower)


def _save_index(ctx: Any, inputs: tuple[torch.Tensor, ...], output: tuple[torch.Tensor, ...]) -> None:
    ctx.save_for_backward(*inputs, output[1])
    ctx.mark_non_differentiable(output[1])


def _scatter(ctx: Any, grad_y: torch.Tensor, _: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    grads: tuple[torch.Tensor, torch.Tensor] = _linf_dist_backward(*ctx.saved_tensors, grad_y)
    return grads


def _save(ctx: Any, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _find_and_scatter(ctx: Any, grad_y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    _, index = _linf_dist_argmax(*ctx.saved_tensors)
    grads: tuple[torch.Tensor, torch.Tensor] = _linf_dist_backward(*ctx.saved_tensors, index, grad_y)
    return grads


_linf_dist.register_autograd(_find_and_scatter, setup_context=_save)
_linf_dist_argmax.register_autograd(_scatter, setup_context=_save_index)


def linf_dist(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    """See `linfdeploy.kernels.linf_dist`.

    Differentiable, for float32, through the lowest index that attains the maximum.
    """
    check_pair("linf_dist", x, w, FORWARD_DTYPES)
    if x.dtype != torch.float32:
        x, w = x.detach(), w.detach()
    y: torch.Tensor = _linf_dist(x, w)
    return y


def linf_dist_argmax(x: torch.Tensor, w: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """See `linfdeploy.kernels.linf_dist_argmax`; differentiable in its first result."""
    check_pair("linf_dist_argmax", x, w)
    result: tuple[torch.Tensor, torch.Tensor] = _linf_dist_argmax(x, w)
    return result


def linf_dist_bounds(
    lower: torch.Tensor, upper: torch.Tensor, w: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """See `linfdeploy.kernels.linf_dist_bounds`; not differentiable."""
    check_pair("linf_dist_bounds", lower, w)
    check_same_shape("linf_dist_bounds", lower, upper)
    result: tuple[torch.Tensor, torch.Tensor] = _linf_dist_bounds(lower, upper, w)
    return result
