# SPDX-License-Identifier: Apache-2.0
"""The audit as a whole, on engines in memory: what is right passes, what is wrong fails and is named."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import jsonschema
import numpy as np
import pytest
from pixel_nets import faults, random_images, random_net

from linfdeploy.engines.base import Answers, Engine, Images, Logits
from linfdeploy.engines.build import OpenedEngine
from linfdeploy.engines.reference import ReferenceEngine
from linfdeploy.errors import DatasetError, MissingExtraError
from linfdeploy.onnx.pixel_net import PixelNet, Precision
from linfdeploy.onnx.read import read_graph
from linfdeploy.onnx.write import GraphOptions, model_from_net
from linfdeploy.report.json import report_to_json
from linfdeploy.report.schema import load_schema
from linfdeploy.verify.audit import AuditOptions, AuditResult, run_audit
from linfdeploy.verify.kept import Kept
from linfdeploy.verify.probes import make_probes
from linfdeploy.verify.shards import Shards
from linfdeploy.verify.summary import Subject, TestSet
from linfdeploy.verify.threat import Threat, parse_eps

THREAT = Threat("pixels", "12px", parse_eps("12px"))
OPTIONS = AuditOptions(THREAT, "fast")
SIZES = (6, 9, 5)


class Told:
    """Progress that is remembered: for each step the total, and how many were done."""

    def __init__(self) -> None:
        self.steps: dict[str, tuple[int, int]] = {}
        self.notes: list[str] = []

    def step(self, name: str, total: int) -> None:
        self.steps[name] = total, 0

    def advance(self, count: int) -> None:
        name = list(self.steps)[-1]
        total, done = self.steps[name]
        self.steps[name] = total, done + count

    def note(self, text: str) -> None:
        self.notes.append(text)


def subject(net: PixelNet, engine: Engine, folder: Path) -> Subject:
    path = folder / "model.onnx"
    metadata = {"precision": net.precision, **({"grid": str(net.grid)} if net.grid is not None else {})}
    path.write_bytes(model_from_net(net, GraphOptions(), metadata).SerializeToString())
    return Subject(path, OpenedEngine(engine, read_graph(path), None, "fake", "0" * 64), None)


def data_of(net: PixelNet) -> TestSet:
    images = random_images(net, 80, 3)
    return TestSet("noise", images, ReferenceEngine(net).run(images).argmax(1))


def audited(net: PixelNet, engine: Engine, folder: Path, options: AuditOptions = OPTIONS) -> AuditResult:
    result = run_audit(subject(net, engine, folder), data_of(net), options)
    jsonschema.validate(report_to_json(result.report), dict(load_schema()))
    return result


@pytest.mark.parametrize("precision", ["exact", "fp32", "fp16"])
def test_an_honest_engine_passes(precision: Precision, tmp_path: Path) -> None:
    net = random_net(SIZES, precision, 3)
    result = audited(net, ReferenceEngine(net), tmp_path)
    report = result.report
    assert report.violations == ()
    assert report.verdict == "pass"
    assert report.attack is not None
    certified = report.certified.interval
    assert certified is not None
    assert 0 < certified <= report.attack.robust_accuracy < 1
    assert report.lipschitz.pairs > 0
    assert list(result.evidence) == ["adversarial.npz"]
    assert list(result.pictures) == ["adversarial.png"]
    assert {run.name for run in report.attack.runs} >= {"PGD-20", "Square on the engine", "rounding search"}
    assert all(run.robust_accuracy >= report.attack.robust_accuracy for run in report.attack.runs)


@pytest.mark.parametrize("fault", list(faults(random_net(SIZES, "exact", 3))))
def test_a_faulty_engine_fails(fault: str, tmp_path: Path) -> None:
    net = random_net(SIZES, "exact", 3)
    report = audited(net, faults(net)[fault][0], tmp_path, replace(OPTIONS, attack="none")).report
    assert report.verdict == "fail"
    assert "conformance" in {violation.kind for violation in report.violations}


class _HonestOnProbes(Engine):
    """Is exact on every image that it has seen declared, and wrong by `change` on all others."""

    def __init__(self, net: PixelNet, known: Mapping[bytes, object], change: Logits) -> None:
        self._inner, self._known, self._change = ReferenceEngine(net), known, change
        self.input_shape, self.classes, self.versions = net.input_shape, net.classes, {}

    def _answer(self, images: Images) -> Answers:
        logits = self._inner.run(images)
        logits[[image.tobytes() not in self._known for image in images]] += self._change
        return {"logits": logits}


@pytest.mark.parametrize(
    ("change", "kinds"),
    [
        ([0, 0, 0, 0, 2.0**-12], {"conformance"}),
        ([-900, 900, -900, 900, -900], {"certificate", "containment", "conformance", "lipschitz"}),
    ],
)
def test_an_engine_that_lies_only_under_attack_fails(change: list[float], kinds: set[str], tmp_path: Path) -> None:
    net = random_net(SIZES, "exact", 3)
    probes = make_probes(net, data_of(net).images, THREAT.levels, OPTIONS.seed).families
    known = {image.tobytes(): None for images in probes.values() for image in images[:]}
    result = audited(net, _HonestOnProbes(net, known, np.array(change, np.float32)), tmp_path)
    found = {violation.kind for violation in result.report.violations}
    assert kinds <= found
    assert {violation.saved for violation in result.report.violations if violation.saved} <= set(result.evidence)


def test_the_same_seed_gives_the_same_report(tmp_path: Path) -> None:
    net = random_net(SIZES, "fp32", 3)
    first, again = (audited(net, ReferenceEngine(net), tmp_path).report for _ in range(2))
    assert replace(first, created="") == replace(again, created="")


def test_more_reach_leaves_less(tmp_path: Path) -> None:
    net = random_net(SIZES, "exact", 3)
    reports = [
        audited(
            net, ReferenceEngine(net), tmp_path, AuditOptions(Threat("pixels", eps, parse_eps(eps)), "fast")
        ).report
        for eps in ("2px", "12px", "255px")
    ]
    robust = [report.attack.robust_accuracy for report in reports if report.attack]
    certified = [report.certified.exact for report in reports]
    assert robust == sorted(robust, reverse=True)
    assert certified == sorted(certified, reverse=True, key=lambda share: -1.0 if share is None else share)
    assert certified[-1] == 0


def test_steps_are_told_in_order(tmp_path: Path) -> None:
    net, told = random_net(SIZES, "exact", 3), Told()
    run_audit(subject(net, ReferenceEngine(net), tmp_path), data_of(net), OPTIONS, Shards(progress=told))
    probes = make_probes(net, data_of(net).images, THREAT.levels, OPTIONS.seed).families
    sizes = dict.fromkeys(len(family) for family in probes.values() if len(family) != 80)
    shared = {"conformance": 80, **{f"conformance of {size} probes": size for size in sizes}}
    shared |= {"roundings": 80, **{f"roundings of {size} probes": size for size in sizes}}
    whole = {"determinism": 80, "certificates": 80, "lipschitz": 0, "attacks": 80, "sanity of the attacks": 0}
    expected = {"identity": 0, **shared, **whole}
    assert list(told.steps) == list(expected)
    assert told.steps == {name: (size, size) for name, size in expected.items()}
    assert told.notes == []


def test_images_of_another_shape_are_refused(tmp_path: Path) -> None:
    net = random_net(SIZES, "exact", 3)
    data = TestSet("noise", np.zeros((3, 1, 2, 3), np.uint8), np.zeros(3, np.int64))
    text = (
        "noise has images of (1, 2, 3); the engine expects (1, 1, 6): "
        "choose the data set that the net was trained on"
    )
    with pytest.raises(DatasetError, match=f"^{re.escape(text)}$"):
        run_audit(subject(net, ReferenceEngine(net), tmp_path), data, OPTIONS)


def test_labels_beyond_the_classes_are_refused(tmp_path: Path) -> None:
    net = random_net(SIZES, "exact", 3)
    data = TestSet("noise", np.zeros((3, 1, 1, 6), np.uint8), np.array([0, 1, 5]))
    text = "noise has at least 6 classes; the engine has 5: choose the data set that the net was trained on"
    with pytest.raises(DatasetError, match=f"^{re.escape(text)}$"):
        run_audit(subject(net, ReferenceEngine(net), tmp_path), data, OPTIONS)


def test_an_attack_needs_torch_and_the_rest_does_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    net = random_net(SIZES, "exact", 3)
    for name in [name for name in sys.modules if name.startswith("linfdeploy.verify.attacks")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingExtraError):
        run_audit(subject(net, ReferenceEngine(net), tmp_path), data_of(net), OPTIONS)
    assert audited(net, ReferenceEngine(net), tmp_path, replace(OPTIONS, attack="none")).report.verdict == "pass"


class _Stopping(Told):
    """Is interrupted after so many chunks of the attacks."""

    def __init__(self, chunks: int) -> None:
        super().__init__()
        self._left = chunks

    def advance(self, count: int) -> None:
        super().advance(count)
        self._left -= list(self.steps)[-1] == "attacks"
        if not self._left:
            raise KeyboardInterrupt


def test_an_interrupted_audit_of_a_lying_engine_ends_with_the_same_evidence(tmp_path: Path) -> None:
    net = random_net(SIZES, "exact", 3)
    images = random_images(net, 140, 3)
    data = TestSet("noise", images, ReferenceEngine(net).run(images).argmax(1))
    probes = make_probes(net, images, THREAT.levels, OPTIONS.seed).families
    known = {image.tobytes(): None for family in probes.values() for image in family[:]}

    def run(shards: Shards) -> AuditResult:
        engine = _HonestOnProbes(net, known, np.array([-900, 900, -900, 900, -900], np.float32))
        return run_audit(subject(net, engine, tmp_path), data, OPTIONS, shards)

    whole, told = run(Shards()), Told()
    with pytest.raises(KeyboardInterrupt):
        run(Shards(kept=Kept(tmp_path / "kept"), progress=_Stopping(1)))
    resumed = run(Shards(kept=Kept(tmp_path / "kept"), progress=told))
    assert told.notes == [f"going on from {tmp_path / 'kept'}, which an interrupted audit left"]
    assert replace(resumed.report, created=whole.report.created) == whole.report
    assert {name.split("-")[0] for name in whole.evidence} == {"adversarial.npz", "fall", "stray", "lipschitz.npz"}
    assert resumed.evidence.keys() == whole.evidence.keys()
    for name, arrays in whole.evidence.items():
        assert all(np.array_equal(resumed.evidence[name][key], array) for key, array in arrays.items())
    assert np.array_equal(resumed.pictures["adversarial.png"], whole.pictures["adversarial.png"])
