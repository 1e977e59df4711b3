# SPDX-License-Identifier: Apache-2.0
"""Clean and certified accuracy of a net at p = inf, in float32.

Certified by margin: `logit_y - logit_j > 2 eps / std` for every wrong class j, since every logit is
1/std-Lipschitz. Certified by interval: bounds over `[image - eps, image + eps]` clipped to [0, 1] keep the true
class first; never fewer, since no layer widens an interval. Both are figures to train by: `linfdeploy verify`
proves them for the net that is deployed.

A net with a head has features in the place of logits: by margin, each moves by `eps / std`; by interval, the boxes
end where the head begins. Through the head they go as `margins` says.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from linfdeploy.nets.net import LinfNet
from linfdeploy.ranks import ALONE, Ranks
from linfdeploy.training.augment import unit_range
from linfdeploy.training.data import Dataset
from linfdeploy.training.margins import worst_in_box, worst_logits

__all__ = ["Evaluation", "Exported", "evaluate", "interval_features"]

BATCH = 512


@dataclass(frozen=True)
class Exported:
    """What is proved of the net that is deployed: its weights are on a grid, so that nothing rounds.

    Attributes:
        samples: Test images.
        grid: k of the grid of 2^-k pixel.
        levels: The radius, in levels of 255.
        clean: The share that is classified correctly.
        certified: The share that is so within the radius, by the exact margin: certificate E of `verify`.
    """

    samples: int
    grid: int
    levels: int
    clean: float
    certified: float


@dataclass(frozen=True)
class Evaluation:
    """Fractions of the samples of a data set.

    Attributes:
        samples: How many there are.
        eps: The radius, a fraction of the pixel range.
        clean: Classified correctly.
        certified: Classified correctly within the radius, by intervals.
        certified_margin: The same, by the margin alone.
        exported: The same after export, without rounding errors; None where that was not asked for.
    """

    samples: int
    eps: float
    clean: float
    certified: float
    certified_margin: float
    exported: Exported | None = None


@torch.no_grad()
def evaluate(net: LinfNet, dataset: Dataset, eps: float, ranks: Ranks = ALONE) -> Evaluation:
    """Evaluates the net, which is left in evaluation mode at p = inf.

    Args:
        net: On any device that the kernels run on.
        dataset: With images of the net's input shape.
        eps: The radius, a fraction of the pixel range.
        ranks: Each takes its share of the images; all of them call this and learn the result.

    Raises:
        PeerError: Another process is gone.
    """
    net.eval()
    net.set_p(math.inf)
    device = next(net.parameters()).device
    counts = torch.zeros(3, dtype=torch.int64, device=device)
    samples = len(dataset.labels)
    for start in range(ranks.rank * BATCH, samples, ranks.world * BATCH):
        levels, labels = (
            torch.from_numpy(part[start : start + BATCH]) for part in (dataset.images, dataset.labels)
        )
        counts += _count(net, unit_range(levels.to(device)), labels.to(device), eps)
    # Added up on the CPU: sums of whole numbers, so the shares do not show.
    clean, certified, by_margin = (int(count) / samples for count in ranks.sum(counts.cpu()))
    return Evaluation(samples, eps, clean, certified, by_margin)


def interval_features(net: LinfNet, images: torch.Tensor, eps: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Bounds what leaves the distance layers over boxes, clipped to the range of pixels.

    Args:
        net: At p = inf, in evaluation mode.
        images: (N, C, H, W) float32 in [0, 1].
        eps: A fraction of the pixel range.

    Returns:
        Lower and upper bounds, (N, F) float32 each; of a pure net the distances to the classes.
    """
    lower = net.normalize((images - eps).clamp(0, 1))
    upper = net.normalize((images + eps).clamp(0, 1))
    for layer in net.distances:
        lower, upper = layer.bounds(lower, upper)
    return lower, upper


def _count(net: LinfNet, images: torch.Tensor, labels: torch.Tensor, eps: float) -> torch.Tensor:
    features = net.features(images)
    logits, (lower, upper) = net.logits(features).double(), interval_features(net, images, eps)
    margin = _least_margin(logits, logits, labels)
    if net.head:
        certified = _wins(worst_in_box(net, lower, upper, labels), labels)
        by_margin = _wins(worst_logits(net, features, labels, eps / net.spec.std), labels)
    else:
        certified = _least_margin(-upper.double(), -lower.double(), labels) > 0
        by_margin = margin > 2 * eps / net.spec.std
    return torch.stack([margin > 0, certified, by_margin]).sum(1)


def _wins(worst: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return worst.scatter(1, labels[:, None], -math.inf).amax(1) < 0


def _least_margin(lower: torch.Tensor, upper: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    truth = lower.gather(1, labels[:, None])[:, 0]
    return truth - upper.scatter(1, labels[:, None], -math.inf).amax(1)
