# SPDX-License-Identifier: Apache-2.0
"""The schedules at their ends, between them, and against numpy."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from linfdeploy.training.recipe import Recipe
from linfdeploy.training.schedules import cosine, dials_at, progress, smooth

STEPS = 7
RECIPE = Recipe(
    name="test",
    dataset="digits",
    eps_test=0.1,
    eps_train=0.3,
    hidden=(8,),
    epochs=20,
    batch_size=16,
    lr=0.03,
    p_start=8.0,
    p_end=1000.0,
    p_from_epoch=3,
    p_until_epoch=15,
    lambda_start=0.05,
    lambda_end=0.0002,
    eps_warmup_epochs=2,
)


def test_p_is_constant_then_geometric_then_infinite() -> None:
    found = [dials_at(RECIPE, step, STEPS).p for step in range(20 * STEPS)]
    assert found[: 3 * STEPS + 1] == [8.0] * (3 * STEPS + 1)
    growing = found[3 * STEPS : 15 * STEPS]
    np.testing.assert_allclose(growing, np.geomspace(8, 1000, 12 * STEPS + 1)[:-1], rtol=1e-12)
    assert found[15 * STEPS :] == [math.inf] * (5 * STEPS)


def test_lambda_follows_the_progress_of_p_not_of_the_epochs() -> None:
    for step in range(20 * STEPS):
        dials = dials_at(RECIPE, step, STEPS)
        reached = 1.0 if math.isinf(dials.p) else math.log(dials.p / 8) / math.log(1000 / 8)
        assert dials.weight == pytest.approx(0.05 * (0.0002 / 0.05) ** reached, rel=1e-9)


def test_steps_fall_along_a_cosine() -> None:
    falls = (1 + np.cos(np.pi * np.arange(20 * STEPS) / (20 * STEPS))) / 2
    dials = [dials_at(RECIPE, step, STEPS) for step in range(20 * STEPS)]
    np.testing.assert_allclose(np.array([each.lr for each in dials]), 0.03 * falls, rtol=1e-9)
    np.testing.assert_allclose(np.array([each.scale_lr for each in dials]), 0.006 * falls, rtol=1e-9)
    assert cosine(0, 10) == 1.0
    assert cosine(10, 10) == 0.0


def test_radius_grows_linearly_and_is_never_zero() -> None:
    found = [dials_at(RECIPE, step, STEPS).eps for step in range(3 * STEPS)]
    np.testing.assert_allclose(found, 0.3 * np.minimum(1, np.arange(1, 3 * STEPS + 1) / (2 * STEPS)), rtol=1e-12)
    at_once = replace(RECIPE, eps_warmup_epochs=0)
    assert dials_at(at_once, 0, STEPS).eps == 0.3


def test_the_radius_of_a_loss_that_does_not_divide_by_it_starts_at_zero() -> None:
    hinge = replace(
        RECIPE,
        loss="hinge",
        lambda_start=0.0,
        lambda_end=0.0,
        eps_from_epoch=1,
        eps_warmup_epochs=4,
        eps_smooth=0.0,
    )
    found = [dials_at(hinge, step, STEPS).eps for step in range(6 * STEPS)]
    expected = 0.3 * np.clip((np.arange(6 * STEPS) - STEPS) / (4 * STEPS), 0, 1)
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    assert all(dials_at(hinge, step, STEPS).weight == 0 for step in range(20 * STEPS))


@pytest.mark.parametrize("share", [0.1, 0.4, 0.9])
def test_a_smooth_start_has_no_corner_and_ends_at_one(share: float) -> None:
    grid = np.linspace(0, 1, 10001)
    found = np.array([smooth(each, share) for each in grid])
    assert (found[0], found[-1]) == (0.0, pytest.approx(1.0, abs=1e-15))
    slopes = np.diff(found) * 10000
    assert (slopes > 0).all()
    # The fourth power's second derivative is largest where it ends: 12 k share^2 = 12 / ((4 - 3 share) share).
    assert np.abs(np.diff(slopes)).max() <= 1e-4 * 12 / ((4 - 3 * share) * share)
    straight = slopes[grid[:-1] > share]
    np.testing.assert_allclose(straight, straight[0], rtol=1e-9)
    assert smooth(0.25, 0) == 0.25


def test_steps_stay_until_the_cosine_starts() -> None:
    late = replace(RECIPE, lr_from_epoch=5)
    found = [dials_at(late, step, STEPS).lr for step in range(20 * STEPS)]
    falls = (1 + np.cos(np.pi * np.maximum(np.arange(20 * STEPS) / STEPS - 5, 0) / 15)) / 2
    np.testing.assert_allclose(found, 0.03 * falls, rtol=1e-12)
    assert found[: 5 * STEPS + 1] == [0.03] * (5 * STEPS + 1)


def test_steps_can_drop_in_the_place_of_the_cosine() -> None:
    drops = replace(RECIPE, lr_decay_epochs=(4, 9))
    found = [dials_at(drops, step, STEPS).lr for step in range(20 * STEPS)]
    expected = [0.03] * (4 * STEPS) + [0.03 / 5] * (5 * STEPS) + [0.03 / 25] * (11 * STEPS)
    np.testing.assert_allclose(found, expected, rtol=1e-12)


@pytest.mark.parametrize(("step", "expected"), [(0, 0.0), (4, 0.0), (6, 0.5), (8, 1.0), (99, 1.0)])
def test_progress_is_clamped(step: int, expected: float) -> None:
    assert progress(step, 4, 8) == expected


def test_an_empty_interval_is_over_at_once() -> None:
    assert progress(4, 4, 4) == 1.0
    assert progress(3, 4, 4) == 0.0
    at_infinity = replace(RECIPE, p_from_epoch=0, p_until_epoch=0)
    assert dials_at(at_infinity, 0, STEPS).p == math.inf


def test_whole_norms_below_48() -> None:
    recipe = replace(RECIPE, p_start=8.0, p_end=1000.0, p_from_epoch=1, p_until_epoch=9, epochs=10, p_whole=True)
    found = [dials_at(recipe, step, 100).p for step in range(1000)]
    plain = [dials_at(replace(recipe, p_whole=False), step, 100).p for step in range(1000)]
    assert set(range(8, 48)) <= {p for p in found if p <= 48}
    for p, exact in zip(found, plain, strict=True):
        assert p == (exact if exact >= 48 else pytest.approx(exact, abs=0.5))
        assert p >= 48 or p.is_integer()
    assert not all(p.is_integer() for p in plain if p < 48)
