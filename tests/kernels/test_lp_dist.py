# SPDX-License-Identifier: Apache-2.0
"""numpy face of the l_p distance, and its gradient kernel, against float64."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import oracles
import pytest
from oracles import Float32, float32

from linfdeploy.kernels import _cpu, linf_dist, lp_dist

POWERS = [1.0, 2.0, 3.0, 7.3, 8.0, 30.5, 100.3, 1000.7]
SIZES = [(3, 5, inputs) for inputs in range(1, 71)] + [(batch, 70 - batch, 19) for batch in (1, 2, 17, 69)]
FORWARD_ERROR = 2e-6
GRADIENT_ERROR = 2e-5
# The gradient raises the distance, itself rounded to float32, to the power p - 1.
ROUNDING_OF_Y = 2.0**-24


def _pair(seed: int, batch: int, outputs: int, inputs: int, scale: float = 1.0) -> tuple[Float32, Float32]:
    rng = np.random.default_rng(seed)
    x = scale * rng.standard_normal((batch, inputs))
    w = scale * rng.standard_normal((outputs, inputs))
    # Exact hits make terms of zero.
    w[0, rng.random(inputs) < 0.3] = 0.0
    x[0] = np.where(rng.random(inputs) < 0.3, w[0], x[0])
    return x.astype(np.float32), w.astype(np.float32)


def _grads(x: Float32, w: Float32, p: float, grad_y: Float32, threads: int = 2) -> tuple[Float32, Float32]:
    grad_x, grad_w = np.full_like(x, np.nan), np.full_like(w, np.nan)
    _cpu.lp_dist_backward(x, w, p, lp_dist(x, w, p), grad_y, grad_x, grad_w, threads)
    return grad_x, grad_w


def _assert_gradient(found: Float32, expected: npt.NDArray[np.float64], p: float) -> None:
    """Compares relative to the largest entry of each row."""
    tolerance = GRADIENT_ERROR if p < 200 else GRADIENT_ERROR + p * ROUNDING_OF_Y
    allowed = tolerance * np.abs(expected).max(1, keepdims=True) + 1e-30
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
            _assert_gradient(found, expected, p)


@pytest.mark.parametrize("p", POWERS)
def test_wide_layers(p: float) -> None:
    x, w = _pair(1, 4, 9, 3072)
    np.testing.assert_allclose(lp_dist(x, w, p), oracles.lp_dist_float64(x, w, p), FORWARD_ERROR, 0)
    grad_y = np.random.default_rng(2).standard_normal((4, 9)).astype(np.float32)
    for found, expected in zip(_grads(x, w, p, grad_y), oracles.lp_dist_grads(x, w, p, grad_y), strict=True):
        _assert_gradient(found, expected, p)


@pytest.mark.parametrize("p", POWERS)
@pytest.mark.parametrize("scale", [1e-26, 1e-12, 1e12, 1e26])
def test_scale_costs_no_accuracy(isa: str, p: float, scale: float) -> None:
    x, w = _pair(3, 5, 6, 37, scale)
    np.testing.assert_allclose(lp_dist(x, w, p), oracles.lp_dist_float64(x, w, p), FORWARD_ERROR, 0)
    grad_y = np.ones((5, 6), np.float32)
    for found, expected in zip(_grads(x, w, p, grad_y), oracles.lp_dist_grads(x, w, p, grad_y), strict=True):
        _assert_gradient(found, expected, p)


@pytest.mark.parametrize("p", POWERS)
def test_variants_agree_bit_for_bit(p: float) -> None:
    x, w = _pair(4, 9, 21, 45)
    grad_y = np.random.default_rng(4).standard_normal((9, 21)).astype(np.float32)
    before, results = _cpu.active(), []
    try:
        for isa in _cpu.available():
            _cpu.use(isa)
            results.append([oracles.bits(y).tolist() for y in (lp_dist(x, w, p), *_grads(x, w, p, grad_y))])
    finally:
        _cpu.use(before)
    assert all(result == results[0] for result in results)


@pytest.mark.parametrize("p", [1.0, 7.3, 1000.7])
@pytest.mark.parametrize("outputs", [1, 7, 8, 9, 33])
def test_threads_do_not_change_bits(isa: str, p: float, outputs: int) -> None:
    # Up to a million terms: a kernel does not share less than 2^17 with another thread.
    x, w = _pair(5, 33, outputs, 997)
    grad_y = np.random.default_rng(5).standard_normal((33, outputs)).astype(np.float32)
    y = [np.empty((33, outputs), np.float32) for _ in range(4)]
    grads = [_grads(x, w, p, grad_y, threads) for threads in (1, 2, 3, 16)]
    for result, threads in zip(y, (1, 2, 3, 16), strict=True):
        _cpu.lp_dist(x, w, p, result, threads)
    assert all(np.array_equal(oracles.bits(other), oracles.bits(y[0])) for other in y)
    for kind in (0, 1):
        assert all(np.array_equal(oracles.bits(g[kind]), oracles.bits(grads[0][kind])) for g in grads)


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
    np.testing.assert_allclose(gradient, float32([[1, 0, 0], [0, 0, 1]]), 0, 1e-29)


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
