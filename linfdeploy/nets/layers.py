# SPDX-License-Identifier: Apache-2.0
"""Torch layers of an l_inf-distance net. All but the finite-p distance are 1-Lipschitz in l_inf."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import nn

from linfdeploy.kernels.torch.linf_dist import linf_dist
from linfdeploy.kernels.torch.lp_dist import lp_dist
from linfdeploy.nets.spec import LinfDistSpec

__all__ = ["LinfDist", "MeanShift", "Normalize"]

# The running mean of the papers' code: running <- 0.9 running + 0.1 batch mean.
MEAN_SHIFT_MOMENTUM = 0.1


class Normalize(nn.Module):
    """Maps images (N, C, H, W) in [0, 1] to (N, C*H*W) by `(image - mean) / std` with one std for all channels."""

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, mean: tuple[float, ...], std: float) -> None:
        super().__init__()
        # Not persistent: both stand in the spec.
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std), persistent=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Normalises and flattens in (C, H, W) row-major order."""
        return ((images - self.mean) / self.std).flatten(1)


class MeanShift(nn.Module):
    """Subtracts a mean per unit: the batch's in training (with its gradient), the running one in evaluation.

    A translation, so it changes neither distances nor certificates. No variance, no affine part.

    Attributes:
        running_mean: (units,) float32.
        batch_mean: Maps a batch (N, units) to its mean (units,). Training on several processes puts the mean over
            all their batches in its place.
    """

    running_mean: torch.Tensor
    batch_mean: Callable[[torch.Tensor], torch.Tensor]

    def __init__(self, units: int) -> None:
        super().__init__()
        self.register_buffer("running_mean", torch.zeros(units))
        self.batch_mean = _mean_of_rows

    def forward(self, y: torch.Tensor) -> torch.Tensor:
        """Maps (N, units) to (N, units)."""
        if not self.training:
            return y - self.running_mean
        mean = self.batch_mean(y)
        with torch.no_grad():
            self.running_mean.lerp_(mean, MEAN_SHIFT_MOMENTUM)
        return y - mean


class LinfDist(nn.Module):
    """`y_o = (sum_i |x_i - w_oi|^p)^(1/p) - mean_o + b_o`, with p = inf unless training sets it.

    Source: Zhang et al., "Towards Certifying l_inf Robustness using Neural Networks with l_inf-dist Neurons",
    ICML 2021.

    Attributes:
        p: The norm; certificates hold at `math.inf` only.
        p_now: (1,) float32 on the device of the weights, which holds a finite norm when the kernels run, while `p`
            only chooses them; None: `p` is the norm.
        weight: (O, I) float32.
        bias: (O,) float32, or None.
    """

    def __init__(self, spec: LinfDistSpec) -> None:
        super().__init__()
        self.p = math.inf
        self.p_now: torch.Tensor | None = None
        self.weight = nn.Parameter(torch.randn(spec.outputs, spec.inputs))
        self.bias = nn.Parameter(torch.zeros(spec.outputs)) if spec.bias else None
        self.mean_shift = MeanShift(spec.outputs) if spec.mean_shift else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps (N, I) to (N, O), both float32."""
        y = linf_dist(x, self.weight) if math.isinf(self.p) else lp_dist(x, self.weight, self.p, self.p_now)
        if self.mean_shift is not None:
            y = self.mean_shift(y)
        return y if self.bias is None else y + self.bias


def _mean_of_rows(y: torch.Tensor) -> torch.Tensor:
    return y.mean(0)
