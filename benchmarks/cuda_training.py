# SPDX-License-Identifier: Apache-2.0
"""Whole training iterations: forward, loss, backward and optimizer of the papers' net of six layers for CIFAR-10.

3072 inputs, five hidden layers of 5120 units and 10 classes: 121 million weights. The batch is random, and steps
are so small that weights stay normally distributed, however often an iteration is repeated.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import cuda_peers
import torch
from torch import nn

from linfdeploy.nets.layers import LinfDist
from linfdeploy.nets.net import LinfNet
from linfdeploy.nets.spec import NetSpec
from linfdeploy.training.losses import mixture_loss

__all__ = ["BATCH", "WEIGHTS", "Iteration", "iteration", "powers_between", "reference_distance"]

BATCH = 512
SHAPE, HIDDEN, CLASSES = (3, 32, 32), (5120,) * 5, 10
WEIGHTS = sum(i * o for i, o in zip((math.prod(SHAPE), *HIDDEN), (*HIDDEN, CLASSES), strict=True))
P_START, P_END = 8.0, 1000.0

Distance = Callable[[torch.Tensor, torch.Tensor, float], torch.Tensor]


class Iteration:
    """A net and its optimizer on one batch.

    Args:
        net: In training.
        images: (N, C, H, W) float32.
        labels: (N,) int64.
    """

    def __init__(self, net: LinfNet, images: torch.Tensor, labels: torch.Tensor) -> None:
        self._net = net
        self._batch = images, labels
        self._scale = nn.Parameter(torch.ones(1, device=images.device))
        on_card = images.device.type == "cuda"
        parameters = [*net.parameters(), self._scale]
        self._optimizer = torch.optim.Adam(
            parameters, lr=1e-9, betas=(0.9, 0.99), eps=1e-10, fused=on_card, capturable=on_card
        )

    def step_at(self, p: float) -> None:
        """Trains one step with that norm in every layer."""
        for layer in self._net.layers:
            # Layers of both kinds have one; torch's modules do not say so.
            layer.p = p  # type: ignore[assignment]
        images, labels = self._batch
        self._optimizer.zero_grad()
        loss = mixture_loss(self._net(images), labels, self._scale, 0.1, 0.05)
        loss.backward()  # type: ignore[no-untyped-call]
        self._optimizer.step()


def iteration(device: torch.device, distance: Distance | None = None, scale: int = 1) -> Iteration:
    """Returns an iteration of the net.

    Args:
        device: Where to train.
        distance: What to compute distances with instead of the package's kernels.
        scale: Divides batch and width.
    """
    hidden = tuple(units // scale for units in HIDDEN)
    net = LinfNet(NetSpec.mlp(SHAPE, (0.5,) * SHAPE[0], 0.25, hidden, CLASSES))
    if distance is not None:
        net.layers = nn.ModuleList(_OtherLayer(layer, distance) for layer in net.layers)
    batch = BATCH // scale
    images, labels = torch.rand(batch, *SHAPE, device=device), torch.randint(CLASSES, (batch,), device=device)
    return Iteration(net.to(device).train(), images, labels)


def powers_between(count: int) -> list[float]:
    """Returns norms in the middle of `count` equal parts of the schedule, which is geometric from 8 to 1000.

    >>> [round(p, 1) for p in powers_between(2)]
    [26.7, 299.1]
    """
    return [P_START * (P_END / P_START) ** ((part + 0.5) / count) for part in range(count)]


def reference_distance(name: str) -> Distance | None:
    """Returns the distance of an extension of the papers' code, or None where it is not installed."""
    module = cuda_peers.extension(name)
    if module is None:
        return None

    def distance(x: torch.Tensor, w: torch.Tensor, p: float) -> torch.Tensor:
        y: torch.Tensor = _Reference.apply(x, w, p, name)  # type: ignore[no-untyped-call]
        return y

    return distance


class _OtherLayer(nn.Module):
    """A layer of the package's with another distance."""

    def __init__(self, layer: nn.Module, distance: Distance) -> None:
        super().__init__()
        assert isinstance(layer, LinfDist)
        self.p = layer.p
        self.weight, self.bias, self.mean_shift = layer.weight, layer.bias, layer.mean_shift
        self._distance = distance

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps (N, I) to (N, O)."""
        y = self._distance(x, self.weight, self.p)
        y = y if self.mean_shift is None else self.mean_shift(y)
        return y if self.bias is None else y + self.bias


class _Reference(torch.autograd.Function):
    """The distance as an extension computes it, for the gradients of both operands."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, w: torch.Tensor, p: float, name: str) -> torch.Tensor:
        x = x.contiguous()
        y = x.new_empty(len(x), len(w))
        kept = y
        module = cuda_peers.extension(name)
        if math.isinf(p):
            kept = torch.empty_like(y, dtype=torch.int32)
            module.inf_dist_forward(x[..., None], w, y[..., None], kept[..., None], 1)
        else:
            module.norm_dist_forward(x[..., None], w, y[..., None], 1, p)
        ctx.p, ctx.name = p, name
        ctx.save_for_backward(x, w, kept)
        return y

    @staticmethod
    def backward(ctx: Any, grad_y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None, None]:
        x, w, kept = ctx.saved_tensors
        grad_x, grad_w = torch.empty_like(x), torch.empty_like(w)
        operands = (x[..., None], w, kept[..., None], grad_y.contiguous()[..., None], grad_x[..., None], grad_w)
        cuda_peers.reference_gradients(ctx.name, ctx.p, *operands)
        return grad_x, grad_w, None, None
