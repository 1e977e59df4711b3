# SPDX-License-Identifier: Apache-2.0
"""Torch layers of distances on every window of an image: dense layers whose rows are what the windows show."""

from __future__ import annotations

import math
from abc import abstractmethod

import torch
import torch.nn.functional as F

from linfdeploy.kernels.torch.linf_dist_conv import linf_dist_conv
from linfdeploy.kernels.torch.sort_dist_conv import sort_dist_conv
from linfdeploy.nets.layer_specs import LinfDistConvSpec, LinfDistSpec, SortDistConvSpec
from linfdeploy.nets.layers import Bounds, DistanceLayer, LinfDist, SortDist
from linfdeploy.nets.windows import Window

__all__ = ["Convolution", "LinfDistConv", "SortDistConv"]


class Convolution(DistanceLayer):
    """In front of a dense layer in the order of methods: that layer on windows, whose places are rows of a batch.

    So means are over images and places. With gradients or at a finite norm the windows are gathered; otherwise
    `convolved` computes, to the same bits.

    Attributes:
        window: How the window moves.
        weight: (filters, C*kernel*kernel) float32, each filter in (C, row, column) order.
    """

    window: Window

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps flat images (N, C*H*W) to flat images (N, filters*H'*W'), both float32."""
        if self.training or torch.is_grad_enabled() or not math.isinf(self.p):
            return self.flat(super().forward(self.rows(x)))
        y = self.convolved(x.view(-1, *self.window.shape))
        if self.mean_shift is not None:
            y = y - self.mean_shift.running_mean.view(-1, 1, 1)
        return (y if self.bias is None else y + self.bias.view(-1, 1, 1)).flatten(1)

    def bounds(self, lower: torch.Tensor, upper: torch.Tensor) -> Bounds:
        """Bounds `forward` over boxes, as every distance layer does."""
        lower, upper = super().bounds(self.rows(lower), self.rows(upper))
        return self.flat(lower), self.flat(upper)

    def rows(self, x: torch.Tensor) -> torch.Tensor:
        """Returns what the windows show of flat images (N, C*H*W): (N*H'*W', C*kernel*kernel), place by place."""
        window = self.window
        shown = F.unfold(x.view(-1, *window.shape), window.kernel, 1, window.padding, window.stride)
        return shown.transpose(1, 2).reshape(-1, window.terms)

    def flat(self, y: torch.Tensor) -> torch.Tensor:
        """Returns the images that rows (N*H'*W', filters) make up, flat: (N, filters*H'*W')."""
        return y.view(-1, self.window.positions, y.shape[1]).transpose(1, 2).flatten(1)

    @property
    def filters(self) -> torch.Tensor:
        """The weight as (filters, C, kernel, kernel)."""
        return self.weight.view(len(self.weight), self.window.shape[0], self.window.kernel, self.window.kernel)

    @abstractmethod
    def convolved(self, images: torch.Tensor) -> torch.Tensor:
        """Returns the distances (N, filters, H', W') at p = inf of images (N, C, H, W), without gradient."""


class LinfDistConv(Convolution, LinfDist):
    """The layer `LinfDist` on every window of an image."""

    def __init__(self, spec: LinfDistConvSpec) -> None:
        super().__init__(LinfDistSpec(spec.window.terms, spec.filters, spec.mean_shift, spec.bias))
        self.window = spec.window

    def convolved(self, images: torch.Tensor) -> torch.Tensor:
        """Returns the distances (N, filters, H', W') at p = inf of images (N, C, H, W), without gradient."""
        return linf_dist_conv(images, self.filters, self.window.stride, self.window.padding, 1)


class SortDistConv(Convolution, SortDist):
    """The layer `SortDist` on every window of an image; it is not trained here."""

    def __init__(self, spec: SortDistConvSpec) -> None:
        super().__init__(spec.on_rows)
        self.window = spec.window

    def convolved(self, images: torch.Tensor) -> torch.Tensor:
        """Returns the distances (N, filters, H', W') at p = inf of images (N, C, H, W), without gradient."""
        window = self.window
        return sort_dist_conv(images, self.filters, self.sort_weights, window.stride, window.padding)
