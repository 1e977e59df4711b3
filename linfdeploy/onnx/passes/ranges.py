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
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from linfdeploy.errors import ExportError
from linfdeploy.onnx.pixel_net import EXACT_BITS, MAX_GRID, PIXEL_MAX, PixelLayer, PixelNet, on_grid

__all__ = [
    "LayerRange",
    "check_exact",
    "check_finite",
    "exactness_gap",
    "never_rounds",
    "overflow_gap",
    "rounding_error",
    "value_ranges",
]

# Covers the float64 roundings of one layer's bounds, each 2^-53 of values that are summed twice.
SLACK = 1.0 + 2.0**-48


@dataclass(frozen=True)
class LayerRange:
    """Proven magnitudes of one layer, in pixels: inputs, weights, distances, biases, outputs."""

    input: float
    weight: float
    distance: float
    bias: float
    output: float


def value_ranges(net: PixelNet) -> tuple[LayerRange, ...]:
    """Bounds every layer over the box [0, 255]^I by interval arithmetic in float64, widened by its roundings."""
    lower, upper = np.zeros(net.inputs), np.full(net.inputs, float(PIXEL_MAX))
    ranges = []
    for layer in net.layers:
        weight, bias = layer.weight.astype(np.float64), layer.bias.astype(np.float64)
        farthest = np.maximum(np.abs(lower - weight), np.abs(upper - weight)).max(1) * SLACK
        nearest = np.maximum(np.maximum(lower - weight, weight - upper).max(1), 0.0) / SLACK
        ranges.append(
            LayerRange(
                input=float(max(np.abs(lower).max(), np.abs(upper).max())),
                weight=float(np.abs(weight).max()),
                distance=float(farthest.max()),
                bias=float(np.abs(bias).max()),
                output=float(np.maximum(np.abs(nearest + bias), np.abs(farthest + bias)).max() * SLACK),
            )
        )
        lower, upper = np.nextafter(nearest + bias, -np.inf), np.nextafter(farthest + bias, np.inf)
    return tuple(ranges)


def exactness_gap(net: PixelNet, grid: int) -> str | None:
    """Says why the net is not exact on the grid 2^-grid, or returns None, which proves that it is.

    Exact means: every weight and bias is a multiple of 2^-grid, and every partial sum, in any association of
    `x + b - w`, stays below 2^(24 - grid). Then no float32 operation rounds, whatever is fused or reordered.
    """
    for index, layer in enumerate(net.layers):
        if layer.weight.dtype != np.float32 or not _layer_on_grid(layer, grid):
            return f"layer {index} has weights or biases off the grid of 2^-{grid} pixel in float32"
    limit = 2.0 ** (EXACT_BITS - grid)
    reach = _largest_partial_sum(value_ranges(net))
    if reach >= limit:
        return (
            f"values reach {reach:.6g} pixels where the grid of 2^-{grid} allows {limit:g}: "
            f"use {_coarser_grid(reach, len(net.layers))}--precision fp32"
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
    info = np.finfo(net.format)
    reach = _largest_partial_sum(value_ranges(net))
    if not reach < float(info.max) / 2:
        return False
    # The finest grid on which whatever occurs has few enough bits, and is never subnormal.
    grid = min(info.nmant + 1 - math.frexp(reach)[1], -info.minexp)
    return reach < 2.0 ** (info.nmant + 1 - grid) and all(_layer_on_grid(layer, grid) for layer in net.layers)


def overflow_gap(net: PixelNet) -> str | None:
    """Says why a value may overflow the net's format, or returns None, which proves that none does."""
    largest = float(np.finfo(net.format).max)
    ranges = value_ranges(net)
    reach = max(_largest_partial_sum(ranges), _largest_in_head(net, ranges))
    if reach < largest / 2:
        return None
    mend = "use --precision fp32" if net.format == np.float16 else "check the checkpoint"
    return f"values reach {reach:g} pixels where {net.precision} ends at {largest:g}: {mend}"


def check_finite(net: PixelNet) -> None:
    """Proves that no value overflows the net's format.

    Raises:
        ExportError: A value may; the numbers say which.
    """
    if reason := overflow_gap(net):
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
    distance, bias, error = Fraction(PIXEL_MAX), Fraction(0), Fraction(0)
    for layer in ranges:
        largest = distance + error + bias + Fraction(layer.weight)
        error += unit * (2 + unit) * largest + 3 * flush
        distance, bias = Fraction(layer.distance), Fraction(layer.bias)
    return error + unit * (distance + error + bias) + flush


def _largest_partial_sum(ranges: Sequence[LayerRange]) -> float:
    distance, bias, reach = float(PIXEL_MAX), 0.0, 0.0
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
