# SPDX-License-Identifier: Apache-2.0
"""The net that is trained and exported."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from linfdeploy.nets.convolutions import LinfDistConv, SortDistConv
from linfdeploy.nets.layers import DistanceLayer, Linear, LinfDist, Normalize, SortDist
from linfdeploy.nets.spec import LayerSpec, NetSpec
from linfdeploy.nets.subsets import draw_subsets, features_of_subsets, share_of_subsets

__all__ = ["MODULES", "LinfNet", "layer_of"]

MODULES: Mapping[str, Callable[[Any], nn.Module]] = {
    "linear": Linear,
    "linf_dist": LinfDist,
    "linf_dist_conv": LinfDistConv,
    "sort_dist": SortDist,
    "sort_dist_conv": SortDistConv,
}
"""The torch layer of each type of `layer_specs.LAYER_TYPES`."""


class LinfNet(nn.Module):
    """Normalisation, distance layers, and a head of linear layers or, in a pure net, a negation.

    At p = inf and in evaluation mode every feature, and so every logit of a pure net, is 1/std-Lipschitz in l_inf
    of the image.

    Attributes:
        spec: What it is.
        generator: Draws the subsets that sorted distances are trained with; None: torch's own. On several
            processes each draws those of all samples, with the same numbers.
        share: This process's number, from 0, and how many there are, which have as many consecutive samples each
            of a batch in training.
    """

    def __init__(self, spec: NetSpec) -> None:
        super().__init__()
        self.spec = spec
        self.generator: torch.Generator | None = None
        self.share = 0, 1
        self.normalize = Normalize(spec.mean, spec.std)
        self.layers = nn.ModuleList(layer_of(layer) for layer in spec.layers)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Returns logits.

        Args:
            images: (N, C, H, W) float32 in [0, 1].

        Returns:
            (N, classes) float32; of a pure net in units of normalised pixels (one is `std` of the pixel range).
        """
        return self.logits(self.features(images))

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """Returns what leaves the last distance layer.

        Args:
            images: (N, C, H, W) float32 in [0, 1].

        Returns:
            (N, F) float32, in units of normalised pixels; of a pure net the distances to the classes.
        """
        x: torch.Tensor = self.normalize(images)
        if self.training and self.sorts:
            (number, world), count = self.share, len(x)
            drawn = draw_subsets(self.distances, world * count, self.generator)
            return features_of_subsets(self.distances, x, *share_of_subsets(drawn, number * count, count))
        for layer in self.distances:
            x = layer(x)
        return x

    def logits(self, features: torch.Tensor) -> torch.Tensor:
        """Returns the logits (N, classes) of features (N, F): the head's outputs, or the negated distances."""
        if not self.head:
            return -features
        for layer in self.head:
            features = layer(features)
        return features

    @property
    def distances(self) -> list[DistanceLayer]:
        """The distance layers, in order."""
        return [layer for layer in self.layers if isinstance(layer, DistanceLayer)]

    @property
    def sorts(self) -> bool:
        """Whether there are sorted distances, which are trained otherwise than they are evaluated."""
        return any(isinstance(layer, SortDist) for layer in self.distances)

    @property
    def head(self) -> list[Linear]:
        """The linear layers behind them, in order; none in a pure net."""
        return [layer for layer in self.layers if isinstance(layer, Linear)]

    def set_p(self, p: float, p_now: torch.Tensor | None = None) -> None:
        """Sets the norm of every distance layer; `math.inf` is the net that is certified and exported.

        Args:
            p: The norm.
            p_now: (1,) float32 where the kernels are to read a finite norm when they run, or None.
        """
        for layer in self.distances:
            layer.p, layer.p_now = p, p_now


def layer_of(spec: LayerSpec) -> nn.Module:
    """Returns the layer that a spec describes, with random weights."""
    return MODULES[spec.type](spec)
