# SPDX-License-Identifier: Apache-2.0
"""The audit, step by step: identity, conformance, certificates, attacks, Lipschitz, verdict."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from importlib.metadata import version
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from linfdeploy.engines.build import OpenedEngine, rebuilder
from linfdeploy.engines.bundle.read import Bundle
from linfdeploy.errors import ExportError, MissingExtraError
from linfdeploy.onnx.pixel_net import Precision
from linfdeploy.onnx.read import read_graph
from linfdeploy.report.model import Attack, AuditReport, GoldenFacts, Violation
from linfdeploy.report.sheet import adversarial_sheet
from linfdeploy.verify.certificates import Certificates, Certifier
from linfdeploy.verify.conformance import ConformanceResult, check_conformance
from linfdeploy.verify.contest import Contest, attack_facts
from linfdeploy.verify.differences import weight_differences
from linfdeploy.verify.golden import check_golden
from linfdeploy.verify.identity import identity_violations, promised_precision
from linfdeploy.verify.kept import Arrays
from linfdeploy.verify.lipschitz_search import lipschitz_search
from linfdeploy.verify.pictures import pictures_of
from linfdeploy.verify.probes import ProbeSet, make_probes
from linfdeploy.verify.question import question_of
from linfdeploy.verify.shards import DiscardedError, Rows, Shards, Step
from linfdeploy.verify.summary import Before, Findings, Subject, TestSet, report_of
from linfdeploy.verify.threat import Threat

if TYPE_CHECKING:
    from linfdeploy.verify.attacks import AttackPlan

__all__ = ["AttackName", "AuditOptions", "AuditResult", "run_audit"]

AttackName = Literal["none", "fast", "standard"]
Evidence: TypeAlias = Mapping[str, Mapping[str, npt.NDArray[Any]]]


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
    evidence: Evidence
    pictures: Mapping[str, npt.NDArray[np.uint8]]


def run_audit(subject: Subject, data: TestSet, options: AuditOptions, shards: Shards | None = None) -> AuditResult:
    """Audits an engine.

    Args:
        subject: The engine, and the checkpoint it is held against.
        data: On which images.
        options: Against what.
        shards: Shares out the samples, keeps what is finished and tells how far it is; every rank gets the result.

    Raises:
        DatasetError: The images or labels do not fit the engine.
        MissingExtraError: An attack was asked for and torch is not installed.
        EngineError: The engine fails on a batch.
        PeerError: Another process failed or is gone.
    """
    data.check_fits(subject.opened.engine.input_shape, subject.opened.engine.classes)
    if options.attack != "none" and find_spec("torch") is None:
        raise MissingExtraError("an attack", "train")
    shards = shards or Shards()
    audit = _Audit(subject, data, options, shards)
    shards.begin(question_of(subject, data, options.threat, _others(options)))
    try:
        return audit.result()
    except DiscardedError:
        shards.discard()
        return audit.result()


def _others(options: AuditOptions) -> dict[str, str]:
    plan = _plan(options.attack)
    versions = f", torch {version('torch')}" if plan else ""
    return {
        "attack": f"{plan}{versions}",
        "seed": str(options.seed),
        "precision": str(options.precision),
        "rebuild": str(options.rebuild),
    }


def _plan(attack: AttackName) -> AttackPlan | None:
    if attack == "none":
        return None
    from linfdeploy.verify.attacks import ATTACKS

    return ATTACKS[attack]


@dataclass(frozen=True)
class _Audit:
    subject: Subject
    data: TestSet
    options: AuditOptions
    shards: Shards

    def result(self) -> AuditResult:
        """Runs the steps, one after the other."""
        subject, data, threat = self.subject, self.data, self.options.threat
        violations = self.shards.from_first(lambda: list(_identity(subject, self.options.precision)), "identity")
        probes = self._probes()
        conformance = self._conformance(probes)
        certificates, before = self._certificates(conformance), self._before()
        contest = self._contest(probes, conformance, certificates)
        searched = self._searched(contest)
        arrays = self.shards.map(contest.step, len(data.images))
        fallen, lipschitz = contest.judged(arrays)
        lipschitz.merge(searched)
        attack = self._attack(contest, arrays, before)
        flags = certificates.flags
        violations += [*conformance.violations, *fallen.violations(flags), *lipschitz.violations()]
        logits = conformance.logits["data"]
        findings = Findings(conformance, certificates, logits, before, fallen.fallen, attack, lipschitz.result())
        report = report_of(subject, data, threat, findings, violations)
        evidence = {**fallen.evidence(data.images, flags), **lipschitz.evidence()}
        sheet = adversarial_sheet(*fallen.shown(data.images), threat.levels)
        pictures = {} if sheet is None else {"adversarial.png": sheet}
        return AuditResult(self._illustrated(report, evidence), evidence, pictures)

    def _probes(self) -> ProbeSet:
        net, options = self.subject.opened.graph.net, self.options
        return make_probes(net, self.data.images, options.threat.levels, options.seed)

    def _conformance(self, probes: ProbeSet) -> ConformanceResult:
        opened = self.subject.opened
        rebuilt = rebuilder(opened, dear=self.options.rebuild)
        found = check_conformance(opened.engine, opened.graph.net, probes, rebuilt, self.shards)
        golden, violations = self.shards.from_first(lambda: _golden(self.subject))
        conformance = replace(found.conformance, golden=golden)
        return replace(found, conformance=conformance, violations=(*found.violations, *violations))

    def _certificates(self, conformance: ConformanceResult) -> Certificates:
        net, levels, images = self.subject.opened.graph.net, self.options.threat.levels, self.data.images
        logits = conformance.logits["data"]

        def find(rows: Rows) -> Arrays:
            return Certifier(net, conformance.roundings, images[rows], logits[rows]).stages(levels)

        stages = self.shards.map(Step("certificates", find), len(images))
        return Certificates.joined(net, logits, levels, stages)

    def _before(self) -> Before | None:
        reference, images, levels = self.subject.reference, self.data.images, self.options.threat.levels
        if reference is None:
            return None

        def find(rows: Rows) -> Arrays:
            margin, interval = reference.certified(images[rows], levels)
            return {"labels": reference.predictions(images[rows]), "margin": margin, "interval": interval}

        found = self.shards.map(Step("reference", find), len(images))
        return Before(found["labels"] == self.data.labels, found["margin"], found["interval"])

    def _contest(self, probes: ProbeSet, conformance: ConformanceResult, certificates: Certificates) -> Contest:
        options = self.options
        plan = _plan(options.attack)
        name = "pairs" if plan is None else "attacks"
        levels = options.threat.levels
        return Contest(
            self.subject, self.data, probes, conformance, certificates, levels, plan, options.seed, name
        )

    def _searched(self, contest: Contest) -> Arrays:
        """Returns the pairs that were looked for, and not met on the way."""
        opened, images = self.subject.opened, self.data.images

        def search() -> Arrays:
            found = contest.lipschitz()
            if opened.graph.net.head is None:
                lipschitz_search(opened.engine, opened.graph.net, images, found, self.options.seed)
            return found.arrays(images.shape[1:])

        return self.shards.from_first(search, "lipschitz")

    def _attack(self, contest: Contest, arrays: Arrays, before: Before | None) -> Attack | None:
        if (plan := contest.plan) is None:
            return None
        from linfdeploy.verify.attacks.suite import Traces

        right = contest.victim.right
        result = Traces.of(arrays).result(plan, right)
        sanity = self.shards.from_first(lambda: contest.sanity(result), "sanity of the attacks")
        reference = None if before is None else before.right & arrays["reference_standing"]
        return attack_facts(self.options.attack, plan, result, right, reference, sanity)

    def _illustrated(self, report: AuditReport, evidence: Evidence) -> AuditReport:
        engine, images = self.subject.opened.engine, self.data.images
        found = self.shards.from_first(lambda: pictures_of(engine, images, evidence["adversarial.npz"], report))
        return replace(report, pictures=found)


def _golden(subject: Subject) -> tuple[GoldenFacts | None, tuple[Violation, ...]]:
    """Returns what the golden images of the subject's bundle show, if it has one."""
    if subject.bundle is None:
        return None, ()
    opened = subject.opened
    golden, required = subject.bundle.golden, subject.bundle.record.golden_bits == "required"
    facts, violations = check_golden(opened.engine, opened.graph.net, golden, required=required)
    return facts, (*_origin(opened, subject.bundle), *violations)


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
