# SPDX-License-Identifier: Apache-2.0
"""What changes during training, as pure functions of the step: a resumed run cannot differ."""

from __future__ import annotations

import math
from dataclasses import dataclass

from linfdeploy.training.recipe import Recipe

__all__ = ["Dials", "cosine", "dials_at", "geometric", "norm", "progress", "warmup"]


@dataclass(frozen=True)
class Dials:
    """The settings of one step.

    Attributes:
        p: The norm, up to infinity.
        eps: The hinge's radius, a fraction of the pixel range.
        lr: Adam's step for weights and biases.
        scale_lr: Adam's step for the scale.
        weight: The cross-entropy's weight, the paper's lambda.
    """

    p: float
    eps: float
    lr: float
    scale_lr: float
    weight: float


def dials_at(recipe: Recipe, step: int, steps_per_epoch: int) -> Dials:
    """Returns the settings of step `step`, counted from 0."""
    reached = progress(step, recipe.p_from_epoch * steps_per_epoch, recipe.p_until_epoch * steps_per_epoch)
    fall = cosine(step, recipe.epochs * steps_per_epoch)
    return Dials(
        p=norm(recipe.p_start, recipe.p_end, reached),
        eps=recipe.eps_train * warmup(step, recipe.eps_warmup_epochs * steps_per_epoch),
        lr=recipe.lr * fall,
        scale_lr=recipe.scale_lr * fall,
        weight=geometric(recipe.lambda_start, recipe.lambda_end, reached),
    )


def progress(step: int, begin: int, end: int) -> float:
    """Returns how much of [begin, end) lies before `step`, from 0 to 1; 1 from `end` on."""
    if step >= end:
        return 1.0
    return (step - begin) / (end - begin) if step > begin else 0.0


def geometric(start: float, end: float, reached: float) -> float:
    """Returns `start (end / start)^reached`."""
    return start * math.pow(end / start, reached)


def norm(start: float, end: float, reached: float) -> float:
    """Returns p: geometric from `start` to `end`, and infinity once `reached` is 1."""
    return math.inf if reached >= 1 else geometric(start, end, reached)


def cosine(step: int, steps: int) -> float:
    """Returns `(1 + cos(pi step / steps)) / 2`, which falls from 1 to 0."""
    return (1 + math.cos(math.pi * step / steps)) / 2


def warmup(step: int, steps: int) -> float:
    """Returns `(step + 1) / steps`, at most 1; never 0, since the hinge divides by it."""
    return min(1.0, (step + 1) / steps) if steps else 1.0
