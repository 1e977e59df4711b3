# SPDX-License-Identifier: Apache-2.0
"""Probes show what they are made to show: weights, one by one, and orders of operation, two by two."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
import pytest
from pixel_nets import random_images, random_net, subnormal_net, with_layer

from linfdeploy.engines.base import Images
from linfdeploy.engines.reference import ReferenceEngine, Rounding
from linfdeploy.engines.roundings import roundings_of
from linfdeploy.onnx.pixel_net import PixelNet, Precision
from linfdeploy.verify.coverage import Coverage
from linfdeploy.verify.probes import ORDER, WEIGHTS, make_probes, separating_images


def pairs_told_apart(net: PixelNet, images: Images) -> set[tuple[Rounding, Rounding]]:
    found = {rounding: ReferenceEngine(net, rounding).run(images) for rounding in roundings_of(net)}
    return {
        (first, second)
        for first, second in itertools.combinations(found, 2)
        if not np.array_equal(found[first], found[second])
    }


NETS = {
    **{
        f"{kind.__name__} {precision} {sizes} {seed}": kind(sizes, precision, seed)
        for kind in (random_net, subnormal_net)
        for precision in ("fp32", "fp16")
        for sizes in ((2, 3, 2), (6, 9, 5), (5, 8, 7, 4))
        for seed in range(3)
    },
    "exact": random_net((6, 9, 5), "exact", 0),
}


@pytest.mark.parametrize("name", NETS)
def test_the_probes_tell_apart_whatever_random_images_tell_apart(name: str) -> None:
    net = NETS[name]
    probes = make_probes(net, random_images(net, 8, 1), 4, 0).families
    brute = np.concatenate(
        [random_images(net, 3000, 2), random_images(net, 3000, 3) % 2, np.zeros_like(random_images(net, 1, 0))]
    )
    differ = pairs_told_apart(net, brute)
    assert differ or net.precision == "exact" or name.startswith("subnormal")
    assert differ <= pairs_told_apart(net, np.concatenate([family[:] for family in probes.values()]))


def test_the_probes_that_tell_orders_apart_are_few_and_suffice_alone() -> None:
    net = random_net((6, 9, 5), "fp16", 0)
    family = tuple(roundings_of(net))
    pool = random_images(net, 400, 0)
    images = separating_images(net, family, [pool])
    assert 0 < len(images) < len(family)
    assert pairs_told_apart(net, images) == pairs_told_apart(net, pool)


def test_pools_are_not_asked_for_once_nothing_is_alike() -> None:
    net = random_net((6, 9, 5), "fp32", 0)

    def pools() -> Iterator[Images]:
        yield random_images(net, 200, 0)
        pytest.fail("asked for another pool")

    assert len(separating_images(net, tuple(roundings_of(net)), pools())) == 1


def changed(net: PixelNet, layer: int, output: int, column: int) -> PixelNet:
    """The net with one weight moved by a grid step."""
    weight = net.layers[layer].weight.copy()
    weight[output, column] += 2.0**-12
    return with_layer(net, layer, weight=weight)


def test_a_weight_is_reached_exactly_where_its_smallest_change_shows() -> None:
    net = random_net((4, 6, 5, 3), "exact", 1)
    images = random_images(net, 40, 0)
    coverage = Coverage(net)
    coverage.add(images)
    expected = ReferenceEngine(net).run(images)
    for layer, counts in enumerate(coverage.layers):
        outputs, inputs = net.layers[layer].weight.shape
        showing = {
            (output, column)
            for output, column in itertools.product(range(outputs), range(inputs))
            if not np.array_equal(ReferenceEngine(changed(net, layer, output, column)).run(images), expected)
        }
        unreached = {tuple(pair) for pair in coverage.unreached(layer).tolist()}
        assert counts.weights == outputs * inputs
        assert counts.reaching == len(showing) <= counts.attaining <= counts.weights
        assert showing | unreached == set(itertools.product(range(outputs), range(inputs)))


def test_images_are_fresh_when_they_reach_a_weight_first() -> None:
    net = random_net((4, 6, 3), "exact", 1)
    images = random_images(net, 30, 0)
    coverage = Coverage(net)
    assert coverage.add(images[:1]).tolist() == [True]
    assert coverage.add(images[:1]).tolist() == [False]
    before = coverage.layers
    fresh = coverage.add(images)
    assert not fresh[0]
    assert fresh.any()
    alone = Coverage(net)
    alone.add(images[:1])
    alone.add(images[fresh])
    reached = [[layer.reaching for layer in each.layers] for each in (alone, coverage)]
    assert reached[0] == reached[1]
    assert before != coverage.layers
    assert coverage.images == 32


@pytest.mark.parametrize("precision", ["exact", "fp32", "fp16"])
def test_probes_made_for_the_weights_reach_more_than_all_others(precision: Precision) -> None:
    net = random_net((16, 24, 12, 5), precision, 0)
    probes = make_probes(net, random_images(net, 50, 0), 8, 0)
    without = Coverage(net)
    for name, family in probes.families.items():
        if name not in (WEIGHTS, ORDER):
            without.add(family[:])
    for all_of_them, others in zip(probes.coverage, without.layers, strict=True):
        assert all_of_them.reaching > 1.2 * others.reaching
    assert len(probes.families[WEIGHTS]) > 50


def test_an_exact_net_needs_no_probes_of_order() -> None:
    net = random_net((6, 9, 5), "exact", 0)
    assert ORDER not in make_probes(net, random_images(net, 5, 0), 8, 0).families
