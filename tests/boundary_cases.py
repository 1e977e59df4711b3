# SPDX-License-Identifier: Apache-2.0
"""Nets whose margin at an image is twice the radius, give or take an ulp, and the truth about each of them.

The arithmetic that decides is numpy's own, one operation at a time in the net's format, and shares nothing with
the package's evaluator. Whether a case is robust is decided and not estimated:

    one layer    for each pixel and each value it can take, the other pixels take their best value, which
                 rounding leaves the best because it is monotone
    two layers   every image in the box is run
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from linfdeploy.engines.reference import PER_OP, ReferenceEngine
from linfdeploy.onnx.passes.ranges import exactness_gap
from linfdeploy.onnx.pixel_net import PixelLayer, PixelNet
from linfdeploy.verify.certificates import Certifier

__all__ = ["CASES", "Boundary", "Family", "Tally", "boundary_cases", "net_of", "table", "tally"]

Array: TypeAlias = npt.NDArray[Any]
Format: TypeAlias = Literal["fp32", "fp16", "exact"]

GRID = 12
CLASSES = 3
ULPS = (-2, -1, 0, 1, 2)


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


CASES = (
    Family("fp32, one layer", "fp32", 1, 12, 0, 8, 2500),
    Family("fp16, one layer", "fp16", 1, 12, 0, 8, 2500),
    Family("fp32, two layers", "fp32", 2, 2, 4, 4, 2000),
    Family("fp16, two layers", "fp16", 2, 2, 4, 4, 2000),
    Family("exact, one layer", "exact", 1, 12, 0, 8, 500),
    Family("exact, two layers", "exact", 2, 2, 4, 4, 500),
)


@dataclass(frozen=True)
class Boundary:
    """The cases of one family; arrays have a row for each case.

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


def boundary_cases(family: Family, seed: int) -> Boundary:
    """Draws the cases of a family, with equal shares of each distance from the boundary."""
    rng = np.random.default_rng(seed)
    dtype = np.float16 if family.format == "fp16" else np.float32
    # Not every two-layer net moves by the full radius twice; one that does not is robust and proves nothing.
    draws = family.cases * (1 if family.layers == 1 else 2)
    levels = rng.integers(1, family.radius + 1, draws)
    images = rng.integers(0, 256, (draws, family.pixels), np.uint8)
    inside = rng.random(draws) < 0.9
    room = np.clip(images, levels[:, None], 255 - levels[:, None]).astype(np.uint8)
    images[inside] = room[inside]
    weights, biases = _draw_net(rng, images, family)
    ulps = np.resize(np.array(ULPS), draws)
    _plant(images.astype(dtype), weights, biases, levels, ulps, family.format)
    kept = _chosen(images, weights, biases, levels, family)
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


@dataclass(frozen=True)
class Tally:
    """What each check made of a family's cases.

    Attributes:
        family: Its name.
        cases: How many.
        broken: How many have a counterexample that the evaluator confirms.
        certified: Of all cases, by check.
        false: Of the broken ones, by check.
        missed: Counterexamples that the evaluator does not confirm; must be 0.
    """

    family: str
    cases: int
    broken: int
    certified: dict[str, int]
    false: dict[str, int]
    missed: int

    def power(self, check: str) -> float:
        """Returns the share of truly robust cases that a check certifies."""
        return (self.certified[check] - self.false[check]) / max(self.cases - self.broken, 1)


def tally(boundary: Boundary) -> Tally:
    """Certifies every case and runs every counterexample on the package's evaluator."""
    flags: dict[str, list[bool]] = {"naive": boundary.naive.tolist(), "E": [], "I": [], "D": []}
    missed = 0
    for index in range(len(boundary.images)):
        net = net_of(boundary, index)
        shape = (1, *net.input_shape)
        image, other = (a[index].reshape(shape) for a in (boundary.images, boundary.counterexamples))
        engine = ReferenceEngine(net)
        certifier = Certifier(net, PER_OP, image, engine.run(image))
        certified = certifier.at(int(boundary.levels[index]))
        # A margin of zero or less at the image itself makes another class the label: no case for class 0.
        right = bool(certifier.labels[0] == boundary.label)
        flags["E"].append(certified.exact is not None and right and bool(certified.exact[0]))
        flags["I"].append(certified.interval is not None and right and bool(certified.interval[0]))
        flags["D"].append(right and bool(certified.delta[0]))
        if boundary.broken[index]:
            logits = engine.run(other)[0]
            missed += int(logits[0] > logits[1:].max())
    found = {name: np.array(values, bool) for name, values in flags.items()}
    return Tally(
        boundary.family.name,
        len(boundary.images),
        int(boundary.broken.sum()),
        {name: int(values.sum()) for name, values in found.items()},
        {name: int((values & boundary.broken).sum()) for name, values in found.items()},
        missed,
    )


def table(tallies: list[Tally]) -> str:
    """Returns the tallies as a table; each check has `certified (of them false)`."""
    checks = ("naive", "E", "I", "D")
    lines = ["".join([f"{'family':<20}{'cases':>7}{'broken':>8}", *(f"{check:>14}" for check in checks)])]
    for row in tallies:
        cells = [f"{f'{row.certified[check]} ({row.false[check]})':>14}" for check in checks]
        lines.append("".join([f"{row.family:<20}{row.cases:>7}{row.broken:>8}", *cells]))
    return "\n".join(lines)


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


def _chosen(
    images: Array, weights: list[Array], biases: list[Array], levels: Array, family: Family
) -> npt.NDArray[np.int64]:
    """Returns the cases to keep: margins really near the boundary and, with two layers, a full move in the box."""
    dtype = weights[0].dtype
    z = forward(images.astype(dtype), weights, biases).astype(np.float64)
    near = np.abs(z[:, 1] - z[:, 0] - 2 * levels) <= 8 * np.spacing(z.astype(dtype)).astype(np.float64).max(1)
    candidates = np.flatnonzero(near | (family.format == "exact"))
    if family.layers == 2:
        wide_weights, wide_biases = (
            [a[candidates].astype(np.float64) for a in part] for part in (weights, biases)
        )
        least, _ = _least_margins(images[candidates], wide_weights, wide_biases, levels[candidates])
        # A few ulps, so that cases on the safe side of the boundary stay.
        candidates = candidates[least < (0.6 if family.format == "fp16" else 0.1)]
    assert len(candidates) >= family.cases * 0.95, (family.name, len(candidates))
    return candidates[: family.cases]


def _boxes(images: Array, levels: Array) -> tuple[Array, Array]:
    wide = images.astype(np.int64)
    return np.maximum(wide - levels[:, None], 0), np.minimum(wide + levels[:, None], 255)


def _search_one_layer(
    images: Array, weights: list[Array], biases: list[Array], levels: Array
) -> tuple[Array, Array]:
    """Decides robustness of one-layer nets; see the module."""
    (weight,) = weights
    dtype = weight.dtype
    lower, upper = _boxes(images, levels)
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
    lower, upper = _boxes(images, levels)
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
