# SPDX-License-Identifier: Apache-2.0
"""The papers' PGD, for comparison: Madry et al. 2018, with the settings of Zhang et al. 2021 and 2022.

A clipped normal start of eps/4, sign steps of eps/4 on the net itself, cross-entropy, no restart, the last point.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F

from linfdeploy.verify.attacks.twin import Boxes, Twin

__all__ = ["papers_start", "pgd", "scaled_cross_entropy"]


def pgd(
    twin: Twin, boxes: Boxes, steps: Sequence[int], generator: torch.Generator
) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Runs PGD once.

    Args:
        twin: What is attacked.
        boxes: Where.
        steps: After how many steps to look, ascending.
        generator: Of the start.

    Returns:
        The points (N, I) after each of `steps`, and (N, steps[-1]) bool: whether the twin keeps the label of the
        rounded point after each step.
    """
    x, points, kept = papers_start(boxes, generator), [], []
    for step in range(1, steps[-1] + 1):
        _, _, gradient = twin.gradient(x, math.inf, lambda logits: scaled_cross_entropy(logits, boxes))
        x = boxes.clip(x + boxes.levels / 4 * gradient.sign())
        kept.append(twin.logits(x.round()).argmax(1) == boxes.labels)
        if step in steps:
            points.append(x)
    return points, torch.stack(kept, 1)


def papers_start(boxes: Boxes, generator: torch.Generator) -> torch.Tensor:
    """Returns starts (N, I): a normal of eps/4 around the images, clipped at eps/2."""
    noise = torch.randn(boxes.centre.shape, generator=generator) * (boxes.levels / 4)
    reach = boxes.levels / 2
    return boxes.clip(boxes.centre + torch.minimum(torch.maximum(noise, -reach), reach))


def scaled_cross_entropy(logits: torch.Tensor, boxes: Boxes) -> torch.Tensor:
    """Returns each row's cross-entropy, (N,), of logits in units of eps: pixels would saturate the softmax."""
    return F.cross_entropy(logits / boxes.levels.clamp(min=1), boxes.labels, reduction="none")
