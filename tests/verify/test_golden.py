# SPDX-License-Identifier: Apache-2.0
"""Golden images: which they are, and that an engine that does not answer them is named."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bundles import bundle_at
from pixel_nets import FaultyEngine, faults, random_images, random_net, with_layer

from linfdeploy.engines.base import Answers, Engine, Images
from linfdeploy.engines.build import OpenedEngine
from linfdeploy.engines.bundle.golden import PROBE, Golden, answer_all
from linfdeploy.engines.bundle.read import read_bundle
from linfdeploy.engines.manifest import Manifest
from linfdeploy.engines.reference import ReferenceEngine, Rounding
from linfdeploy.onnx.pixel_net import PixelNet, Precision
from linfdeploy.onnx.read import read_graph
from linfdeploy.report.json import json_bytes
from linfdeploy.report.model import GoldenFacts
from linfdeploy.verify.audit import AuditOptions, run_audit
from linfdeploy.verify.golden import PROBED_IMAGES, check_golden, golden_images
from linfdeploy.verify.summary import Subject, TestSet
from linfdeploy.verify.threat import Threat, parse_eps

SIZES = (6, 9, 5)


def test_labelled_images_first_then_probes_in_their_boxes() -> None:
    net = random_net(SIZES, "exact", 1)
    data = TestSet("noise", random_images(net, 100, 1), np.arange(100) % 5)
    golden = golden_images(net, data, 7, 3)
    assert golden.data == "noise"
    assert np.array_equal(golden.images[:100], data.images)
    assert np.array_equal(golden.labels[:100], data.labels)
    assert (golden.labels[100:] == PROBE).all()
    assert "data" not in golden.probes
    start = 100
    for name, count in golden.probes.items():
        family, start = golden.images[start : start + count], start + count
        if name.startswith(("box", "one level")):
            assert count == PROBED_IMAGES
            change = np.abs(family.astype(int) - data.images[:count].astype(int))
            assert change.max() == (1 if name == "one level apart" else 7)
        if name == "constant":
            assert sorted(set(family.max((1, 2, 3)).tolist())) == list(range(256))
    assert start == len(golden.images)


def test_the_seed_decides() -> None:
    net = random_net(SIZES, "exact", 1)
    data = TestSet("noise", random_images(net, 10, 1), np.arange(10) % 5)
    first, again, other = (golden_images(net, data, 7, seed).images for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def golden_of(net: PixelNet, *, radius: bool = True) -> Golden:
    images = random_images(net, 300, 4)
    answers = answer_all(ReferenceEngine(net, radius=radius), images)
    return Golden(images, np.zeros(300, np.int64), answers)


@pytest.mark.parametrize("precision", ["exact", "fp32", "fp16"])
@pytest.mark.parametrize("required", [True, False])
def test_the_definition_itself_is_golden(precision: Precision, required: bool) -> None:
    net = random_net(SIZES, precision, 1)
    engine = ReferenceEngine(net, radius=True)
    assert check_golden(engine, net, golden_of(net), required=required) == (GoldenFacts(300, 1.0), ())


@pytest.mark.parametrize("fault", list(faults(random_net(SIZES, "exact", 1))))
def test_a_faulty_engine_is_found(fault: str) -> None:
    net = random_net(SIZES, "exact", 1)
    facts, violations = check_golden(faults(net)[fault][0], net, golden_of(net, radius=False), required=True)
    assert facts.bit_identical < 1
    assert [violation.kind for violation in violations] == ["golden"]


def test_one_bit_is_found_and_where_it_is() -> None:
    net = random_net(SIZES, "exact", 1)
    golden = golden_of(net, radius=False)
    logits = golden.answers["logits"]

    def flip(found: Any, call: int) -> Any:
        # The second batch starts at image 256.
        if call == 2:
            found[10, 3] = np.nextafter(found[10, 3], np.float32(np.inf))
        return found

    facts, (violation,) = check_golden(FaultyEngine(net, flip), net, golden, required=True)
    assert facts.bit_identical == 1 - 1 / logits.size
    assert violation.detail == (
        f"1 of 1500 golden logits differ; first logit 3 of image 266: "
        f"{np.nextafter(logits[266, 3], np.float32(np.inf))} where {logits[266, 3]} is golden"
    )


def test_another_rounding_is_counted_and_allowed_unless_bits_are_required() -> None:
    net = random_net(SIZES, "fp16", 1)
    golden, engine = golden_of(net, radius=False), ReferenceEngine(net, Rounding(False, False, False, False))
    facts, violations = check_golden(engine, net, golden, required=False)
    assert 0 < facts.bit_identical < 1
    assert violations == ()
    facts, (violation,) = check_golden(engine, net, golden, required=True)
    assert " golden logits differ; first logit " in violation.detail


def test_no_rounding_explains_other_weights() -> None:
    net = random_net(SIZES, "fp16", 1)
    other = with_layer(net, 1, bias=net.layers[1].bias + np.float16(50))
    facts, (violation,) = check_golden(ReferenceEngine(other), net, golden_of(net, radius=False), required=False)
    assert facts.bit_identical == 0
    assert "1500 of 1500 golden logits differ by more than the " in violation.detail
    assert " pixel that rounding explains; first logit 0 of image 0: " in violation.detail


class _Spoilt(Engine):
    """The evaluator with other answers."""

    def __init__(self, net: PixelNet, **others: Any) -> None:
        self._inner, self._others = ReferenceEngine(net, radius=True), others
        self.input_shape, self.classes, self.versions = net.input_shape, net.classes, {}

    def _answer(self, images: Images) -> Answers:
        answers = {**self._inner.answer(images)}
        for name, change in self._others.items():
            if change is None:
                del answers[name]
            else:
                answers[name] = change(answers[name])
        return answers


def test_label_and_radius() -> None:
    net = random_net(SIZES, "exact", 1)
    golden = golden_of(net)

    def details(**others: Any) -> list[str]:
        return [found.detail for found in check_golden(_Spoilt(net, **others), net, golden, required=True)[1]]

    assert details(label=lambda label: (label + 1) % 5) == [
        "the output 'label' of 300 of 300 golden images differs"
    ]
    assert details(label=None) == ["the engine has no output 'label'; the bundle's graph has it"]
    wrong = details(radius=lambda radius: radius * np.float32(2))
    assert len(wrong) == 1
    assert wrong[0].startswith("the output 'radius' of ")
    assert details(label=None, radius=None) == [
        "the engine has no output 'label'; the bundle's graph has it",
        "the engine has no output 'radius'; the bundle's graph has it",
    ]


def test_nan_is_found_in_every_precision() -> None:
    net = random_net(SIZES, "fp32", 1)
    engine = FaultyEngine(net, lambda logits, _: logits * np.float32(np.nan))
    for required in (True, False):
        facts, (violation,) = check_golden(engine, net, golden_of(net, radius=False), required=required)
        assert facts.bit_identical == 0
        assert violation.kind == "golden"


def test_another_number_of_classes() -> None:
    net = random_net(SIZES, "exact", 1)
    golden = golden_of(random_net((6, 9, 4), "exact", 1), radius=False)
    facts, (violation,) = check_golden(ReferenceEngine(net), net, golden, required=True)
    assert facts == GoldenFacts(300, 0.0)
    assert violation.detail == "the engine has 5 logits where the bundle has 4"


# --- within an audit


def audited(folder: Path, *, manifest_model: str | None = None, sha256: str = "") -> Any:
    bundle = read_bundle(folder)
    graph = read_graph(bundle.model)
    manifest = None
    if manifest_model:
        fields: dict[str, Any] = dict.fromkeys(Manifest.__dataclass_fields__)
        fields |= {"engine_sha256": graph.sha256, "graph_sha256": graph.sha256, "precision": "exact", "grid": 12}
        fields["model_sha256"] = manifest_model
        manifest = Manifest(**fields)
    if sha256:
        graph = replace(graph, sha256=sha256)
    engine = ReferenceEngine(graph.net, radius=True)
    opened: dict[str, Any] = dict.fromkeys(OpenedEngine.__dataclass_fields__, graph.sha256)
    opened |= {"engine": engine, "graph": graph, "manifest": manifest, "backend": "fake"}
    threat = Threat("pixels", "12px", parse_eps("12px"))
    data = TestSet("noise", bundle.golden.images[:20], bundle.golden.labels[:20])
    subject = Subject(bundle.model, OpenedEngine(**opened), None, bundle)
    return run_audit(subject, data, AuditOptions(threat, "none")).report


def test_an_honest_engine_passes_its_bundle(tmp_path: Path) -> None:
    bundle_at(tmp_path / "b")
    sha256 = read_bundle(tmp_path / "b").model_sha256
    for manifest_model in (None, sha256):
        report = audited(tmp_path / "b", manifest_model=manifest_model)
        assert report.violations == ()
        assert report.conformance.golden == GoldenFacts(873, 1.0)
        json_bytes(report)


def test_an_engine_of_another_model_fails(tmp_path: Path) -> None:
    bundle_at(tmp_path / "b")
    sha256 = read_bundle(tmp_path / "b").model_sha256
    text = f"the engine was built from the model {'1' * 64}; the bundle's is {sha256}"
    by_manifest = audited(tmp_path / "b", manifest_model="1" * 64).violations
    assert [(found.kind, found.detail) for found in by_manifest] == [("golden", text)]
    by_itself = audited(tmp_path / "b", sha256="1" * 64).violations
    assert [(found.kind, found.detail) for found in by_itself] == [("golden", text)]
