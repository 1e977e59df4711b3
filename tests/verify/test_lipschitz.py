# SPDX-License-Identifier: Apache-2.0
"""Pairs that move further than their images are found, to the last bit."""

from __future__ import annotations

import math

import numpy as np
import pytest
from pixel_nets import random_images, random_net

from linfdeploy.engines.base import Images
from linfdeploy.engines.reference import ReferenceEngine
from linfdeploy.verify.lipschitz import KEPT_RATIOS, LipschitzAudit

ZERO = np.zeros((1, 1, 1, 2), np.uint8)


def image(*pixels: int) -> Images:
    return np.array(pixels, np.uint8).reshape(1, 1, 1, len(pixels))


def logits(*values: float) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    return np.array([values], np.float32)


def test_the_excess_is_the_change_beyond_the_images() -> None:
    audit = LipschitzAudit(0.0)
    audit.add(ZERO, logits(0, 0), image(3, 5), logits(4, -5.5))
    found = audit.result()
    assert (found.pairs, found.max_excess, found.max_ratio, found.ratios) == (1, 0.5, 1.1, (1.1,))
    (violation,) = audit.violations()
    assert violation.kind == "lipschitz"
    assert violation.detail == (
        "two images' logits move 0.5 pixel further than the images; at most 0 is explained by rounding"
    )


def test_pixels_do_not_wrap_around() -> None:
    audit = LipschitzAudit(0.0)
    audit.add(image(255, 0), logits(0, 0), image(0, 0), logits(255, 0))
    assert audit.result().max_excess == 0.0
    assert list(audit.violations()) == []


@pytest.mark.parametrize(("change", "wrong"), [(5.0, False), (np.nextafter(np.float32(5), np.float32(6)), True)])
def test_the_bound_is_sharp(change: float, wrong: bool) -> None:
    audit = LipschitzAudit(0.0)
    audit.add(ZERO, logits(0, 0), image(5, 0), logits(0, change))
    assert bool(list(audit.violations())) == wrong


def test_rounding_explains_what_is_allowed() -> None:
    audit = LipschitzAudit(0.25)
    audit.add(ZERO, logits(0, 0), image(5, 0), logits(0, 5.25))
    assert list(audit.violations()) == []
    audit.add(ZERO, logits(0, 0), image(5, 0), logits(0, 5.5))
    assert len(list(audit.violations())) == 1


def test_equal_images_are_no_pair() -> None:
    audit = LipschitzAudit(0.0)
    audit.add(ZERO, logits(0, 0), ZERO, logits(9, 9))
    assert audit.result().pairs == 0
    assert list(audit.violations()) == []


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_logits_that_are_not_finite_are_a_violation_wherever_they_come(value: float) -> None:
    for order in ((value, 1.0), (1.0, value)):
        audit = LipschitzAudit(0.0)
        for found in order:
            audit.add(ZERO, logits(0, 0), image(5, 0), logits(0, found))
        assert not math.isfinite(audit.result().max_excess)
        assert len(list(audit.violations())) == 1
    audit = LipschitzAudit(0.0)
    audit.add(ZERO, logits(0, np.inf), image(5, 0), logits(0, np.inf))
    assert len(list(audit.violations())) == 1


def test_the_histogram_keeps_a_bounded_number() -> None:
    audit = LipschitzAudit(0.0)
    for _ in range(3):
        others = np.ones((3000, 1, 1, 1), np.uint8)
        audit.add(others * 0, np.zeros((3000, 2), np.float32), others, np.ones((3000, 2), np.float32))
    assert (audit.result().pairs, len(audit.result().ratios)) == (9000, KEPT_RATIOS)


def test_an_exact_net_never_exceeds_and_attains_one() -> None:
    net = random_net((4, 6, 3), "exact", 0)
    engine, audit = ReferenceEngine(net), LipschitzAudit(0.0)
    images = random_images(net, 4000, 0)
    near = np.clip(images.astype(int) + random_images(net, 4000, 1) % 3 - 1, 0, 255).astype(np.uint8)
    audit.add(images, engine.run(images), near, engine.run(near))
    assert list(audit.violations()) == []
    assert audit.result().max_ratio == 1.0


def collected(parts: list[slice], order: list[int]) -> LipschitzAudit:
    """Audits the same pairs in parts, and merges them in an order."""
    net = random_net((4, 6, 3), "exact", 0)
    engine, images, others = ReferenceEngine(net), random_images(net, 400, 0), random_images(net, 400, 1)
    spoiled = engine.run(others)
    spoiled[[70, 250]] += np.array([[900], [1000]], np.float32)
    found = []
    for part in parts:
        audit = LipschitzAudit(0.0, 100)
        rows = np.arange(400)[part]
        audit.add(images[part], engine.run(images[part]), others[part], spoiled[part], rows)
        found.append(audit.arrays(images.shape[1:]))
        assert LipschitzAudit.fits(found[-1], images.shape[1:])
        assert not LipschitzAudit.fits(found[-1], (1, 1, 5))
    whole = LipschitzAudit(0.0, 100)
    whole.merge({name: np.concatenate([found[place][name] for place in order]) for name in found[0]})
    return whole


def test_parts_make_the_figures_of_the_whole_and_show_its_worst_pair() -> None:
    whole = collected([slice(0, 400)], [0])
    parts = [slice(0, 100), slice(100, 260), slice(260, 400)]
    worst = whole.evidence()["lipschitz.npz"]
    assert np.array_equal(worst["image"], random_images(random_net((4, 6, 3), "exact", 0), 400, 0)[250])
    for order in ([0, 1, 2], [2, 1, 0]):
        joined = collected(parts, order)
        assert joined.result() == whole.result()
        assert list(joined.violations()) == list(whole.violations())
        for name, shown in joined.evidence()["lipschitz.npz"].items():
            assert np.array_equal(shown, worst[name])
