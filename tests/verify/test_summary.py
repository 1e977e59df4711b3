# SPDX-License-Identifier: Apache-2.0
"""The report's figures are those of the findings, counted again here."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto
from pixel_nets import random_images, random_net

from linfdeploy.engines.build import OpenedEngine
from linfdeploy.engines.reference import PER_OP, ReferenceEngine
from linfdeploy.onnx.pixel_net import Precision
from linfdeploy.onnx.read import DeployedGraph
from linfdeploy.onnx.write import GraphOptions
from linfdeploy.report.model import Attack, AuditReport, Conformance, Lipschitz, Violation
from linfdeploy.verify.assumptions import assumptions_of
from linfdeploy.verify.certificates import Certificates, Certifier
from linfdeploy.verify.conformance import ConformanceResult
from linfdeploy.verify.summary import Findings, Subject, TestSet, report_of
from linfdeploy.verify.threat import Threat, ThreatModel, parse_eps

COUNT = 50


def findings(precision: Precision, matched: bool, attack: Attack | None, levels: int) -> tuple[Any, ...]:
    net = random_net((6, 8, 4), precision, 2)
    images = random_images(net, COUNT, 2)
    engine = ReferenceEngine(net)
    logits = engine.run(images)
    roundings = (PER_OP,) if matched else ()
    stages = Certifier(net, roundings, images, logits).stages(levels)
    certificates = Certificates.joined(net, logits, levels, stages)
    labels = np.where(np.arange(COUNT) % 3 == 0, 3, certificates.labels)
    same = ConformanceResult(Conformance(9, 1.0, 0, True, (), {"0": 9}), roundings, ())
    fallen = np.arange(COUNT) % 5 == 0
    graph = DeployedGraph(net, GraphOptions(), (), None, {}, "0" * 64, ModelProto())
    subject = Subject(Path("m.engine"), OpenedEngine(engine, graph, None, "fake", "0" * 64), None)
    found = Findings(same, certificates, logits, None, fallen, attack, Lipschitz(0, 0.0, 0.0, ()))
    return subject, TestSet("noise", images, labels.astype(np.int64)), found


def report(
    precision: Precision = "exact",
    model: ThreatModel = "pixels",
    eps: str = "8.5px",
    matched: bool = True,
    attack: Attack | None = None,
) -> tuple[AuditReport, Findings, TestSet]:
    threat = Threat(model, eps, parse_eps(eps))
    subject, data, found = findings(precision, matched, attack, threat.levels)
    return report_of(subject, data, threat, found, [Violation("radius", "why")]), found, data


@pytest.mark.parametrize(("model", "levels"), [("pixels", 8), ("real", 9)])
def test_eps_is_reported_as_given_and_exactly(model: ThreatModel, levels: int) -> None:
    eps = report(model=model)[0].eps
    assert (eps.text, eps.fraction, eps.pixels, eps.levels) == ("8.5px", "1/30", "17/2", levels)


def test_only_right_predictions_count_as_certified() -> None:
    found, facts, data = report()
    right = facts.certificates.labels == data.labels
    assert 0 < right.sum() < COUNT
    for name in ("exact", "interval", "joint", "delta"):
        flags = getattr(facts.certificates.flags, name)
        assert (flags & ~right).any()
        assert getattr(found.certified, name) == sum((flags & right).tolist()) / COUNT
    assert found.accuracy.clean == right.sum() / COUNT


def test_certificates_that_do_not_apply_are_none_not_zero() -> None:
    found = report("fp16", matched=False)[0]
    assert (found.certified.exact, found.certified.interval) == (None, None)
    assert found.certified.delta is not None
    assert (found.curve.exact, found.curve.interval) == (None, None)
    assert found.curve.delta is not None
    assert (found.certified.reference, found.accuracy.reference_clean) == (None, None)
    assert {(row.exact, row.interval) for row in found.rows} == {(None, None)}
    assert found.engine.variant is None


@pytest.mark.parametrize("precision", ["exact", "fp32", "fp16"])
def test_the_curve_falls_starts_at_the_clean_accuracy_and_passes_the_threat(precision: Precision) -> None:
    found = report(precision)[0]
    curve = found.curve
    assert list(curve.eps_pixels) == sorted(set(curve.eps_pixels))
    assert curve.eps_pixels[0] == 0
    assert curve.eps_pixels[-1] >= 2 * found.eps.levels
    for name in ("exact", "interval", "delta"):
        series = getattr(curve, name)
        if series is not None:
            assert list(series) == sorted(series, reverse=True)
            assert series[curve.eps_pixels.index(found.eps.levels)] == getattr(found.certified, name)


def test_the_curve_and_the_radii_tell_the_same() -> None:
    found = report()[0]
    for place, level in enumerate(found.curve.eps_pixels):
        right = [row for row in found.rows if row.label == row.prediction]
        exact = sum(Fraction(row.radius_exact) > level for row in right if row.radius_exact is not None)
        interval = sum(row.radius_interval >= level for row in right if row.radius_interval is not None)
        delta = sum(Fraction(row.radius_delta) > level for row in right if row.radius_delta is not None)
        joint = sum(row.radius_joint >= level for row in right if row.radius_joint is not None)
        series = found.curve.exact, found.curve.interval, found.curve.delta, found.curve.joint
        assert [None if values is None else values[place] for values in series] == [
            count / COUNT for count in (exact, interval, delta, joint)
        ]


def test_classes_add_up_to_the_whole() -> None:
    found, _, data = report()
    assert [item.label for item in found.classes] == sorted(set(data.labels.tolist()))
    assert sum(item.samples for item in found.classes) == COUNT
    for name, whole in (("clean", found.accuracy.clean), ("exact", found.certified.exact)):
        total = sum(round(getattr(item, name) * item.samples) for item in found.classes)
        assert total == round(whole * COUNT) if whole is not None else False
    for item in found.classes:
        rows = [row for row in found.rows if row.label == item.label]
        right = [row for row in rows if row.prediction == row.label]
        assert (item.samples, item.clean) == (len(rows), len(right) / len(rows))
        assert item.interval == sum(row.interval for row in right) / len(rows)  # type: ignore[misc]
        assert item.joint == sum(row.joint for row in right) / len(rows)  # type: ignore[misc]
        assert item.delta == sum(row.delta for row in right) / len(rows)  # type: ignore[misc]


def test_the_curve_stays_inside_the_pixel_range() -> None:
    assert report(eps="1")[0].curve.eps_pixels[-1] == 255
    assert report(eps="1px")[0].curve.eps_pixels == (0, 1, 2)


def test_rows_tell_each_sample_as_it_is() -> None:
    found, facts, data = report(attack=Attack("fast", 1, 1, 0.5, None, ()))
    for row, image_logits, label in zip(found.rows, facts.logits.tolist(), data.labels.tolist(), strict=True):
        others = [value for index, value in enumerate(image_logits) if index != label]
        assert (row.label, row.prediction) == (label, image_logits.index(max(image_logits)))
        assert row.margin == image_logits[label] - max(others)
        assert row.attacked == (row.index % 5 == 0 and row.prediction == label)
    assert [row.index for row in found.rows] == list(range(COUNT))


def test_without_an_attack_nothing_is_said_about_one() -> None:
    found = report()[0]
    assert found.attack is None
    assert {row.attacked for row in found.rows} == {None}


def test_one_violation_makes_the_verdict_fail() -> None:
    found = report()[0]
    assert found.verdict == "fail"
    assert replace(found, violations=()).verdict == "pass"


def test_assumptions_name_the_reach_and_the_rounding() -> None:
    words = assumptions_of(Threat("real", "0.1", parse_eps("0.1")), "per-op")
    assert "at most 26 of 255 levels" in words["Attacker"]
    assert "(per-op)" in words["interval"]
    assert "(none matched)" in assumptions_of(Threat("pixels", "0.1", parse_eps("0.1")), None)["interval"]
