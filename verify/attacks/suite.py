# SPDX-License-Identifier: Apache-2.0
"""Which attacks run, in which order, on which samples, and what each of them achieved.

Every candidate goes through `submit`, which runs it on the engine: only the engine's answer counts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import partial
from typing import Any

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

__all__ = ["BLACK_BOX", "AttackResult", "Traces", "Victim", "attack_samples", "run_attack", "thorough_of"]

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
        thorough: (N,) which samples are attacked with everything; None: see `thorough_of`, by the twin's logits.
        pool: Images (M, C, H, W) and the engine's labels (M,), among which images of other classes are looked for;
            None: those that are attacked.
    """

    net: PixelNet
    images: Images
    labels: npt.NDArray[np.int64]
    right: Flags
    levels: int | npt.NDArray[np.int64]
    certified: Flags
    thorough: Flags | None = None
    pool: tuple[Images, npt.NDArray[np.int64]] | None = None

    def take(self, rows: Rows) -> Victim:
        """Returns some of the samples."""
        levels = self.levels if isinstance(self.levels, int) else self.levels[rows]
        return replace(
            self,
            images=self.images[rows],
            labels=self.labels[rows],
            right=self.right[rows],
            levels=levels,
            certified=self.certified[rows],
            thorough=None if self.thorough is None else self.thorough[rows],
        )


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


@dataclass(frozen=True)
class Traces:
    """What the attacks of a plan did to each of N samples; of several parts of the samples, joined.

    Attributes:
        attacked: (N, R) on which samples each of `names_of` ran.
        fell: (N, R) which it gave another label.
        images: (N, R) int64, how many images it cost.
        kept: (N, S) whether the label stood after each step of the papers' PGD.
    """

    attacked: Flags
    fell: Flags
    images: npt.NDArray[np.int64]
    kept: Flags

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Returns the fields by name."""
        return {f"traces {name}": array for name, array in vars(self).items()}

    @classmethod
    def of(cls, arrays: Mapping[str, npt.NDArray[Any]]) -> Traces:
        """Returns what `arrays` of all samples say."""
        return cls(**{item.name: arrays[f"traces {item.name}"] for item in fields(cls)})

    @staticmethod
    def fits(arrays: Mapping[str, npt.NDArray[Any]], samples: int, plan: AttackPlan) -> bool:
        """Whether arrays could be those of so many samples."""
        runs, steps = len(names_of(plan)), plan.pgd[-1]
        layout = {
            "attacked": (bool, runs),
            "fell": (bool, runs),
            "images": (np.int64, runs),
            "kept": (bool, steps),
        }
        found = {name: arrays.get(f"traces {name}") for name in layout}
        return all(
            array is not None and array.dtype == layout[name][0] and array.shape == (samples, layout[name][1])
            for name, array in found.items()
        )

    def result(self, plan: AttackPlan, right: Flags) -> AttackResult:
        """Returns what the plan achieved; `right` (N,) says which labels are the true ones."""
        runs, fell = [], {}
        for column, name in enumerate(names_of(plan)):
            if images := int(self.images[:, column].sum()):
                fell[name] = self.fell[:, column]
                standing = float((right & ~fell[name]).mean())
                runs.append(AttackRun(name, int(self.attacked[:, column].sum()), images, standing))
        kept = self.kept & right[:, None]
        return AttackResult(np.asarray(self.fell.any(1)), fell, tuple(runs), tuple(kept.mean(0).tolist()))


def run_attack(victim: Victim, plan: AttackPlan, seed: int, submit: Submit) -> AttackResult:
    """Runs a plan.

    Args:
        victim: What is attacked.
        plan: How hard.
        seed: Of everything random.
        submit: Runs images on the engine.
    """
    return attack_samples(victim, plan, seed, submit).result(plan, victim.right)


def attack_samples(victim: Victim, plan: AttackPlan, seed: int, submit: Submit) -> Traces:
    """Runs a plan; takes what `run_attack` takes, and returns what it did to each sample."""
    with few_threads(victim.net):
        suite = _Suite(victim, plan, seed, submit)
        suite.on_all()
        open_ = suite.open()
        suite.restarts(open_, lambda restart: restart.start != "best")
        suite.autoattack(open_)
        suite.square(open_)
        suite.restarts(open_, lambda restart: restart.start == "best")
        suite.rounding(open_)
    return suite.traces()


def names_of(plan: AttackPlan) -> tuple[str, ...]:
    """Returns the names of a plan's attacks, in the order in which they begin."""
    names = [*(f"PGD-{steps}" for steps in plan.pgd), "random noise", "other-class images", _targeted_name(plan)]
    if plan.auto_steps:
        names += [f"APGD-{loss}{_at_norm(p)}" for p in plan.auto_norms for loss in ("CE", "T")]
        names.append("FAB-T")
    return (*names, "Square on the engine", "rounding search")


def thorough_of(
    right: Flags,
    certified: Flags,
    lead: npt.NDArray[np.float64],
    levels: int | npt.NDArray[np.int64],
    nearest: int,
) -> Flags:
    """Returns which samples deserve everything: right and not certified, and certified ones near their limit.

    Args:
        right: (N,) whether the label is the true one.
        certified: (N,) whether a certificate covers the sample.
        lead: (N,) the label's logit less the best other, in pixels.
        levels: The threat, in pixels, for all or for each sample, (N,).
        nearest: How many certified samples.
    """
    reach = 2.0 * np.broadcast_to(levels, len(lead))
    near, sure = lead / np.maximum(reach, 1), np.flatnonzero(certified)
    chosen: Flags = right & ~certified
    chosen[sure[np.argsort(near[sure], kind="stable")[:nearest]]] = True
    return chosen


def _targeted_name(plan: AttackPlan) -> str:
    return f"targeted PGD-{plan.target_steps}"


def _at_norm(p: float) -> str:
    return "" if math.isinf(p) else f" (p = {p:g})"


@dataclass
class _Tally:
    """What one attack did: which samples it ran on, which fell, how many images each cost; (N,) each."""

    attacked: Flags
    fell: Flags
    images: npt.NDArray[np.int64]

    @classmethod
    def empty(cls, count: int) -> _Tally:
        return cls(np.zeros(count, bool), np.zeros(count, bool), np.zeros(count, np.int64))


@dataclass
class _Suite:
    victim: Victim
    plan: AttackPlan
    seed: int
    submit: Submit
    by_step: list[npt.NDArray[np.bool_]] = field(default_factory=list)

    def __post_init__(self) -> None:
        victim = self.victim
        self.twin = Twin(victim.net)
        self.generator = torch.Generator().manual_seed(self.seed)
        self.rng = np.random.default_rng(self.seed)
        self.all = Boxes.of(victim.images, victim.labels, victim.levels)
        self.tallies = {name: _Tally.empty(len(self.all)) for name in names_of(self.plan)}
        pool = self.all if victim.pool is None else Boxes.of(*victim.pool, 0)
        self.seeds = Seeds(pool, victim.net.classes)
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
        """The samples that are attacked with everything."""
        victim, chosen = self.victim, self.victim.thorough
        if chosen is None:
            lead = lead_of(self.clean.numpy(), victim.labels)
            chosen = thorough_of(victim.right, victim.certified, lead, victim.levels, self.plan.nearest)
        return self.all.take(np.flatnonzero(chosen))

    @property
    def targeted_name(self) -> str:
        return _targeted_name(self.plan)

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
            on = _at_norm(p)
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
        fell = self.fallen if name is None else self.tallies[name].fell
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
        logits, rows, tally = self.submit(attempt), attempt.rows, self.tallies[attempt.name]
        labels = self.victim.labels[rows]
        np.add.at(tally.images, rows, 1)
        tally.attacked[rows] = True
        tally.fell[rows[logits.argmax(1) != labels]] = True
        lead = lead_of(logits, labels)
        # Of several images of one sample the best comes last.
        order = np.argsort(-lead, kind="stable")
        better = order[lead[order] < self.lead[rows[order]]]
        self.lead[rows[better]] = lead[better]
        self.best[torch.from_numpy(rows[better])] = _points(attempt.images[better])
        return logits

    def traces(self) -> Traces:
        tallies = self.tallies.values()
        return Traces(
            np.stack([tally.attacked for tally in tallies], 1),
            np.stack([tally.fell for tally in tallies], 1),
            np.stack([tally.images for tally in tallies], 1),
            np.concatenate(self.by_step),
        )


def _parts(boxes: Boxes) -> Iterator[Boxes]:
    rows: Rows = np.arange(len(boxes))
    return (boxes.take(rows[first : first + CHUNK]) for first in range(0, len(boxes), CHUNK))


def _points(images: Images) -> torch.Tensor:
    return torch.from_numpy(images.reshape(len(images), math.prod(images.shape[1:])).astype(np.float32))
