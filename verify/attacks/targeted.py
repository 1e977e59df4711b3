# SPDX-License-Identifier: Apache-2.0
"""Targeted PGD with margin loss on the l_p surrogate, whose p rises while the steps shrink."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from linfdeploy.verify.attacks.pgd import papers_start
from linfdeploy.verify.attacks.plan import Restart, Start
from linfdeploy.verify.attacks.twin import Best, Boxes, Twin

__all__ = ["POOL", "Seeds", "pool_of", "start_of", "targeted"]

POOL = 128
"""Images of each class among which the nearest is looked for."""


def pool_of(labels: npt.NDArray[np.int64], classes: int) -> npt.NDArray[np.int64]:
    """Returns which of the samples with labels (N,) are candidates in `Seeds`, (M,) ascending."""
    firsts = [np.flatnonzero(labels == label)[:POOL] for label in range(classes)]
    return np.sort(np.concatenate(firsts))


class Seeds:
    """For each sample and class, the nearest image of that class."""

    def __init__(self, boxes: Boxes, classes: int) -> None:
        """Takes samples with the engine's labels; of each class the first `POOL` images are candidates."""
        self._pools = [boxes.centre[boxes.labels == label][:POOL] for label in range(classes)]

    def nearest(self, boxes: Boxes, targets: torch.Tensor) -> torch.Tensor:
        """Returns, (N, I), the nearest image of each target class clipped into the box; else the image itself."""
        x = boxes.centre.clone()
        for target, pool in enumerate(self._pools):
            rows = torch.nonzero(targets == target).flatten()
            if len(rows) and len(pool):
                # Each distance by itself: a matrix product's bits may depend on what is beside, and on threads.
                apart = torch.cdist(boxes.centre[rows], pool, compute_mode="donot_use_mm_for_euclid_dist")
                x[rows] = pool[apart.argmin(1)]
        return boxes.clip(x)


def start_of(
    start: Start, boxes: Boxes, targets: torch.Tensor, seeds: Seeds, best: torch.Tensor, generator: torch.Generator
) -> torch.Tensor:
    """Returns starting points (N, I).

    Args:
        start: Of which kind.
        boxes: Where.
        targets: (N,) classes.
        seeds: Images of other classes.
        best: (N, I) the best points so far.
        generator: Of what is random.
    """
    if start == "papers":
        return papers_start(boxes, generator)
    if start == "other class":
        return seeds.nearest(boxes, targets)
    if start == "best":
        return best.clone()
    share = torch.rand(boxes.centre.shape, generator=generator)
    if start == "corner":
        share = share.round()
    return boxes.lower + share * (boxes.upper - boxes.lower)


def targeted(
    twin: Twin, boxes: Boxes, targets: torch.Tensor, restart: Restart, steps: int, x: torch.Tensor
) -> torch.Tensor:
    """Raises the target's logit above the label's.

    Args:
        twin: What is attacked.
        boxes: Where.
        targets: (N,) classes.
        restart: The norms of the surrogate.
        steps: How many.
        x: (N, I) where to start.

    Returns:
        (N, I) the best whole-numbered points on the way, as the twin sees them at p = inf.
    """
    best, rows = Best(twin, boxes), torch.arange(len(boxes))
    best.offer(x)

    def loss(logits: torch.Tensor) -> torch.Tensor:
        return logits[rows, targets] - logits[rows, boxes.labels]

    for step in range(steps):
        progress = step / max(steps - 1, 1)
        p = restart.first * (restart.last / restart.first) ** progress
        _, _, gradient = twin.gradient(x, p, loss)
        x = boxes.clip(x + (boxes.levels / 2 * (1 - progress) + 1) * gradient.sign())
        best.offer(x)
    return best.x
