# SPDX-License-Identifier: Apache-2.0
"""One step of training: forward pass, loss, backward pass, average over the ranks, weight decay, Adam.

Everything is float32. The matrix products of a head stay so as well, unless torch's default is changed to TF32.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import nn

from linfdeploy.nets.net import LinfNet
from linfdeploy.ranks import Ranks
from linfdeploy.training.average import average_gradients
from linfdeploy.training.decay import decay, decay_rows
from linfdeploy.training.objective import Objective
from linfdeploy.training.recipe import Recipe
from linfdeploy.training.schedules import Dials

__all__ = ["DeviceDials", "Settings", "Step"]


class Settings(NamedTuple):
    """The dials as a step takes them: numbers, or () float32 on the device, which a CUDA graph reads when it runs.

    Attributes:
        p: The norm; with `p_now` it chooses the kernels alone.
        p_now: (1,) float32 on the device, the norm at the moment the kernels run, or None.
        eps: The radius of the loss's margins, in normalised pixels.
        lr: Adam's step for weights and biases, of the head as well.
        scale_lr: Adam's step for the scale.
        weight: The cross-entropy's weight.
    """

    p: float
    p_now: torch.Tensor | None
    eps: float | torch.Tensor
    lr: float | torch.Tensor
    scale_lr: float | torch.Tensor
    weight: float | torch.Tensor

    @staticmethod
    def of(dials: Dials, std: float) -> Settings:
        """Returns dials as numbers; `std` is that of the images."""
        return Settings(dials.p, None, dials.eps / std, dials.lr, dials.scale_lr, dials.weight)


class DeviceDials:
    """The dials of the step that is about to run, at addresses that stay.

    An epoch's dials are functions of the step alone, so they lie on the device as a table, which is brought there
    once; before a step one row is copied within the device, in order with the kernels, and nothing waits.
    """

    def __init__(self, device: torch.device) -> None:
        self._now = torch.zeros(5, device=device)
        self._table = self._now[None]

    def plan(self, epoch: Sequence[Dials], std: float) -> None:
        """Takes the dials of an epoch's steps; they are rounded to float32."""
        rows = [(dials.p, dials.eps / std, dials.lr, dials.scale_lr, dials.weight) for dials in epoch]
        self._table = torch.tensor(rows, dtype=torch.float32).to(self._now.device)

    def turn_to(self, index: int) -> None:
        """Sets the dials of step `index` of the epoch."""
        self._now.copy_(self._table[index])

    def settings(self, p: float) -> Settings:
        """Returns the dials where they lie; `p` chooses the kernels."""
        _, eps, lr, scale_lr, weight = self._now.unbind()
        return Settings(p, self._now[:1], eps, lr, scale_lr, weight)


class Step:
    """One step, run once each time it is called; it waits for nothing on the device."""

    def __init__(
        self, recipe: Recipe, net: LinfNet, scale: nn.Parameter, optimizer: torch.optim.Adam, ranks: Ranks
    ) -> None:
        self.optimizer = optimizer
        self._recipe = recipe
        self._net = net
        self._scale = scale
        self._ranks = ranks
        self._objective = Objective(recipe, net, scale)
        self._parameters = [*net.parameters(), *([scale] if recipe.learns_scale else [])]

    def __call__(self, images: torch.Tensor, labels: torch.Tensor, settings: Settings) -> torch.Tensor:
        """Trains on the images of this rank.

        Args:
            images: (N, C, H, W) float32 in [0, 1].
            labels: (N,) int64.
            settings: The dials.

        Returns:
            The mean loss over the images of all ranks, a scalar on the device, without gradient.

        Raises:
            PeerError: Another process is gone.
        """
        self._net.set_p(settings.p, settings.p_now)
        # The groups of `initial_optimizer`, the last of which only nets with a head have.
        for group, lr in zip(
            self.optimizer.param_groups, (settings.lr, settings.scale_lr, settings.lr), strict=False
        ):
            group["lr"] = lr
        loss = self._objective(images, labels, settings)
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        # Detached: an autograd graph that outlives its step would tie the next, captured one to its stream.
        mean = average_gradients(self._parameters, loss.detach(), self._ranks)
        self._decay(settings)
        self.optimizer.step()
        return mean

    def _decay(self, settings: Settings) -> None:
        if self._recipe.weight_decay:
            rate = settings.lr * self._recipe.weight_decay
            for layer in self._net.distances:
                decay_rows(layer.weight, settings.p, settings.p_now, rate)
                if layer.bias is not None:
                    decay(layer.bias, rate)
        if self._recipe.head_weight_decay:
            for linear in self._net.head:
                for parameter in linear.parameters():
                    decay(parameter, settings.lr * self._recipe.head_weight_decay)
            if self._recipe.learns_scale:
                decay(self._scale, settings.scale_lr * self._recipe.head_weight_decay)
