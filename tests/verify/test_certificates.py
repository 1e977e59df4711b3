# SPDX-License-Identifier: Apache-2.0
"""No certificate holds where any image in the box gets another label, or shares the label with another class."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from pixel_nets import GRID, random_images, random_net, with_layer

from linfdeploy.engines.base import Images, Logits
from linfdeploy.engines.reference import PER_OP, ReferenceEngine, Rounding, roundings_of
from linfdeploy.onnx.passes.ranges import exactness_gap, value_ranges
from linfdeploy.onnx.pixel_net import PixelLayer, PixelNet, Precision
from linfdeploy.verify.certificates import (
    Certifier,
    Flags,
    certified_by_interval,
    certified_by_margin,
    exact_margins,
    separated,
)
from linfdeploy.verify.threat import box_of

ALL_ROUNDINGS = list(roundings_of(random_net((2, 3, 3, 3), "fp16", 0)))


def every_image(inputs: int) -> Images:
    """All 256^inputs images."""
    axes = np.meshgrid(*[np.arange(256, dtype=np.uint8)] * inputs, indexing="ij")
    return np.stack([axis.ravel() for axis in axes], 1).reshape(-1, 1, 1, inputs)


def truly_robust(logits: Logits, images: Images, every: Logits, label: int, levels: int) -> Flags:
    """Where all images of the box, read off the table of every image's logits, have the strict winner `label`."""
    inputs = images.shape[-1]
    others = np.delete(every, label, axis=1).max(1)
    wins = (every[:, label] > others).reshape([256] * inputs)
    lower, upper = (ends.reshape(len(images), inputs).astype(int) for ends in box_of(images, levels))
    boxes = [
        wins[tuple(slice(a, b + 1) for a, b in zip(low, high, strict=True))]
        for low, high in zip(lower, upper, strict=True)
    ]
    robust: Flags = np.array([box.all() for box in boxes], bool) & (logits.argmax(1) == label)
    return robust


def check_all_certificates(net: PixelNet, rounding: Rounding, images: Images, every: Images) -> int:
    """Compares with exhaustive search at several radii; returns how many certificates were given."""
    engine = ReferenceEngine(net, rounding)
    table, logits, given = engine.run(every), engine.run(images), 0
    certifier = Certifier(net, rounding, images, logits)
    for levels in (1, 2, 5, 13, 40):
        truth = np.zeros(len(images), bool)
        for label in range(net.classes):
            truth |= truly_robust(logits, images, table, label, levels)
        flags = certifier.at(levels)
        assert not (flags.any & ~truth).any()
        given += int(flags.any.sum())
    return given


@pytest.mark.parametrize("precision", ["exact", "fp32", "fp16"])
@pytest.mark.parametrize("sizes", [(1, 3), (1, 4, 3), (1, 5, 4, 3)])
def test_one_pixel_against_all_256_images(sizes: tuple[int, ...], precision: Precision) -> None:
    given = 0
    for seed in range(12):
        net = random_net(sizes, precision, seed)
        given += check_all_certificates(net, PER_OP, every_image(1), every_image(1))
    assert given > 500


@pytest.mark.parametrize("precision", ["exact", "fp32", "fp16"])
def test_two_pixels_against_all_65536_images(precision: Precision) -> None:
    given = 0
    for seed in range(3):
        net = random_net((2, 5, 3), precision, seed)
        given += check_all_certificates(net, PER_OP, random_images(net, 100, seed), every_image(2))
    assert given > 50


@pytest.mark.parametrize("rounding", ALL_ROUNDINGS, ids=lambda rounding: rounding.name)
def test_every_rounding_of_fp16_against_all_images(rounding: Rounding) -> None:
    net = random_net((1, 4, 3), "fp16", 5)
    assert set(roundings_of(net)) == set(ALL_ROUNDINGS)
    assert check_all_certificates(net, rounding, every_image(1), every_image(1)) > 20


@pytest.mark.parametrize("rounding", ALL_ROUNDINGS, ids=lambda rounding: rounding.name)
def test_intervals_follow_the_engines_own_rounding(rounding: Rounding) -> None:
    net = random_net((1, 4, 3), "fp16", 8)
    images = every_image(1)
    table = ReferenceEngine(net, rounding).run(images)
    evaluator = Certifier(net, rounding, images, table).evaluator
    assert evaluator is not None
    assert isinstance(evaluator, ReferenceEngine)
    assert evaluator.rounding == rounding
    lower, upper = evaluator.bounds(*box_of(images, 6))
    for pixel in range(256):
        box = table[max(pixel - 6, 0) : pixel + 7]
        assert (lower[pixel] <= box.min(0)).all()
        assert (box.max(0) <= upper[pixel]).all()


@pytest.mark.parametrize("precision", ["exact", "fp32", "fp16"])
def test_the_ends_of_a_one_layer_interval_are_attained(precision: Precision) -> None:
    net = random_net((1, 3), precision, 8)
    table = ReferenceEngine(net).run(every_image(1))
    lower, upper = ReferenceEngine(net).bounds(*box_of(every_image(1), 6))
    for pixel in range(256):
        box = table[max(pixel - 6, 0) : pixel + 7]
        # Up: a weight between two pixels is reached by real images only.
        assert lower[pixel].tolist() == box.min(0).tolist()
        assert (upper[pixel] - box.max(0) <= 0.5).all()


@pytest.mark.parametrize("precision", ["exact", "fp32", "fp16"])
@pytest.mark.parametrize("sizes", [(1, 3), (2, 4, 3)])
def test_the_ranges_that_delta_rests_on_hold_and_are_not_idle(
    sizes: tuple[int, ...], precision: Precision
) -> None:
    for seed in range(4):
        net = random_net(sizes, precision, seed)
        x = every_image(sizes[0]).reshape(-1, sizes[0])[:: 1 if sizes[0] == 1 else 97].astype(np.float64)
        for layer, found in zip(net.layers, value_ranges(net), strict=True):
            weight, bias = layer.weight.astype(np.float64), layer.bias.astype(np.float64)
            assert np.abs(x).max() <= found.input
            assert (np.abs(weight).max(), np.abs(bias).max()) == (found.weight, found.bias)
            distance = np.abs(x[:, None] - weight).max(2)
            x = distance + bias
            assert distance.max() <= found.distance <= distance.max() + 120
            assert np.abs(x).max() <= found.output <= np.abs(x).max() + 120
        if len(sizes) == 2:
            first = value_ranges(net)[0]
            assert first.distance == pytest.approx(distance.max(), rel=1e-12)
            assert first.output == pytest.approx(np.abs(x).max(), rel=1e-12)


def test_a_tie_within_reach_is_not_certified_and_one_step_more_is() -> None:
    # d_0 = |x|, d_1 = |x - 4|: at x = 2 both are 2, so from x = 0 two levels reach a tie and one does not.
    weight = np.array([[0], [4]], np.float32)
    net = PixelNet((1, 1, 1), (PixelLayer(weight, np.zeros(2, np.float32)),), GRID)
    image = np.zeros((1, 1, 1, 1), np.uint8)
    certifier = Certifier(net, PER_OP, image, ReferenceEngine(net).run(image))
    for levels, expected in ((1, True), (2, False), (3, False)):
        flags = certifier.at(levels)
        assert flags.exact is not None
        assert flags.interval is not None
        assert (bool(flags.exact[0]), bool(flags.interval[0])) == (expected, expected)
    above = with_layer(net, 0, bias=np.array([0, 2.0**-GRID], np.float32))
    flags = Certifier(above, PER_OP, image, ReferenceEngine(above).run(image)).at(2)
    assert flags.exact is not None
    assert flags.exact[0]
    assert flags.interval is not None
    assert flags.interval[0]


def test_the_half_precision_tie_of_the_theory_is_not_certified() -> None:
    layer = PixelLayer(np.array([[42.53125], [181.875]], np.float16), np.array([0, 1.625], np.float16))
    net, image = PixelNet((1, 1, 1), (layer,), None), np.full((1, 1, 1, 1), 105, np.uint8)
    logits = ReferenceEngine(net).run(image)
    assert logits.tolist() == [[-62.46875, -78.5]]
    assert exact_margins(logits) == [Fraction(513, 32)] > [Fraction(16)]
    tie = ReferenceEngine(net).run(np.full((1, 1, 1, 1), 113, np.uint8))
    assert tie[0, 0] == tie[0, 1]
    assert not Certifier(net, PER_OP, image, logits).at(8).any.any()


@pytest.mark.parametrize("precision", ["exact", "fp32", "fp16"])
def test_equal_logits_are_never_certified(precision: Precision) -> None:
    net = random_net((2, 3, 4), precision, 1)
    row, bias = net.layers[1].weight[:1], net.layers[1].bias[:1]
    tied = with_layer(net, 1, weight=np.repeat(row, 4, 0), bias=np.repeat(bias, 4))
    images = random_images(net, 50, 0)
    certifier = Certifier(tied, PER_OP, images, ReferenceEngine(tied).run(images))
    assert not any(certifier.at(levels).any.any() for levels in (0, 1, 8))


@pytest.mark.parametrize(("precision", "bias"), [("fp32", 1e8), ("fp32", 3e7), ("fp16", 3e4), ("fp16", 2e3)])
@pytest.mark.parametrize("layer", [0, 1])
def test_a_bias_that_absorbs_every_distance_certifies_nothing_wrongly(
    precision: Precision, bias: float, layer: int
) -> None:
    given = 0
    for seed in range(8):
        net = random_net((1, 4, 3), precision, seed)
        rng = np.random.default_rng(seed)
        shifted = (bias + rng.uniform(-40, 40, len(net.layers[layer].bias))).astype(net.format)
        big = with_layer(net, layer, bias=shifted)
        if layer == 0:
            # The next layer looks at the same height, so that what is left of the distances matters.
            big = with_layer(big, 1, weight=(net.layers[1].weight + net.format.type(bias)).astype(net.format))  # type: ignore[union-attr]
        given += check_all_certificates(big, PER_OP, every_image(1), every_image(1))
    assert given >= 0


def test_a_value_that_overflows_within_the_box_takes_delta_away() -> None:
    # At pixel 0 the hidden unit is 65504; 16 levels further fp16 has only infinity, and all logits tie.
    hidden = PixelLayer(np.array([[-65504]], np.float16), np.zeros(1, np.float16))
    last = PixelLayer(np.array([[30000], [10000]], np.float16), np.zeros(2, np.float16))
    net, image = PixelNet((1, 1, 1), (hidden, last), None), np.zeros((1, 1, 1, 1), np.uint8)
    engine = ReferenceEngine(net)
    certifier = Certifier(net, PER_OP, image, engine.run(image))
    assert exact_margins(engine.run(image))[0] > 2 * 16 + 4 * certifier.delta
    assert np.isneginf(engine.run(image + np.uint8(16))).all()
    assert not certifier.at(16).any.any()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_logits_that_are_not_finite_certify_nothing(value: float) -> None:
    logits = np.array([[value, 0, 5], [90, 1, 2]], np.float32)
    assert exact_margins(logits) == [0, 88]
    net, images = random_net((2, 3), "exact", 0), np.zeros((2, 1, 1, 2), np.uint8)
    flags = Certifier(net, None, images, logits).at(0)
    assert flags.interval is None
    assert flags.any.tolist() == [False, True]


def test_margins_are_differences_of_the_floats_themselves() -> None:
    logits = np.array([[16777216.0, 1.5, -3.0], [2.0**-149, 0.0, -1.0], [1.0, 1.0, 0.0]], np.float32)
    assert exact_margins(logits) == [Fraction(33554429, 2), Fraction(1, 2**149), 0]


@pytest.mark.parametrize("levels", [0, 1, 8, 255])
@pytest.mark.parametrize("delta", [Fraction(0), Fraction(1, 3), Fraction(1, 2**60)])
def test_the_margin_must_exceed_two_radii_and_four_deltas(levels: int, delta: Fraction) -> None:
    threshold, little = 2 * levels + 4 * delta, Fraction(1, 10**40)
    margins = [threshold - little, threshold, threshold + little]
    assert certified_by_margin(margins, levels, delta).tolist() == [False, False, True]


def test_separation_is_strict_and_exact() -> None:
    one = np.float32(1)
    up = np.nextafter(one, np.float32(2))
    lower = np.array([[up, 0], [one, 0], [2.0**-149, -9], [0, -9], [-np.inf, -9]], np.float32)
    upper = np.array([[9, one], [9, one], [9, 0], [9, 0], [9, -np.inf]], np.float32)
    assert separated(lower, upper, np.zeros(5, np.int64)).tolist() == [True, False, True, False, False]
    assert separated(lower[:1], upper[:1], np.zeros(1, np.int64), float(up - one)).tolist() == [False]


def test_the_label_is_compared_with_every_other_class() -> None:
    lower = np.array([[5, 0, 0], [0, 5, 0], [0, 0, 5]], np.float32)
    for other in range(3):
        upper = np.full((3, 3), 4, np.float32)
        upper[:, other] = 6
        wanted = [label == other for label in range(3)]
        assert separated(lower, upper, np.arange(3)).tolist() == wanted


def test_intervals_are_no_weaker_than_margins_in_exact_mode() -> None:
    more = 0
    for seed in range(20):
        net = random_net((6, 8, 5), "exact", seed)
        images = random_images(net, 60, seed)
        certifier = Certifier(net, PER_OP, images, ReferenceEngine(net).run(images))
        for levels in (1, 4, 16):
            flags = certifier.at(levels)
            assert flags.exact is not None
            assert flags.interval is not None
            assert not (flags.exact & ~flags.interval).any()
            assert not (flags.delta & ~flags.exact).any()
            more += int((flags.interval & ~flags.exact).sum())
    assert more > 0


@pytest.mark.parametrize("precision", ["exact", "fp32", "fp16"])
def test_a_larger_radius_certifies_no_more(precision: Precision) -> None:
    net = random_net((6, 8, 5), precision, 3)
    images = random_images(net, 100, 3)
    certifier = Certifier(net, PER_OP, images, ReferenceEngine(net).run(images))
    points = [certifier.at(levels) for levels in range(40)]
    for name in ("exact", "interval", "delta"):
        series = [getattr(point, name) for point in points]
        if series[0] is not None:
            assert all(not (larger & ~smaller).any() for smaller, larger in pairwise(series))


def test_exact_applies_to_exact_nets_only_and_intervals_need_a_rounding() -> None:
    images = np.zeros((3, 1, 1, 2), np.uint8)
    for precision in ("exact", "fp32", "fp16"):
        net = random_net((2, 3), precision, 0)
        flags = Certifier(net, None, images, ReferenceEngine(net).run(images)).at(1)
        assert (flags.exact is not None) == (precision == "exact")
        assert flags.interval is None


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    net = random_net((4, 6, 3), "fp32", 0)
    images = random_images(net, 23, 0)
    engine = ReferenceEngine(net)
    labels = engine.run(images).argmax(1)
    whole = certified_by_interval(engine, images, labels, 3)
    monkeypatch.setattr("linfdeploy.verify.certificates.CHUNK", 5)
    assert certified_by_interval(engine, images, labels, 3).tolist() == whole.tolist()


def test_an_exact_net_is_not_exact_off_its_grid() -> None:
    net = random_net((2, 3), "exact", 0)
    weight = net.layers[0].weight.copy()
    weight[0, 0] = np.nextafter(weight[0, 0], np.float32(0))
    assert exactness_gap(with_layer(net, 0, weight=weight), GRID) is not None
    assert replace(net, grid=None).precision == "fp32"


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("seed", range(6))
def test_several_possible_roundings_certify_what_holds_whichever_runs(precision: Precision, seed: int) -> None:
    net = random_net((1, 6, 4), precision, seed)
    images, family = every_image(1), list(roundings_of(net))
    possible = family[:: max(len(family) // 4, 1)]
    tables = [ReferenceEngine(net, rounding).run(images) for rounding in possible]
    # An engine that follows another of them at each image is none of them, and covered all the same.
    which = np.random.default_rng(seed).integers(0, len(tables), len(images))
    mixed = np.stack(tables)[which, np.arange(len(images))]
    certifier = Certifier(net, possible, images, mixed)
    given = 0
    for levels in (1, 3, 8):
        flags = certifier.at(levels)
        assert flags.interval is not None
        assert flags.joint is not None
        truth = np.zeros(len(images), bool)
        for label in range(net.classes):
            truth |= truly_robust(mixed, images, mixed, label, levels)
        assert not ((flags.interval | flags.joint) & ~truth).any()
        alone = [Certifier(net, rounding, images, mixed).at(levels) for rounding in possible]
        for name in ("interval", "joint"):
            each = np.logical_and.reduce([getattr(one, name) for one in alone])
            assert np.array_equal(getattr(flags, name), each)
        given += int(flags.joint.sum())
    assert given > 0
    assert len(possible) > 1


def test_folded_biases_are_certified_by_intervals_and_not_jointly() -> None:
    net = random_net((2, 6, 4, 4), "fp32", 1)
    folded = next(rounding for rounding in roundings_of(net) if rounding.folded)
    images = random_images(net, 300, 0)
    flags = Certifier(net, folded, images, ReferenceEngine(net, folded).run(images)).at(2)
    assert flags.interval is not None
    assert flags.interval.any()
    assert flags.joint is not None
    assert np.array_equal(flags.interval, flags.joint)
