# SPDX-License-Identifier: Apache-2.0
"""Which rounding an engine follows is found out bit by bit, and so is an engine that follows none."""

from __future__ import annotations

import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from custom_op_models import WAYS
from hypothesis import given
from hypothesis import strategies as st
from pixel_nets import FaultyEngine, faults, random_images, random_net, with_layer

from linfdeploy.engines.base import Answers, Engine, Images
from linfdeploy.engines.onnxruntime import OnnxRuntimeEngine
from linfdeploy.engines.reference import ReferenceEngine, Rounding, roundings_of
from linfdeploy.onnx.pixel_net import PixelNet, Precision
from linfdeploy.onnx.read import read_graph
from linfdeploy.onnx.write import GraphOptions, model_from_net
from linfdeploy.verify.conformance import (
    ConformanceResult,
    check_conformance,
    ulp_distance,
)
from linfdeploy.verify.determinism import BATCH, run_batched
from linfdeploy.verify.probes import make_probes

LEVELS = 8
FLOATS = st.floats(width=32, allow_nan=False)


def audit(engine: Engine, net: PixelNet, seed: int = 0) -> ConformanceResult:
    return check_conformance(engine, net, make_probes(net, random_images(net, 300, seed), LEVELS, seed))


def ort_engine(net: PixelNet, folder: Path, way: str) -> Engine:
    path = folder / "model.onnx"
    metadata = {"grid": str(net.grid)} if net.grid is not None else {}
    path.write_bytes(model_from_net(net, GraphOptions(), metadata).SerializeToString())
    return OnnxRuntimeEngine(read_graph(path), {"threads": 1, "custom_ops": way})


def rank(value: float) -> int:
    """The number of float32 values between 0 and `value`, with its sign."""
    (word,) = struct.unpack("<I", struct.pack("<f", abs(value)))
    return -int(word) if value < 0 else int(word)


@given(FLOATS, FLOATS)
def test_ulp_distance_counts_the_floats_between(a: float, b: float) -> None:
    found = ulp_distance(np.array([[a]], np.float32), np.array([[b]], np.float32))
    assert found.tolist() == [[abs(rank(a) - rank(b))]]


def test_ulp_distance_over_zero_and_of_neighbours() -> None:
    tiny = np.float32(2.0**-149)
    a = np.array([0.0, -0.0, -tiny, 1.0, -1.0], np.float32)
    b = np.array([-0.0, tiny, tiny, np.nextafter(np.float32(1), np.float32(2)), -1.0], np.float32)
    assert ulp_distance(a, b).tolist() == [0, 1, 2, 1, 0]


@pytest.mark.parametrize("sizes", [(4, 3), (6, 9, 5), (6, 8, 7, 5)])
@pytest.mark.parametrize("precision", ["exact", "fp32", "fp16"])
def test_every_member_of_the_family_is_recognised(sizes: tuple[int, ...], precision: Precision) -> None:
    net = random_net(sizes, precision, 7)
    probes = make_probes(net, random_images(net, 300, 0), LEVELS, 0)
    images = random_images(net, 2000, 9)
    for rounding in roundings_of(net):
        found = check_conformance(FaultyEngine(net, rounding=rounding), net, probes)
        assert found.violations == ()
        assert found.conformance.bit_identical == 1
        assert rounding in found.roundings
        assert found.conformance.orders == tuple(other.name for other in found.roundings)
        for other in found.roundings:
            matched = run_batched(ReferenceEngine(net, other), images)
            assert np.array_equal(matched, run_batched(ReferenceEngine(net, rounding), images))


def test_a_rounding_that_shows_seldom_is_recognised_all_the_same() -> None:
    # Images at 0 leave every operation exact, whatever is rounded: only other probes tell.
    net = random_net((4, 6, 3), "fp16", 2)
    whole = [np.round(layer.weight).astype(np.float16) for layer in net.layers]
    for index, weight in enumerate(whole):
        net = with_layer(net, index, weight=weight, bias=np.round(net.layers[index].bias).astype(np.float16))
    net = with_layer(net, 0, bias=np.array([0.25, 0.5, 0.125, 0.25, 0.0625, 0.03125], np.float16))
    rounding = Rounding(True, False, False, False)
    probes = make_probes(net, np.zeros((300, 1, 1, 4), np.uint8), LEVELS, 0)
    found = check_conformance(FaultyEngine(net, rounding=rounding), net, probes)
    assert found.violations == ()
    assert rounding in found.roundings


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("precision", ["exact", "fp32", "fp16"])
def test_onnx_runtime_is_recognised(precision: Precision, way: str, tmp_path: Path) -> None:
    net = random_net((6, 9, 5), precision, 1)
    found = audit(ort_engine(net, tmp_path, way), net)
    assert found.violations == ()
    assert found.conformance.bit_identical == 1
    assert found.roundings
    # The custom op rounds where the operator's definition says; the function, where ONNX Runtime's plan has it.
    if precision != "fp16" or way == "on":
        assert found.roundings[0].name == "per-op"


@pytest.mark.parametrize("precision", ["exact", "fp32", "fp16"])
def test_one_flipped_bit_in_one_logit_is_seen(precision: Precision) -> None:
    net = random_net((6, 9, 5), precision, 1)

    def flip(logits: npt.NDArray[np.float32], call: int) -> npt.NDArray[np.float32]:
        if call == 1:
            logits.view(np.uint32)[-1, -1] ^= 1
        return logits

    found = audit(FaultyEngine(net, flip), net)
    assert found.roundings == ()
    assert found.conformance.bit_identical < 1
    assert found.conformance.max_ulp == 1
    # It happens in the first run over the data alone, which the later runs contradict.
    kinds = {violation.kind for violation in found.violations}
    assert kinds == {"determinism", *(["conformance"] if precision == "exact" else [])}
    assert not found.conformance.deterministic


def test_zeros_of_either_sign_are_one_value() -> None:
    net = random_net((4, 3), "exact", 0)
    zero = with_layer(net, 0, weight=np.zeros((3, 4), np.float32), bias=np.zeros(3, np.float32))
    found = audit(FaultyEngine(zero, lambda logits, _: np.where(logits == 0, np.float32(0), logits)), zero)
    assert found.violations == ()
    assert found.roundings


def test_two_runs_that_differ_are_reported() -> None:
    net = random_net((4, 6, 3), "fp32", 0)
    probes = make_probes(net, random_images(net, 300, 0), LEVELS, 0)
    batches = sum(-(-len(family) // BATCH) for family in probes.families.values())

    def drift(logits: npt.NDArray[np.float32], call: int) -> npt.NDArray[np.float32]:
        # Later than the probes, and by less than rounding may explain.
        return np.nextafter(logits, np.float32(0)) if call > batches and call % 2 else logits

    found = check_conformance(FaultyEngine(net, drift), net, probes)
    assert {violation.kind for violation in found.violations} == {"determinism"}
    assert found.conformance.deterministic is False


def test_logits_that_depend_on_the_batch_are_reported() -> None:
    net = random_net((4, 6, 3), "fp32", 0)

    def odd(logits: npt.NDArray[np.float32], _: int) -> npt.NDArray[np.float32]:
        return np.nextafter(logits, np.float32(0)) if len(logits) == 7 else logits

    found = audit(FaultyEngine(net, odd), net)
    assert [violation.detail for violation in found.violations] == [
        "batches of 7 give other logits than batches of 256"
    ]


@pytest.mark.parametrize(
    "fault", ["stale bias", "swapped classes", "wrong row", "fp16", "weight bit", "not finite"]
)
def test_a_faulty_engine_is_found_and_its_fault_named(fault: str) -> None:
    net = random_net((6, 9, 5), "exact", 4)
    engine, words = faults(net)[fault]
    found = audit(engine, net)
    assert found.roundings == ()
    conformance = [violation.detail for violation in found.violations if violation.kind == "conformance"]
    assert conformance
    assert all(words in detail for detail in conformance if "data" in detail)


class _WithRadius(Engine):
    """The evaluator with its own label and radius, spoiled by `offset`."""

    def __init__(self, net: PixelNet, output: str) -> None:
        self._inner, self._output = ReferenceEngine(net, radius=True), output
        self.input_shape, self.classes, self.versions = net.input_shape, net.classes, {}

    def _answer(self, images: Images) -> Answers:
        answers: dict[str, Any] = dict(self._inner.answer(images))
        if self._output in answers:
            answers[self._output] = (answers[self._output] + 1).astype(answers[self._output].dtype)
        return answers


@pytest.mark.parametrize("precision", ["exact", "fp32", "fp16"])
def test_outputs_that_do_not_follow_from_the_logits_are_reported(precision: Precision) -> None:
    net = random_net((6, 9, 5), precision, 1)
    assert audit(_WithRadius(net, "none"), net).violations == ()
    for output in ("label", "radius"):
        assert [violation.kind for violation in audit(_WithRadius(net, output), net).violations] == [output]


def test_probes_stay_inside_the_box_and_hold_every_grey() -> None:
    images = np.random.default_rng(0).integers(0, 256, (40, 1, 2, 3), np.uint8)
    net = random_net((6, 4), "exact", 0)
    net = replace(net, input_shape=(1, 2, 3))
    probes = make_probes(net, images, LEVELS, 0).families
    for name in ("data", "box lower end", "box upper end", "box corner"):
        assert int(np.abs(probes[name][:].astype(int) - images).max()) <= LEVELS
    assert {image.max() for image in probes["constant"][:]} == set(range(256))
    assert all(image.max() == image.min() for image in probes["constant"][:])
    again = make_probes(net, images, LEVELS, 0).families
    for name, family in probes.items():
        assert np.array_equal(again[name][:], family[:])
        # Whatever part is asked for, it is that of the whole.
        assert np.array_equal(family[5:30:3], family[:][5:30:3])


def test_histogram_counts_every_logit() -> None:
    net = random_net((6, 9, 5), "fp32", 1)
    found = audit(FaultyEngine(net, lambda logits, _: np.nextafter(logits, np.float32(0))), net)
    assert found.conformance.ulps == {"1": found.conformance.samples * 5}
    assert found.conformance.samples == sum(probe.samples for probe in found.conformance.probes)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_logit_that_is_not_finite_is_a_violation_that_names_the_image(value: float) -> None:
    net = random_net((6, 9, 5), "fp16", 1)
    images = random_images(net, 300, 0)

    def spoil(logits: npt.NDArray[np.float32], call: int) -> npt.NDArray[np.float32]:
        # The data's second batch: each batch of it comes with those of four more families.
        if call == 6:
            logits[7, 3] = value
        return logits

    found = check_conformance(FaultyEngine(net, spoil), net, make_probes(net, images, LEVELS, 0))
    (violation,) = (violation for violation in found.violations if violation.kind == "not finite")
    assert violation.sample == 256 + 7
    assert violation.detail == (
        "1 of the logits of probe 'data' are infinite or NaN, the first of class 3 at image 263"
    )


@pytest.mark.parametrize("same", [True, False])
def test_an_engine_is_built_again_where_it_can_be(same: bool) -> None:
    net = random_net((6, 9, 5), "fp32", 1)
    probes = make_probes(net, random_images(net, 30, 0), LEVELS, 0)
    other = net if same else with_layer(net, 0, bias=net.layers[0].bias + np.float32(1))
    found = check_conformance(ReferenceEngine(net), net, probes, lambda: ReferenceEngine(other))
    assert found.conformance.rebuilt is same
    assert [violation.kind for violation in found.violations] == ([] if same else ["determinism"])
    assert check_conformance(ReferenceEngine(net), net, probes).conformance.rebuilt is None


def test_what_no_order_explains_is_no_violation_in_float_but_leaves_no_order() -> None:
    net = random_net((6, 9, 5), "fp32", 1)
    found = audit(FaultyEngine(net, lambda logits, _: np.nextafter(logits, np.float32(0))), net)
    assert found.violations == ()
    assert (found.roundings, found.conformance.orders) == ((), ())
