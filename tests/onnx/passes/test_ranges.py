# SPDX-License-Identifier: Apache-2.0
import itertools
import re
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import exact_linf_dist
from small_nets import all_images, exact_logits, pixel_net, random_images, rounded_to, slow_logits

from linfdeploy.engines.reference import ReferenceEngine, Rounding, roundings_of
from linfdeploy.errors import ExportError
from linfdeploy.onnx.passes.ranges import (
    check_exact,
    check_finite,
    exactness_gap,
    never_rounds,
    rounding_error,
    value_ranges,
)
from linfdeploy.onnx.passes.round import round_layers
from linfdeploy.onnx.pixel_net import PixelLayer, PixelNet

PAIR = (1, 1, 2)
seeds = st.integers(0, 2**32 - 1)
spreads = st.sampled_from([1.0, 40.0, 300.0, 1000.0])


def integers(net: PixelNet, grid: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """The net in steps of its grid, as int64: exact, whatever floats do."""
    return [
        tuple((values.astype(np.float64) * 2**grid).astype(np.int64) for values in (layer.weight, layer.bias))
        for layer in net.layers
    ]


@given(seeds, spreads, st.sampled_from(["exact", "fp32", "fp16"]))
@settings(max_examples=25, deadline=None)
def test_ranges_hold_every_value(seed: int, spread: float, precision: str) -> None:
    net = pixel_net(seed, precision, sizes=(2, 3, 2, 2), shape=PAIR, spread=spread)  # type: ignore[arg-type]
    ranges = value_ranges(net)
    corners = itertools.product((0, 255), repeat=2)
    inside = np.random.default_rng(seed).integers(0, 256, (20, 2))
    for image in np.array([*corners, *inside], np.int64):
        x = [Fraction(int(value)) for value in image]
        for layer, reach in zip(net.layers, ranges, strict=True):
            assert max(x) <= Fraction(reach.input)
            assert max(-v for v in x) <= Fraction(reach.input)
            rows = [[Fraction(float(w)) for w in row] for row in layer.weight]
            distances = [exact_linf_dist(x, row) for row in rows]
            x = [d + Fraction(float(b)) for d, b in zip(distances, layer.bias, strict=True)]
            assert max(distances) <= Fraction(reach.distance)
            assert max(abs(v) for v in x) <= Fraction(reach.output)
            assert Fraction(reach.weight) == max(Fraction(abs(float(w))) for w in layer.weight.reshape(-1))
            assert Fraction(reach.bias) == max(Fraction(abs(float(b))) for b in layer.bias)


@given(seeds, st.sampled_from([0, 8, 12, 13]), spreads)
@settings(max_examples=12, deadline=None)
def test_accepted_nets_have_no_partial_sum_beyond_the_limit(seed: int, grid: int, spread: float) -> None:
    net = pixel_net(seed, sizes=(2, 3, 2), shape=PAIR, grid=grid, spread=spread)
    if exactness_gap(net, grid) is not None:
        return
    limit = 2**24
    x = all_images().reshape(-1, 2).astype(np.int64) << grid
    distance, bias = x, np.zeros(2, np.int64)
    for weight, next_bias in integers(net, grid):
        parts = distance[:, None, :], bias[None, None, :], -weight[None]
        for count in (1, 2, 3):
            for chosen in itertools.combinations(parts, count):
                assert np.abs(sum(chosen)).max() < limit
        distance, bias = np.abs(sum(parts)).max(-1), next_bias
    logits = -(distance + bias)
    assert np.abs(logits).max() < limit
    assert np.abs(logits[:, :1] - logits[:, 1:]).max() < limit
    # And so float32 computes it exactly.
    found = ReferenceEngine(net).run(all_images()).astype(np.float64) * 2**grid
    assert np.array_equal(found, logits.astype(np.float64))


@given(seeds, st.floats(10, 1e5), st.integers(1, 4), st.integers(6, 23))
@settings(max_examples=60, deadline=None)
def test_refused_nets_are_told_a_grid_that_fits(seed: int, spread: float, layers: int, grid: int) -> None:
    rng = np.random.default_rng(seed)
    doubles = tuple((rng.uniform(-spread, spread, (2, 2)), rng.uniform(-spread, spread, 2)) for _ in range(layers))
    net = PixelNet(PAIR, round_layers(doubles, "exact", grid), grid)
    reason = exactness_gap(net, grid)
    if reason is None:
        check_exact(net, grid)
        return
    match = re.fullmatch(
        r"values reach (\S+) pixels where the grid of 2\^-(\d+) allows (\S+): "
        r"use --grid (\d+) or --precision fp32",
        reason,
    )
    assert match, reason
    assert float(match[1]) >= float(match[3]) * (1 - 1e-5)
    assert (int(match[2]), float(match[3])) == (grid, 2.0 ** (24 - grid))
    coarser = int(match[4])
    assert coarser < grid
    again = PixelNet(PAIR, round_layers(doubles, "exact", coarser), coarser)
    assert exactness_gap(again, coarser) is None
    # The advice is no more careful than it must be: two steps finer is too fine.
    finer = PixelNet(PAIR, round_layers(doubles, "exact", coarser + 2), coarser + 2)
    assert exactness_gap(finer, coarser + 2) is not None


def test_names_no_grid_where_none_fits() -> None:
    net = pixel_net(0, spread=2.0**24, grid=0)
    reason = exactness_gap(net, 0)
    assert reason is not None
    assert reason.endswith("allows 1.67772e+07: use --precision fp32")
    with pytest.raises(ExportError, match="the net is not exact: values reach"):
        check_exact(net, 0)


def test_off_the_grid_is_not_exact() -> None:
    net = pixel_net(0, grid=12)
    assert exactness_gap(net, 12) is None
    assert "layer 0 has weights or biases off the grid of 2^-4" in str(exactness_gap(net, 4))
    half = pixel_net(0, "fp16")
    assert "off the grid" in str(exactness_gap(half, 23))


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_overflow_is_refused(precision: str) -> None:
    check_finite(pixel_net(0, precision))  # type: ignore[arg-type]
    spread = 1.6e38 if precision == "fp32" else 20000.0
    mend = "check the checkpoint" if precision == "fp32" else "use --precision fp32"
    with pytest.raises(ExportError, match=rf"values reach .* pixels where {precision} ends at .*: {mend}"):
        check_finite(pixel_net(0, precision, spread=spread))  # type: ignore[arg-type]


@given(seeds, spreads)
@settings(max_examples=20, deadline=None)
def test_rounding_error_bounds_float32(seed: int, spread: float) -> None:
    net = pixel_net(seed, "fp32", spread=spread)
    delta = rounding_error(net, value_ranges(net))
    images = random_images(5, seed=seed)
    for image, found in zip(images, ReferenceEngine(net).run(images), strict=True):
        for a, b in zip(exact_logits(net, image), found, strict=True):
            assert abs(a - Fraction(float(b))) <= delta


@pytest.mark.parametrize("rounding", list(roundings_of(pixel_net(0, "fp16"))), ids=lambda value: value.name)
@pytest.mark.parametrize("flush", [False, True])
def test_rounding_error_bounds_float16_wherever_it_rounds(rounding: Rounding, flush: bool) -> None:
    half, single = rounded_to(11, -14, flush), rounded_to(24, -126, flush)
    spread = 0.01 if flush else 300.0
    for seed in range(4):
        net = pixel_net(seed, "fp16", spread=spread)
        delta = rounding_error(net, value_ranges(net))
        last = len(net.layers) - 1
        for image in random_images(2, seed=seed):

            def after(index: int, what: str, last: int = last) -> object:
                name = f"last_{what}" if index == last else what
                return half if getattr(rounding, name) else single

            found = slow_logits(net, image, after, single)  # type: ignore[arg-type]
            for a, b in zip(exact_logits(net, image), found, strict=True):
                assert abs(a - b) <= delta


def test_rounding_error_is_no_looser_than_it_says() -> None:
    net = pixel_net(0, "fp32")
    delta = rounding_error(net, value_ranges(net))
    sizes = sum(Fraction(r.distance) + Fraction(r.output) for r in value_ranges(net))
    assert delta < sizes * Fraction(1, 2**23)


def test_ranges_do_not_depend_on_the_claimed_grid() -> None:
    net = pixel_net(0)
    assert value_ranges(net) == value_ranges(replace(net, grid=None))
    assert isinstance(net.layers[0], PixelLayer)


def flat_net(*layers: tuple[float, list[float]]) -> PixelNet:
    """Layers of two units whose weights are all one number."""
    made = [PixelLayer(np.full((2, 2), weight, np.float32), np.array(bias, np.float32)) for weight, bias in layers]
    return PixelNet(PAIR, tuple(made), 12)


@pytest.mark.parametrize(
    ("net", "accepted"),
    [
        # A bias and the next weight, which may be subtracted at build time, reach 4100 of 4096 pixels; all values,
        # and all sums without that bias, stay below.
        (flat_net((-100, [-2050, -2050]), (2050, [-3900, -3900]), (0, [0, 0])), False),
        # Two logits that are within the limit and 6000 pixels apart.
        (flat_net((0, [3000, -3000])), False),
        # The first difference, 255 + 3841.
        (flat_net((-3841, [0, 0]), (4000, [0, 0])), False),
        (flat_net((0, [1792, -1792])), True),
        (flat_net((-1000, [-1000, -1000]), (100, [200, -200])), True),
    ],
)
def test_every_partial_sum_counts(net: PixelNet, accepted: bool) -> None:
    assert (exactness_gap(net, 12) is None) == accepted


@pytest.mark.parametrize("seed", range(4))
def test_exact_nets_never_round_and_others_do(seed: int) -> None:
    assert never_rounds(pixel_net(seed))
    for precision in ("fp32", "fp16"):
        assert not never_rounds(pixel_net(seed, precision))


@given(seeds, st.integers(0, 6), st.sampled_from([16.0, 200.0, 500.0]))
@settings(max_examples=40, deadline=None)
def test_where_float16_never_rounds_every_rounding_is_the_rational_net(
    seed: int, grid: int, spread: float
) -> None:
    wild = pixel_net(seed, sizes=(2, 3, 2), shape=PAIR, grid=grid, spread=spread)
    layers = tuple(
        PixelLayer(each.weight.astype(np.float16), each.bias.astype(np.float16)) for each in wild.layers
    )
    net = replace(wild, layers=layers, grid=None)
    images = all_images()[::997]
    if never_rounds(net):
        for a, b, c, d, folded in itertools.product((True, False), repeat=5):
            logits = ReferenceEngine(net, Rounding(a, b, c, d, folded, "inputs and outputs")).run(images)
            for image, found in zip(images[:5], logits, strict=False):
                assert [Fraction(float(value)) for value in found] == exact_logits(net, image)


def test_never_rounds_at_its_limit() -> None:
    def one(weight: float, dtype: type = np.float16) -> PixelNet:
        return PixelNet((1, 1, 1), (PixelLayer(np.full((1, 1), weight, dtype), np.zeros(1, dtype)),), None)

    # Twice the distance 255 + w has to stay below 2^11 steps.
    assert never_rounds(one(256.0))
    assert never_rounds(one(0.25))
    assert not never_rounds(one(256.25))
    assert not never_rounds(one(0.125))
    assert not never_rounds(one(2.0**-15))
    assert not never_rounds(one(np.inf, np.float32))
