# SPDX-License-Identifier: Apache-2.0
"""APGD of Croce and Hein 2020 (AutoAttack): momentum, and steps that halve when progress stops. No settings.

Followed on the net itself and on the l_p surrogate; either way each iterate is judged rounded, at p = inf.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from linfdeploy.verify.attacks.pgd import scaled_cross_entropy
from linfdeploy.verify.attacks.twin import Best, Boxes, Twin

__all__ = ["apgd", "cross_entropy_of", "targeted_dlr_of"]

Loss = Callable[[torch.Tensor], torch.Tensor]

# The paper's constants: momentum, the share of rising steps that counts as progress, and the checkpoints' spacing.
MOMENTUM = 0.75
RISING = 0.75
FIRST, SHRINK, LEAST = 0.22, 0.03, 0.06


def cross_entropy_of(boxes: Boxes) -> Loss:
    """Returns the loss of APGD-CE."""
    return lambda logits: scaled_cross_entropy(logits, boxes)


def targeted_dlr_of(boxes: Boxes, targets: torch.Tensor) -> Loss:
    """Returns the loss of APGD-T: the target's lead over the range of the largest logits, which has no scale.

    Below four classes that range does not exist, and the lead alone is taken.
    """
    rows = torch.arange(len(boxes))

    def loss(logits: torch.Tensor) -> torch.Tensor:
        lead = logits[rows, targets] - logits[rows, boxes.labels]
        if logits.shape[1] < 4:
            return lead
        top = logits.sort(1, descending=True).values
        return lead / (top[:, 0] - (top[:, 2] + top[:, 3]) / 2 + 1e-12)

    return loss


@dataclass
class _State:
    """Where the search is and the best it has seen; each (N, I) or (N,)."""

    x: torch.Tensor
    gradient: torch.Tensor
    loss: torch.Tensor
    best_x: torch.Tensor
    best_gradient: torch.Tensor
    best_loss: torch.Tensor

    def keep_better(self) -> None:
        better = self.loss > self.best_loss
        self.best_x = torch.where(better[:, None], self.x, self.best_x)
        self.best_gradient = torch.where(better[:, None], self.gradient, self.best_gradient)
        self.best_loss = torch.where(better, self.loss, self.best_loss)

    def go_back(self, which: torch.Tensor) -> None:
        self.x = torch.where(which[:, None], self.best_x, self.x)
        self.gradient = torch.where(which[:, None], self.best_gradient, self.gradient)


def apgd(twin: Twin, boxes: Boxes, loss: Loss, p: float, steps: int, generator: torch.Generator) -> torch.Tensor:
    """Raises a loss from a uniform start.

    Args:
        twin: What is attacked.
        boxes: Where.
        loss: From logits (N, K) to losses (N,).
        p: Of the surrogate; infinity for the net itself.
        steps: How many.
        generator: Of the start.

    Returns:
        (N, I) the best whole-numbered points on the way, as the twin sees them at p = inf.
    """
    best = Best(twin, boxes)
    x = boxes.clip(boxes.centre + boxes.levels * (2 * torch.rand(boxes.centre.shape, generator=generator) - 1))
    _, value, gradient = twin.gradient(x, p, loss)
    state = _State(x, gradient, value, x, gradient, value)
    best.offer(x)
    size, before = 2 * boxes.levels, x
    schedule = _Schedule(len(boxes), value, _checkpoints(steps))
    for step in range(steps):
        x = state.x
        ahead = boxes.clip(x + size * state.gradient.sign())
        weight = MOMENTUM if step else 1.0
        state.x, before = boxes.clip(x + weight * (ahead - x) + (1 - weight) * (x - before)), x
        _, value, state.gradient = twin.gradient(state.x, p, loss)
        schedule.rising += value > state.loss
        state.loss = value
        best.offer(state.x)
        state.keep_better()
        if (stuck := schedule.stuck(step + 1, state.best_loss)) is not None:
            size = torch.where(stuck[:, None], size / 2, size)
            state.go_back(stuck)
            before = torch.where(stuck[:, None], state.x, before)
    return best.x


def _checkpoints(steps: int) -> list[int]:
    at, spacing = [0.0, FIRST], FIRST
    while at[-1] < 1:
        spacing = max(spacing - SHRINK, LEAST)
        at.append(at[-1] + spacing)
    return sorted({max(round(share * steps), 1) for share in at[1:] if share < 1})


class _Schedule:
    """Says at which steps whose search has stopped making progress."""

    def __init__(self, rows: int, best_loss: torch.Tensor, checkpoints: list[int]) -> None:
        self.rising = torch.zeros(rows)
        self._last, self._checkpoints = 0, checkpoints
        self._best = best_loss
        self._halved = torch.zeros(rows, dtype=torch.bool)

    def stuck(self, step: int, best_loss: torch.Tensor) -> torch.Tensor | None:
        """Returns (N,) bool at a checkpoint, None elsewhere."""
        if step not in self._checkpoints:
            return None
        few = self.rising < RISING * (step - self._last)
        still = ~self._halved & (best_loss <= self._best)
        self._halved, self._best = few | still, best_loss
        self._last, self.rising = step, torch.zeros_like(self.rising)
        return self._halved
