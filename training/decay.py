# SPDX-License-Identifier: Apache-2.0
"""Decoupled weight decay: the gradient of the norm that a layer computes with, and the ordinary one."""

from __future__ import annotations

import math

import torch

__all__ = ["decay", "decay_rows"]

# Added to squares, so that the row of a weight that is all 0 has a norm to divide by.
GUARD = 1e-10


@torch.no_grad()
def decay_rows(weight: torch.Tensor, p: float, p_now: torch.Tensor | None, rate: float | torch.Tensor) -> None:
    """Shrinks a weight w in place by `rate (|w_i| / |w|_p)^(p-2) w_i`, where `|w|_p` is the norm of its row.

    That is the gradient of `|w|_p^2 / 2`, row by row: at p = 2 the ordinary decay, and at p = inf that of the
    entry of the largest |w| alone. 1e-10 is added to the squares.

    Source: Zhang et al., "Towards Certifying l_inf Robustness using Neural Networks with l_inf-dist Neurons", ICML
    2021.

    Args:
        weight: (O, I) float32.
        p: At least 2, up to infinity.
        p_now: (1,) float32 on the device of the weight, which holds a finite norm when the kernels run, while `p`
            says only that it is finite; None: `p` is the norm.
        rate: The step times the decay; a number, or a scalar on the device of the weight.
    """
    if math.isinf(p):
        largest = weight.abs().argmax(1, keepdim=True)
        weight.scatter_(1, largest, weight.gather(1, largest) * (1 - rate))
        return
    order = p if p_now is None else p_now
    squares = weight * weight + GUARD
    squares /= squares.amax(1, keepdim=True)
    powers = squares.pow(order / 2 - 1)
    total = (squares * powers).sum(1, keepdim=True)
    weight.mul_(1 - rate * powers * total.pow(2 / order - 1))


@torch.no_grad()
def decay(parameter: torch.Tensor, rate: float | torch.Tensor) -> None:
    """Shrinks a parameter in place by `rate` times itself."""
    parameter.mul_(1 - rate)
