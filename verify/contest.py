# SPDX-License-Identifier: Apache-2.0
"""A chunk of samples under attack: every image on the engine, what fell, and how far pairs moved.

An attack of a chunk draws from streams of its own, which start at the chunk's first sample; chunks depend on the
number of samples alone. What looks at all samples is settled before: which are attacked with everything, and the
images of other classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from linfdeploy.engines.base import Images, Logits
from linfdeploy.report.model import Attack, SanityFlag
from linfdeploy.verify.certificates import Certificates, CertifiedFlags, Certifier, Flags
from linfdeploy.verify.conformance import ConformanceResult
from linfdeploy.verify.determinism import run_batched
from linfdeploy.verify.draws import Draws
from linfdeploy.verify.falls import Fallen, Falls
from linfdeploy.verify.kept import Arrays
from linfdeploy.verify.lipschitz import KEPT_RATIOS, LipschitzAudit, NoLipschitzAudit
from linfdeploy.verify.probes import PAIRED_PROBES, ProbeSet
from linfdeploy.verify.shards import Rows, Step, chunks_of
from linfdeploy.verify.summary import Subject, TestSet

if TYPE_CHECKING:
    from linfdeploy.verify.attacks import AttackPlan, AttackResult, Attempt, Victim

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
        certificates: Of the samples.
        levels: The threat, in pixels.
        plan: Of the attack; None: there is none, and only pairs are compared.
        seed: Of everything random.
        name: Of the step.
    """

    subject: Subject
    data: TestSet
    probes: ProbeSet
    conformance: ConformanceResult
    certificates: Certificates
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
        if net.head is not None:
            return NoLipschitzAudit(float("inf"), kept)
        delta = Certifier(net, None, None, self.conformance.logits["data"][:1]).delta
        return LipschitzAudit(0.0 if net.precision == "exact" else float(2 * delta), kept)

    @cached_property
    def victim(self) -> Victim:
        """All samples, for the attacks, with what looks across samples."""
        from linfdeploy.verify.attacks.square import lead_of
        from linfdeploy.verify.attacks.suite import Victim, thorough_of
        from linfdeploy.verify.attacks.targeted import pool_of

        assert self.plan is not None
        net, images, labels = self.subject.opened.graph.net, self.data.images, self.certificates.labels
        right, certified = labels == self.data.labels, self.certificates.flags.any
        lead = lead_of(self.conformance.logits["data"], labels)
        thorough = thorough_of(right, certified, lead, self.levels, self.plan.nearest)
        rows = pool_of(labels, net.classes)
        return Victim(net, images, labels, right, self.levels, certified, thorough, (images[rows], labels[rows]))

    def sanity(self, result: AttackResult) -> list[SanityFlag]:
        """Returns whether the attacks are worth their name, on a few of all samples."""
        from linfdeploy.verify.attacks.sanity import sanity_flags

        assert self.plan is not None
        engine = self.subject.opened.engine
        return sanity_flags(self.victim, self.plan, result, self.seed, lambda images: run_batched(engine, images))

    def _find(self, rows: Rows) -> Arrays:
        images, logits = self.data.images[rows], self.conformance.logits["data"][rows]
        # Every chunk keeps its share of the ratios.
        lipschitz = self.lipschitz(-(-KEPT_RATIOS // len(chunks_of(len(self.data.images), MOST_ROWS))))
        for name in PAIRED_PROBES:
            moved = self.conformance.logits[name][rows]
            lipschitz.add(images, logits, self.probes.families[name][rows], moved, rows)
        attacked = {} if self.plan is None else self._attack(rows, images, logits, self.plan, lipschitz)
        return {**lipschitz.arrays(images.shape[1:]), **attacked}

    def _attack(
        self, rows: Rows, images: Images, logits: Logits, plan: AttackPlan, lipschitz: LipschitzAudit
    ) -> Arrays:
        from linfdeploy.verify.attacks.suite import attack_samples

        certifier = Certifier(self.subject.opened.graph.net, self.conformance.roundings, images, logits)
        none = CertifiedFlags(None, None, np.zeros(len(rows), bool))
        falls = Falls(self.subject.opened.engine, images, certifier, none, self.levels)
        before = _BeforeDeployment(self.subject, self.data.labels[rows])

        def submit(attempt: Attempt) -> Logits:
            found, some = falls.add(attempt), attempt.rows
            lipschitz.add(images[some], logits[some], attempt.images, found, rows[some])
            before.add(attempt)
            return found

        victim, seed = self.victim.take(rows), int(Draws(self.seed, rows[:1]).bits("attack", 1)[0, 0] >> 1)
        traces = attack_samples(victim, plan, seed, submit)
        return {**falls.found().arrays(), **traces.arrays(), "reference_standing": before.standing}

    def _fits(self, arrays: Arrays, rows: int) -> bool:
        shape = self.data.images.shape[1:]
        if not LipschitzAudit.fits(arrays, shape):
            return False
        if self.plan is None:
            return True
        from linfdeploy.verify.attacks.suite import Traces

        standing = arrays.get("reference_standing")
        known = standing is not None and standing.dtype == bool and standing.shape == (rows,)
        return known and Fallen.fits(arrays, rows, shape) and Traces.fits(arrays, rows, self.plan)

    def judged(self, arrays: Arrays) -> tuple[Fallen, LipschitzAudit]:
        """Returns what the arrays of all samples say."""
        (lipschitz := self.lipschitz()).merge(arrays)
        if self.plan is not None:
            return Fallen(**{item.name: arrays[item.name] for item in fields(Fallen)}), lipschitz
        flags, images = np.zeros(len(self.data.images), bool), self.data.images[:0]
        return Fallen(flags, flags, flags, flags, images, images), lipschitz


class _BeforeDeployment:
    """The same attacks on the checkpoint."""

    def __init__(self, subject: Subject, labels: Rows) -> None:
        self._reference = subject.reference
        self._labels = labels
        self.standing: Flags = np.ones(len(labels), bool)

    def add(self, attempt: Attempt) -> None:
        if self._reference is not None and attempt.final:
            rows = attempt.rows
            wrong = self._reference.predictions(attempt.images) != self._labels[rows]
            self.standing[rows[wrong]] = False


def attack_facts(
    name: str,
    plan: AttackPlan,
    result: AttackResult,
    right: Flags,
    reference: Flags | None,
    sanity: Sequence[SanityFlag],
) -> Attack:
    """Returns the attack's figures for the report.

    Args:
        name: Of the attack.
        plan: How hard it was.
        result: What it achieved.
        right: (N,) whether the engine's label is the true one.
        reference: (N,) whether the checkpoint's is, to the end; None without one.
        sanity: Whether the attacks are worth their name.
    """
    return Attack(
        name=f"{name}: {', '.join(run.name for run in result.runs)}",
        steps=plan.pgd[-1],
        restarts=plan.searches,
        robust_accuracy=float((right & ~result.fallen).mean()),
        reference_robust_accuracy=None if reference is None else float(reference.mean()),
        robust_by_step=result.robust_by_step,
        runs=result.runs,
        sanity=tuple(sanity),
    )
