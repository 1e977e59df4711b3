# SPDX-License-Identifier: Apache-2.0
"""numpy face of the l_inf distance: bits, argmax and interval bounds, for each instruction set."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import oracles
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from oracles import Float32, float32

from linfdeploy.kernels import _cpu, linf_dist, linf_dist_argmax, linf_dist_bounds

SIZES = range(1, 71)
MAX = float(np.finfo(np.float32).max)
TINY = float(np.finfo(np.float32).smallest_subnormal)
INF = float(np.inf)


def _pair(seed: int, batch: int, outputs: int, inputs: int) -> tuple[Float32, Float32]:
    rng = np.random.default_rng(seed)
    return oracles.awkward_float32(rng, (batch, inputs)), oracles.awkward_float32(rng, (outputs, inputs))


def _assert_same_bits(y: Float32, expected: Float32) -> None:
    np.testing.assert_array_equal(oracles.bits(y), oracles.bits(expected))


def _threads(x: Float32, w: Float32, threads: int) -> Float32:
    y = np.full((len(x), len(w)), np.nan, np.float32)
    _cpu.linf_dist(x, w, y, threads)
    return y


def test_the_machine_runs_its_fastest_variant() -> None:
    assert _cpu.active() == _cpu.available()[0]
    assert _cpu.available()[-1] == "baseline"


def test_an_unknown_variant_is_refused() -> None:
    with pytest.raises(ValueError, match="this processor or build has no variant avx1024"):
        _cpu.use("avx1024")


# Few rows are walked one by one, many in panels: each dimension varies around both.
FEW = {"batch": 3, "outputs": 5, "inputs": 19}
MANY = {"batch": 45, "outputs": 35, "inputs": 21}
# Beyond a block in every dimension.
BLOCKS = (131, 530, 1061)


@pytest.mark.parametrize("around", [FEW, MANY], ids=["few", "many"])
@pytest.mark.parametrize("dimension", ["batch", "outputs", "inputs"])
def test_bits_at_every_size(isa: str, dimension: str, around: dict[str, int]) -> None:
    for size in SIZES:
        x, w = _pair(size, **(around | {dimension: size}))
        _assert_same_bits(linf_dist(x, w), oracles.linf_dist(x, w))


@pytest.mark.parametrize("seed", range(12))
def test_bits_at_random_sizes(isa: str, seed: int) -> None:
    batch, outputs, inputs = np.random.default_rng(seed).integers(1, 71, 3)
    x, w = _pair(seed, int(batch), int(outputs), int(inputs))
    _assert_same_bits(linf_dist(x, w), oracles.linf_dist(x, w))


def test_bits_across_blocks(isa: str) -> None:
    x, w = _pair(0, *BLOCKS)
    expected = np.stack([oracles.linf_dist(row[None], w)[0] for row in x])
    for threads in (1, 3):
        _assert_same_bits(_threads(x, w, threads), expected)
    y, index = linf_dist_argmax(x, w)
    _assert_same_bits(y, expected)
    np.testing.assert_array_equal(index, np.stack([np.abs(row - w).argmax(-1) for row in x]))


@pytest.mark.parametrize("inputs", [1, 15, 16, 17, 40])
def test_special_values(isa: str, inputs: int) -> None:
    # Infinities on one side only: inf - inf is a NaN, which is left undefined.
    extremes = float32([0.0, -0.0, TINY, -TINY, 1.0, -1.0, 2.0**-126, MAX / 2, -MAX / 2])
    rng = np.random.default_rng(inputs)
    x, w = (
        rng.choice(np.append(extremes, float32([INF, -INF])), (40, inputs)),
        rng.choice(extremes, (9, inputs)),
    )
    _assert_same_bits(linf_dist(x, w), oracles.linf_dist(x, w))
    _assert_same_bits(linf_dist(w, x), oracles.linf_dist(w, x))


def test_zero_distance_is_plus_zero(isa: str) -> None:
    x, w = float32([[0.0, -0.0, 0.0]]), float32([[-0.0, 0.0, 0.0]])
    _assert_same_bits(linf_dist(x, w), float32([[0.0]]))
    _assert_same_bits(linf_dist(-x, w), float32([[0.0]]))


def test_every_position_is_seen(isa: str) -> None:
    for inputs in SIZES:
        x = np.eye(inputs, dtype=np.float32)
        _assert_same_bits(linf_dist(x, np.zeros((2, inputs), np.float32)), np.ones((inputs, 2), np.float32))


@pytest.mark.parametrize(("batch", "outputs"), [(0, 3), (3, 0), (0, 0)])
def test_empty(isa: str, batch: int, outputs: int) -> None:
    x, w = np.zeros((batch, 5), np.float32), np.zeros((outputs, 5), np.float32)
    assert linf_dist(x, w).shape == (batch, outputs)
    y, index = linf_dist_argmax(x, w)
    assert y.shape == index.shape == (batch, outputs)
    assert index.dtype == np.int64
    assert [end.shape for end in linf_dist_bounds(x, x, w)] == [(batch, outputs)] * 2


# Enough work for eleven threads; a kernel does not share less than 2^17 terms with another one.
SHARED = (37, 151, 257)


@pytest.mark.parametrize("threads", [1, 2, 3, 7, 64])
def test_threads_do_not_change_bits(isa: str, threads: int) -> None:
    x, w = _pair(threads, *SHARED)
    _assert_same_bits(_threads(x, w, threads), oracles.linf_dist(x, w))
    y, index = np.empty((37, 151), np.float32), np.empty((37, 151), np.int64)
    _cpu.linf_dist_argmax(x, w, y, index, threads)
    _assert_same_bits(y, oracles.linf_dist(x, w))
    np.testing.assert_array_equal(index, np.abs(x[:, None] - w[None]).argmax(-1))


def test_batch_and_order_do_not_change_bits(isa: str) -> None:
    x, w = _pair(5, 9, 11, 53)
    order = np.random.default_rng(0).permutation(53)
    whole = linf_dist(x, w)
    _assert_same_bits(np.concatenate([linf_dist(row[None], w) for row in x]), whole)
    _assert_same_bits(linf_dist(x[:, order], w[:, order]), whole)


def test_reads_strided_reversed_and_fortran_arrays(isa: str) -> None:
    x, w = _pair(6, 10, 8, 30)
    for x_view, w_view in ((x[::2], w[:, ::-1]), (np.asfortranarray(x)[::2], np.asfortranarray(w[:, ::-1]))):
        _assert_same_bits(linf_dist(x_view, w_view), oracles.linf_dist(x[::2], w[:, ::-1]))


def test_reads_at_any_alignment(isa: str) -> None:
    for offset in (4, 12, 20):
        raw = np.zeros(4 * 10 * 23 + offset, np.uint8)
        x = raw[offset:].view(np.float32).reshape(10, 23)
        x[:], w = _pair(offset, 10, 6, 23)
        _assert_same_bits(linf_dist(x, w), oracles.linf_dist(x, w))


def test_reads_a_read_only_map_without_copying(tmp_path: Path) -> None:
    # 512 MiB of hole: a copy of it does not fit under the limit that the child sets itself.
    (tmp_path / "w.bin").touch()
    os.truncate(tmp_path / "w.bin", 2**29)
    script = f"""
import resource
import numpy as np
from linfdeploy.kernels import linf_dist
w = np.memmap({str(tmp_path / "w.bin")!r}, np.float32, "r").reshape(2, -1)
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 2**28, used + 2**28))
try:
    w.copy()
except MemoryError:
    y = linf_dist(w[:1], w)
    assert y.tolist() == [[0.0, 0.0]], y
    print("read in place")
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "2"},
    )
    assert (done.returncode, done.stdout) == (0, "read in place\n"), done.stderr


def test_accepts_read_only_arrays(isa: str) -> None:
    x, w = _pair(7, 4, 5, 18)
    x.flags.writeable = w.flags.writeable = False
    _assert_same_bits(linf_dist(x, w), oracles.linf_dist(x, w))
    assert np.array_equal(linf_dist_argmax(x, w)[1], oracles.linf_dist_argmax(x, w))
    assert all(np.array_equal(end, linf_dist(x, w)) for end in linf_dist_bounds(x, x, w))


@pytest.mark.parametrize("inputs", [1, 2, 15, 16, 17, 33, 70])
def test_argmax_is_the_lowest_index(isa: str, inputs: int) -> None:
    rng = np.random.default_rng(inputs)
    for ties in (False, True):
        x, w = _pair(inputs, 11, 7, inputs)
        if ties:
            x, w = (float32(rng.integers(0, 2, values.shape)) for values in (x, w))
        y, index = linf_dist_argmax(x, w)
        _assert_same_bits(y, oracles.linf_dist(x, w))
        np.testing.assert_array_equal(index, oracles.linf_dist_argmax(x, w))


def test_argmax_of_equal_rows_is_zero(isa: str) -> None:
    x = np.random.default_rng(0).standard_normal((1, 21)).astype(np.float32)
    y, index = linf_dist_argmax(x, x)
    assert (y.item(), index.item()) == (0.0, 0)


def test_a_nan_keeps_the_index_in_range(isa: str) -> None:
    x, w = np.full((2, 20), np.nan, np.float32), np.ones((3, 20), np.float32)
    index = linf_dist_argmax(x, w)[1]
    assert ((index >= 0) & (index < 20)).all()


def _bounds_by_definition(lower: Float32, upper: Float32, w: Float32) -> tuple[Float32, Float32]:
    """Per coordinate the smallest and largest |fl(x - w)|: at the ends, or 0 where w lies inside."""
    at_lower, at_upper = np.abs(lower[:, None] - w[None]), np.abs(upper[:, None] - w[None])
    inside = (lower[:, None] <= w[None]) & (w[None] <= upper[:, None])
    nearest = np.where(inside, np.float32(0), np.minimum(at_lower, at_upper))
    return nearest.max(-1), np.maximum(at_lower, at_upper).max(-1)


@pytest.mark.parametrize("around", [FEW, MANY], ids=["few", "many"])
@pytest.mark.parametrize("dimension", ["batch", "outputs", "inputs"])
def test_bounds_at_every_size(isa: str, dimension: str, around: dict[str, int]) -> None:
    for size in SIZES:
        sizes = around | {dimension: size}
        a, w = _pair(size, **sizes)
        b = _pair(1000 + size, **sizes)[0]
        lower, upper = np.minimum(a, b), np.maximum(a, b)
        for found, expected in zip(
            linf_dist_bounds(lower, upper, w), _bounds_by_definition(lower, upper, w), strict=True
        ):
            _assert_same_bits(found, expected)


def test_bounds_across_blocks(isa: str) -> None:
    a, w = _pair(1, *BLOCKS)
    lower, upper = a - np.float32(0.5), a + np.float32(0.25)
    found = linf_dist_bounds(lower, upper, w)
    for n in range(0, len(a), 7):
        for end, expected in zip(found, _bounds_by_definition(lower[n, None], upper[n, None], w), strict=True):
            _assert_same_bits(end[n, None], expected)


def test_bounds_of_a_point_are_the_forward_pass(isa: str) -> None:
    for inputs in SIZES:
        x, w = _pair(inputs, 4, 6, inputs)
        for end in linf_dist_bounds(x, x, w):
            _assert_same_bits(end, linf_dist(x, w))


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_threads_do_not_change_bounds(isa: str, threads: int) -> None:
    a, w = _pair(threads, *SHARED)
    lower, upper = a - np.float32(0.5), a + np.float32(0.25)
    y_lower, y_upper = np.empty((37, 151), np.float32), np.empty((37, 151), np.float32)
    _cpu.linf_dist_bounds(lower, upper, w, y_lower, y_upper, threads)
    for found, expected in zip((y_lower, y_upper), _bounds_by_definition(lower, upper, w), strict=True):
        _assert_same_bits(found, expected)


FINITE = st.one_of(
    st.floats(-4, 4, width=32),
    st.floats(-MAX / 2, MAX / 2, width=32),
    st.sampled_from([0.0, -0.0, TINY, -TINY, 2.0**-126, 1.0, -1.0]),
)


@st.composite
def _boxes(draw: st.DrawFn) -> tuple[Float32, Float32, Float32, int]:
    """A box (1, I), weights (3, I) that often touch it, and a seed for points inside."""
    inputs = draw(st.integers(1, 36))
    ends = float32([[draw(FINITE), draw(FINITE)] for _ in range(inputs)]).T
    lower, upper = ends.min(0, keepdims=True), ends.max(0, keepdims=True)
    seed = draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    w = oracles.awkward_float32(rng, (3, inputs))
    w[1] = np.where(rng.random(inputs) < 0.5, lower[0], upper[0])
    w[2] = _inside(rng, lower, upper, 1)[0]
    return lower, upper, w, seed


def _inside(rng: np.random.Generator, lower: Float32, upper: Float32, count: int) -> Float32:
    """Float32 points of the box: random ones, corners, and float neighbours of the corners."""
    share = rng.random((count, lower.shape[1]))
    wide = lower.astype(np.float64) + share * (upper.astype(np.float64) - lower)
    inf = np.float32(np.inf)
    candidates = [
        wide.astype(np.float32),
        np.broadcast_to(lower, wide.shape),
        np.broadcast_to(upper, wide.shape),
        np.nextafter(np.broadcast_to(lower, wide.shape), inf),
        np.nextafter(np.broadcast_to(upper, wide.shape), -inf),
    ]
    x: Float32 = np.choose(rng.integers(0, len(candidates), wide.shape), candidates).astype(np.float32)
    return np.clip(x, lower, upper)


@settings(
    max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True
)
@given(_boxes())
def test_bounds_hold_for_every_point_inside(isa: str, case: tuple[Float32, Float32, Float32, int]) -> None:
    lower, upper, w, seed = case
    y_lower, y_upper = linf_dist_bounds(lower, upper, w)
    x = _inside(np.random.default_rng(seed), lower, upper, 64)
    y = oracles.linf_dist(x, w)
    assert (y_lower >= 0).all()
    assert (y_lower <= y).all()
    assert (y <= y_upper).all()


def _attained(isa: str, lower: Float32, upper: Float32, w: Float32) -> None:
    """The smallest and largest distance over all floats of a small box, by trying every one of them."""
    axes = []
    for low, high in zip(lower[0], upper[0], strict=True):
        axis = [low]
        while axis[-1] < high:
            axis.append(np.nextafter(axis[-1], np.float32(np.inf)))
        axes.append(axis)
    points = float32(list(itertools.product(*axes)))
    y = oracles.linf_dist(points, w)
    y_lower, y_upper = linf_dist_bounds(lower, upper, w)
    np.testing.assert_array_equal(y_lower[0], y.min(0))
    np.testing.assert_array_equal(y_upper[0], y.max(0))


@pytest.mark.parametrize("seed", range(8))
def test_bounds_are_attained(isa: str, seed: int) -> None:
    # The weights are floats next to and inside the box, so the nearest point is itself a float.
    rng = np.random.default_rng(seed)
    start = float32(rng.choice([0.0, 1.0, -1.0, 2.0**-126, 1e30, -(2.0**-130)], (1, 3)))
    lower, upper = start.copy(), start.copy()
    for _ in range(6):
        upper = np.nextafter(upper, np.float32(np.inf))
    offsets = rng.integers(-9, 10, (20, 3)).astype(np.int32)
    w = np.broadcast_to(start, offsets.shape).copy()
    for _ in range(9):
        w = np.where(offsets > 0, np.nextafter(w, np.float32(np.inf)), w)
        w = np.where(offsets < 0, np.nextafter(w, np.float32(-np.inf)), w)
        offsets -= np.sign(offsets)
    w[0] = float32(rng.standard_normal(3))
    _attained(isa, lower, upper, w)


def test_bounds_never_go_below_zero_around_a_weight(isa: str) -> None:
    w = np.random.default_rng(0).standard_normal((5, 23)).astype(np.float32)
    y_lower, y_upper = linf_dist_bounds(w - 1, w + 1, w)
    _assert_same_bits(np.diag(y_lower), np.zeros(5, np.float32))
    assert (np.diag(y_upper) >= 1 - 2**-22).all()


def test_bounds_of_unbounded_boxes(isa: str) -> None:
    everything = np.full((1, 17), np.inf, np.float32)
    w = np.ones((2, 17), np.float32)
    y_lower, y_upper = linf_dist_bounds(-everything, everything, w)
    assert y_lower.tolist() == [[0.0, 0.0]]
    assert y_upper.tolist() == [[np.inf, np.inf]]


def test_bounds_with_an_infinite_end(isa: str) -> None:
    lower, upper = float32([[2.0, 0.0]]), float32([[np.inf, 0.0]])
    y_lower, y_upper = linf_dist_bounds(lower, upper, float32([[1.0, 0.0]]))
    assert (y_lower.item(), y_upper.item()) == (1.0, np.inf)
