# SPDX-License-Identifier: Apache-2.0
"""The running means of a net with sorted distances, which are evaluated otherwise than they are trained.

In training a layer's mean is that of the norm over subsets; what is deployed subtracts the mean of the sorted
distance. So it is taken anew before the net is evaluated or saved: the plain average of the batch means, in one
pass over the augmented training images, each layer's input shifted by the means of its own batch, which on several
processes is that of all of them.

Source: Zhang et al., "Rethinking Lipschitz Neural Networks and Certified Robustness: A Boolean Function
Perspective", NeurIPS 2022.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch

from linfdeploy.nets.net import LinfNet

__all__ = ["renew_running_means"]


@torch.no_grad()
def renew_running_means(net: LinfNet, batches: Iterable[tuple[torch.Tensor, torch.Tensor]]) -> None:
    """Replaces all running means; the net is left in evaluation mode at p = inf.

    Args:
        net: Any. Without sorted distances nothing happens: its running means are those of its own training.
        batches: At least one: images (N, C, H, W) float32 in [0, 1], and labels, which do not matter.
    """
    if not net.sorts:
        return
    net.eval()
    net.set_p(math.inf)
    shifts = [layer.mean_shift for layer in net.distances if layer.mean_shift is not None]
    means = [_batch_means(net, images) for images, _ in batches]
    for shift, each in zip(shifts, zip(*means, strict=True), strict=True):
        shift.running_mean.copy_(torch.stack(each).double().mean(0))


def _batch_means(net: LinfNet, images: torch.Tensor) -> list[torch.Tensor]:
    """Returns the mean of every layer that is shifted, (O,) each, of one batch."""
    x, means = net.normalize(images), []
    for layer in net.distances:
        x = layer.distance(x)
        if layer.mean_shift is not None:
            means.append(layer.mean_shift.batch_mean(x))
            x = x - means[-1]
        x = x if layer.bias is None else x + layer.bias
    return means
