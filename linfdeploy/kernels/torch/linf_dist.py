# SPDX-License-Identifier: Apache-2.0
"""torch custom ops `linfdeploy::linf_dist`, `::linf_dist_argmax` and `::linf_dist_bounds`."""

from __future__ import annotations

from typing import Any

import torch

from linfdeploy.kernels.checks import check_pair, check_same_shape, dtype_name
from linfdeploy.kernels.forward import FORWARD_DTYPES, RESULT_DTYPES
from linfdeploy.kernels.torch.backends import DEVICES, backend_of
from linfdeploy.kernels.torch.gradients import Both, Needed, fake_gradients, gradients, of_needed, returned

__all__ = ["linf_dist", "linf_dist_argmax", "linf_dist_bounds"]


def _new_result(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    return x.new_empty((x.shape[0], w.shape[0]), dtype=getattr(torch, RESULT_DTYPES[dtype_name(x)]))


def _new_argmax(x: torch.Tensor, w: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    y = x.new_empty(x.shape[0], w.shape[0])
    return y, torch.empty_like(y, dtype=torch.int64)


def _new_bounds(lower: torch.Tensor, upper: torch.Tensor, w: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    y_lower = lower.new_empty(lower.shape[0], w.shape[0])
    return y_lower, torch.empty_like(y_lower)


@torch.library.custom_op("linfdeploy::linf_dist", mutates_args=(), device_types=DEVICES)
def _linf_dist(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    y = _new_result(x, w)
    backend_of(x).linf_dist(x.detach().contiguous(), w.detach().contiguous(), y)
    return y


@torch.library.custom_op("linfdeploy::linf_dist_argmax", mutates_args=(), device_types=DEVICES)
def _linf_dist_argmax(x: torch.Tensor, w: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    y, index = _new_argmax(x, w)
    backend_of(x).linf_dist_argmax(x.detach().contiguous(), w.detach().contiguous(), y, index)
    return y, index


@torch.library.custom_op("linfdeploy::linf_dist_backward", mutates_args=(), device_types=DEVICES)
def _linf_dist_backward(
    x: torch.Tensor, w: torch.Tensor, index: torch.Tensor, grad_y: torch.Tensor, needed: list[bool]
) -> tuple[torch.Tensor, torch.Tensor]:
    """The gradients of x and w; one that is not needed is empty."""
    x, w = x.detach().contiguous(), w.detach().contiguous()
    grads = gradients(x, w, needed)
    backend_of(x).linf_dist_backward((x, w), index.contiguous(), grad_y.detach().contiguous(), grads)
    return returned(x, grads)


@torch.library.custom_op("linfdeploy::linf_dist_bounds", mutates_args=(), device_types=DEVICES)
def _linf_dist_bounds(
    lower: torch.Tensor, upper: torch.Tensor, w: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    y_lower, y_upper = _new_bounds(lower, upper, w)
    boxes = lower.detach().contiguous(), upper.detach().contiguous()
    backend_of(w).linf_dist_bounds(*boxes, w.detach().contiguous(), y_lower, y_upper)
    return y_lower, y_upper


_linf_dist.register_fake(_new_result)
_linf_dist_argmax.register_fake(_new_argmax)
_linf_dist_bounds.register_fake(_new_bounds)


@_linf_dist_backward.register_fake
def _(
    x: torch.Tensor, w: torch.Tensor, index: torch.Tensor, grad_y: torch.Tensor, needed: list[bool]
) -> tuple[torch.Tensor, torch.Tensor]:
    return fake_gradients(x, w, needed)


def _save_index(ctx: Any, inputs: tuple[torch.Tensor, ...], output: tuple[torch.Tensor, ...]) -> None:
    ctx.save_for_backward(*inputs, output[1])
    ctx.mark_non_differentiable(output[1])


def _scatter(ctx: Any, grad_y: torch.Tensor, _: torch.Tensor) -> Needed:
    needed = list(ctx.needs_input_grad)
    grads: Both = _linf_dist_backward(*ctx.saved_tensors, grad_y, needed)
    return of_needed(grads, needed)


def _save(ctx: Any, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _find_and_scatter(ctx: Any, grad_y: torch.Tensor) -> Needed:
    needed = list(ctx.needs_input_grad)
    _, index = _linf_dist_argmax(*ctx.saved_tensors)
    grads: Both = _linf_dist_backward(*ctx.saved_tensors, index, grad_y, needed)
    return of_needed(grads, needed)


_linf_dist.register_autograd(_find_and_scatter, setup_context=_save)
_linf_dist_argmax.register_autograd(_scatter, setup_context=_save_index)


def linf_dist(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    """See `linfdeploy.kernels.linf_dist`.

    Differentiable, for float32, through the lowest index that attains the maximum.
    """
    check_pair("linf_dist", x, w, FORWARD_DTYPES)
    if x.dtype != torch.float32:
        x, w = x.detach(), w.detach()
    # A GPU carries the index along for less than finding it again costs; a CPU does not.
    if x.is_cuda and torch.is_grad_enabled() and (x.requires_grad or w.requires_grad):
        return linf_dist_argmax(x, w)[0]
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
