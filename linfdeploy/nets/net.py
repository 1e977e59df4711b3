# SPDX-License-Identifier: Apache-2.0
"""The net that is trained and exported."""

from __future__ import annotations

import torch
from torch import nn

from linfdeploy.nets.layers import LinfDist, Normalize
from linfdeploy.nets.spec import NetSpec

__all__ = ["LinfNet"]


class LinfNet(nn.Module):
    """Normalisation, then `spec.layers`; the logits are the negated distances of the last layer.

    At p = inf and in evaluation mode every logit is 1/std-Lipschitz in l_inf of the image.
    """

    def __init__(self, spec: NetSpec) -> None:
        super().__init__()
        self.spec = spec
        self.normalize = Normalize(spec.mean, spec.std)
        self.layers = nn.ModuleList(LinfDist(layer) for layer in spec.layers)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Returns logits.

        Args:
            images: (N, C, H, W) float32 in [0, 1].

        Returns:
            (N, classes) float32, in units of normalised pixels (one is `std` of the pixel range).
        """
        x: torch.Tensor = self.normalize(images)
        for layer in self.layers:
            x = layer(x)
        return -x

    def set_p(self, p: float, p_now: torch.Tensor | None = None) -> None:
        """Sets the norm of every layer; `math.inf` is the net that is certified and exported.

        Args:
            p: The norm.
            p_now: (1,) float32 where the kernels are to read a finite norm when they run, or None.
        """
        for layer in self.layers:
            assert isinstance(layer, LinfDist)
            layer.p, layer.p_now = p, p_now
