# SPDX-License-Identifier: Apache-2.0
"""How hard to attack."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

__all__ = ["ATTACKS", "AttackPlan", "Restart", "Start"]

Start: TypeAlias = Literal["papers", "uniform", "corner", "other class", "best"]


@dataclass(frozen=True)
class Restart:
    """One restart of the targeted attack.

    Attributes:
        start: `papers`: a clipped normal of eps/4; `uniform` and `corner` of the box; `other class`: the nearest
            image of the target class, clipped into the box; `best`: the best point that any attack found so far.
        first: The surrogate's norm at the first step; it rises geometrically.
        last: At the last step.
    """

    start: Start
    first: float
    last: float


@dataclass(frozen=True)
class AttackPlan:
    """How hard to attack.

    Attributes:
        pgd: After how many steps the papers' PGD is looked at, ascending.
        restarts: Of the targeted attack; the first on every sample, all on those that are left open.
        targets: How many of the strongest other classes are targeted.
        first_targets: How many of them on every sample.
        target_steps: Steps of each targeted run.
        auto_steps: Steps of each run of APGD and FAB; 0 leaves them out.
        auto_norms: Norms of the surrogate that APGD follows; infinity is the net itself.
        queries: Of Square, for each sample; a tenth of them for certified ones.
        rounds: Of the rounding search, for each sample.
        noise: Random images for each sample.
        nearest: How many certified samples, those nearest to the end of their certificate, are attacked with
            everything, too; the first three attacks are run on all samples.
    """

    pgd: tuple[int, ...] = (20,)
    restarts: tuple[Restart, ...] = (Restart("papers", 6, 200),)
    targets: int = 2
    first_targets: int = 2
    target_steps: int = 20
    auto_steps: int = 0
    auto_norms: tuple[float, ...] = (float("inf"),)
    queries: int = 0
    rounds: int = 0
    noise: int = 2
    nearest: int = 16

    @property
    def searches(self) -> int:
        """Gradient searches of a sample that stands to the end, where there are enough other classes."""
        automatic = len(self.auto_norms) * (1 + self.targets) + self.targets if self.auto_steps else 0
        return 1 + self.first_targets + len(self.restarts) * self.targets + automatic


ATTACKS = {
    "fast": AttackPlan(
        restarts=(Restart("papers", 6, 200), Restart("other class", 6, 200)), queries=200, rounds=6, nearest=8
    ),
    "standard": AttackPlan(
        pgd=(20, 100),
        restarts=(
            Restart("papers", 6, 200),
            Restart("other class", 6, 200),
            Restart("uniform", 3, 100),
            Restart("corner", 20, 1000),
            Restart("best", 30, 300),
        ),
        targets=9,
        target_steps=30,
        auto_steps=100,
        auto_norms=(float("inf"), 32.0),
        queries=5000,
        rounds=40,
        noise=20,
        nearest=16,
    ),
}
