# SPDX-License-Identifier: Apache-2.0
"""torch custom ops `linfdeploy::sort_dist` and `::sort_dist_bounds`, for tensors on the CPU."""

from __future__ import annotations

from typing import Any

import torch

from linfdeploy.errors import KernelError
from linfdeploy.kernels import _cpu
from linfdeploy.kernels.checks import check_pair, check_same_shape, check_sort_weights
from linfdeploy.kernels.torch.gradients import Both, fake_gradients, of_needed

__all__ = ["sort_dist", "sort_dist_bounds"]


@torch.library.custom_op("linfdeploy::sort_dist", mutates_args=(), device_types="cpu")
def _sort_dist(x: torch.Tensor, w: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
    y = _new_result(x, w, c)
    x, w, c = _contiguous(x, w, c)
    _cpu.sort_dist(x, w, c, 0.0, y, torch.get_num_threads())
    return y


@torch.library.custom_op("linfdeploy::sort_dist_backward", mutates_args=(), device_types="cpu")
def _sort_dist_backward(
    x: torch.Tensor, w: torch.Tensor, c: torch.Tensor, grad_y: torch.Tensor, needed: list[bool]
) -> tuple[torch.Tensor, torch.Tensor]:
    """The gradients of x and w; one that is not needed is empty."""
    x, w, c, grad_y = _contiguous(x, w, c, grad_y)
    threads = torch.get_num_threads()
    index = torch.empty((*grad_y.shape, len(c)), dtype=torch.int64)
    _cpu.sort_dist_argtop(x, w, index, threads)
    grad_x, grad_w = torch.empty_like(x), torch.empty_like(w)
    _cpu.sort_dist_backward(x, w, index, c, grad_y, grad_x, grad_w, threads)
    return grad_x if needed[0] else x.new_empty(0), grad_w if needed[1] else x.new_empty(0)


@torch.library.custom_op("linfdeploy::sort_dist_bounds", mutates_args=(), device_types="cpu")
def _sort_dist_bounds(
    lower: torch.Tensor, upper: torch.Tensor, w: torch.Tensor, c: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    y_lower, y_upper = _new_bounds(lower, upper, w, c)
    lower, upper, w, c = _contiguous(lower, upper, w, c)
    _cpu.sort_dist_bounds(lower, upper, w, c, 0.0, y_lower, y_upper, torch.get_num_threads())
    return y_lower, y_upper


def _new_result(x: torch.Tensor, w: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
    return x.new_empty(x.shape[0], w.shape[0])


def _new_bounds(
    lower: torch.Tensor, upper: torch.Tensor, w: torch.Tensor, c: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    return _new_result(lower, w, c), _new_result(upper, w, c)


_sort_dist.register_fake(_new_result)
_sort_dist_bounds.register_fake(_new_bounds)


@_sort_dist_backward.register_fake
def _(
    x: torch.Tensor, w: torch.Tensor, c: torch.Tensor, grad_y: torch.Tensor, needed: list[bool]
) -> tuple[torch.Tensor, torch.Tensor]:
    return fake_gradients(x, w, needed)


def _save(ctx: Any, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _find_and_scatter(
    ctx: Any, grad_y: torch.Tensor
) -> tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None]:
    x, w, c = ctx.saved_tensors
    needed = list(ctx.needs_input_grad[:2])
    grads: Both = _sort_dist_backward(x, w, c, grad_y, needed)
    return *of_needed(grads, needed), None


_sort_dist.register_autograd(_find_and_scatter, setup_context=_save)


def sort_dist(x: torch.Tensor, w: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
    """See `linfdeploy.kernels.sort_dist`.

    Differentiable in `x` and `w`: the gradient of the k-th largest difference, times `c_k`, goes to its input.
    """
    check_pair("sort_dist", x, w)
    check_sort_weights("sort_dist", x, c)
    _check_device("sort_dist", x)
    y: torch.Tensor = _sort_dist(x, w, c)
    return y


def sort_dist_bounds(
    lower: torch.Tensor, upper: torch.Tensor, w: torch.Tensor, c: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """See `linfdeploy.kernels.sort_dist_bounds`; not differentiable."""
    check_pair("sort_dist_bounds", lower, w)
    check_same_shape("sort_dist_bounds", lower, upper)
    check_sort_weights("sort_dist_bounds", lower, c)
    _check_device("sort_dist_bounds", lower)
    result: tuple[torch.Tensor, torch.Tensor] = _sort_dist_bounds(lower, upper, w, c)
    return result


def _contiguous(*tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return tuple(tensor.detach().contiguous() for tensor in tensors)


def _check_device(op: str, x: torch.Tensor) -> None:
    if x.is_cuda:
        raise KernelError(f"{op}: x is on {x.device}; expected a CPU tensor, there is no CUDA kernel: call .cpu()")
