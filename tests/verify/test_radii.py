# SPDX-License-Identifier: Apache-2.0
"""Radii against certificates asked level by level, and against exact rationals."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise
from unittest import mock

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pixel_nets import random_images, random_net, with_layer

from linfdeploy.engines.base import Images
from linfdeploy.engines.reference import PER_OP, ReferenceEngine
from linfdeploy.onnx.pixel_net import PixelNet, Precision
from linfdeploy.verify.certificates import Certifier, interval_gaps
from linfdeploy.verify.radii import CertifiedRadii, above, largest_levels, margin_radii

RATIONALS = st.fractions(-600, 600)
PRECISIONS: tuple[Precision, ...] = ("exact", "fp32", "fp16")


def certifier_of(net: PixelNet, images: Images) -> Certifier:
    return Certifier(net, PER_OP, images, ReferenceEngine(net).run(images))


@given(st.lists(RATIONALS, max_size=4), st.fractions(0, 3), st.integers(0, 255))
def test_a_margin_radius_exceeds_a_level_exactly_where_the_margin_exceeds_the_threshold(
    margins: list[Fraction], delta: Fraction, level: int
) -> None:
    for margin, radius in zip(margins, margin_radii(margins, delta), strict=True):
        assert (radius > level) == (margin > 2 * level + 4 * delta)
        assert (above(radius) >= level) == (radius > level)
        assert radius >= 0


@pytest.mark.parametrize(("radius", "whole"), [("0", -1), ("1/9", 0), ("1", 0), ("17/2", 8), ("8", 7)])
def test_a_whole_radius_is_not_reached(radius: str, whole: int) -> None:
    assert above(Fraction(radius)) == whole


@settings(max_examples=300)
@given(st.data())
def test_the_search_finds_the_last_level_of_any_falling_gap(data: st.DataObject) -> None:
    samples = data.draw(st.integers(1, 4))
    falls = data.draw(st.lists(st.lists(st.integers(0, 6), min_size=255, max_size=255), min_size=4, max_size=4))
    heads = data.draw(st.lists(st.integers(-2, 700), min_size=samples, max_size=samples))
    curves = np.stack([head - np.cumsum([0, *fall]) for head, fall in zip(heads, falls, strict=False)])
    truth = (curves > 0).sum(1) - 1
    known = np.array([data.draw(st.integers(-1, max(int(level), -1))) for level in truth])
    calls = []

    def gaps(indices: npt.NDArray[np.int64], levels: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        calls.append(len(indices))
        return curves[indices, levels].astype(np.float64)

    assert largest_levels(gaps, curves[:, 0].astype(np.float64), known).tolist() == truth.tolist()
    assert len(calls) <= 24


def test_infinite_gaps_are_bracketed_too() -> None:
    limit = np.array([0, 7, 254, 255])

    def gaps(indices: npt.NDArray[np.int64], levels: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        return np.where(levels <= limit[indices], np.inf, -np.inf)

    margins = np.array([1.0, np.inf, 3e38, 5.0])
    assert largest_levels(gaps, margins, np.full(4, -1)).tolist() == limit.tolist()


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("sizes", [(1, 3), (6, 8, 5), (4, 5, 5, 3)])
def test_radii_are_what_every_single_level_says(sizes: tuple[int, ...], precision: Precision) -> None:
    net = random_net(sizes, precision, 4)
    images = random_images(net, 60, 4)
    # Dark and bright ones, whose boxes are clipped.
    images[::3] = np.where(images[::3] > 127, 255, 0).astype(np.uint8)
    certifier = certifier_of(net, images)
    levels = range(256)
    points = [certifier.at(level) for level in levels]
    for name in ("exact", "interval", "joint", "delta"):
        expected = [getattr(point, name) for point in points]
        found = certifier.radii.curve(name, levels)
        if found is None:
            assert expected == [None] * 256
        else:
            assert np.array_equal(found, np.stack(expected))


@pytest.mark.parametrize("precision", PRECISIONS)
def test_gaps_never_rise_with_the_level(precision: Precision) -> None:
    for seed in range(6):
        net = random_net((5, 7, 6, 4), precision, seed)
        images = random_images(net, 40, seed)
        labels = ReferenceEngine(net).run(images).argmax(1)
        series = [interval_gaps(ReferenceEngine(net), images, labels, np.full(40, k)) for k in range(0, 256, 5)]
        assert all((wide <= narrow).all() for narrow, wide in pairwise(series))


def test_exact_radii_are_exact() -> None:
    net = random_net((6, 8, 5), "exact", 1)
    images = random_images(net, 50, 1)
    certifier = certifier_of(net, images)
    assert certifier.radii.exact is not None
    for image, radius in zip(images.reshape(50, -1).tolist(), certifier.radii.exact, strict=True):
        x = [Fraction(pixel) for pixel in image]
        for layer in net.layers:
            x = [
                max(abs(a - Fraction(w)) for a, w in zip(x, row, strict=True)) + Fraction(b)
                for row, b in zip(layer.weight.tolist(), layer.bias.tolist(), strict=True)
            ]
        first, second = sorted(x)[:2]
        assert radius == (second - first) / 2


def test_most_samples_take_few_passes() -> None:
    net = random_net((20, 16, 16, 5), "exact", 1)
    images = random_images(net, 200, 2)
    certifier = certifier_of(net, images)
    evaluator = certifier.evaluator
    assert evaluator is not None
    with mock.patch.object(evaluator, "bounds", wraps=evaluator.bounds) as bounds:
        assert certifier.radii.interval is not None
    assert sum(len(call.args[0]) for call in bounds.call_args_list) <= 3 * len(images)


def test_ties_have_no_radius() -> None:
    net = random_net((2, 3, 4), "exact", 1)
    row, bias = net.layers[1].weight[:1], net.layers[1].bias[:1]
    tied = with_layer(net, 1, weight=np.repeat(row, 4, 0), bias=np.repeat(bias, 4))
    radii = certifier_of(tied, random_images(net, 20, 0)).radii
    assert radii.interval is not None
    assert (radii.exact, radii.delta) == ([Fraction(0)] * 20, [Fraction(0)] * 20)
    assert radii.interval.tolist() == [-1] * 20
    assert not any(radii.curve(name, range(3)).any() for name in ("exact", "delta", "interval", "joint"))  # type: ignore[union-attr]


def test_a_certificate_that_does_not_apply_has_no_curve() -> None:
    radii = CertifiedRadii(None, [Fraction(1)], None, None)
    assert (radii.curve("exact", [0]), radii.curve("interval", [0])) == (None, None)
    assert radii.curve("delta", [0, 1]) is not None
    assert radii.curve("delta", [0, 1]).tolist() == [[True], [False]]  # type: ignore[union-attr]
