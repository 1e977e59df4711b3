# SPDX-License-Identifier: Apache-2.0
"""The joint bound of the last layer against every point of the box, exactly and in the engine's arithmetic."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pixel_nets import random_images, random_net

from linfdeploy.engines.reference import PER_OP, ReferenceEngine, Rounding
from linfdeploy.onnx.pixel_net import PixelLayer, PixelNet, Precision
from linfdeploy.verify.certificates import Certifier, gaps
from linfdeploy.verify.joint import JointBound, Pair, sup_of_difference

SMALL = st.integers(-4, 9)


def single(values: Any) -> npt.NDArray[np.float32]:
    return np.array(values, np.float32)


@st.composite
def boxes(draw: st.DrawFn) -> tuple[Any, ...]:
    """Integer rows of three classes, biases, and a box: then the extremes are attained at integers."""
    inputs = draw(st.integers(1, 3))
    rows = [[draw(SMALL) for _ in range(inputs)] for _ in range(3)]
    bias = [draw(SMALL) for _ in range(3)]
    lower = [draw(SMALL) for _ in range(inputs)]
    upper = [low + draw(st.integers(0, 6)) for low in lower]
    return rows, bias, lower, upper


def exact_bound(rows: Any, bias: Any) -> JointBound:
    return JointBound(np.array(rows, np.float64), np.array(bias, np.float64), 0.0, 0.0)


@settings(max_examples=400)
@given(boxes())
def test_the_exact_bound_is_the_extreme_over_the_box(case: tuple[Any, ...]) -> None:
    rows, bias, lower, upper = case
    bound = exact_bound(rows, bias)
    low, high = np.array([lower], np.float64), np.array([upper], np.float64)
    points = np.array(list(product(*(range(a, b + 1) for a, b in zip(lower, upper, strict=True)))))
    distance = np.abs(points[:, None] - np.array(rows)).max(2) + np.array(bias)
    for label, other in product(range(3), repeat=2):
        if label != other:
            weights, biases = bound.weight[[label, other]], bound.bias[[label, other]]
            pair = Pair(weights[:1], biases[:1], weights[1:], biases[1:])
            found = sup_of_difference(low, high, pair)
            assert found.tolist() == [(distance[:, label] - distance[:, other]).max()]


@settings(max_examples=300)
@given(boxes())
def test_exact_gaps_say_whether_the_label_wins_everywhere(case: tuple[Any, ...]) -> None:
    rows, bias, lower, upper = case
    layer = PixelLayer(single(rows), single(bias))
    evaluator = ReferenceEngine(PixelNet((1, 1, len(lower)), (layer,), 0))
    box = single([lower] * 3), single([upper] * 3)
    logits = evaluator.last_bounds(*box)
    labels = np.arange(3)
    points = np.array(list(product(*(range(a, b + 1) for a, b in zip(lower, upper, strict=True)))))
    distance = np.abs(points[:, None] - np.array(rows)).max(2) + np.array(bias)
    wins = [bool((np.delete(distance, label, 1).min(1) > distance[:, label]).all()) for label in labels]
    found = exact_bound(rows, bias).gaps(box, logits, labels) > 0
    assert found.tolist() == wins
    assert (found | ~(gaps(*logits, labels) > 0)).all()


def neighbours(value: float, steps: int, dtype: Any) -> npt.NDArray[Any]:
    """The floats up to `steps` away on either side."""
    down, up = [dtype(value)], [dtype(value)]
    for _ in range(steps):
        down.append(np.nextafter(down[-1], dtype(-np.inf)))
        up.append(np.nextafter(up[-1], dtype(np.inf)))
    return np.array(down[:0:-1] + up)


def planted(rng: np.random.Generator, dtype: Any) -> tuple[JointBound, PixelNet, npt.NDArray[Any]]:
    """A last layer of two inputs, and every float within 20 ulp of a point: class 0 leads by almost nothing."""
    centre = rng.uniform(60, 70, 2)
    weight = (centre + rng.choice([-1, 1], (2, 2)) * rng.uniform(100, 300, (2, 2))).astype(dtype)
    bias = rng.uniform(-8, 8, 2).astype(dtype)
    axes = [neighbours(value, 20, dtype) for value in centre]
    points = np.stack([axis.ravel() for axis in np.meshgrid(*axes, indexing="ij")], 1)
    wide = np.abs(points[:, None].astype(np.float64) - weight).max(2)
    lead = (wide[:, 0] - wide[:, 1]).max()
    # Up to an ulp on either side of the point where the real distances tie.
    target = bias[0].astype(np.float64) + lead
    bias[1] = dtype(target) + dtype(rng.integers(-2, 3)) * np.spacing(dtype(target))
    net = PixelNet((1, 1, 2), (PixelLayer(weight, bias),), None)
    return JointBound.of(net, exact=False), net, points


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_no_point_of_the_box_contradicts_a_gap_and_the_guard_is_needed(dtype: Any) -> None:
    rng, given_, unguarded_false = np.random.default_rng(3), 0, 0
    for _ in range(400):
        bound, net, points = planted(rng, dtype)
        evaluator = ReferenceEngine(net)
        low, high = (single([ends(points, axis=0)]) for ends in (np.min, np.max))
        distance = np.abs(points[:, None] - net.layers[0].weight).max(2) + net.layers[0].bias
        robust = bool((distance[:, 0] < distance[:, 1]).all())
        logits = evaluator.last_bounds(low, high)
        certified = bool((bound.gaps((low, high), logits, np.zeros(1, np.int64)) > 0)[0])
        assert robust or not certified
        given_ += certified
        bare = replace(bound, unit=0.0, flush=0.0)
        hopeful = bool((bare.gaps((low, high), logits, np.zeros(1, np.int64)) > 0)[0])
        unguarded_false += hopeful and not robust
    assert unguarded_false > 10
    assert given_ > 0


@pytest.mark.parametrize("precision", ["exact", "fp32", "fp16"])
def test_the_second_stage_never_takes_a_certificate_away_and_sometimes_gives_one(precision: Precision) -> None:
    more = 0
    for seed in range(12):
        net = random_net((5, 3, 3), precision, seed)
        images = random_images(net, 100, seed)
        certifier = Certifier(net, PER_OP, images, ReferenceEngine(net).run(images))
        for levels in (1, 5, 20, 60):
            flags = certifier.at(levels)
            assert flags.joint is not None
            assert flags.interval is not None
            assert not (flags.interval & ~flags.joint).any()
            more += int((flags.joint & ~flags.interval).sum())
    assert more > 0


def test_a_net_of_one_class_or_one_input_has_a_bound() -> None:
    bound = exact_bound([[3], [9]], [0, 1])
    box = single([[2]]), single([[4]])
    logits = single([[-1, -8]]), single([[0, -6]])
    assert bound.gaps(box, logits, np.array([0])).tolist() == [5.0]
    assert exact_bound([[3]], [0]).gaps(box, (logits[0][:, :1], logits[1][:, :1]), np.array([0])).tolist() == [
        np.inf
    ]


def test_an_infinite_box_has_no_gap() -> None:
    bound = exact_bound([[3], [9]], [0, 1])
    box = single([[2]]), single([[np.inf]])
    logits = single([[-np.inf, -np.inf]]), single([[0, 0]])
    assert bound.gaps(box, logits, np.array([0])).tolist() == [-np.inf]


@pytest.mark.parametrize("places", list(product((True, False), repeat=2)))
def test_the_last_layer_may_round_anywhere(places: tuple[bool, bool]) -> None:
    rng, given_, half = np.random.default_rng(8), 0, np.float16
    for _ in range(300):
        bound, net, points = planted(rng, half)
        box = points.min(0)[None].astype(np.float32), points.max(0)[None].astype(np.float32)
        logits = ReferenceEngine(net, Rounding(True, True, *places)).last_bounds(*box)
        if (bound.gaps(box, logits, np.zeros(1, np.int64)) > 0)[0]:
            last = net.layers[0]
            distance = np.abs(points[:, None].astype(np.float32) - last.weight).max(2)
            distance = (distance.astype(half) if places[0] else distance).astype(np.float32) + last.bias
            distance = distance.astype(half) if places[1] else distance
            assert (distance[:, 0] < distance[:, 1]).all()
            given_ += 1
    assert given_ > 0
