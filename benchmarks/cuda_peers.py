# SPDX-License-Identifier: Apache-2.0
"""What the CUDA kernels are measured against: torch, its compiler, and the papers' own extensions where installed.

A peer is made for one set of inputs and is a function of no argument. The extensions of the papers' code launch on
the default stream, which no graph captures, and write into memory that the caller makes:

    norm_dist_cuda    github.com/zbh2047/L_inf-dist-net-v2
    norm_dist_cpp     github.com/zbh2047/L_inf-dist-net

Both take x (N, I, places) and w (O, I); gradients that they add to are set to zero in each call, as the papers do.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch
import torch.nn.functional as F

__all__ = [
    "CDIST",
    "COMPILED",
    "FIRST",
    "SECOND",
    "Peer",
    "argmax",
    "bounds",
    "convolution",
    "extension",
    "linf_forward",
    "lp_forward",
    "lp_gradients",
    "reference_gradients",
    "scatter",
]

CDIST, COMPILED, SECOND, FIRST = "torch.cdist", "torch.compile", "norm_dist_cuda", "norm_dist_cpp"
# The compiler indexes with 32 bits where a broadcast has fewer elements than this.
LARGEST_BROADCAST = 2**31


@dataclass(frozen=True)
class Peer:
    """A peer with its inputs; `captured` says whether a graph can replay it."""

    call: Callable[[], Any]
    captured: bool = True


Peers = dict[str, Peer]


@cache
def extension(name: str) -> Any:
    """Returns an extension of the papers' code, or None, with a line that says so, where it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        print(f"{name} is left out: {str(error).splitlines()[0]}")
        return None


def linf_forward(x: torch.Tensor, w: torch.Tensor) -> Peers:
    """Returns the l_inf forwards."""
    found = {
        CDIST: Peer(partial(torch.cdist, x, w, p=torch.inf)),
        COMPILED: Peer(partial(_in_chunks, _compiled(_naive_linf), x, w)),
    }
    rows, y, index = x[..., None], _results(x, w)[..., None], _results(x, w, torch.int32)[..., None]
    if second := extension(SECOND):
        found[SECOND] = Peer(partial(second.inf_dist_forward_nograd, rows, w, y, 1), captured=False)
    if first := extension(FIRST):
        found[FIRST] = Peer(partial(first.inf_dist_forward, rows, w, y, index, 1), captured=False)
    return found


def argmax(x: torch.Tensor, w: torch.Tensor) -> Peers:
    """Returns the l_inf forwards that tell where the maximum is."""
    found = {COMPILED: Peer(partial(_in_chunks, _compiled(_naive_argmax), x, w))}
    rows, y, index = x[..., None], _results(x, w)[..., None], _results(x, w, torch.int32)[..., None]
    for name in (SECOND, FIRST):
        if module := extension(name):
            found[name] = Peer(partial(module.inf_dist_forward, rows, w, y, index, 1), captured=False)
    return found


def scatter(x: torch.Tensor, w: torch.Tensor, grad_y: torch.Tensor) -> Peers:
    """Returns the l_inf gradients, given where the maxima are."""
    found = {}
    rows, y, index = x[..., None], _results(x, w)[..., None], _results(x, w, torch.int32)[..., None]
    grads = torch.empty_like(rows), torch.empty_like(w)
    for name in (SECOND, FIRST):
        if module := extension(name):
            module.inf_dist_forward(rows, w, y, index, 1)
            operands = (rows, w, index, grad_y[..., None], *grads)
            found[name] = Peer(partial(reference_gradients, name, math.inf, *operands), captured=False)
    return found


def bounds(lower: torch.Tensor, upper: torch.Tensor, w: torch.Tensor) -> Peers:
    """Returns the interval bounds of the l_inf distance."""
    found = {COMPILED: Peer(partial(_bounds_in_chunks, _compiled(_naive_bounds), lower, upper, w))}
    boxes, ends = (lower[..., None], upper[..., None]), [_results(lower, w)[..., None] for _ in range(2)]
    if second := extension(SECOND):
        found[SECOND] = Peer(partial(second.bound_inf_dist_forward_nograd, *boxes, w, *ends, 1), captured=False)
    if first := extension(FIRST):
        found[FIRST] = Peer(partial(first.inf_dist_bound_forward, *boxes, w, *ends, 1), captured=False)
    return found


def convolution(x: torch.Tensor, w: torch.Tensor, padding: int) -> Peers:
    """Returns the l_inf convolutions: those that unfold the images first, since none has a kernel for it.

    Args:
        x: (N, C, H, W) float32.
        w: (O, C, k, k) float32, an odd k.
        padding: At each side, (k - 1) / 2.
    """
    filters, places = w.flatten(1), x.shape[2] * x.shape[3]
    unfold = partial(F.unfold, x, w.shape[2:], padding=padding)
    found = {
        CDIST: Peer(lambda: torch.cdist(_windows(unfold()), filters, p=torch.inf)),
        COMPILED: Peer(lambda: _in_chunks(_compiled(_naive_linf), _windows(unfold()), filters)),
    }
    y = x.new_empty(len(x), len(w), places)
    if second := extension(SECOND):
        call = lambda: second.inf_dist_forward_nograd(unfold(), filters, y, 1)  # noqa: E731  # one of several
        found[SECOND] = Peer(call, captured=False)
    return found


def lp_forward(x: torch.Tensor, w: torch.Tensor, p: float) -> Peers:
    """Returns the l_p forwards."""
    found = {
        CDIST: Peer(partial(torch.cdist, x, w, p=p)),
        COMPILED: Peer(partial(_in_chunks, _compiled(_naive_lp, p), x, w)),
    }
    rows, y = x[..., None], _results(x, w)[..., None]
    for name in (SECOND, FIRST):
        if module := extension(name):
            found[name] = Peer(partial(module.norm_dist_forward, rows, w, y, 1, p), captured=False)
    return found


def lp_gradients(x: torch.Tensor, w: torch.Tensor, grad_y: torch.Tensor, p: float) -> Peers:
    """Returns the l_p forwards, each with both gradients."""
    found = {
        CDIST: Peer(partial(_cdist_gradients, x, w, p, grad_y)),
        COMPILED: Peer(partial(_compiled_gradients, _compiled(_naive_lp, p), x, w, grad_y), captured=False),
    }
    rows, y = x[..., None], _results(x, w)[..., None]
    grads = torch.empty_like(rows), torch.empty_like(w)
    for name in (SECOND, FIRST):
        if extension(name):
            call = partial(_forward_and_gradients, name, p, rows, w, y, grad_y[..., None], *grads)
            found[name] = Peer(call, captured=False)
    return found


def reference_gradients(name: str, p: float, *operands: torch.Tensor) -> None:
    """Lets an extension compute both gradients.

    Args:
        name: Of the extension, which is installed.
        p: The norm, also infinity.
        operands: x (N, I, 1), w (O, I), what the forward pass keeps (N, O, 1): distances, or for infinity where
            the maxima are, as int32; grad_y (N, O, 1); grad_x and grad_w, which are overwritten.
    """
    x, w, kept, grad_y, grad_x, grad_w = operands
    module, infinite = extension(name), math.isinf(p)
    if name == SECOND and infinite:
        module.inf_dist_backward_input_weight(grad_y, kept, grad_x, grad_w, 1)
    elif name == SECOND:
        module.norm_dist_backward_input_weight(grad_y, x, w, kept, grad_x, grad_w, 1, p)
    elif infinite:
        module.inf_dist_backward_input(grad_y, kept, grad_x.zero_(), 1)
        module.inf_dist_backward_weight(grad_y, kept, grad_w.zero_(), 1)
    else:
        module.norm_dist_backward_input(grad_y, x, w, kept, grad_x, 1, p)
        module.norm_dist_backward_weight(grad_y, x, w, kept, grad_w.zero_(), 1, p)


def _results(x: torch.Tensor, w: torch.Tensor, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.empty(len(x), len(w), dtype=dtype, device=x.device)


def _naive_linf(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    return (x.unsqueeze(1) - w).abs().amax(-1)


def _naive_argmax(x: torch.Tensor, w: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    y, index = (x.unsqueeze(1) - w).abs().max(-1)
    return y, index


def _naive_bounds(lower: torch.Tensor, upper: torch.Tensor, w: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    below, above = w - lower.unsqueeze(1), upper.unsqueeze(1) - w
    nearest = torch.minimum(below, above).amin(-1).clamp(max=0)
    return -nearest, torch.maximum(below, above).amax(-1)


def _naive_lp(x: torch.Tensor, w: torch.Tensor, p: float) -> torch.Tensor:
    return ((x.unsqueeze(1) - w).abs() ** p).sum(-1) ** (1 / p)


@cache
def _compiled(function: Callable[..., Any], p: float | None = None) -> Callable[..., Any]:
    compiled: Callable[..., Any] = torch.compile(function if p is None else partial(function, p=p), dynamic=False)
    return compiled


def chunk_rows(weights: int) -> int:
    """Returns how many rows of x a broadcast against so many weights takes at a time: a power of two.

    >>> chunk_rows(5120 * 5120)
    64
    """
    return 1 << max((LARGEST_BROADCAST - 1) // weights, 1).bit_length() - 1


def _in_chunks(function: Callable[..., Any], x: torch.Tensor, w: torch.Tensor) -> list[Any]:
    return [function(part, w) for part in x.split(chunk_rows(w.numel()))]


def _bounds_in_chunks(
    function: Callable[..., Any], lower: torch.Tensor, upper: torch.Tensor, w: torch.Tensor
) -> list[Any]:
    parts = zip(*(one.split(chunk_rows(w.numel())) for one in (lower, upper)), strict=True)
    return [function(*boxes, w) for boxes in parts]


def _windows(unfolded: torch.Tensor) -> torch.Tensor:
    """Images' windows (N, C k k, places) as rows."""
    return unfolded.transpose(1, 2).reshape(-1, unfolded.shape[1])


def _cdist_gradients(x: torch.Tensor, w: torch.Tensor, p: float, grad_y: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Calls the kernel that autograd calls, which needs memory for every difference."""
    y, backward = torch.cdist(x, w, p=p), torch.ops.aten._cdist_backward
    grad_w = backward(grad_y.T.contiguous(), w, x, p, y.T.contiguous())
    return y, backward(grad_y, x, w, p, y), grad_w


def _compiled_gradients(
    function: Callable[..., Any], x: torch.Tensor, w: torch.Tensor, grad_y: torch.Tensor
) -> torch.Tensor:
    rows, weights = chunk_rows(w.numel()), w.detach().requires_grad_()
    grad_w = torch.zeros_like(w)
    for part, grad in zip(x.split(rows), grad_y.split(rows), strict=True):
        leaf = part.detach().requires_grad_()
        _, found = torch.autograd.grad(function(leaf, weights), (leaf, weights), grad)
        grad_w += found
    return grad_w


def _forward_and_gradients(name: str, p: float, *operands: torch.Tensor) -> None:
    x, w, y, *_ = operands
    extension(name).norm_dist_forward(x, w, y, 1, p)
    reference_gradients(name, p, *operands)
