# SPDX-License-Identifier: Apache-2.0
"""The package's ops one by one: what autograd would call, with what it would keep from one to the next.

Importing this imports torch. Matrices are x (N, I), w (O, I) and grad_y (N, O), all float32 on one device.
"""

from __future__ import annotations

import importlib
from typing import Any

import torch

__all__ = ["BOTH", "gradients", "kernel_of", "lp_backward", "lp_forward", "scatter"]

BOTH = [True, True]

# These register the ops.
for _module in ("linf_dist", "linf_dist_conv", "lp_dist"):
    importlib.import_module(f"linfdeploy.kernels.torch.{_module}")
_ops: Any = torch.ops.linfdeploy


def scatter(
    x: torch.Tensor, w: torch.Tensor, index: torch.Tensor, grad_y: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the gradients of x and w of the l_inf distance; `index` (N, O) says where its maxima are."""
    found: tuple[torch.Tensor, torch.Tensor] = _ops.linf_dist_backward(x, w, index, grad_y, BOTH)
    return found


def lp_forward(x: torch.Tensor, w: torch.Tensor, p: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Returns the l_p distances and the two tensors that their gradient needs."""
    found: tuple[torch.Tensor, torch.Tensor, torch.Tensor] = _ops.lp_dist(x, w, p, None)
    return found


def lp_backward(
    x: torch.Tensor, w: torch.Tensor, p: float, kept: tuple[torch.Tensor, torch.Tensor], grad_y: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the gradients of x and w of the l_p distance, from what the forward pass kept."""
    found: tuple[torch.Tensor, torch.Tensor] = _ops.lp_dist_backward(x, w, p, None, [*kept, grad_y], BOTH)
    return found


def gradients(
    x: torch.Tensor, w: torch.Tensor, grad_y: torch.Tensor, p: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Returns the l_p distances and both gradients."""
    y, *kept = lp_forward(x, w, p)
    return y, *lp_backward(x, w, p, (kept[0], kept[1]), grad_y)


def kernel_of(p: float) -> str:
    """Returns the name in `cuda_floors.COSTS` of the kernel for a p."""
    return "p = 8" if p == 8 else "p < 40" if p < 40 else "p >= 40"
