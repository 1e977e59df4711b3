# SPDX-License-Identifier: Apache-2.0
"""Averages over all ranks: with them a step on several processes is the step of one on the whole batch.

Every rank has as many images as the others, so the mean over the batch is the mean of the ranks' means: of the
loss, of its gradients, and of what the mean shift subtracts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from linfdeploy.nets.layers import MeanShift
from linfdeploy.ranks import Ranks

__all__ = ["average_gradients", "share_batch_means"]


def share_batch_means(net: nn.Module, ranks: Ranks) -> None:
    """Lets every mean shift of a net subtract the mean over the images of all ranks, with its gradient.

    Of a convolution it is one over images and places: each rank has equally many of both.
    """
    if ranks.world == 1:
        return
    for module in net.modules():
        if isinstance(module, MeanShift):
            module.batch_mean = lambda y: _sum(y.mean(0), ranks) / ranks.world
            module.over_all = lambda sums: _sum(sums, ranks)


def average_gradients(parameters: Sequence[nn.Parameter], loss: torch.Tensor, ranks: Ranks) -> torch.Tensor:
    """Replaces gradients and loss by their means over the ranks.

    One all-reduce of all of them in one row, after the backward pass. DistributedDataParallel would overlap the
    two, by hooks and buckets that a CUDA graph must be warmed up for; the gradients of these nets are small beside
    the time of their kernels, and one plain call is easily captured.

    Args:
        parameters: Each with a gradient.
        loss: A scalar, without gradient, on the device of the parameters.
        ranks: Of which each calls this.

    Returns:
        The mean loss, a scalar.
    """
    if ranks.world == 1:
        return loss
    parts = [_gradient(parameter).flatten() for parameter in parameters]
    row = ranks.sum(torch.cat([*parts, loss.reshape(1)])).div_(ranks.world)
    for parameter, part in zip(parameters, torch.split(row[:-1], [part.numel() for part in parts]), strict=True):
        parameter.grad = part.view_as(parameter)
    return row[-1]


def _gradient(parameter: nn.Parameter) -> torch.Tensor:
    assert parameter.grad is not None
    return parameter.grad


def _sum(x: torch.Tensor, ranks: Ranks) -> torch.Tensor:
    total: torch.Tensor = _Sum.apply(x, ranks)  # type: ignore[no-untyped-call]
    return total


class _Sum(torch.autograd.Function):
    """The sum over the ranks. Every rank's loss depends on it, so its gradient is the sum of theirs."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, ranks: Ranks) -> torch.Tensor:
        ctx.ranks = ranks
        return ranks.sum(x.clone())

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        return ctx.ranks.sum(grad.clone(memory_format=torch.contiguous_format)), None
