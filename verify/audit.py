# SPDX-License-Identifier: Apache-2.0
"""The audit, step by step: identity, conformance, certificates, attacks, Lipschitz, verdict."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from linfdeploy.engines.base import Logits
from linfdeploy.engines.build import OpenedEngine, rebuilder
from linfdeploy.engines.bundle.read import Bundle
from linfdeploy.errors import ExportError, MissingExtraError
from linfdeploy.onnx.pixel_net import Precision
from linfdeploy.onnx.read import read_graph
from linfdeploy.report.model import Attack, AuditReport, SanityFlag, Violation
from linfdeploy.report.sheet import adversarial_sheet
from linfdeploy.verify.certificates import Certifier, Flags
from linfdeploy.verify.conformance import ConformanceResult, check_conformance
from linfdeploy.verify.determinism import run_batched
from linfdeploy.verify.differences import weight_differences
from linfdeploy.verify.falls import Falls
from linfdeploy.verify.golden import check_golden
from linfdeploy.verify.identity import identity_violations, promised_precision
from linfdeploy.verify.lipschitz import LipschitzAudit
from linfdeploy.verify.lipschitz_search import lipschitz_search
from linfdeploy.verify.pictures import pictures_of
from linfdeploy.verify.probes import PAIRED_PROBES, make_probes
from linfdeploy.verify.summary import Findings, Subject, TestSet, report_of
from linfdeploy.verify.threat import Threat

if TYPE_CHECKING:
    from linfdeploy.verify.attacks import AttackPlan, AttackResult, Attempt

__all__ = ["AttackName", "AuditOptions", "AuditResult", "run_audit"]

AttackName = Literal["none", "fast", "standard"]


@dataclass(frozen=True)
class AuditOptions:
    """The threat, how hard to attack, the seed of everything random, and the precision that was promised.

    `rebuild` builds the engine again and compares, even where that takes minutes.
    """

    threat: Threat
    attack: AttackName
    seed: int = 0
    precision: Precision | None = None
    rebuild: bool = False


@dataclass(frozen=True)
class AuditResult:
    """The report, and the arrays that stand as evidence beside it.

    Attributes:
        report: What was found.
        evidence: File name to named arrays, to be saved as npz.
        pictures: File name to a picture, (H, W) or (H, W, 3) uint8, to be saved as PNG.
    """

    report: AuditReport
    evidence: Mapping[str, Mapping[str, npt.NDArray[Any]]]
    pictures: Mapping[str, npt.NDArray[np.uint8]]


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
    probes = make_probes(net, data.images, levels, options.seed)
    rebuilt = rebuilder(subject.opened, dear=options.rebuild)
    conformance = _against_golden(subject, check_conformance(engine, net, probes, rebuilt))
    progress("certificates")
    logits = conformance.logits["data"]
    certifier = Certifier(net, conformance.roundings, data.images, logits)
    falls = Falls(engine, data.images, certifier, flags := certifier.at(levels), levels)
    lipschitz = LipschitzAudit(0.0 if net.precision == "exact" else float(2 * certifier.delta))
    for name in PAIRED_PROBES:
        lipschitz.add(data.images, logits, probes.families[name], conformance.logits[name])
    progress("lipschitz")
    lipschitz_search(engine, net, data.images, lipschitz, options.seed)
    contest = _Contest(falls, lipschitz, logits, certifier.labels, flags.any, progress)
    attack = _attack(subject, data, options, contest)
    violations += [*conformance.violations, *falls.violations(), *lipschitz.violations()]
    progress("report")
    findings = Findings(conformance, certifier, flags, logits, falls.fallen, attack, lipschitz.result())
    report, fallen = report_of(subject, data, options.threat, findings, violations), falls.evidence()
    pictures = pictures_of(engine, data.images, fallen["adversarial.npz"], report)
    evidence = {**fallen, **lipschitz.evidence()}
    return AuditResult(replace(report, pictures=pictures), evidence, _sheet(falls, levels))


def _sheet(falls: Falls, levels: int) -> Mapping[str, npt.NDArray[np.uint8]]:
    sheet = adversarial_sheet(*falls.shown(), levels)
    return {} if sheet is None else {"adversarial.png": sheet}


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
    certified: Flags
    progress: Callable[[str], None]


def _attack(subject: Subject, data: TestSet, options: AuditOptions, contest: _Contest) -> Attack | None:
    """Runs the attacks that were asked for, every image of them on the engine."""
    if options.attack == "none":
        return None
    from linfdeploy.verify.attacks import ATTACKS, Victim, run_attack
    from linfdeploy.verify.attacks.sanity import sanity_flags

    plan, reference, engine = ATTACKS[options.attack], _ReferenceContest(subject, data), subject.opened.engine
    net, right = subject.opened.graph.net, contest.labels == data.labels

    def submit(attempt: Attempt) -> Logits:
        contest.progress(f"attack: {attempt.name}")
        logits, rows = contest.falls.add(attempt), attempt.rows
        contest.lipschitz.add(data.images[rows], contest.logits[rows], attempt.images, logits)
        if attempt.final:
            reference.add(attempt)
        return logits

    victim = Victim(net, data.images, contest.labels, right, options.threat.levels, contest.certified)
    result = run_attack(victim, plan, options.seed, submit)
    contest.progress("attack: sanity")
    flags = sanity_flags(victim, plan, result, options.seed, lambda images: run_batched(engine, images))
    return _attack_facts((options.attack, plan), result, right, reference.robust_accuracy(), flags)


def _attack_facts(
    asked: tuple[str, AttackPlan],
    result: AttackResult,
    right: Flags,
    reference: float | None,
    flags: Sequence[SanityFlag],
) -> Attack:
    name, plan = asked
    return Attack(
        name=f"{name}: {', '.join(run.name for run in result.runs)}",
        steps=plan.pgd[-1],
        restarts=plan.searches,
        robust_accuracy=float((right & ~result.fallen).mean()),
        reference_robust_accuracy=reference,
        robust_by_step=result.robust_by_step,
        runs=result.runs,
        sanity=tuple(flags),
    )


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
            rows = attempt.rows
            wrong = self._reference.predictions(attempt.images) != self._labels[rows]
            self._standing[rows[wrong]] = False

    def robust_accuracy(self) -> float | None:
        return None if self._standing is None else float(self._standing.mean())
