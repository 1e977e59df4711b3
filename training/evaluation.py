# SPDX-License-Identifier: Apache-2.0
"""Clean and certified accuracy of a net at p = inf, in float32.

Certified by margin: `logit_y - logit_j > 2 eps / std` for every wrong class j, since every logit is
1/std-Lipschitz. Certified by interval: bounds over `[image - eps, image + eps]` clipped to [0, 1] keep the true
class first; never fewer, since no layer widens an interval. Both are figures to train by: `linfdeploy verify`
proves them for the net that is deployed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from linfdeploy.kernels import linf_dist_bounds
from linfdeploy.nets.layers import LinfDist
from linfdeploy.nets.net import LinfNet
from linfdeploy.training.data import Dataset

__all__ = ["Evaluation", "evaluate", "interval_logits"]

BATCH = 512


@dataclass(frozen=True)
class Evaluation:
    """Fractions of the samples of a data set.

    Attributes:
        samples: How many there are.
        eps: The radius, a fraction of the pixel range.
        clean: Classified correctly.
        certified: Classified correctly within the radius, by intervals.
        certified_margin: The same, by the margin alone.
    """

    samples: int
    eps: float
    clean: float
    certified: float
    certified_margin: float


@torch.no_grad()
def evaluate(net: LinfNet, dataset: Dataset, eps: float) -> Evaluation:
    """Evaluates the net, which is left in evaluation mode at p = inf.

    Args:
        net: On the CPU, where the kernels of the bounds are.
        dataset: With images of the net's input shape.
        eps: The radius, a fraction of the pixel range.
    """
    net.eval()
    net.set_p(math.inf)
    counts = torch.zeros(3, dtype=torch.int64)
    for start in range(0, len(dataset.labels), BATCH):
        images = torch.from_numpy(dataset.images[start : start + BATCH]).float() / 255
        counts += _count(net, images, torch.from_numpy(dataset.labels[start : start + BATCH]), eps)
    samples = len(dataset.labels)
    clean, certified, by_margin = (int(count) / samples for count in counts)
    return Evaluation(samples, eps, clean, certified, by_margin)


def interval_logits(net: LinfNet, images: torch.Tensor, eps: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Bounds the logits of a net in evaluation mode over boxes, clipped to the range of pixels.

    Args:
        net: At p = inf.
        images: (N, C, H, W) float32 in [0, 1].
        eps: A fraction of the pixel range.

    Returns:
        Lower and upper bounds, (N, classes) float32 each.
    """
    lower = net.normalize((images - eps).clamp(0, 1))
    upper = net.normalize((images + eps).clamp(0, 1))
    for layer in net.layers:
        assert isinstance(layer, LinfDist)
        lower, upper = linf_dist_bounds(lower, upper, layer.weight)
        for shift in _shifts(layer):
            lower, upper = lower + shift, upper + shift
    return -upper, -lower


def _shifts(layer: LinfDist) -> list[torch.Tensor]:
    shifts = [] if layer.mean_shift is None else [-layer.mean_shift.running_mean]
    return shifts if layer.bias is None else [*shifts, layer.bias]


def _count(net: LinfNet, images: torch.Tensor, labels: torch.Tensor, eps: float) -> torch.Tensor:
    logits = net(images).double()
    margin = _least_margin(logits, logits, labels)
    lower, upper = (bound.double() for bound in interval_logits(net, images, eps))
    certified = _least_margin(lower, upper, labels) > 0
    return torch.stack([margin > 0, certified, margin > 2 * eps / net.spec.std]).sum(1)


def _least_margin(lower: torch.Tensor, upper: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    truth = lower.gather(1, labels[:, None])[:, 0]
    return truth - upper.scatter(1, labels[:, None], -math.inf).amax(1)
