# SPDX-License-Identifier: Apache-2.0
"""Torch layers of an l_inf-distance net. All but the finite-p distance and the head are 1-Lipschitz in l_inf."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import nn

from linfdeploy.errors import KernelError
from linfdeploy.kernels.checks import KEPT_BITS
from linfdeploy.kernels.torch.linf_dist import linf_dist, linf_dist_bounds
from linfdeploy.kernels.torch.lp_dist import lp_dist
from linfdeploy.kernels.torch.sort_dist import sort_dist, sort_dist_bounds
from linfdeploy.nets.layer_specs import LinearSpec, LinfDistSpec, SortDistSpec

__all__ = [
    "Bounds",
    "DistanceLayer",
    "Linear",
    "LinfDist",
    "MeanShift",
    "Normalize",
    "SortDist",
]

Bounds: TypeAlias = tuple[torch.Tensor, torch.Tensor]

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
        over_all: Maps sums over a batch to themselves, or, on several processes, to those over all their batches.
    """

    running_mean: torch.Tensor
    batch_mean: Callable[[torch.Tensor], torch.Tensor]
    over_all: Callable[[torch.Tensor], torch.Tensor]

    def __init__(self, units: int) -> None:
        super().__init__()
        self.register_buffer("running_mean", torch.zeros(units))
        self.batch_mean = _mean_of_rows
        self.over_all = _unchanged

    def forward(self, y: torch.Tensor) -> torch.Tensor:
        """Maps (N, units) to (N, units)."""
        if not self.training:
            return y - self.running_mean
        mean = self.batch_mean(y)
        with torch.no_grad():
            self.running_mean.lerp_(mean, MEAN_SHIFT_MOMENTUM)
        return y - mean


class DistanceLayer(nn.Module, ABC):
    """A distance, then `- mean_o + b_o`; at p = inf and in evaluation mode 1-Lipschitz in l_inf.

    Attributes:
        p: The norm; certificates hold at `math.inf` only.
        p_now: (1,) float32 on the device of the weights, which holds a finite norm when the kernels run, while `p`
            only chooses them; None: `p` is the norm.
        weight: (O, I) float32.
        kept_bits: Which terms count at a finite norm: see `linfdeploy.kernels.lp_dist`.
        bias: (O,) float32, or None.
        mean_shift: Behind the distance, or None.
    """

    def __init__(self, weight: torch.Tensor, *, mean_shift: bool, bias: bool) -> None:
        super().__init__()
        self.p = math.inf
        self.p_now: torch.Tensor | None = None
        self.kept_bits = KEPT_BITS
        self.weight = nn.Parameter(weight)
        self.bias = nn.Parameter(torch.zeros(len(weight))) if bias else None
        self.mean_shift = MeanShift(len(weight)) if mean_shift else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps (N, I) to (N, O), both float32."""
        y = self.distance(x)
        if self.mean_shift is not None:
            y = self.mean_shift(y)
        return y if self.bias is None else y + self.bias

    def bounds(self, lower: torch.Tensor, upper: torch.Tensor) -> Bounds:
        """Bounds `forward` over boxes, at p = inf and in evaluation mode, without gradient.

        Args:
            lower: (N, I) float32, lower ends.
            upper: (N, I) float32, upper ends.

        Returns:
            Lower and upper bounds, (N, O) float32 each.
        """
        lower, upper = self.distance_bounds(lower, upper)
        if self.mean_shift is not None:
            lower, upper = lower - self.mean_shift.running_mean, upper - self.mean_shift.running_mean
        return (lower, upper) if self.bias is None else (lower + self.bias, upper + self.bias)

    def norm(self, x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        """Returns the distances of rows (N, I) to rows (O, I) at the norm that is set, (N, O)."""
        if math.isinf(self.p):
            return linf_dist(x, w)
        return lp_dist(x, w, self.p, self.p_now, self.kept_bits)

    @abstractmethod
    def distance(self, x: torch.Tensor) -> torch.Tensor:
        """Returns the distances (N, O) at the norm that is set, before mean shift and bias."""

    @abstractmethod
    def distance_bounds(self, lower: torch.Tensor, upper: torch.Tensor) -> Bounds:
        """Bounds `distance` at p = inf over boxes."""


class LinfDist(DistanceLayer):
    """`y_o = (sum_i |x_i - w_oi|^p)^(1/p) - mean_o + b_o`, with p = inf unless training sets it.

    Source: Zhang et al., "Towards Certifying l_inf Robustness using Neural Networks with l_inf-dist Neurons",
    ICML 2021.
    """

    def __init__(self, spec: LinfDistSpec) -> None:
        super().__init__(torch.randn(spec.outputs, spec.inputs), mean_shift=spec.mean_shift, bias=spec.bias)

    def distance(self, x: torch.Tensor) -> torch.Tensor:
        """Returns the distances (N, O) at the norm that is set, before mean shift and bias."""
        return self.norm(x, self.weight)

    def distance_bounds(self, lower: torch.Tensor, upper: torch.Tensor) -> Bounds:
        """Bounds `distance` at p = inf over boxes."""
        return linf_dist_bounds(lower, upper, self.weight)


class SortDist(DistanceLayer):
    """`y_o = sum_k c_k |x - w_o|_(k) - mean_o + b_o`, as it is evaluated; training takes subsets, see `subsets`.

    Attributes:
        keep: The chance of an input to be in a subset.
        sort_weights: (K,) float32, c.
    """

    sort_weights: torch.Tensor

    def __init__(self, spec: SortDistSpec) -> None:
        super().__init__(torch.randn(spec.outputs, spec.inputs), mean_shift=spec.mean_shift, bias=spec.bias)
        self.keep = spec.keep
        # Not persistent: what they are made of stands in the spec.
        self.register_buffer("sort_weights", torch.tensor(spec.weights), persistent=False)

    def distance(self, x: torch.Tensor) -> torch.Tensor:
        """Returns the distances (N, O) at p = inf, before mean shift and bias.

        Raises:
            KernelError: p is finite: a sorted distance stands for subsets at p = inf.
        """
        if not math.isinf(self.p):
            raise KernelError(f"sort_dist: p is {self.p}; expected p = inf outside training: call set_p(math.inf)")
        return sort_dist(x, self.weight, self.sort_weights)

    def distance_bounds(self, lower: torch.Tensor, upper: torch.Tensor) -> Bounds:
        """Bounds `distance` at p = inf over boxes."""
        return sort_dist_bounds(lower, upper, self.weight, self.sort_weights)


class Linear(nn.Module):
    """`activation(W x / sqrt(I) + b)`, a layer of the head; the division is no part of what is stored.

    Attributes:
        weight: (O, I) float32, W.
        bias: (O,) float32.
        activation: `tanh` or `none`.
    """

    def __init__(self, spec: LinearSpec) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(spec.outputs, spec.inputs))
        self.bias = nn.Parameter(torch.zeros(spec.outputs))
        self.activation = spec.activation

    @property
    def scaled_weight(self) -> torch.Tensor:
        """What the input is multiplied by, (O, I): `W / sqrt(I)`."""
        return self.weight / math.sqrt(self.weight.shape[1])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps (N, I) to (N, O), both float32."""
        return self.activated(F.linear(x, self.scaled_weight, self.bias))

    def bounds(self, lower: torch.Tensor, upper: torch.Tensor) -> Bounds:
        """Bounds `forward` over boxes in real arithmetic, computed in the dtype at hand, with gradient.

        Args:
            lower: (N, I), lower ends.
            upper: (N, I), upper ends.

        Returns:
            Lower and upper bounds, (N, O) each.
        """
        weight = self.scaled_weight
        centre = F.linear((lower + upper) / 2, weight, self.bias)
        radius = F.linear((upper - lower) / 2, weight.abs())
        return self.activated(centre - radius), self.activated(centre + radius)

    def activated(self, y: torch.Tensor) -> torch.Tensor:
        """Returns the activation of (N, O)."""
        return y.tanh() if self.activation == "tanh" else y


def _mean_of_rows(y: torch.Tensor) -> torch.Tensor:
    return y.mean(0)


def _unchanged(sums: torch.Tensor) -> torch.Tensor:
    return sums
