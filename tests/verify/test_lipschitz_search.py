# SPDX-License-Identifier: Apache-2.0
"""Engines that are not 1-Lipschitz are found out by a bounded number of pairs; honest ones are not accused."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
from pixel_nets import random_images, random_net

from linfdeploy.engines.base import Answers, Engine, Images
from linfdeploy.engines.reference import ReferenceEngine
from linfdeploy.onnx.passes.ranges import rounding_error, value_ranges
from linfdeploy.onnx.pixel_net import PixelNet, Precision
from linfdeploy.verify.lipschitz import LipschitzAudit
from linfdeploy.verify.lipschitz_search import SearchPlan, lipschitz_search

NET = random_net((16, 12, 10, 5), "exact", 4)
DATA = random_images(NET, 100, 4)
MAX_PAIRS = 10_000

Distances = npt.NDArray[np.float32]


class Planted(Engine):
    """A net in plain numpy whose layers or logits are spoiled."""

    def __init__(
        self,
        net: PixelNet,
        layer: Callable[[int, Distances], Distances] = lambda _, distances: distances,
        logits: Callable[[Images, Distances], Distances] = lambda _, found: found,
    ) -> None:
        self._net, self._layer, self._logits = net, layer, logits
        self.input_shape, self.classes, self.versions = net.input_shape, net.classes, {}
        self.images = 0

    def _answer(self, images: Images) -> Answers:
        self.images += len(images)
        x = images.reshape(len(images), -1).astype(np.float32)
        for index, layer in enumerate(self._net.layers):
            terms = self._layer(index, np.abs(x[:, None] - layer.weight.astype(np.float32)))
            x = terms.max(2).astype(np.float32) + layer.bias.astype(np.float32)
        return {"logits": self._logits(images, -x)}


def searched(engine: Engine, net: PixelNet = NET, seed: int = 0, allowed: float = 0.0) -> LipschitzAudit:
    audit = LipschitzAudit(allowed)
    lipschitz_search(engine, net, DATA, audit, seed)
    assert audit.result().pairs <= MAX_PAIRS
    return audit


@pytest.mark.parametrize("seed", range(5))
def test_an_exact_engine_attains_the_bound_and_never_exceeds_it(seed: int) -> None:
    audit = searched(ReferenceEngine(NET), seed=seed)
    found = audit.result()
    assert (found.max_excess, found.max_excess_ulp, found.max_ratio) == (0.0, 0.0, 1.0)
    assert list(audit.violations()) == []
    assert audit.evidence() == {}


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_rounding_explains_what_a_float_engine_shows(precision: Precision) -> None:
    net = random_net((16, 12, 10, 5), precision, 4)
    audit = searched(ReferenceEngine(net), net, allowed=float(2 * rounding_error(net, value_ranges(net))))
    assert audit.result().max_excess > 0
    assert audit.result().max_excess_ulp > 0
    assert list(audit.violations()) == []


@pytest.mark.parametrize("index", [0, 1, 2])
def test_a_layer_scaled_by_one_part_in_a_million_is_found(index: int) -> None:
    def scaled(at: int, terms: Distances) -> Distances:
        return terms * np.float32(1 + 2**-20) if at == index else terms

    assert_found(Planted(NET, scaled))


@pytest.mark.parametrize(("layer", "unit", "source"), [(0, 3, 5), (1, 3, 9), (1, 7, 2), (2, 1, 4), (2, 3, 4)])
def test_one_pair_with_a_doubled_slope_is_found(layer: int, unit: int, source: int) -> None:
    # The pair decides a logit of between one random image in 2 and one in 100.
    def doubled(at: int, terms: Distances) -> Distances:
        if at == layer:
            terms[:, unit, source] *= 2
        return terms

    assert_found(Planted(NET, doubled))


def test_a_glitch_that_depends_on_the_data_is_found() -> None:
    # One image in 64 has one logit off by the last bit of the grid.
    def glitch(images: Images, logits: Distances) -> Distances:
        hit = [hashlib.sha256(image.tobytes()).digest()[0] % 64 == 0 for image in images]
        logits[hit, 2] += np.float32(2.0**-12)
        return logits

    assert_found(Planted(NET, logits=glitch))


def test_integers_that_wrap_are_found() -> None:
    assert_found(Planted(NET, logits=lambda _, logits: np.where(logits < -220, logits + 256, logits)))


def assert_found(engine: Planted) -> None:
    for seed in range(3):
        audit = searched(engine, seed=seed)
        (violation,) = audit.violations()
        assert violation.kind == "lipschitz"
        assert audit.result().max_excess_ulp >= 1
        # The saved pair shows it by itself.
        saved = audit.evidence()[str(violation.saved)]
        first, second = (engine.run(saved[name][None]).astype(np.float64) for name in ("image", "other"))
        moved = np.abs(saved["image"].astype(int) - saved["other"]).max()
        assert np.abs(first - second).max() - moved == audit.result().max_excess


def test_engines_that_answer_nan_are_found() -> None:
    spoiled = Planted(
        NET, logits=lambda images, logits: np.where(images.reshape(-1, 16)[:, :1] > 250, np.nan, logits)
    )
    audit = searched(spoiled)
    assert len(list(audit.violations())) == 1
    assert np.isnan(audit.result().max_excess_ulp)
    assert list(audit.evidence()) == ["lipschitz.npz"]


def test_the_search_costs_what_its_plan_says() -> None:
    engine = Planted(NET)
    plan = SearchPlan(bases=6, random=10, neighbours=40, climbers=3, steps=4)
    audit = LipschitzAudit(0.0)
    lipschitz_search(engine, NET, DATA, audit, 0, plan)
    assert engine.images == 6 + 4 * 6 * 5 + 40 + 3 + 2 * 3 * 4
    assert audit.result().pairs <= 10 + 4 * 6 * 5 + 40 + 3 + 3 * 4


def test_the_same_seed_searches_the_same_pairs() -> None:
    first, again, other = (searched(ReferenceEngine(NET), seed=seed).result() for seed in (0, 0, 1))
    assert first == again
    assert first != other
