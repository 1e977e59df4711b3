# SPDX-License-Identifier: Apache-2.0
"""What a step of a recipe minimises: the forward pass, its worst margins and the recipe's loss."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from linfdeploy.nets.net import LinfNet
from linfdeploy.training.losses import ce_hinge_loss, clean_margins, cross_entropy, hinge, mixture_loss
from linfdeploy.training.margins import worst_logits
from linfdeploy.training.recipe import Recipe

if TYPE_CHECKING:
    from linfdeploy.training.step import Settings

__all__ = ["Objective"]


class Objective:
    """The loss of a net on a batch.

    Args:
        recipe: Names the loss and its shares.
        net: In training.
        scale: (1,) float32, by which the logits of a cross-entropy are multiplied.
    """

    def __init__(self, recipe: Recipe, net: LinfNet, scale: torch.Tensor) -> None:
        self._recipe = recipe
        self._net = net
        self._scale = scale

    def __call__(self, images: torch.Tensor, labels: torch.Tensor, settings: Settings) -> torch.Tensor:
        """Returns the mean loss over the images, a scalar with its gradient.

        Args:
            images: (N, C, H, W) float32 in [0, 1].
            labels: (N,) int64.
            settings: The dials; the norm must be the net's already.
        """
        features = self._net.features(images)
        logits = self._net.logits(features)
        if self._recipe.loss == "mixture":
            return mixture_loss(logits, labels, self._scale, settings.eps, settings.weight)
        worst = worst_logits(self._net, features, labels, settings.eps)
        if self._recipe.margins == "relative":
            worst = worst / (2 * settings.eps)
        if self._recipe.loss == "ce_hinge":
            return ce_hinge_loss(logits, worst, labels, self._scale, settings.weight)
        return self._of_margins(worst, clean_margins(logits, labels), labels)

    def _of_margins(self, worst: torch.Tensor, clean: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        kappa = self._recipe.kappa
        if kappa == 1:
            return self._of(worst, labels)
        return kappa * self._of(worst, labels) + (1 - kappa) * self._of(clean, labels)

    def _of(self, margins: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        if self._recipe.loss == "hinge":
            return hinge(margins, self._recipe.loss_mix)
        return cross_entropy(margins, labels)
