# SPDX-License-Identifier: Apache-2.0
"""Random numbers belong to their sample, and are spread as they should be."""

from __future__ import annotations

import math

import numpy as np
import pytest

from linfdeploy.verify.draws import GAMMA, Draws, mixed

EVERY = Draws(3, np.arange(2000))


def test_the_generator_is_splitmix64() -> None:
    # The first outputs of Vigna's splitmix64.c from the state 1234567.
    states = np.uint64(1234567) + np.arange(1, 6, dtype=np.uint64) * GAMMA
    assert mixed(states).tolist() == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]


@pytest.mark.parametrize("rows", [slice(100, 200), np.array([7, 3, 1999]), np.arange(2000) % 3 == 0])
def test_a_sample_draws_the_same_whoever_is_beside_it(rows: slice) -> None:
    assert EVERY.of(rows).normals("start", 9).tolist() == EVERY.normals("start", 9)[rows].tolist()
    assert EVERY.of(rows).bits("x", 4).tolist() == EVERY.bits("x", 4)[rows].tolist()
    # Nor does it matter how much is drawn.
    assert EVERY.bits("x", 9)[:, :4].tolist() == EVERY.bits("x", 4).tolist()


def test_purposes_seeds_and_samples_have_numbers_of_their_own() -> None:
    draws = [EVERY.bits("a", 5), EVERY.bits("b", 5), Draws(4, EVERY.samples).bits("a", 5)]
    assert len(np.unique(np.concatenate(draws))) == 3 * 2000 * 5


def test_uniforms_and_integers_are_level() -> None:
    uniforms = EVERY.uniforms("u", 100)
    assert 0 <= uniforms.min() < uniforms.max() < 1
    whole = EVERY.integers("i", -3, 4, 100)
    for counts, cells in (
        (np.histogram(uniforms, 20, (0, 1))[0], 20),
        (np.unique(whole, return_counts=True)[1], 7),
    ):
        expected = 200_000 / cells
        assert len(counts) == cells
        # Chi squared: six standard deviations above its mean.
        assert ((counts - expected) ** 2 / expected).sum() < cells + 6 * math.sqrt(2 * cells)
    assert (whole.min(), whole.max()) == (-3, 3)


def test_neighbours_and_samples_are_not_correlated() -> None:
    uniforms = EVERY.uniforms("u", 100) - 0.5
    for one, other in ((uniforms[:-1], uniforms[1:]), (uniforms[:, :-1], uniforms[:, 1:])):
        assert abs((one * other).mean() * 12) < 6 / math.sqrt(one.size)


def test_normals_have_the_moments_of_a_normal() -> None:
    normals = EVERY.normals("n", 100)
    for power, moment in ((1, 0.0), (2, 1.0), (3, 0.0), (4, 3.0)):
        assert abs((normals**power).mean() - moment) < 6 * math.sqrt(105 / normals.size)
    assert np.isfinite(normals).all()


def test_images() -> None:
    images = EVERY.images("i", (1, 4, 4))
    assert images.shape == (2000, 1, 4, 4)
    assert images.dtype == np.uint8
    assert len(np.unique(images)) == 256
    zeros, ones = np.zeros_like(images), np.ones_like(images)
    taken = EVERY.one_of("m", zeros, ones)
    assert set(np.unique(taken)) == {0, 1}
    assert abs(taken.mean() - 0.5) < 0.02
