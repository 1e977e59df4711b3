# SPDX-License-Identifier: Apache-2.0
"""Random images of the boxes: the baseline that every attack has to beat."""

from __future__ import annotations

import torch

from linfdeploy.verify.attacks.twin import Boxes

__all__ = ["noise"]


def noise(boxes: Boxes, turn: int, generator: torch.Generator) -> torch.Tensor:
    """Returns points (N, I): uniform over the box in even turns, over its corners in odd ones."""
    share = torch.rand(boxes.centre.shape, generator=generator)
    if turn % 2:
        return torch.where(share < 0.5, boxes.lower, boxes.upper)
    # One more than the width, so that both ends are as likely as any other whole number.
    return boxes.clip(boxes.lower + (share * (boxes.upper - boxes.lower + 1)).floor())
