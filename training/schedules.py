# SPDX-License-Identifier: Apache-2.0
"""What changes during training, as pure functions of the step: a resumed run cannot differ."""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass

from linfdeploy.training.recipe import Recipe

__all__ = ["Dials", "cosine", "dials_at", "geometric", "norm", "progress", "smooth"]

# What the papers' code divides the step by, where it follows no cosine.
DROP = 5

# Below this p a CPU takes whole powers by squaring, and others by logarithms: from p = 40 on only where terms
# that hardly count may be left out (`kept_bits`).
WHOLE_BELOW = 48


@dataclass(frozen=True)
class Dials:
    """The settings of one step.

    Attributes:
        p: The norm, up to infinity.
        eps: The radius of the loss's margins, a fraction of the pixel range.
        lr: Adam's step for weights and biases, of the head as well.
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
    fall = _fall(recipe, step, steps_per_epoch)
    return Dials(
        p=norm(recipe.p_start, recipe.p_end, reached, whole=recipe.p_whole),
        eps=recipe.eps_train * smooth(_warmup(recipe, step, steps_per_epoch), recipe.eps_smooth),
        lr=recipe.lr * fall,
        scale_lr=recipe.scale_lr * fall,
        weight=geometric(recipe.lambda_start, recipe.lambda_end, reached) if recipe.learns_scale else 0.0,
    )


def _fall(recipe: Recipe, step: int, steps_per_epoch: int) -> float:
    if recipe.lr_decay_epochs:
        return math.pow(DROP, -bisect_right(recipe.lr_decay_epochs, step // steps_per_epoch))
    begin = recipe.lr_from_epoch * steps_per_epoch
    return cosine(max(step - begin, 0), recipe.epochs * steps_per_epoch - begin)


def _warmup(recipe: Recipe, step: int, steps_per_epoch: int) -> float:
    if not recipe.eps_warmup_epochs:
        return 1.0
    begin = recipe.eps_from_epoch * steps_per_epoch
    # A loss that divides by eps starts one step ahead, where eps is not 0.
    return progress(step + recipe.divides_by_eps, begin, begin + recipe.eps_warmup_epochs * steps_per_epoch)


def progress(step: int, begin: int, end: int) -> float:
    """Returns how much of [begin, end) lies before `step`, from 0 to 1; 1 from `end` on."""
    if step >= end:
        return 1.0
    return (step - begin) / (end - begin) if step > begin else 0.0


def geometric(start: float, end: float, reached: float) -> float:
    """Returns `start (end / start)^reached`."""
    return start * math.pow(end / start, reached)


def norm(start: float, end: float, reached: float, *, whole: bool = False) -> float:
    """Returns p: geometric from `start` to `end`, and infinity once `reached` is 1.

    Args:
        start: The first p.
        end: The last p that is finite.
        reached: From 0 to 1.
        whole: Whether p below `WHOLE_BELOW` is rounded to a whole number.
    """
    if reached >= 1:
        return math.inf
    p = geometric(start, end, reached)
    return float(round(p)) if whole and p < WHOLE_BELOW else p


def cosine(step: int, steps: int) -> float:
    """Returns `(1 + cos(pi step / steps)) / 2`, which falls from 1 to 0."""
    return (1 + math.cos(math.pi * step / steps)) / 2


def smooth(reached: float, share: float) -> float:
    """Returns a warmup that starts with the fourth power of `reached` and goes on in a straight line to 1 at 1.

    `k reached^4` up to `share`, with `k = 1 / ((4 - 3 share) share^3)`, for which the slope is continuous.

    Args:
        reached: From 0 to 1.
        share: From 0, where all of it is straight, to below 1.
    """
    if share == 0:
        return reached
    k = 1 / ((4 - 3 * share) * share**3)
    if reached < share:
        return k * reached**4
    return (1 - k * share**4) / (1 - share) * (reached - 1) + 1
