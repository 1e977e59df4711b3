# SPDX-License-Identifier: Apache-2.0
"""Value ranges over every image in [0, 255], and what follows from them: exactness, no overflow, the error delta.

Guarantees, for every uint8 (or real) image in the pixel range:
    distance_l <= LayerRange.distance      and  |y_l| <= LayerRange.output,
in real arithmetic with the deployed weights; and with `delta = rounding_error(...)`
    |engine logit - real logit| <= delta
for any engine that rounds at most once for each subtraction and once for each bias sum, in the net's format, in
any association of the two, flushing denormals or not.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from linfdeploy.errors import ExportError
from linfdeploy.nets.windows import Window
from linfdeploy.onnx.chain import Doubles
from linfdeploy.onnx.passes.sort_weights import MOST_TERMS, bits_of_weights
from linfdeploy.onnx.pixel_net import EXACT_BITS, MAX_GRID, PIXEL_MAX, PixelLayer, PixelNet, on_grid

__all__ = [
    "LayerRange",
    "centre_gap",
    "check_exact",
    "check_finite",
    "exactness_gap",
    "never_rounds",
    "overflow_gap",
    "rounding_error",
    "value_ranges",
]

# Covers the float64 roundings of one layer's bounds, each 2^-53 of values that are summed twice, or of the few
# dozen terms of a sorted distance.
SLACK = 1.0 + 2.0**-46


@dataclass(frozen=True)
class LayerRange:
    """Proven magnitudes of one layer, in pixels: inputs, weights, differences, distances, biases, outputs."""

    input: float
    weight: float
    difference: float
    distance: float
    bias: float
    output: float


def value_ranges(net: PixelNet) -> tuple[LayerRange, ...]:
    """Bounds every layer over the box [0, 255]^I by interval arithmetic in float64, widened by its roundings.

    Of a convolution one window is bounded that stands for all: at each channel it may hold what any place of the
    channel may, and the zeros beside it.
    """
    centre = net.input_centre.astype(np.float64)
    lower, upper = 0.0 - centre, float(PIXEL_MAX) - centre
    ranges = []
    for layer in net.layers:
        lower, upper = _shown(lower, layer.window, np.min), _shown(upper, layer.window, np.max)
        weight, bias = layer.weight.astype(np.float64), layer.bias.astype(np.float64)
        far = np.maximum(np.abs(lower - weight), np.abs(upper - weight))
        near = np.maximum(np.maximum(lower - weight, weight - upper), 0.0)
        farthest, nearest = _distances(far, layer.sort) * SLACK, _distances(near, layer.sort) / SLACK
        if layer.sort is not None and net.grid is not None:
            # What is rounded to the grid moves by half a step.
            farthest, nearest = farthest + 2.0**-net.grid, np.maximum(nearest - 2.0**-net.grid, 0.0)
        ranges.append(
            LayerRange(
                input=float(max(np.abs(lower).max(), np.abs(upper).max())),
                weight=float(np.abs(weight).max()),
                difference=float(far.max()) * SLACK,
                distance=float(farthest.max()),
                bias=float(np.abs(bias).max()),
                output=float(np.maximum(np.abs(nearest + bias), np.abs(farthest + bias)).max() * SLACK),
            )
        )
        lower, upper = np.nextafter(nearest + bias, -np.inf), np.nextafter(farthest + bias, np.inf)
        lower, upper = np.repeat(lower, layer.positions), np.repeat(upper, layer.positions)
    return tuple(ranges)


def exactness_gap(net: PixelNet, grid: int) -> str | None:
    """Says why the net is not exact on the grid 2^-grid, or returns None, which proves that it is.

    Exact means: every weight and bias is a multiple of 2^-grid, and every partial sum, in any association of
    `x + b - w`, stays below 2^(24 - grid). Then no float32 operation rounds, whatever is fused or reordered.
    """
    for index, layer in enumerate(net.layers):
        if layer.weight.dtype != np.float32 or not _layer_on_grid(layer, grid):
            return f"layer {index} has weights or biases off the grid of 2^-{grid} pixel in float32"
    if not on_grid(net.input_centre, grid):
        return f"the centre is off the grid of 2^-{grid} pixel"
    limit = 2.0 ** (EXACT_BITS - grid)
    ranges = value_ranges(net)
    if reason := _sorting_gap(net, ranges, grid):
        return reason
    reach = _largest_partial_sum(net, ranges)
    if reach >= limit:
        return (
            f"values reach {reach:.6g} pixels where the grid of 2^-{grid} allows {limit:g}: "
            f"use {_coarser_grid(reach, len(net.layers))}--precision fp32"
        )
    return None


def _sorting_gap(net: PixelNet, ranges: Sequence[LayerRange], grid: int) -> str | None:
    """Says why a weighted sum may round, or is not 1-Lipschitz; None proves that it is exact and convex.

    Products and partial sums, in any order, are multiples of `2^-(grid + m)` up to the largest difference, and so
    is what is added before rounding down, half a step of the grid.
    """
    for index, (layer, reach) in enumerate(zip(net.layers, ranges, strict=True)):
        if layer.sort is None:
            continue
        if net.grid not in {None, grid}:
            return f"layer {index} rounds to multiples of 2^-{net.grid} pixel in a net of grid {grid}"
        terms, most = len(layer.sort), min(layer.weight.shape[1], MOST_TERMS)
        if not 1 <= terms <= most or (layer.sort < 0).any() or math.fsum(layer.sort.tolist()) != 1:
            return f"layer {index} has {terms} sort weights; expected 1 to {most}, not negative, with the sum 1"
        bits = bits_of_weights(layer)
        limit = 2.0 ** (EXACT_BITS - grid - bits)
        if reach.difference * SLACK + 2.0**-grid >= limit:
            return (
                f"differences reach {reach.difference:.6g} pixels in layer {index} where weights of 2^-{bits} and "
                f"the grid of 2^-{grid} allow {limit:g}: use a smaller --grid"
            )
    return None


def check_exact(net: PixelNet, grid: int) -> None:
    """Proves that the net computes exactly in float32.

    Raises:
        ExportError: It does not; the numbers say why.
    """
    if reason := exactness_gap(net, grid):
        raise ExportError(f"the net is not exact: {reason}")


def never_rounds(net: PixelNet) -> bool:
    """Proves that no operation rounds or flushes in the net's own format, in any association, or returns False."""
    if net.sorts:
        return net.grid is not None and exactness_gap(net, net.grid) is None
    info = np.finfo(net.format)
    reach = _largest_partial_sum(net, value_ranges(net))
    if not reach < float(info.max) / 2:
        return False
    # The finest grid on which whatever occurs has few enough bits, and is never subnormal.
    grid = min(info.nmant + 1 - math.frexp(reach)[1], -info.minexp)
    constants = all(_layer_on_grid(layer, grid) for layer in net.layers) and on_grid(net.input_centre, grid)
    return reach < 2.0 ** (info.nmant + 1 - grid) and constants


def overflow_gap(net: PixelNet) -> str | None:
    """Says why a value may overflow the net's format, or returns None, which proves that none does."""
    largest = float(np.finfo(net.format).max)
    ranges = value_ranges(net)
    reach = max(_largest_partial_sum(net, ranges), _largest_in_head(net, ranges))
    if reach < largest / 2:
        return None
    mend = "use --precision fp32" if net.format == np.float16 else "check the checkpoint"
    return f"values reach {reach:g} pixels where {net.precision} ends at {largest:g}: {mend}"


def centre_gap(net: PixelNet) -> str | None:
    """Says why the difference of a pixel and the centre may round, or returns None: every one was looked at.

    So neither the place of a rounding nor a subnormal number shows there, in whatever format.
    """
    if net.centre is None:
        return None
    pixels = np.arange(PIXEL_MAX + 1)[:, None]
    with np.errstate(over="ignore"):
        found = pixels.astype(net.format) - net.centre
    if np.array_equal(found.astype(np.float64), pixels - net.centre.astype(np.float64)) and on_grid(
        net.centre, -int(np.finfo(net.format).minexp)
    ):
        return None
    return f"the centre {net.centre.tolist()} is too fine for {net.precision} to subtract it from pixels exactly"


def check_finite(net: PixelNet) -> None:
    """Proves that no value overflows the net's format.

    Raises:
        ExportError: A value may; the numbers say which.
    """
    if reason := overflow_gap(net) or centre_gap(net):
        raise ExportError(reason)


def rounding_error(net: PixelNet, ranges: Sequence[LayerRange]) -> Fraction:
    """Returns delta, in pixels: how far any logit can be from the real net with the same weights.

    Each term `x + b - w` may be summed in any association, with at most two roundings; a rounding of a value v
    moves it by at most `u |v|`, slightly more when it passes through a wider format first, and flushing by at most
    the smallest normal. Errors pass through a layer unchanged, so they add: T4 (c) and (d) of docs/theory.md.
    """
    info = np.finfo(net.format)
    unit = Fraction(float(info.eps)) / 2 * (1 + Fraction(1, 2**10))
    flush = Fraction(float(info.smallest_normal))
    distance, bias, error = Fraction(PIXEL_MAX), Fraction(_largest_centre(net)), Fraction(0)
    for layer, of_net in zip(ranges, net.layers, strict=True):
        largest = distance + error + bias + Fraction(layer.weight)
        error += unit * (2 + unit) * largest + 3 * flush
        if of_net.sort is not None:
            # K products, K - 1 sums and the weights themselves are each rounded once, and sum to 1 but for that.
            error += unit * (2 * len(of_net.sort) + 4) * (Fraction(layer.difference) + error)
            error += len(of_net.sort) * flush
            if net.grid is not None:
                # Another sum goes to another multiple: each is within half a step of what it was.
                error += Fraction(1, 2 ** (net.grid + 1))
        distance, bias = Fraction(layer.distance), Fraction(layer.bias)
    return error + unit * (distance + error + bias) + flush


def _distances(differences: Doubles, sort: npt.NDArray[np.float32] | None) -> Doubles:
    """Returns each row's distance, (O,), from its differences (O, I), which are not negative."""
    if sort is None:
        return np.asarray(differences.max(1))
    largest = -np.sort(-np.partition(differences, -len(sort), axis=1)[:, -len(sort) :], axis=1)
    distances: Doubles = largest @ sort.astype(np.float64)
    return distances


def _shown(ends: Doubles, window: Window | None, hull: Callable[..., Doubles]) -> Doubles:
    """Returns the ends (I,) of what one row of weights meets; of windows the hull of each channel and zero."""
    if window is None:
        return ends
    by_channel = hull(ends.reshape(window.shape[0], -1), axis=1)
    if window.pads:
        by_channel = hull(np.stack([by_channel, np.zeros_like(by_channel)]), axis=0)
    return np.repeat(by_channel, window.kernel**2)


def _largest_centre(net: PixelNet) -> float:
    return float(np.abs(net.input_centre).max())


def _largest_partial_sum(net: PixelNet, ranges: Sequence[LayerRange]) -> float:
    # A centre is added to the image as a bias is to a distance.
    distance, bias, reach = float(PIXEL_MAX), _largest_centre(net), 0.0
    for layer in ranges:
        reach = max(reach, (distance + bias + layer.weight) * SLACK)
        distance, bias = layer.distance, layer.bias
    # Twice: the difference of two logits is formed by the graph's radius.
    return max(reach, 2 * (distance + bias) * SLACK)


def _largest_in_head(net: PixelNet, ranges: Sequence[LayerRange]) -> float:
    """Bounds every partial sum of the head, in whatever order, over all features that occur."""
    size, reach = ranges[-1].output, 0.0
    for weight, bias in zip(net.head.weights, net.head.biases, strict=True) if net.head else ():
        rows = np.abs(weight.astype(np.float64)).sum(1) * size + np.abs(bias.astype(np.float64))
        # Once more: the engine's own roundings, at most a half even of its coarsest format.
        reach, size = max(reach, 2 * float(rows.max())), 1.0
    return reach


def _coarser_grid(reach: float, layers: int) -> str:
    """Names the finest grid that fits even after every constant has moved by a step of it."""
    for grid in range(MAX_GRID, -1, -1):
        if reach + 4 * (layers + 1) * 2.0**-grid < 2.0 ** (EXACT_BITS - grid):
            return f"--grid {grid} or "
    return ""


def _layer_on_grid(layer: PixelLayer, grid: int) -> bool:
    return on_grid(layer.weight, grid) and on_grid(layer.bias, grid)
