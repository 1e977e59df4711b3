# SPDX-License-Identifier: Apache-2.0
"""Are the attacks worth their name? The checklist of Carlini et al. 2019 and Tramer et al. 2020, on a few samples.

A flag that fails does not make the engine wrong: it says that the robust accuracy is an upper bound to be doubted.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch

from linfdeploy.engines.base import Images, Logits
from linfdeploy.onnx.pixel_net import PIXEL_MAX
from linfdeploy.report.model import SanityFlag
from linfdeploy.verify.attacks.attempt import Attempt
from linfdeploy.verify.attacks.plan import AttackPlan, Restart
from linfdeploy.verify.attacks.suite import BLACK_BOX, AttackResult, Victim, run_attack
from linfdeploy.verify.attacks.twin import Boxes, Twin, strongest_others

__all__ = ["sanity_flags"]

SAMPLES = 24
MAX_GAIN = 0.05
"""The largest share of samples that may fall only when the steps are doubled."""

SMALL = AttackPlan(
    pgd=(5,), restarts=(Restart("other class", 6, 200),), targets=2, first_targets=0, target_steps=8, queries=40
)

Run = Callable[[Images], Logits]


def sanity_flags(victim: Victim, plan: AttackPlan, result: AttackResult, seed: int, run: Run) -> list[SanityFlag]:
    """Computes the checklist.

    Args:
        victim: What was attacked.
        plan: How.
        result: What came of it.
        seed: Of everything random.
        run: The engine: from images (M, C, H, W) to logits (M, K).
    """
    right = np.flatnonzero(victim.right)
    if not len(right):
        return []
    some = _subset(victim, _spread(right))
    contest = _Contest(seed, run)
    levels = np.asarray(some.levels)
    return [
        _nothing(contest.standing(replace(some, levels=0 * levels), SMALL), len(some.images)),
        _everything(contest.standing(replace(some, levels=0 * levels + PIXEL_MAX), SMALL), victim),
        _monotone(contest, some),
        _steps(contest, victim, plan),
        _white_box(result, victim.right),
        *_gradients(some),
    ]


class _Contest:
    """Small attacks on the engine."""

    def __init__(self, seed: int, run: Run) -> None:
        self._seed, self._run = seed, run

    def standing(self, victim: Victim, plan: AttackPlan) -> int:
        """How many samples keep their label."""

        def submit(attempt: Attempt) -> Logits:
            return self._run(attempt.images)

        return int((~run_attack(victim, plan, self._seed, submit).fallen).sum())


def _spread(samples: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    return samples[:: -(-len(samples) // SAMPLES)]


def _subset(victim: Victim, rows: npt.NDArray[np.int64]) -> Victim:
    count = len(rows)
    levels = np.broadcast_to(victim.levels, len(victim.images))[rows].astype(np.int64)
    none = np.zeros(count, bool)
    return Victim(victim.net, victim.images[rows], victim.labels[rows], ~none, levels, none)


def _nothing(standing: int, count: int) -> SanityFlag:
    return SanityFlag("eps = 0 breaks nothing", standing == count, f"{count - standing} of {count} fall", "none")


def _everything(standing: int, victim: Victim) -> SanityFlag:
    several = len(np.unique(victim.labels)) > 1
    found = f"{standing} stand" if several else "one class is answered for all"
    return SanityFlag("eps = 1 breaks everything", standing == 0 or not several, found, "none stands")


def _monotone(contest: _Contest, some: Victim) -> SanityFlag:
    levels = np.asarray(some.levels)
    reaches = levels // 2, levels, np.minimum(2 * levels, PIXEL_MAX)
    standing = [contest.standing(replace(some, levels=reach), SMALL) for reach in reaches]
    found = ", ".join(map(str, standing)) + f" of {len(some.images)} stand at half, at once and at twice eps"
    return SanityFlag("more eps breaks more", standing == sorted(standing, reverse=True), found, "never more")


def _steps(contest: _Contest, victim: Victim, plan: AttackPlan) -> SanityFlag:
    name, expected = "more steps do not help", f"at most {MAX_GAIN:.0%} more fall with twice the steps"
    open_ = np.flatnonzero(victim.right & ~victim.certified)
    if not len(open_):
        return SanityFlag(name, True, "every right answer is certified", expected)
    some = _subset(victim, _spread(open_))
    # Whatever could take the place of steps that were too few is left out.
    once = replace(
        plan,
        pgd=plan.pgd[:1],
        restarts=plan.restarts[:1],
        targets=2,
        first_targets=0,
        auto_steps=0,
        rounds=0,
        queries=0,
    )
    twice = replace(once, pgd=tuple(2 * steps for steps in once.pgd), target_steps=2 * once.target_steps)
    first, second = (contest.standing(some, each) for each in (once, twice))
    gain = (first - second) / len(some.images)
    return SanityFlag(name, gain <= MAX_GAIN, f"{first}, then {second} of {len(some.images)} stand", expected)


def _white_box(result: AttackResult, right: npt.NDArray[np.bool_]) -> SanityFlag:
    def fell(black: bool) -> int:
        chosen = [flags for name, flags in result.fell.items() if (name in BLACK_BOX) == black]
        return int((np.logical_or.reduce(chosen) & right).sum()) if chosen else 0

    white, black = fell(False), fell(True)
    found = f"{white} fall to attacks with gradients, {black} to those without"
    return SanityFlag("gradients are at least as strong as a black box", white >= black, found, "at least as many")


def _gradients(some: Victim) -> Iterator[SanityFlag]:
    twin, boxes = Twin(some.net), Boxes.of(some.images, some.labels, some.levels)
    rows = torch.arange(len(boxes))
    target = strongest_others(twin.logits(boxes.centre), boxes.labels)[:, 0]

    def starved(p: float) -> tuple[float, float]:
        """The share of samples without any gradient, and of pixels without one."""
        _, _, gradient = twin.gradient(boxes.centre, p, lambda z: z[rows, target] - z[rows, boxes.labels])
        zero = gradient == 0
        return float(zero.all(1).float().mean()), float(zero.float().mean())

    samples, pixels = starved(SMALL.restarts[0].first)
    _, plain = starved(math.inf)
    yield SanityFlag(
        "the surrogate's gradient does not vanish",
        samples == 0 and pixels < max(plain, 0.5),
        f"zero for {samples:.0%} of the samples and {pixels:.0%} of the pixels; at p = inf for {plain:.0%}",
        "no sample without one, and fewer pixels than at p = inf",
    )
