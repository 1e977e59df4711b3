# SPDX-License-Identifier: Apache-2.0
"""A chunk of samples under attack: every image on the engine, what fell, and how far pairs moved."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import numpy as np

from linfdeploy.engines.base import Images, Logits
from linfdeploy.report.model import Attack
from linfdeploy.verify.certificates import CertifiedFlags, Certifier, Flags
from linfdeploy.verify.conformance import PAIRED_PROBES, ConformanceResult, Family
from linfdeploy.verify.draws import Draws
from linfdeploy.verify.falls import Fallen, Falls
from linfdeploy.verify.kept import Arrays
from linfdeploy.verify.lipschitz import KEPT_RATIOS, LipschitzAudit
from linfdeploy.verify.shards import Rows, Step, chunks_of
from linfdeploy.verify.summary import Subject, TestSet

if TYPE_CHECKING:
    from linfdeploy.verify.attacks import AttackPlan

__all__ = ["Contest", "attack_facts"]

MOST_ROWS = 256
"""Of a chunk: what an interrupted attack loses at most."""


@dataclass(frozen=True)
class Contest:
    """What samples are put through, and how hard.

    Attributes:
        subject: Whose engine answers.
        data: The samples.
        probes: Of the conformance test.
        conformance: What it found.
        levels: The threat, in pixels.
        plan: Of the attack; None: there is none, and only pairs are compared.
        seed: Of everything random.
        name: Of the step.
    """

    subject: Subject
    data: TestSet
    probes: Mapping[str, Family]
    conformance: ConformanceResult
    levels: int
    plan: AttackPlan | None
    seed: int
    name: str

    @property
    def step(self) -> Step:
        """The step, for `Shards.map`; see `judged` for what it returns."""
        return Step(self.name, self._find, MOST_ROWS, self._fits)

    def lipschitz(self, kept: int = KEPT_RATIOS) -> LipschitzAudit:
        """Returns an audit that has seen nothing, and allows what rounding explains."""
        net = self.subject.opened.graph.net
        delta = Certifier(net, None, None, self.conformance.logits["data"][:1]).delta
        return LipschitzAudit(0.0 if net.precision == "exact" else float(2 * delta), kept)

    def _find(self, rows: Rows) -> Arrays:
        images, logits = self.data.images[rows], self.conformance.logits["data"][rows]
        # Every chunk keeps its share of the ratios.
        lipschitz = self.lipschitz(-(-KEPT_RATIOS // len(chunks_of(len(self.data.images), MOST_ROWS))))
        for name in PAIRED_PROBES:
            moved = self.conformance.logits[name][rows]
            lipschitz.add(images, logits, self.probes[name][rows], moved, rows)
        attacked = {} if self.plan is None else self._attack(rows, images, logits, self.plan, lipschitz)
        return {**lipschitz.arrays(), **attacked}

    def _attack(
        self, rows: Rows, images: Images, logits: Logits, plan: AttackPlan, lipschitz: LipschitzAudit
    ) -> Arrays:
        from linfdeploy.verify.attacks import run_attack

        net, reference = self.subject.opened.graph.net, self.subject.reference
        certifier = Certifier(net, self.conformance.rounding, images, logits)
        none = CertifiedFlags(None, None, np.zeros(len(rows), bool))
        falls = Falls(self.subject.opened.engine, images, certifier, none, self.levels)
        labels, found = self.data.labels[rows], {}
        standing = np.ones(len(rows), bool)
        draws = Draws(self.seed, rows)
        for attempt in run_attack(net, images, certifier.labels, self.levels, plan, draws):
            lipschitz.add(images, logits, attempt.images, falls.add(attempt), rows)
            if attempt.kept is not None:
                found["kept"] = attempt.kept
            if reference is not None:
                standing &= reference.predictions(attempt.images) == labels
        return {**falls.found().arrays(), **found, "reference_standing": standing}

    def _fits(self, arrays: Arrays, rows: int) -> bool:
        if not LipschitzAudit.fits(arrays):
            return False
        if self.plan is None:
            return True
        shapes = {"kept": (rows, self.plan.steps), "reference_standing": (rows,)}
        return Fallen.fits(arrays, rows, self.data.images.shape[1:]) and all(
            name in arrays and arrays[name].dtype == bool and arrays[name].shape == shape
            for name, shape in shapes.items()
        )

    def judged(self, arrays: Arrays) -> tuple[Fallen, LipschitzAudit]:
        """Returns what the arrays of all samples say."""
        (lipschitz := self.lipschitz()).merge(arrays)
        if self.plan is not None:
            return Fallen(**{item.name: arrays[item.name] for item in fields(Fallen)}), lipschitz
        flags, images = np.zeros(len(self.data.images), bool), self.data.images[:0]
        return Fallen(flags, flags, flags, images, images), lipschitz


def attack_facts(
    name: str, plan: AttackPlan, arrays: Arrays, right: Flags, reference_right: Flags | None
) -> Attack:
    """Returns the attack's figures for the report.

    Args:
        name: Of the attack.
        plan: How hard it was.
        arrays: What `Contest.step` found for all N samples.
        right: (N,) whether the engine's label is the true one.
        reference_right: (N,) whether the checkpoint's is; None without one.
    """
    runs = f"PGD-{plan.steps}, {plan.targets} targeted PGD-{plan.target_steps} on the annealed relaxation"
    reference = None if reference_right is None else float((reference_right & arrays["reference_standing"]).mean())
    return Attack(
        f"{name}: {runs}",
        plan.steps,
        1 + plan.targets,
        float((right & ~arrays["fallen"]).mean()),
        reference,
        tuple((arrays["kept"] & right[:, None]).mean(0).tolist()),
    )
