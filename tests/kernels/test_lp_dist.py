# SPDX-License-Identifier: Apache-2.0
"""numpy face of the l_p distance, and its gradient kernel, against float64."""

from __future__ import annotations

import re

import numpy as np
import numpy.typing as npt
import oracles
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from oracles import Float32, float32

from linfdeploy.errors import KernelError
from linfdeploy.kernels import _cpu, linf_dist, lp_dist
from linfdeploy.kernels.checks import KEPT_BITS

POWERS = [1.0, 1.5, 2.0, 3.0, 7.3, 8.0, 13.0, 30.5, 39.0, 40.0, 100.0, 100.3, 1000.0, 1000.7]
SIZES = [(3, 5, inputs) for inputs in range(1, 71)] + [(batch, 70 - batch, 19) for batch in (1, 2, 17, 69)]
FORWARD_ERROR = 2e-6
GRADIENT_ERROR = 1e-5
# Beside the row's largest gradient, less than the rounding of a term.
NOT_NEGLIGIBLE = 2.0**-20


def _pair(seed: int, batch: int, outputs: int, inputs: int, scale: float = 1.0) -> tuple[Float32, Float32]:
    """Normal numbers on a grid of 2^-16: their differences are floats, so that only what follows is judged."""
    rng = np.random.default_rng(seed)
    x = np.round(rng.standard_normal((batch, inputs)) * 2**16)
    w = np.round(rng.standard_normal((outputs, inputs)) * 2**16)
    # Exact hits make terms of zero.
    w[0, rng.random(inputs) < 0.3] = 0.0
    x[0] = np.where(rng.random(inputs) < 0.3, w[0], x[0])
    return (x * scale / 2**16).astype(np.float32), (w * scale / 2**16).astype(np.float32)


def _forward(
    x: Float32, w: Float32, p: float, threads: int = 2, kept_bits: float = KEPT_BITS
) -> tuple[Float32, Float32, Float32]:
    y, largest, powers = (np.full((len(x), len(w)), np.nan, np.float32) for _ in range(3))
    _cpu.lp_dist(x, w, p, y, largest, powers, threads, kept_bits)
    return y, largest, powers


def _grads(
    x: Float32, w: Float32, p: float, grad_y: Float32, threads: int = 2, kept_bits: float = KEPT_BITS
) -> tuple[Float32, Float32]:
    grad_x, grad_w = np.full_like(x, np.nan), np.full_like(w, np.nan)
    _cpu.lp_dist_backward(
        x, w, p, *_forward(x, w, p, 1, kept_bits)[1:], grad_y, grad_x, grad_w, threads, kept_bits
    )
    return grad_x, grad_w


def _assert_gradient(found: Float32, expected: npt.NDArray[np.float64]) -> None:
    """Compares relative to the largest entry of each row."""
    allowed = GRADIENT_ERROR * np.abs(expected).max(1, keepdims=True) + 1e-30
    assert (np.abs(found - expected) <= allowed).all(), np.abs((found - expected) / allowed).max()


@pytest.mark.parametrize("p", POWERS)
def test_forward_at_every_size(isa: str, p: float) -> None:
    for seed, sizes in enumerate(SIZES):
        x, w = _pair(seed, *sizes)
        np.testing.assert_allclose(lp_dist(x, w, p), oracles.lp_dist_float64(x, w, p), FORWARD_ERROR, 0)


@pytest.mark.parametrize("p", POWERS)
def test_gradients_at_every_size(isa: str, p: float) -> None:
    for seed, (batch, outputs, inputs) in enumerate(SIZES[::3] + SIZES[-4:]):
        x, w = _pair(seed, batch, outputs, inputs)
        grad_y = np.random.default_rng(seed).standard_normal((batch, outputs)).astype(np.float32)
        for found, expected in zip(_grads(x, w, p, grad_y), oracles.lp_dist_grads(x, w, p, grad_y), strict=True):
            _assert_gradient(found, expected)


@pytest.mark.parametrize("p", POWERS)
def test_wide_layers(p: float) -> None:
    x, w = _pair(1, 20, 19, 3072)
    np.testing.assert_allclose(lp_dist(x, w, p), oracles.lp_dist_float64(x, w, p), FORWARD_ERROR, 0)
    grad_y = np.random.default_rng(2).standard_normal((20, 19)).astype(np.float32)
    for found, expected in zip(_grads(x, w, p, grad_y), oracles.lp_dist_grads(x, w, p, grad_y), strict=True):
        _assert_gradient(found, expected)


@pytest.mark.parametrize("p", POWERS)
@pytest.mark.parametrize("scale", [2.0**-86, 2.0**-40, 2.0**40, 2.0**86])
def test_scale_costs_no_accuracy(isa: str, p: float, scale: float) -> None:
    x, w = _pair(3, 5, 6, 37, scale)
    np.testing.assert_allclose(lp_dist(x, w, p), oracles.lp_dist_float64(x, w, p), FORWARD_ERROR, 0)
    grad_y = np.ones((5, 6), np.float32)
    for found, expected in zip(_grads(x, w, p, grad_y), oracles.lp_dist_grads(x, w, p, grad_y), strict=True):
        _assert_gradient(found, expected)


@pytest.mark.parametrize("p", POWERS)
@pytest.mark.parametrize("sizes", [(9, 21, 45), (3, 11, 1100), (29, 18, 1100)])
def test_variants_agree_bit_for_bit(p: float, sizes: tuple[int, int, int]) -> None:
    x, w = _pair(4, *sizes)
    grad_y = np.random.default_rng(4).standard_normal(sizes[:2]).astype(np.float32)
    before, results = _cpu.active(), []
    try:
        for isa in _cpu.available():
            _cpu.use(isa)
            results.append([oracles.bits(y).tolist() for y in (*_forward(x, w, p), *_grads(x, w, p, grad_y))])
    finally:
        _cpu.use(before)
    assert all(result == results[0] for result in results)


@pytest.mark.parametrize("p", [1.0, 7.3, 1000.7])
@pytest.mark.parametrize("outputs", [1, 7, 8, 9, 33])
def test_threads_do_not_change_bits(isa: str, p: float, outputs: int) -> None:
    # Up to a million terms: a kernel does not share less than 2^17 with another thread.
    x, w = _pair(5, 33, outputs, 997)
    grad_y = np.random.default_rng(5).standard_normal((33, outputs)).astype(np.float32)
    results = [[*_forward(x, w, p, threads), *_grads(x, w, p, grad_y, threads)] for threads in (1, 2, 3, 16)]
    for result in results[1:]:
        for found, expected in zip(result, results[0], strict=True):
            np.testing.assert_array_equal(oracles.bits(found), oracles.bits(expected))


@pytest.mark.parametrize("p", POWERS)
def test_equal_rows_have_distance_and_gradient_zero(isa: str, p: float) -> None:
    x = np.random.default_rng(6).standard_normal((3, 20)).astype(np.float32)
    y = lp_dist(x, x, p)
    assert oracles.bits(np.diag(y)).tolist() == [0, 0, 0]
    assert np.isfinite(y).all()
    only_equal = np.eye(3, dtype=np.float32)
    for gradient in _grads(x, x, p, only_equal):
        assert not gradient.any()


@pytest.mark.parametrize("p", POWERS)
def test_lies_between_linf_and_l1(isa: str, p: float) -> None:
    x, w = _pair(7, 8, 9, 50)
    y = lp_dist(x, w, p)
    assert (y >= linf_dist(x, w)).all()
    assert (y <= oracles.lp_dist_float64(x, w, 1.0) * (1 + FORWARD_ERROR)).all()


@pytest.mark.parametrize("p", [1e6, 1e10, 1e38, 1e300, float(np.finfo(np.float64).max)])
def test_huge_p_is_the_largest_term(isa: str, p: float) -> None:
    x, w = float32([[3.0, 1.0, -2.0], [0.0, 0.0, 0.5]]), np.zeros((1, 3), np.float32)
    np.testing.assert_array_equal(lp_dist(x, w, p), linf_dist(x, w))
    gradient = _grads(x, w, min(p, 1e38), np.ones((2, 1), np.float32))[0]
    np.testing.assert_allclose(gradient, float32([[1, 0, 0], [0, 0, 1]]), 0, 2.0**-90)


@pytest.mark.parametrize("p", [1e4, 1e6, 1e10, 1e38])
def test_huge_p_keeps_gradients_bounded(isa: str, p: float) -> None:
    # Ties and near ties: however y is rounded, it is no less than its largest term.
    x = float32([[1.0, 1.0, -1.0, np.nextafter(np.float32(1), np.float32(0))]])
    for gradient in _grads(x, np.zeros_like(x), p, np.ones((1, 1), np.float32)):
        assert (np.abs(gradient) <= 1).all()


@pytest.mark.parametrize("p", POWERS)
@pytest.mark.parametrize("magnitude", [2.0**-149, 1e-40, 1e-30, 2e38, np.inf])
def test_outside_the_range_it_is_the_largest_term(isa: str, p: float, magnitude: float) -> None:
    x = float32([[magnitude, 0.0, magnitude / 2, 0.0]])
    w = np.zeros((1, 4), np.float32)
    np.testing.assert_array_equal(lp_dist(x, w, p), x[:, :1])
    for gradient in _grads(x, w, p, np.ones((1, 1), np.float32)):
        assert not gradient.any()


@pytest.mark.parametrize(("batch", "outputs"), [(0, 3), (3, 0), (0, 0)])
def test_empty(isa: str, batch: int, outputs: int) -> None:
    x, w = np.ones((batch, 5), np.float32), np.zeros((outputs, 5), np.float32)
    assert lp_dist(x, w, 3.0).shape == (batch, outputs)
    grad_x, grad_w = _grads(x, w, 3.0, np.ones((batch, outputs), np.float32))
    assert not grad_x.any()
    assert not grad_w.any()


def test_reads_strided_and_read_only_arrays(isa: str) -> None:
    x, w = _pair(8, 10, 8, 30)
    x.flags.writeable = w.flags.writeable = False
    y = lp_dist(x[::2], w[:, ::-1], 7.3)
    np.testing.assert_array_equal(y, lp_dist(x[::2].copy(), w[:, ::-1].copy(), 7.3))
    np.testing.assert_allclose(y, oracles.lp_dist_float64(x[::2], w[:, ::-1], 7.3), FORWARD_ERROR, 0)


@pytest.mark.parametrize("p", POWERS)
def test_single_gradients_that_count_are_accurate(isa: str, p: float) -> None:
    # One pair: no other output's gradient hides an entry's error.
    for seed in range(20):
        x, w = _pair(seed, 1, 1, 333)
        found = _grads(x, w, p, np.ones((1, 1), np.float32))[0]
        expected = oracles.lp_dist_grads(x, w, p, np.ones((1, 1), np.float32))[0]
        counts = np.abs(expected) > NOT_NEGLIGIBLE
        np.testing.assert_allclose(found[counts], expected[counts], GRADIENT_ERROR, 0)
        assert (np.abs(found[~counts]) <= 2 * NOT_NEGLIGIBLE).all()


@pytest.mark.parametrize("p", POWERS)
def test_one_gradient_alone_has_the_same_bits(isa: str, p: float) -> None:
    x, w = _pair(9, 7, 11, 530)
    grad_y = np.random.default_rng(9).standard_normal((7, 11)).astype(np.float32)
    grad_y[2, 3] = 0.0
    both, (_, largest, powers) = _grads(x, w, p, grad_y), _forward(x, w, p)
    grad_x, grad_w = np.full_like(x, np.nan), np.full_like(w, np.nan)
    _cpu.lp_dist_backward(x, w, p, largest, powers, grad_y, grad_x, None, 2, KEPT_BITS)
    _cpu.lp_dist_backward(x, w, p, largest, powers, grad_y, None, grad_w, 2, KEPT_BITS)
    _cpu.lp_dist_backward(x, w, p, largest, powers, grad_y, None, None, 2, KEPT_BITS)
    np.testing.assert_array_equal(oracles.bits(grad_x), oracles.bits(both[0]))
    np.testing.assert_array_equal(oracles.bits(grad_w), oracles.bits(both[1]))


@given(
    p=st.floats(40.0, 1e9),
    inputs=st.integers(1, 3000),
    spread=st.sampled_from([1.0, 0.1, 1e-3, 1e-6]),
    seed=st.integers(0, 2**32 - 1),
)
def test_what_the_search_leaves_out_is_nothing(p: float, inputs: int, spread: float, seed: int) -> None:
    # `spread` brings more or fewer terms near the largest. What is left out of a sum is below `inputs` 2^-36.
    x = (1 - spread * np.random.default_rng(seed).random((2, inputs))).astype(np.float32)
    w, grad_y = np.zeros((1, inputs), np.float32), np.ones((2, 1), np.float32)
    (y, largest, powers), (full_y, _, full_powers) = _forward(x, w, p), _forward(x, w, p, kept_bits=0)
    # Nor are both rounded alike: one is summed in double precision, the other in sixteen floats.
    off = inputs * 2.0**-36 + inputs / 16 * 2.0**-24 + 2.0**-22
    np.testing.assert_allclose(powers, full_powers, off, 0)
    np.testing.assert_allclose(y, full_y, off / p + 2.0**-23, 0)
    assert (y >= largest).all()
    for found, full in zip(_grads(x, w, p, grad_y), _grads(x, w, p, grad_y, kept_bits=0), strict=True):
        np.testing.assert_allclose(found, full, 2 * off, 2.0**-35)


@given(
    p=st.one_of(st.integers(1, 200).map(float), st.floats(1.0, 1e4)),
    kept_bits=st.floats(1.0, 64.0),
    inputs=st.integers(1, 2000),
    spread=st.sampled_from([1.0, 0.3, 1e-2]),
    seed=st.integers(0, 2**32 - 1),
)
def test_fewer_bits_take_no_more_than_they_say(
    p: float, kept_bits: float, inputs: int, spread: float, seed: int
) -> None:
    x = (1 - spread * np.random.default_rng(seed).random((2, inputs))).astype(np.float32)
    w, grad_y = np.zeros((1, inputs), np.float32), np.ones((2, 1), np.float32)
    exact = oracles.lp_dist_float64(x, w, p)
    y, largest, _ = _forward(x, w, p, kept_bits=kept_bits)
    assert (y <= exact * (1 + FORWARD_ERROR)).all()
    assert (y >= exact * (1 - inputs * 2.0**-kept_bits / p - FORWARD_ERROR)).all()
    assert (y >= largest).all()
    kept, all_terms = (_grads(x, w, p, grad_y, kept_bits=bits)[0] for bits in (kept_bits, 0))
    # A slope that is kept may only grow, as the sum that it is divided by falls short.
    # Up to p = 48 a whole power may have been multiplied instead: 2^-24 of error for each of up to p factors.
    slack = (1 + inputs * 2.0**-kept_bits) * (1 + GRADIENT_ERROR + 48 * 2.0**-24)
    assert ((kept == 0) | (kept >= all_terms * (1 - GRADIENT_ERROR - 48 * 2.0**-24))).all()
    assert (kept <= all_terms * slack + 2.0**-50).all()
    assert (all_terms[kept == 0] <= 1.01 * 2.0**-kept_bits).all()


@pytest.mark.parametrize("kept_bits", [-1.0, 0.5, 65.0, np.nan])
def test_impossible_bits(kept_bits: float) -> None:
    expected = f"lp_dist: kept_bits is {kept_bits}; expected 0, to keep every term, or 1 to 64"
    x, w = np.zeros((2, 3), np.float32), np.zeros((4, 3), np.float32)
    with pytest.raises(KernelError, match=re.escape(expected)):
        lp_dist(x, w, 8.0, kept_bits=kept_bits)
    with pytest.raises(KernelError, match=re.escape(expected)):
        lp_dist(torch.from_numpy(x), torch.from_numpy(w), 8.0, kept_bits=kept_bits)


@given(
    p=st.one_of(st.integers(1, 39).map(float), st.floats(1.0, 1000.0)),
    inputs=st.integers(1, 70),
    exponent=st.integers(-60, 60),
    seed=st.integers(0, 2**32 - 1),
)
def test_any_power_is_accurate(p: float, inputs: int, exponent: int, seed: int) -> None:
    p = float(np.float32(p))
    x, w = _pair(seed, 2, 3, inputs, 2.0**exponent)
    assume((x[:, None] != w).any(-1).all())
    grad_y = np.random.default_rng(seed).standard_normal((2, 3)).astype(np.float32)
    np.testing.assert_allclose(lp_dist(x, w, p), oracles.lp_dist_float64(x, w, p), FORWARD_ERROR, 0)
    for found, expected in zip(_grads(x, w, p, grad_y), oracles.lp_dist_grads(x, w, p, grad_y), strict=True):
        assert np.abs(found - expected).max() <= 2 * GRADIENT_ERROR


@pytest.mark.parametrize("whole", [*range(1, 40)])
def test_whole_powers_agree_with_their_neighbours(isa: str, whole: int) -> None:
    # One float further the same power is taken by logarithms.
    x, w = _pair(whole, 4, 5, 100)
    other = float(np.nextafter(np.float32(whole), np.float32(100)))
    grad_y = np.ones((4, 5), np.float32)
    np.testing.assert_allclose(lp_dist(x, w, float(whole)), lp_dist(x, w, other), FORWARD_ERROR, 0)
    for found, expected in zip(_grads(x, w, float(whole), grad_y), _grads(x, w, other, grad_y), strict=True):
        np.testing.assert_allclose(found, expected, 0, 2 * GRADIENT_ERROR * 5)


@pytest.mark.parametrize("p", POWERS)
def test_infinite_and_denormal_entries_spoil_no_other_pair(isa: str, p: float) -> None:
    x, w = _pair(10, 3, 6, 40)
    spoilt = w.copy()
    spoilt[4] = np.inf
    spoilt[1, 5:9] = 2.0**-149
    grad_y = np.ones((3, 6), np.float32)
    grad_y[:, [1, 4]] = 0.0
    kept = [0, 2, 3, 5]
    np.testing.assert_array_equal(lp_dist(x, spoilt, p)[:, kept], lp_dist(x, w, p)[:, kept])
    found, expected = _grads(x, spoilt, p, grad_y), _grads(x, w, p, grad_y)
    np.testing.assert_array_equal(found[0], expected[0])
    np.testing.assert_array_equal(found[1], expected[1])
