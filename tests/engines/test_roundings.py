# SPDX-License-Identifier: Apache-2.0
"""Every member of the family computes what its name says, and its intervals hold it."""

from __future__ import annotations

import itertools
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from pixel_nets import random_images, random_net, subnormal_net, with_layer
from small_nets import Round, all_images, rounded_to

from linfdeploy.engines.base import Images
from linfdeploy.engines.reference import Hull, ReferenceEngine, evaluator_of
from linfdeploy.engines.roundings import PER_OP, Flush, Rounding, name_of, roundings_of
from linfdeploy.onnx.pixel_net import PixelNet, Precision

FLOATS: list[Precision] = ["fp32", "fp16"]
FLUSHES: tuple[Flush, ...] = ("never", "inputs", "outputs", "inputs and outputs")


def places(net: PixelNet) -> tuple[Round, Fraction]:
    """The rounding of the net's format, and its smallest normal number."""
    if net.format == np.float16:
        return rounded_to(11, -14), Fraction(1, 2**14)
    return rounded_to(24, -126), Fraction(1, 2**126)


def slow(net: PixelNet, image: Images, rounding: Rounding) -> list[Fraction]:
    """The logits in rationals, one operation after the other, each rounded and flushed as the rounding says."""
    nearest, normal = places(net)
    single = rounded_to(24, -126)

    def flush(value: Fraction, when: str) -> Fraction:
        return Fraction(0) if when in rounding.flush and abs(value) < normal else value

    def result(value: Fraction, rounds: bool) -> Fraction:
        return flush(nearest(value), "outputs") if rounds else single(value)

    def constants(values: object) -> list[Fraction]:
        return [flush(Fraction(float(value)), "inputs") for value in np.asarray(values).ravel()]

    last = len(net.layers) - 1
    x, shift = [Fraction(int(pixel)) for pixel in image.ravel()], [Fraction(0)] * net.inputs
    for index, layer in enumerate(net.layers):
        outputs = []
        for row, bias in zip(layer.weight, constants(layer.bias), strict=True):
            weights = constants(row)
            if rounding.folded:
                fold = nearest if rounding.bias else single
                weights = [fold(w - b) if b else w for w, b in zip(weights, shift, strict=True)]
            rounds = rounding.last_distance if index == last else rounding.distance
            distance = max(abs(result(value - w, rounds)) for value, w in zip(x, weights, strict=True))
            if rounds:
                distance = flush(distance, "inputs")
            if not rounding.folded or index == last:
                rounds = rounding.last_bias if index == last else rounding.bias
                distance = result(distance + bias, rounds)
                if rounds and index < last:
                    distance = flush(distance, "inputs")
            outputs.append(distance)
        x, shift = outputs, constants(layer.bias)
    return [-value for value in x]


def dark_images(net: PixelNet) -> Images:
    """Images of few levels, black first: with tiny weights, only these have tiny distances."""
    images = random_images(net, 6, 0) % 3
    images[:3] = np.minimum(images[:3], 1)
    images[0] = 0
    return images


@pytest.mark.parametrize("sizes", [(2, 3), (3, 4, 2), (2, 3, 3, 2)])
@pytest.mark.parametrize("precision", FLOATS)
@pytest.mark.parametrize("tiny", [False, True])
def test_every_member_rounds_folds_and_flushes_where_it_says(
    sizes: tuple[int, ...], precision: Precision, tiny: bool
) -> None:
    net = subnormal_net(sizes, precision, 3) if tiny else random_net(sizes, precision, 3)
    images = dark_images(net) if tiny else random_images(net, 3, 1)
    for rounding in roundings_of(net):
        found = ReferenceEngine(net, rounding).run(images)
        for image, logits in zip(images, found, strict=True):
            assert [Fraction(float(value)) for value in logits] == slow(net, image, rounding), rounding.name


@pytest.mark.parametrize("precision", FLOATS)
@pytest.mark.parametrize("tiny", [False, True])
def test_every_members_bounds_hold_every_image_of_a_box(precision: Precision, tiny: bool) -> None:
    sizes = (2, 4, 3, 3)
    net = subnormal_net(sizes, precision, 5) if tiny else random_net(sizes, precision, 5)
    images = all_images().reshape(-1, 1, 1, 2)
    boxes = [((0, 0), (2, 3)), ((0, 1), (0, 9)), ((90, 7), (140, 60))]
    for rounding in roundings_of(net):
        engine = ReferenceEngine(net, rounding)
        for low, high in boxes:
            lower, upper = (np.array([[[ends]]], np.uint8) for ends in (low, high))
            lowest, highest = engine.bounds(lower, upper)
            logits = engine.run(images[((images >= lower) & (images <= upper)).all((1, 2, 3))])
            assert (lowest <= logits).all()
            assert (logits <= highest).all()


@pytest.mark.parametrize("precision", FLOATS)
def test_each_way_of_flushing_shows(precision: Precision) -> None:
    told_apart = set()
    for seed in range(12):
        net = subnormal_net((2, 2, 2), precision, seed)
        images = np.concatenate([dark_images(net), random_images(net, 100, 2) % 2])
        found = {
            flush: ReferenceEngine(net, replace(PER_OP, flush=flush)).run(images).tobytes() for flush in FLUSHES
        }
        told_apart |= {pair for pair in itertools.combinations(FLUSHES, 2) if found[pair[0]] != found[pair[1]]}
    assert told_apart == set(itertools.combinations(FLUSHES, 2))


@pytest.mark.parametrize(
    ("net", "count"),
    [
        (random_net((4, 5, 3), "exact", 0), 1),
        (random_net((4, 3), "fp32", 0), 1),
        (random_net((4, 5, 3), "fp32", 0), 2),
        (random_net((4, 5, 3), "fp16", 0), 32),
        (random_net((4, 3), "fp16", 0), 4),
        (subnormal_net((4, 5, 3), "fp32", 0), 5),
        (subnormal_net((4, 5, 3), "fp16", 0), 80),
        (with_layer(random_net((4, 5, 3), "fp16", 0), 0, bias=np.zeros(5, np.float16)), 8),
        (with_layer(random_net((4, 5, 3), "fp32", 0), 0, bias=np.zeros(5, np.float32)), 1),
    ],
    ids=lambda value: value.precision if isinstance(value, PixelNet) else str(value),
)
def test_the_size_of_the_family(net: PixelNet, count: int) -> None:
    family = list(roundings_of(net))
    assert family[0] == PER_OP
    assert len(set(family)) == len({rounding.name for rounding in family}) == len(family) == count


ALL = [
    Rounding(a, b, c, d, folded, flush)
    for a, b, c, d, folded in itertools.product((True, False), repeat=5)
    for flush in FLUSHES
    if not folded or flush == "never"
]


@pytest.mark.parametrize("seed", range(6))
def test_members_that_are_left_out_equal_one_that_is_kept(seed: int) -> None:
    whole = random_net((2, 3, 3), "fp16", seed)
    kinds = {
        "one layer": random_net((2, 4), "fp16", seed),
        "whole numbers": replace(
            whole,
            layers=tuple(
                replace(layer, weight=np.rint(layer.weight / 8), bias=np.rint(layer.bias))
                for layer in whole.layers
            ),
        ),
        "no hidden bias": with_layer(whole, 0, bias=np.zeros(3, np.float16)),
        "no last bias": with_layer(subnormal_net((2, 3, 3), "fp16", seed), 1, bias=np.zeros(3, np.float16)),
        "subnormal, no hidden bias": with_layer(
            subnormal_net((2, 3, 3), "fp16", seed), 0, bias=np.zeros(3, np.float16)
        ),
    }
    images = all_images().reshape(-1, 1, 1, 2)[:: 7 if seed else 3]
    for net in kinds.values():
        kept = {ReferenceEngine(net, rounding).run(images).tobytes() for rounding in roundings_of(net)}
        for rounding in ALL:
            assert ReferenceEngine(net, rounding).run(images).tobytes() in kept


def test_names() -> None:
    assert PER_OP.name == "per-op"
    assert Rounding(False, False, False, False).name == "fp32 held throughout"
    assert Rounding(False, True, True, False).name == "rounds after bias, last distance"
    assert Rounding(folded=True).name == "per-op, hidden biases folded into the next weights"
    assert Rounding(flush="inputs").name == "per-op, subnormal inputs flushed to zero"
    assert name_of(()) is None
    assert name_of((PER_OP,)) == "per-op"
    two = (PER_OP, Rounding(False, False, False, False))
    assert name_of(two) == "one of: per-op; fp32 held throughout"
    assert name_of(two * 4) == f"one of: {'; '.join([PER_OP.name, two[1].name] * 2)}; 4 more"


def test_a_hull_holds_each_member_and_explains_it_alone() -> None:
    net = random_net((3, 6, 4), "fp16", 2)
    roundings = tuple(roundings_of(net))[::5]
    hull = evaluator_of(net, roundings)
    assert isinstance(hull, Hull)
    images = random_images(net, 200, 3)
    lower, upper = images - np.minimum(images, 4), images + np.minimum(255 - images, 4)
    low, high = hull.bounds(lower, upper)
    for rounding in roundings:
        member = ReferenceEngine(net, rounding)
        assert hull.explains(images, member.run(images)).all()
        for inside in (lower, images, upper):
            assert ((low <= member.run(inside)) & (member.run(inside) <= high)).all()
    assert not hull.explains(images, np.nextafter(ReferenceEngine(net).run(images), np.float32(0))).any()
    assert evaluator_of(net, ()) is None
    assert isinstance(evaluator_of(net, roundings[:1]), ReferenceEngine)
