# SPDX-License-Identifier: Apache-2.0
"""The audit, step by step: identity, conformance, certificates, attacks, Lipschitz, verdict."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from linfdeploy.engines.base import Logits
from linfdeploy.engines.build import OpenedEngine
from linfdeploy.engines.bundle.read import Bundle
from linfdeploy.errors import ExportError, MissingExtraError
from linfdeploy.onnx.pixel_net import Precision
from linfdeploy.onnx.read import read_graph
from linfdeploy.report.model import Attack, AuditReport, Violation
from linfdeploy.verify.certificates import Certifier, Flags
from linfdeploy.verify.conformance import PAIRED_PROBES, ConformanceResult, check_conformance, make_probes
from linfdeploy.verify.differences import weight_differences
from linfdeploy.verify.falls import Falls
from linfdeploy.verify.golden import check_golden
from linfdeploy.verify.identity import identity_violations, promised_precision
from linfdeploy.verify.lipschitz import LipschitzAudit
from linfdeploy.verify.pictures import pictures_of
from linfdeploy.verify.summary import Findings, Subject, TestSet, report_of
from linfdeploy.verify.threat import Threat

if TYPE_CHECKING:
    from linfdeploy.verify.attacks import AttackPlan, Attempt

__all__ = ["AttackName", "AuditOptions", "AuditResult", "run_audit"]

AttackName = Literal["none", "fast", "standard"]


@dataclass(frozen=True)
class AuditOptions:
    """The threat, how hard to attack, the seed of everything random, and the precision that was promised."""

    threat: Threat
    attack: AttackName
    seed: int = 0
    precision: Precision | None = None


@dataclass(frozen=True)
class AuditResult:
    """The report, and the arrays that stand as evidence beside it.

    Attributes:
        report: What was found.
        evidence: File name to named arrays, to be saved as npz.
    """

    report: AuditReport
    evidence: Mapping[str, Mapping[str, npt.NDArray[Any]]]


def run_audit(
    subject: Subject, data: TestSet, options: AuditOptions, progress: Callable[[str], None] = lambda _: None
) -> AuditResult:
    """Audits an engine.

    Args:
        subject: The engine, and the checkpoint it is held against.
        data: On which images.
        options: Against what.
        progress: Told the name of each step as it begins.

    Raises:
        DatasetError: The images or labels do not fit the engine.
        MissingExtraError: An attack was asked for and torch is not installed.
        EngineError: The engine fails on a batch.
    """
    data.check_fits(subject.opened.engine.input_shape, subject.opened.engine.classes)
    if options.attack != "none" and find_spec("torch") is None:
        raise MissingExtraError("an attack", "train")
    engine, net, levels = subject.opened.engine, subject.opened.graph.net, options.threat.levels
    progress("identity")
    violations = list(_identity(subject, options.precision))
    progress("conformance")
    probes = make_probes(data.images, levels, options.seed)
    conformance = _against_golden(subject, check_conformance(engine, net, probes))
    progress("certificates")
    logits = conformance.logits["data"]
    certifier = Certifier(net, conformance.rounding, data.images, logits)
    falls = Falls(engine, data.images, certifier, flags := certifier.at(levels), levels)
    lipschitz = LipschitzAudit(0.0 if net.precision == "exact" else float(2 * certifier.delta))
    for name in PAIRED_PROBES:
        lipschitz.add(data.images, logits, probes[name], conformance.logits[name])
    attack = _attack(subject, data, options, _Contest(falls, lipschitz, logits, certifier.labels, progress))
    violations += [*conformance.violations, *falls.violations(), *lipschitz.violations()]
    progress("report")
    findings = Findings(conformance, certifier, flags, logits, falls.fallen, attack, lipschitz.result())
    report, evidence = report_of(subject, data, options.threat, findings, violations), falls.evidence()
    pictures = pictures_of(engine, data.images, evidence["adversarial.npz"], report)
    return AuditResult(replace(report, pictures=pictures), evidence)


def _against_golden(subject: Subject, found: ConformanceResult) -> ConformanceResult:
    """Adds what the golden images of the subject's bundle show, if it has one."""
    if subject.bundle is None:
        return found
    opened = subject.opened
    golden, required = subject.bundle.golden, subject.bundle.record.golden_bits == "required"
    facts, violations = check_golden(opened.engine, opened.graph.net, golden, required=required)
    return replace(
        found,
        conformance=replace(found.conformance, golden=facts),
        violations=(*found.violations, *_origin(opened, subject.bundle), *violations),
    )


def _origin(opened: OpenedEngine, bundle: Bundle) -> Iterator[Violation]:
    """Yields a violation when the engine says that it was built from another model, or holds other weights.

    Few golden images show a weight that is seldom the largest distance, so the weights are compared as well.
    """
    model = opened.manifest.model_sha256 if opened.manifest else opened.graph.sha256
    if model != bundle.model_sha256:
        yield Violation(
            "golden", f"the engine was built from the model {model}; the bundle's is {bundle.model_sha256}"
        )
    for found in weight_differences(opened.graph.net, read_graph(bundle.model).net):
        yield Violation("golden", f"the engine's weights are not those of the bundle's model: {found.detail}")


def _identity(subject: Subject, asked: Precision | None) -> Iterator[Violation]:
    graph, manifest = subject.opened.graph, subject.opened.manifest
    if subject.reference is None:
        yield from identity_violations(graph, manifest, None, asked)
        return
    promised = promised_precision(graph, manifest, asked)
    grid = manifest.grid if manifest else graph.net.grid
    try:
        expected = subject.reference.exported(promised, grid)
    except ExportError as error:
        yield from identity_violations(graph, manifest, None, asked)
        yield Violation("reference", f"the checkpoint does not export to {promised}: {error}")
        return
    yield from identity_violations(graph, manifest, expected, asked)


@dataclass(frozen=True)
class _Contest:
    """What an attack works on and where its finds go."""

    falls: Falls
    lipschitz: LipschitzAudit
    logits: Logits
    labels: npt.NDArray[np.int64]
    progress: Callable[[str], None]


def _attack(subject: Subject, data: TestSet, options: AuditOptions, contest: _Contest) -> Attack | None:
    """Runs the attack that was asked for, every image of it on the engine."""
    if options.attack == "none":
        return None
    from linfdeploy.verify.attacks import ATTACKS, run_attack

    plan = ATTACKS[options.attack]
    reference = _ReferenceContest(subject, data)
    robust_by_step: tuple[float, ...] = ()
    net, right = subject.opened.graph.net, contest.labels == data.labels
    attack = run_attack(net, data.images, contest.labels, right, options.threat.levels, plan, options.seed)
    for attempt in attack:
        contest.progress(f"attack: {attempt.name}")
        logits = contest.falls.add(attempt)
        contest.lipschitz.add(data.images, contest.logits, attempt.images, logits)
        reference.add(attempt)
        robust_by_step = attempt.robust_by_step or robust_by_step
    standing = right & ~contest.falls.fallen
    return _attack_facts(options.attack, plan, float(standing.mean()), reference.robust_accuracy(), robust_by_step)


def _attack_facts(
    name: str, plan: AttackPlan, robust: float, reference: float | None, by_step: tuple[float, ...]
) -> Attack:
    runs = f"PGD-{plan.steps}, {plan.targets} targeted PGD-{plan.target_steps} on the annealed relaxation"
    return Attack(f"{name}: {runs}", plan.steps, 1 + plan.targets, robust, reference, by_step)


class _ReferenceContest:
    """The same attacks on the checkpoint before deployment."""

    def __init__(self, subject: Subject, data: TestSet) -> None:
        self._reference = subject.reference
        self._labels = data.labels
        self._standing: Flags | None = None
        if self._reference is not None:
            self._standing = self._reference.predictions(data.images) == data.labels

    def add(self, attempt: Attempt) -> None:
        if self._reference is not None and self._standing is not None:
            self._standing &= self._reference.predictions(attempt.images) == self._labels

    def robust_accuracy(self) -> float | None:
        return None if self._standing is None else float(self._standing.mean())
