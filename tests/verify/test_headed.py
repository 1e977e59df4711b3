# SPDX-License-Identifier: Apache-2.0
"""Nets with a head: no image of a certified box gets another label, from ONNX Runtime or in float64, and no engine
leaves what its head may compute; one that computes something else does.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import pytest
from heads import random_head
from small_nets import in_runtime, pixel_net, random_images

from linfdeploy.engines.base import Answers, Engine, Images, Logits
from linfdeploy.engines.reference import PER_OP, ReferenceEngine, roundings_of
from linfdeploy.errors import ExportError
from linfdeploy.onnx.mlp_head import MlpHead
from linfdeploy.onnx.passes.ranges import exactness_gap
from linfdeploy.onnx.passes.sort_weights import dyadic_weights
from linfdeploy.onnx.pixel_net import PixelNet, Precision
from linfdeploy.onnx.write import GraphOptions, model_from_net
from linfdeploy.verify.assumptions import assumptions_of
from linfdeploy.verify.certificates import Certifier
from linfdeploy.verify.conformance import check_conformance
from linfdeploy.verify.differences import weight_differences
from linfdeploy.verify.head import REAL, head_bounds, head_gaps
from linfdeploy.verify.headed import HeadedEvaluator, ball_levels
from linfdeploy.verify.lipschitz import NoLipschitzAudit
from linfdeploy.verify.paths import PathFinder
from linfdeploy.verify.probes import make_probes
from linfdeploy.verify.summary import TestSet
from linfdeploy.verify.threat import Threat, box_of
from linfdeploy.verify.vnnlib import InstanceForm, instance_files

Kind: TypeAlias = Precision | Literal["sorted"]
KINDS: tuple[Kind, ...] = ("exact", "fp32", "fp16", "sorted")
LEVELS = 4


def headed(seed: int, kind: Kind = "exact", steep: float = 0.02) -> PixelNet:
    """A small net whose head is as steep as heads are for features in pixels."""
    sizes = (9, 7, 6)
    net = sorting_net(seed, sizes) if kind == "sorted" else pixel_net(seed, kind, sizes=sizes, spread=200.0)
    dtype: Any = np.float16 if kind == "fp16" else np.float32
    head = random_head((6, 5, 3), np.random.default_rng(seed), dtype, "tanh")
    first: Any = (head.weights[0] * dtype(steep)).astype(dtype)
    # Centred, so that tanh is not at its ends.
    centre = first.astype(np.float64) @ -ReferenceEngine(net).run(random_images(8)).mean(0).astype(np.float64)
    return replace(
        net, head=replace(head, weights=(first, head.weights[1]), biases=((-centre).astype(dtype), head.biases[1]))
    )


def sorting_net(seed: int, sizes: tuple[int, ...]) -> PixelNet:
    """An exact net with the weighted sum of the five largest differences in the place of the second maximum."""
    net = pixel_net(seed, "exact", sizes=sizes, spread=200.0, grid=5)
    sort = dyadic_weights(0.7 * 0.3 ** np.arange(5.0), bits=8)
    net = replace(net, layers=(net.layers[0], replace(net.layers[1], sort=sort)))
    assert exactness_gap(net, 5) is None
    return net


def in_float64(net: PixelNet, images: Images) -> npt.NDArray[np.float64]:
    x = images.reshape(len(images), -1).astype(np.float64)
    for layer in net.layers:
        falling = -np.sort(-np.abs(x[:, None] - layer.weight.astype(np.float64)), axis=2)
        x = falling[..., 0] + layer.bias
        if layer.sort is not None:
            steps = 2.0 ** (net.grid or 0)
            x = np.floor(falling[..., : len(layer.sort)] @ layer.sort * steps + 0.5) / steps + layer.bias
    assert net.head is not None
    (w, v), (b, c) = net.head.weights, net.head.biases
    return np.tanh(x @ w.astype(np.float64).T + b) @ v.astype(np.float64).T + c


class Runtime(Engine):
    """ONNX Runtime on the written graph, with or without a fault."""

    def __init__(self, net: PixelNet, change: Any = None) -> None:
        self.input_shape, self.classes, self.versions = net.input_shape, net.classes, {}
        self._model = model_from_net(net, GraphOptions("standard"), {}).SerializeToString()
        self._change = change or (lambda images, logits: logits)

    def _answer(self, images: Images) -> Answers:
        return {"logits": self._change(images, in_runtime(self._model, images)["logits"])}


def attacked(
    net: PixelNet, images: Images, labels: npt.NDArray[np.int64], levels: npt.NDArray[np.int64]
) -> list[Images]:
    """Corners and random points of boxes, and points that climb along the paths of the label and of others."""
    rng, boxes = np.random.default_rng(7), box_of(images, levels)
    corners = [np.where(rng.random(images.shape) < 0.5, *boxes) for _ in range(6)]
    inside = [rng.integers(boxes[0], boxes[1].astype(np.int64) + 1).astype(np.uint8) for _ in range(4)]
    finder, rows, climbed = PathFinder(net), np.arange(len(images)), []
    for other in range(net.classes):
        x = images.copy()
        for _ in range(8):
            paths = finder.find(x)
            flat = x.reshape(len(x), -1)
            for classes, sign in ((labels, -1), (np.full(len(x), other), 1)):
                pixel, up = paths.pixels[rows, classes], sign * paths.rising[rows, classes] > 0
                ends = [end.reshape(len(x), -1)[rows, pixel] for end in boxes]
                flat[rows, pixel] = np.where(up, ends[1], ends[0])
        climbed.append(x)
    return [*corners, *inside, *climbed]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(4))
def test_no_image_of_a_certified_box_gets_another_label(seed: int, kind: Kind) -> None:
    net, images = headed(seed, kind), random_images(60, seed=seed)
    logits = Runtime(net).run(images)
    certifier = Certifier(net, tuple(roundings_of(net))[:3], images, logits)
    radii, flags = certifier.radii, certifier.at(LEVELS)
    assert radii.interval is not None
    assert flags.interval is not None
    assert (flags.interval <= (radii.interval >= LEVELS)).all()
    assert radii.exact is None
    ball = ball_levels(net, images, certifier.labels)
    assert (ball <= radii.interval).all()
    assert [float(radius) for radius in radii.delta] == [level + 2.0**-10 if level >= 0 else 0 for level in ball]
    assert (radii.interval > 0).mean() > 0.2
    sure = radii.interval >= 0
    changed = 0
    for points in attacked(net, images, certifier.labels, np.maximum(radii.interval, 0)):
        for answer in (in_float64(net, points), Runtime(net).run(points)):
            assert (answer.argmax(1) == certifier.labels)[sure].all()
    for points in attacked(net, images, certifier.labels, np.minimum(radii.interval + 60, 255)):
        changed += int((in_float64(net, points).argmax(1) != certifier.labels).sum())
    assert changed, "the attack is too weak to show anything"


@pytest.mark.parametrize("kind", KINDS)
def test_logits_lie_in_the_enclosure_of_points_and_boxes(kind: Kind) -> None:
    net, images = headed(9, kind), random_images(60)
    evaluator, box = HeadedEvaluator(net, [PER_OP]), box_of(images, LEVELS)
    low, high = evaluator.bounds(*box)
    for points in attacked(net, images, np.zeros(60, np.int64), np.full(60, LEVELS)):
        for logits in (ReferenceEngine(net).run(points), Runtime(net).run(points)):
            assert ((low <= logits) & (logits <= high)).all()
            if net.grid is not None:
                assert evaluator.explains(points, logits).all()
    assert not evaluator.explains(images, ReferenceEngine(net).run(images) + np.float32(0.05)).any()


def test_the_real_head_lies_between_its_bounds() -> None:
    net, images = headed(2), random_images(40)
    assert net.head is not None
    features = -ReferenceEngine(net.distances).run(images)
    low, high = head_bounds(net.head, (features, features), REAL)
    exact = in_float64(net, images)
    assert ((low <= exact) & (exact <= high)).all()
    assert (high - low).max() < 1e-9
    gap = head_gaps(net.head, (features, features), exact.argmax(1), REAL)
    ordered = np.sort(exact, 1)
    np.testing.assert_allclose(gap, ordered[:, -1] - ordered[:, -2], 0, 1e-9)


def conformance_of(net: PixelNet, engine: Engine) -> Any:
    return check_conformance(engine, net, make_probes(net, random_images(40), LEVELS, 0))


@pytest.mark.parametrize("kind", KINDS)
def test_an_honest_engine_conforms(kind: Kind) -> None:
    net = headed(3, kind)
    found = conformance_of(net, Runtime(net))
    assert found.violations == ()
    assert all(order.endswith("; head: within enclosure") for order in found.conformance.orders)


def _tf32(net: PixelNet) -> PixelNet:
    assert net.head is not None
    cut = [(weight.view(np.uint32) & np.uint32(0xFFFFE000)).view(np.float32) for weight in net.head.weights]
    return replace(net, head=MlpHead(tuple(cut), net.head.biases, "tanh"))


FAULTS: dict[str, Callable[[Any], Any]] = {
    "another bias": lambda net: replace(
        net, head=replace(net.head, biases=(net.head.biases[0], net.head.biases[1] + np.float32(0.01)))
    ),
    "cut operands": _tf32,
    "another feature": lambda net: replace(
        net, layers=(net.layers[0], replace(net.layers[1], bias=net.layers[1].bias + np.float32(1)))
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("kind", ["exact", "sorted"])
def test_an_engine_of_another_net_does_not(fault: str, kind: Kind) -> None:
    net = headed(3, kind)
    other = FAULTS[fault](net)
    found = conformance_of(net, Runtime(other))
    assert "conformance" in {violation.kind for violation in found.violations}
    assert weight_differences(other, net)
    assert not weight_differences(net, net)


def test_a_faulty_answer_is_named() -> None:
    net = headed(3)

    def swap(images: Images, logits: Logits) -> Logits:
        return np.ascontiguousarray(logits[:, [1, 0, 2]])

    details = [violation.detail for violation in conformance_of(net, Runtime(net, swap)).violations]
    start = (
        "the logits of 40 of the 40 images of probe 'data' lie outside the enclosure of the head, "
        "the first of image 0"
    )
    assert any(detail.startswith(start) for detail in details)


@pytest.mark.parametrize(("size", "kinds"), [(1e-6, set()), (0.05, {"determinism"})])
def test_other_batches_may_sum_in_another_order(size: float, kinds: set[str]) -> None:
    """A batch's own order moves logits within the enclosure; more than that is a fault."""
    net = headed(3)

    def by_batch(images: Images, logits: Logits) -> Logits:
        return logits + np.float32(size) * (len(images) % 2)

    found = conformance_of(net, Runtime(net, by_batch))
    assert {violation.kind for violation in found.violations} == kinds


def test_what_has_no_part_in_a_head() -> None:
    net, images = headed(3), random_images(4)
    audit = NoLipschitzAudit(float("inf"))
    apart = audit.add(images, np.zeros((4, 3), np.float32), images[::-1], np.full((4, 3), 1e6, np.float32))
    assert (apart == -np.inf).all()
    assert audit.result().pairs == 0
    assert not list(audit.violations())
    data = TestSet("random", images, np.zeros(4, np.int64))
    with pytest.raises(ExportError) as refused:
        instance_files(net, data, Threat("pixels", "2/255", Fraction(2, 255)), InstanceForm())
    assert str(refused.value) == (
        "the net has a head, which instances for other verifiers do not hold yet; expected a net of distance "
        "layers alone: certify it with linfdeploy verify"
    )
    told = assumptions_of(Threat("pixels", "2/255", Fraction(2, 255)), "per-op", "fp32")
    assert told["Lipschitz"].startswith("Not tried: ")
    assert "enclosure" in told["Head"]
