# SPDX-License-Identifier: Apache-2.0
"""Nets whose margin at an image is twice the radius, give or take an ulp, and the truth about each of them.

The arithmetic that decides is numpy's own, one operation at a time in the net's format, and shares nothing with
the package's evaluator. Whether a case is robust is decided and not estimated:

    one layer    for each pixel and each value it can take, the other pixels take their best value, which
                 rounding leaves the best because it is monotone
    two layers   every image in the box is run

Kinds of cases: `margin` as said; `ties`, two classes with the same row; `absorbed`, a bias so large that distances
are lost in it; `subnormal`, biases of which only the smallest numbers keep a tie from being one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from linfdeploy.onnx.passes.ranges import exactness_gap
from linfdeploy.onnx.pixel_net import PixelLayer, PixelNet

__all__ = ["BLOCK", "CASES", "Boundary", "Family", "blocks_of", "boundary_cases", "forward", "net_of", "real_gaps"]

Array: TypeAlias = npt.NDArray[Any]
Format: TypeAlias = Literal["fp32", "fp16", "exact"]
Kind: TypeAlias = Literal["margin", "ties", "absorbed", "subnormal"]

GRID = 12
CLASSES = 3
FAR = 16
ULPS = (-2, -1, 0, 1, 2, FAR)
BLOCK = 1000
"""Cases that are drawn and judged at a time."""


@dataclass(frozen=True)
class Family:
    """Cases of one kind: format, number of layers, pixels, hidden units, and the largest radius in levels."""

    name: str
    format: Format
    layers: int
    pixels: int
    hidden: int
    radius: int
    cases: int
    kind: Kind = "margin"


CASES = (
    Family("fp32, one layer", "fp32", 1, 12, 0, 8, 170_000),
    Family("fp16, one layer", "fp16", 1, 12, 0, 8, 150_000),
    Family("fp32, two layers", "fp32", 2, 2, 4, 4, 170_000),
    Family("fp16, two layers", "fp16", 2, 2, 4, 4, 150_000),
    Family("exact, one layer", "exact", 1, 12, 0, 8, 80_000),
    Family("exact, two layers", "exact", 2, 2, 4, 4, 60_000),
    Family("fp32, ties", "fp32", 1, 6, 0, 8, 10_000, "ties"),
    Family("fp16, ties", "fp16", 1, 6, 0, 8, 10_000, "ties"),
    Family("exact, ties", "exact", 2, 2, 4, 4, 10_000, "ties"),
    Family("fp32, absorbed", "fp32", 1, 6, 0, 8, 50_000, "absorbed"),
    Family("fp16, absorbed", "fp16", 1, 6, 0, 8, 50_000, "absorbed"),
    Family("fp32, subnormal", "fp32", 1, 4, 0, 8, 20_000, "subnormal"),
    Family("fp16, subnormal", "fp16", 1, 4, 0, 8, 20_000, "subnormal"),
)
"""With the heads and the searches at ulp distance of `boundary_special.py`: a million."""


@dataclass(frozen=True)
class Boundary:
    """The cases of one block; arrays have a row for each case.

    Attributes:
        family: What they are.
        weights: Of each layer, (N, O, I), in the format's dtype.
        biases: Of each layer, (N, O).
        images: (N, I) uint8.
        levels: (N,) radii.
        label: Class that wins at the image, for all cases the same.
        ulps: (N,) how far the margin is from `2 levels`, in ulps of the runner-up.
        naive: (N,) whether `margin / 2 > levels` in the net's own format.
        broken: (N,) whether an image in the box has no strict winner `label`.
        counterexamples: (N, I) uint8, such an image where there is one.
    """

    family: Family
    weights: tuple[Array, ...]
    biases: tuple[Array, ...]
    images: Array
    levels: Array
    label: int
    ulps: Array
    naive: Array
    broken: Array
    counterexamples: Array


def blocks_of(family: Family, seed: int, share: float = 1.0) -> Iterator[Boundary]:
    """Draws a share of a family's cases, a block at a time."""
    wanted = round(family.cases * share)
    for block in range(-(-wanted // BLOCK)):
        cases = min(BLOCK, wanted - block * BLOCK)
        yield boundary_cases(family, np.random.default_rng([seed, CASES.index(family), block]), cases)


def boundary_cases(family: Family, rng: np.random.Generator, cases: int) -> Boundary:
    """Draws cases of a family, with equal shares of each distance from the boundary."""
    dtype = np.float16 if family.format == "fp16" else np.float32
    # Not every two-layer net moves by the full radius twice; one that does not is robust and proves nothing.
    draws = cases * (1 if family.layers == 1 else 2) + len(ULPS)
    levels = rng.integers(1, family.radius + 1, draws)
    images = rng.integers(0, 256, (draws, family.pixels), np.uint8)
    inside = rng.random(draws) < (0.9 if family.kind != "subnormal" else 1)
    room = np.clip(images, 2 * levels[:, None], 255 - 2 * levels[:, None]).astype(np.uint8)
    images[inside] = room[inside]
    ulps = np.resize(np.array(ULPS), draws)
    if family.kind == "subnormal":
        weights, biases = _draw_subnormal(rng, images, levels, family)
    else:
        weights, biases = _draw_net(rng, images, family)
        if family.kind == "absorbed":
            _absorb(rng, biases[-1], family.format)
        _plant(images.astype(dtype), weights, biases, levels, ulps, family.format)
    if family.kind == "ties":
        weights[-1][:, 1], biases[-1][:, 1] = weights[-1][:, 0], biases[-1][:, 0]
        kept = np.arange(cases)
    else:
        kept = _chosen(images, weights, biases, levels, family, ulps)[:cases]
    weights, biases = [w[kept] for w in weights], [b[kept] for b in biases]
    images, levels, ulps = images[kept], levels[kept], ulps[kept]
    logits = forward(images.astype(dtype), weights, biases)
    margin = logits[:, 1:].min(1) - logits[:, 0]
    naive = margin / dtype(2) > levels.astype(dtype)
    search = _search_one_layer if family.layers == 1 else _search_all
    broken, counterexamples = search(images, weights, biases, levels)
    return Boundary(family, tuple(weights), tuple(biases), images, levels, 0, ulps, naive, broken, counterexamples)


def forward(x: Array, weights: list[Array] | tuple[Array, ...], biases: list[Array] | tuple[Array, ...]) -> Array:
    """Returns the distances (N, K) of one image (N, I) for each net, every operation rounded to the dtype."""
    for weight, bias in zip(weights, biases, strict=True):
        x = np.abs(x[:, None, :] - weight).max(2) + bias
    return x


def real_gaps(boundary: Boundary) -> tuple[Array, Array]:
    """Returns by how much the label's real interval is separated, and the ulp of its ends, (N,) each.

    float64 stands for the reals: 29 bits more than float32.
    """
    low, high = (ends.astype(np.float64) for ends in boxes_of(boundary.images, boundary.levels))
    for weight, bias in zip(boundary.weights, boundary.biases, strict=True):
        wide, shift = weight.astype(np.float64), bias.astype(np.float64)
        below, above = low[:, None] - wide, high[:, None] - wide
        high = np.maximum(np.abs(below), np.abs(above)).max(2) + shift
        low = np.maximum(np.maximum(below, -above), 0).max(2) + shift
    ends = np.concatenate([low, high, *boundary.biases], 1).astype(boundary.weights[0].dtype)
    return low[:, 1:].min(1) - high[:, 0], np.spacing(np.abs(ends)).max(1).astype(np.float64)


def net_of(boundary: Boundary, index: int) -> PixelNet:
    """Returns one case's net; an exact one is proven to be."""
    family = boundary.family
    layers = tuple(
        PixelLayer(weight[index], bias[index])
        for weight, bias in zip(boundary.weights, boundary.biases, strict=True)
    )
    net = PixelNet((1, 1, family.pixels), layers, GRID if family.format == "exact" else None)
    assert family.format != "exact" or exactness_gap(net, GRID) is None
    return net


def _draw_net(rng: np.random.Generator, images: Array, family: Family) -> tuple[list[Array], list[Array]]:
    """Draws weights so that distances lie near powers of two: where moved values round to another grid.

    Pixels move by whole levels, so within one binade an image and its neighbours round alike.
    """
    draws, weights, biases = len(images), [], []
    x = images.astype(np.float64)
    for outputs in [family.hidden, CLASSES][2 - family.layers :]:
        reach = rng.choice([64.0, 128.0, 256.0], (draws, 1, 1)) + rng.uniform(-2, 10, (draws, outputs, 1))
        weight = x[:, None, :] + reach * rng.uniform(-1, 1, (draws, outputs, x.shape[1]))
        weights.append(_rounded(weight, family.format))
        biases.append(_rounded(rng.uniform(-10, 10, (draws, outputs)), family.format))
        x = forward(x, weights[-1:], biases[-1:])
    near = rng.choice([64.0, 128.0, 256.0], draws) + rng.uniform(-family.radius, 2, draws)
    biases[-1][:, 0] = _rounded(near - (x[:, 0] - biases[-1][:, 0]), family.format)
    return weights, biases


def _rounded(values: Array, form: Format) -> Array:
    if form == "exact":
        values = np.rint(values * 2.0**GRID) / 2.0**GRID
    return values.astype(np.float16 if form == "fp16" else np.float32)


def _plant(x: Array, weights: list[Array], biases: list[Array], levels: Array, ulps: Array, form: Format) -> None:
    """Sets the last biases so that class 0 leads class 1 by `2 levels` and the given ulps, class 2 by more."""
    dtype = x.dtype.type
    bias = biases[-1]
    unbiased = forward(x, weights, [*biases[:-1], np.zeros_like(bias)])
    target = unbiased[:, 0] + bias[:, 0] + (2 * levels).astype(dtype)
    for _ in range(max(ULPS)):
        step = np.spacing(np.abs(target)) if form != "exact" else dtype(2.0**-GRID)
        target = np.where(ulps > 0, target + step, np.where(ulps < 0, target - step, target)).astype(dtype)
        ulps = ulps - np.sign(ulps)
    bias[:, 1] = target - unbiased[:, 1]
    bias[:, 2] = target - unbiased[:, 2] + dtype(1)


def _draw_subnormal(
    rng: np.random.Generator, images: Array, levels: Array, family: Family
) -> tuple[list[Array], list[Array]]:
    """Class 0 has the image itself for its row, class 1 a pixel 2 levels away: biases alone decide between them.

    With a negative bias of class 0 the margin exceeds 2 levels, by less than any distance can hold.
    """
    dtype, draws = np.float16 if family.format == "fp16" else np.float32, len(images)
    x = images.astype(np.float64)
    weight = np.repeat(x[:, None], CLASSES, 1)
    signs = rng.choice([-1, 1], (draws, CLASSES))
    weight[:, 1, 0] += signs[:, 1] * 2 * levels
    weight[:, 2, 1] += signs[:, 2] * (2 * levels + 1)
    tiny = float(np.finfo(dtype).smallest_subnormal)
    bias = rng.integers(-3, 4, (draws, CLASSES)) * tiny
    return [weight.astype(dtype)], [bias.astype(dtype)]


def _absorb(rng: np.random.Generator, bias: Array, form: Format) -> None:
    """Raises class 0's bias, and with it what is planted, to where an ulp is a pixel or several."""
    first, last = (10, 14) if form == "fp16" else (22, 27)
    bias[:, 0] += (2.0 ** rng.integers(first, last, len(bias))).astype(bias.dtype)


def _chosen(
    images: Array, weights: list[Array], biases: list[Array], levels: Array, family: Family, ulps: Array
) -> npt.NDArray[np.int64]:
    """Returns the cases to keep: margins really near the boundary and, with two layers, a full move in the box."""
    dtype = weights[0].dtype
    z = forward(images.astype(dtype), weights, biases).astype(np.float64)
    reach = np.spacing(z.astype(dtype)).astype(np.float64).max(1) * np.where(ulps == FAR, 4 * FAR, 8)
    near = np.abs(z[:, 1] - z[:, 0] - 2 * levels) <= reach
    candidates = np.flatnonzero(near | (family.format == "exact"))
    if family.layers == 2:
        wide_weights, wide_biases = (
            [a[candidates].astype(np.float64) for a in part] for part in (weights, biases)
        )
        least, _ = _least_margins(images[candidates], wide_weights, wide_biases, levels[candidates])
        # A few ulps, so that cases on the safe side of the boundary stay.
        hard = least < (0.6 if family.format == "fp16" else 0.1)
        candidates = candidates[hard | (ulps[candidates] == FAR)]
    return candidates


def boxes_of(images: Array, levels: Array) -> tuple[Array, Array]:
    """Returns the lowest and the highest image of each box, (N, I) int64."""
    wide = images.astype(np.int64)
    return np.maximum(wide - levels[:, None], 0), np.minimum(wide + levels[:, None], 255)


def _search_one_layer(
    images: Array, weights: list[Array], biases: list[Array], levels: Array
) -> tuple[Array, Array]:
    """Decides robustness of one-layer nets; see the module."""
    (weight,) = weights
    dtype = weight.dtype
    lower, upper = boxes_of(images, levels)
    broken, found = np.zeros(len(images), bool), images.copy()
    for other in range(1, CLASSES):
        best = np.clip(np.rint(weight[:, other].astype(np.float64)), lower, upper)
        for pixel, step in product(range(images.shape[1]), range(2 * int(levels.max()) + 1)):
            x = best.copy()
            x[:, pixel] = np.minimum(lower[:, pixel] + step, upper[:, pixel])
            z = forward(x.astype(dtype), weights, biases)
            falls = (z[:, other] <= z[:, 0]) & ~broken
            found[falls] = x[falls].astype(np.uint8)
            broken |= falls
    return broken, found


def _search_all(images: Array, weights: list[Array], biases: list[Array], levels: Array) -> tuple[Array, Array]:
    """Decides robustness by running every image in the box."""
    least, found = _least_margins(images, weights, biases, levels)
    return least <= 0, found


def _least_margins(images: Array, weights: list[Array], biases: list[Array], levels: Array) -> tuple[Array, Array]:
    """Returns the smallest computed margin of class 0 over each box, (N,), and where it is."""
    lower, upper = boxes_of(images, levels)
    least, found = np.full(len(images), np.inf), images.copy()
    for offsets in _offsets(images.shape[1], int(levels.max())):
        x = np.minimum(lower + offsets, upper)
        z = forward(x.astype(weights[0].dtype), weights, biases)
        # A comparison of two floats is exact; their difference is not needed beyond its sign.
        margin = z[:, 1:].min(1).astype(np.float64) - z[:, 0]
        smaller = margin < least
        least[smaller], found[smaller] = margin[smaller], x[smaller].astype(np.uint8)
    return least, found


def _offsets(pixels: int, radius: int) -> Iterator[Array]:
    for steps in product(range(2 * radius + 1), repeat=pixels):
        yield np.array(steps)
