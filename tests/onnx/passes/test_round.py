# SPDX-License-Identifier: Apache-2.0
import itertools
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from oracles import exact_net

from linfdeploy.errors import ExportError
from linfdeploy.onnx.passes.round import round_layers
from linfdeploy.onnx.pixel_net import PixelLayer, Precision, on_grid

GRIDS = [0, 1, 5, 12, 14]


def doubles(seed: int, sizes: tuple[int, ...] = (3, 4, 4, 2)) -> tuple[Any, ...]:
    rng = np.random.default_rng(seed)
    return tuple((rng.normal(0, 100, (o, i)), rng.normal(0, 100, o)) for i, o in itertools.pairwise(sizes))


def rational(layers: Any) -> Any:
    return [
        ([[Fraction(float(w)) for w in row] for row in weight], None, [Fraction(float(b)) for b in bias])
        for weight, bias in layers
    ]


def pairs(layers: tuple[PixelLayer, ...]) -> list[tuple[Any, Any]]:
    return [(layer.weight, layer.bias) for layer in layers]


@pytest.mark.parametrize("grid", GRIDS)
def test_exact_gives_a_nearest_multiple(grid: int) -> None:
    step = Fraction(1, 2**grid)
    before = doubles(grid)
    for given, found in zip(before, pairs(round_layers(before, "exact", grid)), strict=True):
        for value, snapped in zip(given, found, strict=True):
            assert snapped.dtype == np.float32
            for a, b in zip(value.reshape(-1), snapped.reshape(-1), strict=True):
                assert (Fraction(float(b)) / step).denominator == 1
                assert abs(Fraction(float(a)) - Fraction(float(b))) <= step / 2


@pytest.mark.parametrize("grid", GRIDS)
def test_exact_moves_the_function_by_at_most_a_step_a_layer(grid: int) -> None:
    before = doubles(grid)
    after = pairs(round_layers(before, "exact", grid))
    rng = np.random.default_rng(grid)
    for _ in range(50):
        x = [Fraction(int(value)) for value in rng.integers(0, 256, 3)]
        ours, theirs = exact_net(x, rational(before)), exact_net(x, rational(after))
        assert all(abs(a - b) <= len(before) * Fraction(1, 2**grid) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", np.float32), ("fp16", np.float16)])
def test_formats_round_to_nearest(precision: Precision, dtype: Any) -> None:
    before = doubles(7)
    for given, found in zip(before, pairs(round_layers(before, precision, 12)), strict=True):
        for value, rounded in zip(given, found, strict=True):
            assert rounded.dtype == dtype
            up, down = np.nextafter(rounded, dtype(np.inf)), np.nextafter(rounded, dtype(-np.inf))
            error = np.abs(rounded.astype(np.float64) - value)
            for other in (up, down):
                assert np.all(error <= np.abs(other.astype(np.float64) - value))


@pytest.mark.parametrize("precision", ["exact", "fp32", "fp16"])
def test_no_negative_zeros(precision: Precision) -> None:
    ((layer),) = round_layers(((np.array([[-0.0, -1e-30]]), np.array([-0.0])),), precision, 12)
    assert not np.signbit(layer.bias).any()
    assert np.signbit(layer.weight).any() == (precision == "fp32")


@pytest.mark.parametrize(
    ("precision", "value"),
    [("fp16", 20000.0), ("fp32", 1e38), ("exact", 1e38), ("exact", np.nan), ("fp32", np.inf), ("fp16", np.nan)],
)
@pytest.mark.parametrize("where", ["weight", "bias"])
def test_refuses_what_the_format_cannot_hold(precision: Precision, value: float, where: str) -> None:
    weight, bias = np.zeros((1, 2)), np.zeros(1)
    (weight if where == "weight" else bias).reshape(-1)[0] = value
    with pytest.raises(ExportError, match=r"layer 0 holds .* pixels, too large for float"):
        round_layers(((weight, bias),), precision, 12)


def test_on_grid() -> None:
    assert on_grid(np.array([0.25, -3.5], np.float32), 2)
    assert not on_grid(np.array([0.25, -3.5], np.float32), 1)
    assert not on_grid(np.array([1.0, 2.0**-12], np.float16), 11)
