# SPDX-License-Identifier: Apache-2.0
"""From an audit's findings to its report."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from linfdeploy import __version__
from linfdeploy.engines.base import Images, Logits
from linfdeploy.engines.build import OpenedEngine
from linfdeploy.engines.bundle.read import Bundle
from linfdeploy.engines.roundings import name_of
from linfdeploy.errors import DatasetError
from linfdeploy.onnx.pixel_net import PIXEL_MAX, PixelNet
from linfdeploy.report.model import (
    Accuracy,
    Attack,
    AuditReport,
    Certified,
    ClassResult,
    Curve,
    EngineFacts,
    Eps,
    LayerFacts,
    Lipschitz,
    SampleRow,
    Violation,
)
from linfdeploy.verify.assumptions import assumptions_of
from linfdeploy.verify.certificates import Certificates, CertifiedFlags, Flags
from linfdeploy.verify.conformance import ConformanceResult
from linfdeploy.verify.headed import head_bound_of
from linfdeploy.verify.radii import CertifiedRadii
from linfdeploy.verify.threat import Threat

if TYPE_CHECKING:
    from linfdeploy.verify.reference import Reference

__all__ = ["Before", "Findings", "Subject", "TestSet", "report_of"]

CURVE_REACH = 2.5


@dataclass(frozen=True)
class Subject:
    """What is audited: the engine, where it lies, and the checkpoint and the edge bundle it is held against."""

    path: Path
    opened: OpenedEngine
    reference: Reference | None
    bundle: Bundle | None = None


@dataclass(frozen=True)
class TestSet:
    """Labelled images: (N, C, H, W) uint8 and (N,) int64."""

    __test__ = False

    name: str
    images: Images
    labels: npt.NDArray[np.int64]

    def check_fits(self, input_shape: tuple[int, int, int], classes: int, what: str = "the engine") -> None:
        """Refuses images and labels of another task.

        Args:
            input_shape: (C, H, W) that are expected.
            classes: Number of classes.
            what: Has them, for the error text.

        Raises:
            DatasetError: The images have another shape, or there are more classes.
        """
        if self.images.shape[1:] != input_shape:
            raise DatasetError(
                f"{self.name} has images of {self.images.shape[1:]}; {what} expects {input_shape}: "
                "choose the data set that the net was trained on"
            )
        if (found := int(self.labels.max()) + 1) > classes:
            raise DatasetError(
                f"{self.name} has at least {found} classes; {what} has {classes}: "
                "choose the data set that the net was trained on"
            )


@dataclass(frozen=True)
class Before:
    """What the checkpoint says to each of N samples before deployment.

    Attributes:
        right: (N,) whether it classifies the sample correctly.
        margin: (N,) certified by margin.
        interval: (N,) certified by interval.
    """

    right: Flags
    margin: Flags
    interval: Flags


@dataclass(frozen=True)
class Findings:
    """What the steps of an audit found.

    Attributes:
        conformance: Of the engine to the evaluator.
        certificates: Of each sample.
        logits: (N, K) the engine's.
        before: What the checkpoint says; None without one.
        fallen: (N,) what attacks broke.
        attack: Its figures; None if there was none.
        lipschitz: Its figures.
    """

    conformance: ConformanceResult
    certificates: Certificates
    logits: Logits
    before: Before | None
    fallen: Flags
    attack: Attack | None
    lipschitz: Lipschitz


def report_of(
    subject: Subject, data: TestSet, threat: Threat, found: Findings, violations: Sequence[Violation]
) -> AuditReport:
    """Assembles the report."""
    certificates, before = found.certificates, found.before
    correct = certificates.labels == data.labels
    return AuditReport(
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        linfdeploy=__version__,
        data=data.name,
        samples=len(data.images),
        eps=_eps(threat),
        threat_model=threat.model,
        engine=_engine_facts(subject, found.conformance),
        reference=subject.reference.facts if subject.reference else None,
        accuracy=Accuracy(float(correct.mean()), None if before is None else float(before.right.mean())),
        certified=_certified(certificates.flags, correct, before),
        attack=found.attack,
        conformance=found.conformance.conformance,
        lipschitz=found.lipschitz,
        curve=_curve(certificates.radii, correct, threat.levels),
        assumptions=assumptions_of(threat, name_of(found.conformance.roundings), _arithmetic(subject)),
        violations=tuple(violations),
        rows=_rows(data, found),
        classes=tuple(_classes(data, certificates.flags, correct)),
    )


def _eps(threat: Threat) -> Eps:
    return Eps(threat.text, str(threat.eps), str(PIXEL_MAX * threat.eps), threat.levels)


def _arithmetic(subject: Subject) -> str | None:
    net = subject.opened.graph.net
    return None if net.head is None else head_bound_of(net).arithmetic.name


def _engine_facts(subject: Subject, conformance: ConformanceResult) -> EngineFacts:
    opened, graph = subject.opened, subject.opened.graph
    return EngineFacts(
        path=str(subject.path),
        backend=opened.backend,
        precision=graph.net.precision,
        sha256=opened.sha256,
        grid=graph.net.grid,
        form=graph.options.form,
        variant=name_of(conformance.roundings),
        versions={"linfdeploy": __version__, **opened.engine.versions},
        layers=tuple(_layer_facts(graph.net)),
        model_sha256=opened.manifest.model_sha256 if opened.manifest else None,
    )


def _layer_facts(net: PixelNet) -> Iterator[LayerFacts]:
    yield from (LayerFacts(layer.inputs, layer.outputs) for layer in net.layers)
    if net.head is not None:
        yield from (LayerFacts(weight.shape[1], weight.shape[0]) for weight in net.head.weights)


def _certified(flags: CertifiedFlags, correct: Flags, before: Before | None) -> Certified:
    margin = interval = same = None
    if before is not None:
        margin, interval = _share(before.margin, before.right), _share(before.interval, before.right)
        if flags.interval is not None:
            same = bool(np.array_equal(before.interval & before.right, flags.interval & correct))
    return Certified(
        exact=_share(flags.exact, correct),
        interval=_share(flags.interval, correct),
        delta=_share(flags.delta, correct),
        reference=interval,
        reference_margin=margin,
        same_set=same,
        joint=_share(flags.joint, correct),
    )


def _share(flags: Flags | None, correct: Flags) -> float | None:
    return None if flags is None else float((flags & correct).mean())


def _curve(radii: CertifiedRadii, correct: Flags, levels: int) -> Curve:
    """Certified accuracy at whole levels from 0 to a little beyond twice the threat."""
    at = range(min(int(CURVE_REACH * levels), PIXEL_MAX) + 1)

    def series(name: str) -> tuple[float, ...] | None:
        flags = radii.curve(name, at)
        return None if flags is None else tuple((flags & correct).mean(1).tolist())

    return Curve(
        tuple(float(value) for value in at), series("exact"), series("interval"), series("delta"), series("joint")
    )


def _classes(data: TestSet, flags: CertifiedFlags, correct: Flags) -> Iterator[ClassResult]:
    for label in np.unique(data.labels).tolist():
        of = data.labels == label

        def share(held: Flags | None, of: Flags = of) -> float | None:
            return None if held is None else float((held & correct)[of].mean())

        clean = float(correct[of].mean())
        yield ClassResult(
            label,
            int(of.sum()),
            clean,
            *(share(held) for held in (flags.exact, flags.interval, flags.delta, flags.joint)),
        )


def _rows(data: TestSet, found: Findings) -> tuple[SampleRow, ...]:
    margins = _label_margins(found.logits, data.labels)
    certificates = found.certificates
    labels, flags, radii = certificates.labels, certificates.flags, certificates.radii
    right = labels == data.labels
    attacked = found.fallen & right if found.attack else None

    def flag(held: Flags | None, index: int) -> bool | None:
        return None if held is None else bool(held[index])

    return tuple(
        SampleRow(
            index=index,
            label=int(label),
            prediction=int(labels[index]),
            margin=float(margins[index]),
            exact=flag(flags.exact, index),
            interval=flag(flags.interval, index),
            delta=flag(flags.delta, index),
            attacked=flag(attacked, index),
            radius_exact=None if radii.exact is None else str(radii.exact[index]),
            radius_interval=None if radii.interval is None else int(radii.interval[index]),
            radius_delta=str(radii.delta[index]),
            joint=flag(flags.joint, index),
            radius_joint=None if radii.joint is None else int(radii.joint[index]),
        )
        for index, label in enumerate(data.labels)
    )


def _label_margins(logits: Logits, labels: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Returns the true class's logit minus the best other, (N,)."""
    rows, wide = np.arange(len(labels)), logits.astype(np.float64)
    others = wide.copy()
    others[rows, labels] = -np.inf
    margins: npt.NDArray[np.float64] = wide[rows, labels] - others.max(1)
    return margins
