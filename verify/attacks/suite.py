# SPDX-License-Identifier: Apache-2.0
"""Which attacks run, in which order, on which samples, and what each of them achieved.

Every candidate goes through `submit`, which runs it on the engine: only the engine's answer counts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import numpy.typing as npt
import torch

from linfdeploy.engines.base import Images, Logits
from linfdeploy.onnx.pixel_net import PixelNet
from linfdeploy.report.model import AttackRun
from linfdeploy.verify.attacks.apgd import apgd, cross_entropy_of, targeted_dlr_of
from linfdeploy.verify.attacks.attempt import Attempt, Rows, Submit
from linfdeploy.verify.attacks.fab import fab
from linfdeploy.verify.attacks.noise import noise
from linfdeploy.verify.attacks.pgd import pgd
from linfdeploy.verify.attacks.plan import AttackPlan, Restart
from linfdeploy.verify.attacks.rounding import rounding_search
from linfdeploy.verify.attacks.square import Ask, lead_of, square
from linfdeploy.verify.attacks.targeted import Seeds, start_of, targeted
from linfdeploy.verify.attacks.twin import Boxes, Twin, few_threads, strongest_others
from linfdeploy.verify.paths import PathFinder

__all__ = ["BLACK_BOX", "AttackResult", "Victim", "run_attack"]

CHUNK = 1024
BLACK_BOX = ("random noise", "other-class images", "Square on the engine")
"""Attacks that need no gradients of the twin."""

Flags = npt.NDArray[np.bool_]
Points = Callable[[Boxes], torch.Tensor]


@dataclass(frozen=True)
class Victim:
    """What is attacked.

    Attributes:
        net: The deployed net, read from the engine's own graph.
        images: (N, C, H, W) uint8.
        labels: (N,) the engine's labels, to get away from.
        right: (N,) whether they are the true ones; only these count as robust.
        levels: The threat, in pixels, for all or for each sample, (N,).
        certified: (N,) which samples a certificate covers; they fall only if it is wrong.
    """

    net: PixelNet
    images: Images
    labels: npt.NDArray[np.int64]
    right: Flags
    levels: int | npt.NDArray[np.int64]
    certified: Flags


@dataclass(frozen=True)
class AttackResult:
    """What the attacks achieved on the engine.

    Attributes:
        fallen: (N,) samples that some attack gave another label.
        fell: By name of the attack, (N,), which samples it gave another label.
        runs: For the report.
        robust_by_step: Share of all samples that are right and kept their label after each step of the papers'
            PGD.
    """

    fallen: Flags
    fell: dict[str, Flags]
    runs: tuple[AttackRun, ...]
    robust_by_step: tuple[float, ...]


def run_attack(victim: Victim, plan: AttackPlan, seed: int, submit: Submit) -> AttackResult:
    """Runs a plan.

    Args:
        victim: What is attacked.
        plan: How hard.
        seed: Of everything random.
        submit: Runs images on the engine.
    """
    with few_threads(victim.net):
        suite = _Suite(victim, plan, seed, submit)
        suite.on_all()
        open_ = suite.open()
        suite.restarts(open_, lambda restart: restart.start != "best")
        suite.autoattack(open_)
        suite.square(open_)
        suite.restarts(open_, lambda restart: restart.start == "best")
        suite.rounding(open_)
    return suite.result()


@dataclass
class _Tally:
    """What one attack did: which samples it ran on, which fell, how many images it cost."""

    attacked: Flags
    fell: Flags
    images: int = 0


@dataclass
class _Suite:
    victim: Victim
    plan: AttackPlan
    seed: int
    submit: Submit
    tallies: dict[str, _Tally] = field(default_factory=dict)
    by_step: list[npt.NDArray[np.bool_]] = field(default_factory=list)

    def __post_init__(self) -> None:
        victim = self.victim
        self.twin = Twin(victim.net)
        self.generator = torch.Generator().manual_seed(self.seed)
        self.rng = np.random.default_rng(self.seed)
        self.all = Boxes.of(victim.images, victim.labels, victim.levels)
        self.seeds = Seeds(self.all, victim.net.classes)
        self.best, self.lead = self.all.centre.clone(), np.full(len(self.all), np.inf)
        clean = [self.twin.logits(part.centre) for part in _parts(self.all)]
        self.clean = torch.cat(clean)
        self.others = strongest_others(self.clean, self.all.labels)[:, : self.plan.targets]

    @property
    def fallen(self) -> Flags:
        fallen: Flags = np.logical_or.reduce([tally.fell for tally in self.tallies.values()])
        return fallen

    def on_all(self) -> None:
        """The papers' PGD, random images, other classes' images and the first targeted run, on every sample."""
        for part in _parts(self.all):
            points, kept = pgd(self.twin, part, self.plan.pgd, self.generator)
            self.by_step.append(kept.numpy())
            for steps, x in zip(self.plan.pgd, points, strict=True):
                self.enter(f"PGD-{steps}", part, x)
        for turn in range(self.plan.noise):
            self.each("random noise", self.all, partial(self._noise, turn))
        for rank in range(self.others.shape[1]):
            self.each("other-class images", self.all, partial(self._nearest, rank))
        for rank in range(min(self.others.shape[1], self.plan.first_targets)):
            self.each(self.targeted_name, self.all, partial(self._targeted, self.plan.restarts[0], rank))

    def open(self) -> Boxes:
        """The samples that deserve everything: right and not certified, and certified ones near their limit."""
        victim = self.victim
        reach = 2.0 * np.broadcast_to(victim.levels, len(self.all))
        near = lead_of(self.clean.numpy(), victim.labels) / np.maximum(reach, 1)
        certified = np.flatnonzero(victim.certified)
        nearest = certified[np.argsort(near[certified], kind="stable")[: self.plan.nearest]]
        chosen = victim.right & ~victim.certified
        chosen[nearest] = True
        return self.all.take(np.flatnonzero(chosen))

    @property
    def targeted_name(self) -> str:
        return f"targeted PGD-{self.plan.target_steps}"

    def restarts(self, boxes: Boxes, wanted: Callable[[Restart], bool]) -> None:
        """The targeted attack, on samples that it has not broken; from the best points, on those that stand."""
        for restart in filter(wanted, self.plan.restarts):
            for rank in range(self.others.shape[1]):
                standing = self.standing(boxes, None if restart.start == "best" else self.targeted_name)
                self.each(self.targeted_name, standing, partial(self._targeted, restart, rank))

    def autoattack(self, boxes: Boxes) -> None:
        """APGD-CE, APGD-T and FAB-T; each target's run only where the attack has not yet succeeded."""
        if not self.plan.auto_steps:
            return
        ranks = range(self.others.shape[1])
        for p in self.plan.auto_norms:
            on = "" if math.isinf(p) else f" (p = {p:g})"
            self.each(f"APGD-CE{on}", boxes, partial(self._apgd, p, None))
            for rank in ranks:
                self.each(f"APGD-T{on}", self.standing(boxes, f"APGD-T{on}"), partial(self._apgd, p, rank))
        for rank in ranks:
            self.each("FAB-T", self.standing(boxes, "FAB-T"), partial(self._fab, self.plan.auto_norms[-1], rank))

    def _noise(self, turn: int, part: Boxes) -> torch.Tensor:
        return noise(part, turn, self.generator)

    def _nearest(self, rank: int, part: Boxes) -> torch.Tensor:
        return self.seeds.nearest(part, self.target(part, rank))

    def _targeted(self, restart: Restart, rank: int, part: Boxes) -> torch.Tensor:
        goal, best = self.target(part, rank), self.best[torch.from_numpy(part.samples)]
        start = start_of(restart.start, part, goal, self.seeds, best, self.generator)
        return targeted(self.twin, part, goal, restart, self.plan.target_steps, start)

    def _apgd(self, p: float, rank: int | None, part: Boxes) -> torch.Tensor:
        loss = cross_entropy_of(part) if rank is None else targeted_dlr_of(part, self.target(part, rank))
        return apgd(self.twin, part, loss, p, self.plan.auto_steps, self.generator)

    def _fab(self, p: float, rank: int, part: Boxes) -> torch.Tensor:
        return fab(self.twin, part, self.target(part, rank), p, self.plan.auto_steps)

    def square(self, boxes: Boxes) -> None:
        """Square on the engine; certified samples, of which none should fall, get a tenth of the queries."""
        sure = self.victim.certified[boxes.samples]
        for which, queries in ((~sure, self.plan.queries), (sure, self.plan.queries // 10)):
            for part in _parts(boxes.take(np.flatnonzero(which))) if queries else ():
                ask, ends = self.asker("Square on the engine", part), self._ends(part)
                sources = part.images(self._nearest(0, part)), part.images(part.centre)
                found = square(ask, ends, sources, part.labels.numpy(), queries, self.rng)
                self.enter("Square on the engine", part, _points(found))

    def rounding(self, boxes: Boxes) -> None:
        if not self.plan.rounds:
            return
        finder = PathFinder(self.victim.net)
        for part in _parts(self.standing(boxes)):
            start = part.images(self.best[torch.from_numpy(part.samples)])
            ask = self.asker("rounding search", part)
            labels = part.labels.numpy()
            found = rounding_search(ask, finder, self._ends(part), start, labels, self.plan.rounds, self.rng)
            self.enter("rounding search", part, _points(found))

    @staticmethod
    def _ends(part: Boxes) -> tuple[Images, Images]:
        return part.images(part.lower), part.images(part.upper)

    def target(self, part: Boxes, rank: int) -> torch.Tensor:
        return self.others[torch.from_numpy(part.samples), rank]

    def standing(self, boxes: Boxes, name: str | None = None) -> Boxes:
        """Those that have not fallen, to one attack or to any."""
        fell = self.fallen if name is None else self._tally(name).fell
        return boxes.take(np.flatnonzero(~fell[boxes.samples]))

    def each(self, name: str, boxes: Boxes, points: Points) -> None:
        """Runs an attack chunk by chunk and enters what it finds."""
        for part in _parts(boxes):
            self.enter(name, part, points(part))

    def asker(self, name: str, part: Boxes) -> Ask:
        """Returns the engine as a black box, for samples counted from the part's first."""
        return lambda rows, images: self._run(Attempt(name, images, part.samples[rows], final=False))

    def enter(self, name: str, part: Boxes, x: torch.Tensor) -> None:
        """Runs what an attack arrived at, (N, I), on the engine."""
        self._run(Attempt(name, part.images(x), part.samples))

    def _run(self, attempt: Attempt) -> Logits:
        logits, rows, tally = self.submit(attempt), attempt.rows, self._tally(attempt.name)
        labels = self.victim.labels[rows]
        tally.images += len(rows)
        tally.attacked[rows] = True
        tally.fell[rows[logits.argmax(1) != labels]] = True
        lead = lead_of(logits, labels)
        # Of several images of one sample the best comes last.
        order = np.argsort(-lead, kind="stable")
        better = order[lead[order] < self.lead[rows[order]]]
        self.lead[rows[better]] = lead[better]
        self.best[torch.from_numpy(rows[better])] = _points(attempt.images[better])
        return logits

    def _tally(self, name: str) -> _Tally:
        none = np.zeros(len(self.all), bool)
        return self.tallies.setdefault(name, _Tally(none, none.copy()))

    def result(self) -> AttackResult:
        right = self.victim.right
        runs = tuple(
            AttackRun(name, int(tally.attacked.sum()), tally.images, float((right & ~tally.fell).mean()))
            for name, tally in self.tallies.items()
            if tally.images
        )
        fell = {name: tally.fell for name, tally in self.tallies.items()}
        kept = np.concatenate(self.by_step) & right[:, None]
        return AttackResult(self.fallen, fell, runs, tuple(kept.mean(0).tolist()))


def _parts(boxes: Boxes) -> Iterator[Boxes]:
    rows: Rows = np.arange(len(boxes))
    return (boxes.take(rows[first : first + CHUNK]) for first in range(0, len(boxes), CHUNK))


def _points(images: Images) -> torch.Tensor:
    return torch.from_numpy(images.reshape(len(images), math.prod(images.shape[1:])).astype(np.float32))
