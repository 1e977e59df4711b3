# SPDX-License-Identifier: Apache-2.0
"""numpy face of the sorted distance: bits, indices, interval bounds and rounding, for each instruction set."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction

import numpy as np
import oracles
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from oracles import Float32, float32

from linfdeploy.errors import KernelError
from linfdeploy.kernels import _cpu, sort_dist, sort_dist_argtop, sort_dist_bounds
from linfdeploy.kernels.sort_dist import MOST_TERMS

SIZES = [*range(1, 20), 31, 32, 33, 63, 64, 65, 97, 130]


def _case(seed: int, batch: int, outputs: int, inputs: int) -> tuple[Float32, Float32, Float32]:
    rng = np.random.default_rng(seed)
    terms = int(rng.integers(1, min(inputs, MOST_TERMS) + 1))
    x, w = (oracles.awkward_float32(rng, (rows, inputs)) for rows in (batch, outputs))
    return x, w, rng.random(terms).astype(np.float32)


def _assert_same_bits(y: Float32, expected: Float32) -> None:
    np.testing.assert_array_equal(oracles.bits(y), oracles.bits(expected))


@pytest.mark.parametrize("around", [(3, 5), (17, 9)], ids=["few", "more"])
def test_bits_at_every_size(isa: str, around: tuple[int, int]) -> None:
    for size in SIZES:
        x, w, c = _case(size, *around, size)
        _assert_same_bits(sort_dist(x, w, c), oracles.sort_dist(x, w, c))


# Enough rows and outputs for panels, with a rest of both; around blocks, stretches, and where blocks begin to pay.
PANELS = (37, 21)
MANY = [1, 7, 9, 40, 159, 160, 161, 257, 480, 513, 1024, 1025, 2100]


def _weights(inputs: int) -> Iterator[Float32]:
    for terms in (1, 4, 5, 10, 11, 32):
        if terms <= inputs:
            # Sums of the largest numbers stay below infinity.
            yield np.random.default_rng(terms).random(terms).astype(np.float32) / np.float32(terms)


@pytest.mark.parametrize("inputs", MANY)
def test_bits_of_panels(isa: str, inputs: int) -> None:
    rng = np.random.default_rng(inputs)
    wild = [oracles.awkward_float32(rng, (rows, inputs)) for rows in PANELS]
    equal = [rng.integers(-3, 4, (rows, inputs)).astype(np.float32) for rows in PANELS]
    # The largest differences lie side by side, in few blocks, the last of which is not full.
    rising = [np.sort(rng.normal(0, 5, (*PANELS[:1], inputs)).astype(np.float32)), equal[1]]
    for x, w in (wild, equal, rising):
        for c in _weights(inputs):
            _assert_same_bits(sort_dist(x, w, c), oracles.sort_dist(x, w, c))


@pytest.mark.parametrize("inputs", MANY)
def test_bounds_of_panels_are_those_of_single_rows(isa: str, inputs: int) -> None:
    rng = np.random.default_rng(inputs)
    x, w = (rng.normal(0, 20, (rows, inputs)).astype(np.float32) for rows in PANELS)
    lower, upper = x - rng.random(x.shape).astype(np.float32) * 9, x + rng.random(x.shape).astype(np.float32) * 9
    for c in _weights(inputs):
        found = sort_dist_bounds(lower, upper, w, c)
        rows = [sort_dist_bounds(lower[n : n + 1], upper[n : n + 1], w, c) for n in range(len(x))]
        for end, of_rows in zip(found, zip(*rows, strict=True), strict=True):
            _assert_same_bits(end, np.concatenate(of_rows))


@pytest.mark.parametrize("inputs", [9, 300, 1100])
def test_a_nan_touches_its_own_row_alone(isa: str, inputs: int) -> None:
    rng = np.random.default_rng(0)
    x, w = (rng.normal(0, 5, (rows, inputs)).astype(np.float32) for rows in PANELS)
    x[3, ::2], x[30] = np.nan, np.nan
    c = float32(rng.random(9))
    whole = np.isfinite(x).all(1)
    for found in (sort_dist(x, w, c), *sort_dist_bounds(x, x, w, c)):
        _assert_same_bits(found[whole], oracles.sort_dist(x[whole], w, c))


def test_bits_with_several_threads(isa: str) -> None:
    x, w, c = _case(0, 37, 41, 300)
    y = np.full((37, 41), np.nan, np.float32)
    _cpu.sort_dist(x, w, c, 0.0, y, 3)
    _assert_same_bits(y, oracles.sort_dist(x, w, c))


def test_one_term_is_the_l_inf_distance(isa: str) -> None:
    x, w, _ = _case(1, 9, 7, 77)
    _assert_same_bits(sort_dist(x, w, float32([1])), oracles.linf_dist(x, w))


def test_indices_of_ties_come_in_ascending_order(isa: str) -> None:
    rng = np.random.default_rng(2)
    x, w = (rng.integers(-2, 3, (5, 90)).astype(np.float32) for _ in range(2))
    found = sort_dist_argtop(x, w, 12)
    distances = np.abs(x[:, None] - w)
    np.testing.assert_array_equal(found, np.argsort(-distances, axis=2, kind="stable")[:, :, :12])


@given(data=st.data(), grid=st.integers(0, 6), bits=st.integers(1, 7))
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_on_a_grid_the_result_is_the_rounded_real_number(
    isa: str, data: st.DataObject, grid: int, bits: int
) -> None:
    inputs = data.draw(st.integers(1, 36))
    terms = data.draw(st.integers(1, min(inputs, 2**bits, MOST_TERMS)))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    x, w = (rng.integers(-(2**9), 2**9, (3, inputs)).astype(np.float32) / 2**grid for _ in range(2))
    # Any weights that sum to 1, in multiples of 2^-bits.
    cuts = np.sort(rng.integers(0, 2**bits + 1, terms - 1))
    c = np.diff([0, *cuts, 2**bits]).astype(np.float32) / 2**bits
    expected = [[oracles.exact_sort_dist(_exact(a), _exact(b), _exact(c), grid) for b in w] for a in x]
    found = sort_dist(x, w, c, grid)
    assert [[Fraction(float(value)) for value in row] for row in found] == expected


@given(seed=st.integers(0, 2**32), grid=st.none() | st.integers(0, 5))
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_bounds_hold_and_are_attained(isa: str, seed: int, grid: int | None) -> None:
    rng = np.random.default_rng(seed)
    inputs = int(rng.integers(1, 70))
    terms = int(rng.integers(1, min(inputs, 12) + 1))
    x, w = (rng.normal(0, 20, (4, inputs)).astype(np.float32) for _ in range(2))
    lower, upper = x - rng.random(x.shape).astype(np.float32) * 9, x + rng.random(x.shape).astype(np.float32) * 9
    c = float32(rng.random(terms))
    y_lower, y_upper = sort_dist_bounds(lower, upper, w, c, grid)
    for point in (x, lower, upper, np.where(rng.random(x.shape) < 0.5, lower, upper)):
        y = sort_dist(point, w, c, grid)
        assert (y_lower <= y).all()
        assert (y <= y_upper).all()
    for o, row in enumerate(w):
        # The nearest and the farthest point of each box.
        near, far = np.clip(row, lower, upper), np.where(row - lower > upper - row, lower, upper)
        _assert_same_bits(sort_dist(near, w, c, grid)[:, o], y_lower[:, o])
        _assert_same_bits(sort_dist(far, w, c, grid)[:, o], y_upper[:, o])


@given(seed=st.integers(0, 2**32), grid=st.integers(0, 5), steps=st.integers(0, 40))
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_rounded_distance_is_1_lipschitz_at_radii_of_the_grid(
    isa: str, seed: int, grid: int, steps: int
) -> None:
    rng = np.random.default_rng(seed)
    inputs = int(rng.integers(1, 12))
    terms = min(inputs, 4)
    x, w = (rng.integers(-60, 60, (8, inputs)) for _ in range(2))
    # Small numbers, so that halves between two multiples are met often.
    c = float32([5, 2, 1, 0] if terms == 4 else [8, 0, 0][:terms]) / np.float32(8)
    moved = x + rng.integers(-steps, steps + 1, x.shape)
    before, after = (
        sort_dist((v / 2**grid).astype(np.float32), (w / 2**grid).astype(np.float32), c, grid) for v in (x, moved)
    )
    assert np.abs(before - after).max() <= np.abs(x - moved).max() / 2**grid


def test_halves_to_even_would_not_be_1_lipschitz() -> None:
    # Why the rounding is halves upwards: 0.5 to 0 and 1.5 to 2 would move by 2 where x moves by 1.
    x, w, c = float32([[1, 0], [2, 1]]), float32([[0, 0]]), float32([0.5, 0.5])
    assert np.rint(sort_dist(x, w, c)).ravel().tolist() == [0, 2]
    assert sort_dist(x, w, c, 0).ravel().tolist() == [1, 2]


@pytest.mark.parametrize(("terms", "inputs", "most"), [(0, 4, 4), (5, 4, 4), (33, 90, 32)])
def test_weights_that_do_not_fit_are_refused(terms: int, inputs: int, most: int) -> None:
    x = np.zeros((1, inputs), np.float32)
    message = f"sort_dist: c has {terms} weights for {inputs} inputs; expected 1 to {most}"
    with pytest.raises(KernelError) as error:
        sort_dist(x, x, np.zeros(terms, np.float32))
    assert str(error.value) == message


def _exact(values: Float32) -> list[Fraction]:
    return [Fraction(float(value)) for value in values]
