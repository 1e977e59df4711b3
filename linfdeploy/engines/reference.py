# SPDX-License-Identifier: Apache-2.0
"""The bit-exact evaluator of a pixel net, and its interval twin.

`run` computes what an engine must compute, operation by operation, with the roundings named by `Rounding`.
`bounds` propagates a box through the same operations with the same roundings. Guarantees, for every image `x` with
`lower <= x <= upper` (integers, or values of the net's format):

    bounds(lower, upper)[0] <= run(x) <= bounds(lower, upper)[1]

with no slack: each operation is monotone in each argument, and so is rounding.

Of a net with a head that holds for its features alone: bound and compare them as the logits of `net.distances`,
which are their negation. Sums have no order that all engines follow, so `run` is then one of many right answers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from linfdeploy.engines.base import Answers, Engine, Images, Logits
from linfdeploy.engines.roundings import PER_OP, Rounding, flushed, operands_of, roundings_of
from linfdeploy.kernels import (
    linf_dist,
    linf_dist_argmax,
    linf_dist_bounds,
    linf_dist_conv,
    sort_dist,
    sort_dist_argtop,
    sort_dist_bounds,
)
from linfdeploy.nets.windows import Window
from linfdeploy.onnx.mlp_head import MlpHead
from linfdeploy.onnx.pixel_net import PixelLayer, PixelNet
from linfdeploy.onnx.radius import radius_slack

__all__ = ["PER_OP", "Hull", "ReferenceEngine", "Rounding", "evaluator_of", "roundings_of"]

Indices: TypeAlias = npt.NDArray[np.int64]
Flags: TypeAlias = npt.NDArray[np.bool_]
Ends: TypeAlias = tuple[Logits, Logits]

# Values of windows that are gathered at once for bounds.
CELLS = 2**24


class ReferenceEngine(Engine):
    """Evaluates a pixel net with the roundings of its format."""

    def __init__(self, net: PixelNet, rounding: Rounding = PER_OP, *, radius: bool = False) -> None:
        assert not (radius and net.head), "no radius follows from the logits of a head"
        self.net = net
        self.rounding = rounding
        self.input_shape = net.input_shape
        self.classes = net.classes
        self.versions = {"numpy": np.__version__}
        operands = operands_of(net, rounding)
        self._weights, self._biases = operands.weights, operands.biases
        self._centre = net.input_centre
        self._radius = radius

    def bounds(self, lower: Images, upper: Images) -> tuple[Logits, Logits]:
        """Bounds the logits over boxes of images; see the module's inequality.

        Args:
            lower: (N, C, H, W) uint8, lower ends.
            upper: (N, C, H, W) uint8, upper ends, nowhere below `lower`.

        Returns:
            Lower and upper ends of the logits, each (N, K) float32.
        """
        return self.last_bounds(*self.last_inputs(lower, upper))

    def last_inputs(self, lower: Images, upper: Images) -> tuple[Logits, Logits]:
        """Bounds what enters the last layer, over boxes of images; the ends are (N, I) float32 each."""
        low, high = self._flat(lower), self._flat(upper)
        for index in range(len(self._weights) - 1):
            low, high = self._layer_bounds(low, high, index)
        return low, high

    def last_bounds(self, low: Logits, high: Logits) -> tuple[Logits, Logits]:
        """Bounds the logits, (N, K) float32 each, from the bounds of `last_inputs`."""
        assert self.net.head is None, "bits and bounds are those of `net.distances`"
        low, high = self._layer_bounds(low, high, len(self._weights) - 1)
        return -high, -low

    def stages(self, lower: Images, upper: Images) -> Iterator[tuple[Ends | None, Ends]]:
        """Yields the bounds of `last_inputs` and those of `bounds`, for each rounding that is possible.

        The first is None where a folded bias is missing from what enters the last layer's subtraction.
        """
        box = self.last_inputs(lower, upper)
        yield (None if self.rounding.folded else box), self.last_bounds(*box)

    def explains(self, images: Images, logits: Logits) -> Flags:
        """Returns for which images (N,) the logits (N, K) are, bit by bit, those of the rounding."""
        assert self.net.head is None, "bits and bounds are those of `net.distances`"
        same: Flags = (self.run(images) == logits).all(1)
        return same

    def attaining(self, images: Images) -> Iterator[Indices]:
        """Yields, layer by layer, which input attains each output's distance, (N, O); the lowest of equal ones.

        Of a convolution it is a column of the weight: `PixelLayer.sources` says which input that is.
        Of a sorted distance, which rests on several, it is the input of the largest difference.
        """
        x = self._flat(images)
        for index, (weight, layer) in enumerate(zip(self._weights, self.net.layers, strict=True)):
            found = [self._attaining(layer, weight, x[part]) for part in _parts(layer, len(x))]
            distance, attains = (np.concatenate(parts) for parts in zip(*found, strict=True))
            x = self._add(distance, self._biases[index], index)
            yield attains

    def _attaining(self, layer: PixelLayer, weight: Logits, x: Logits) -> tuple[Logits, Indices]:
        rows = layer.rows(x)
        if layer.sort is None:
            distance, attains = linf_dist_argmax(rows, weight)
        else:
            distance = self.sort_distance(rows, weight, layer.sort)
            attains = sort_dist_argtop(rows, weight, 1)[:, :, 0]
        return layer.flat(distance), layer.flat(attains)

    def _layer_bounds(self, low: Logits, high: Logits, index: int) -> tuple[Logits, Logits]:
        layer = self.net.layers[index]
        ends = [self._distance_bounds(layer, low[part], high[part], index) for part in _parts(layer, len(low))]
        low, high = (np.concatenate(end) for end in zip(*ends, strict=True))
        return self._add(low, self._biases[index], index), self._add(high, self._biases[index], index)

    def _distance_bounds(self, layer: PixelLayer, low: Logits, high: Logits, index: int) -> tuple[Logits, Logits]:
        rows, weight = (layer.rows(low), layer.rows(high)), self._weights[index]
        if layer.sort is None:
            low, high = self.distance_bounds(*rows, weight)
        else:
            low, high = self.sort_distance_bounds(*rows, weight, layer.sort)
        return layer.flat(low), layer.flat(high)

    def _answer(self, images: Images) -> Answers:
        x = self._flat(images)
        for index, bias in enumerate(self._biases):
            x = self._add(self._distance(x, index), bias, index)
        if self.net.head is not None:
            return {"logits": _head_logits(self.net.head, x)}
        return {"logits": -x, **(self.label_and_radius(-x) if self._radius else {})}

    def distance(self, x: Logits, w: Logits) -> Logits:
        """Returns the distances of rows, (N, O) float32; see `linfdeploy.kernels.linf_dist`."""
        return linf_dist(x, w)

    def convolution(self, x: Logits, w: Logits, window: Window) -> Logits:
        """Returns the distances of windows of flat images; see `linfdeploy.kernels.linf_dist_conv`."""
        images = x.reshape(-1, *window.shape)
        filters = w.reshape(-1, window.shape[0], window.kernel, window.kernel)
        return linf_dist_conv(images, filters, window.stride, window.padding).reshape(len(x), -1)

    def distance_bounds(self, lower: Logits, upper: Logits, w: Logits) -> tuple[Logits, Logits]:
        """Returns the distances' bounds over boxes; see `linfdeploy.kernels.linf_dist_bounds`."""
        return linf_dist_bounds(lower, upper, w)

    def sort_distance(self, x: Logits, w: Logits, c: Logits) -> Logits:
        """Returns the sorted distances of rows, on the net's grid; see `linfdeploy.kernels.sort_dist`."""
        return sort_dist(x, w, c, self.net.grid)

    def sort_distance_bounds(self, lower: Logits, upper: Logits, w: Logits, c: Logits) -> tuple[Logits, Logits]:
        """Returns the sorted distances' bounds over boxes; see `linfdeploy.kernels.sort_dist_bounds`."""
        return sort_dist_bounds(lower, upper, w, c, self.net.grid)

    def _distance(self, x: Logits, index: int) -> Logits:
        layer, weight = self.net.layers[index], self._weights[index]
        if layer.window is not None and layer.sort is None:
            return self.convolution(x, weight, layer.window)
        rows = layer.rows(x)
        return layer.flat(
            self.distance(rows, weight) if layer.sort is None else self.sort_distance(rows, weight, layer.sort)
        )

    def _flat(self, images: Images) -> Logits:
        """Returns what enters the first layer, (N, I); a centre is such that its difference never rounds."""
        return images.reshape(len(images), -1).astype(np.float32) - self._centre

    def _add(self, distance: Logits, bias: Logits, index: int) -> Logits:
        """Rounds the distance, adds the bias, rounds the sum, as the net's rounding says."""
        last, rounding = index == len(self._weights) - 1, self.rounding
        # Weights beyond the format's range are reported, not met with numpy's warnings.
        with np.errstate(over="ignore"):
            rounds = rounding.last_distance if last else rounding.distance
            distance = self._rounded(distance, rounds, flushes=rounding.flush != "never")
            if rounding.folded and not last:
                return distance
            # What leaves a hidden layer enters the next one; what leaves the last enters nothing.
            flushes = "outputs" in rounding.flush or (rounding.flush != "never" and not last)
            return self._rounded(distance + bias, rounding.last_bias if last else rounding.bias, flushes=flushes)

    def _rounded(self, values: Logits, rounds: bool, *, flushes: bool) -> Logits:
        """Rounds and flushes to the net's format; what is held in float32 is never subnormal there."""
        if not rounds:
            return values
        if self.net.format == np.float16:
            # Rounding a float32 result of float16 operands gives the float16 result: 24 >= 2*11 + 2 bits.
            values = values.astype(np.float16).astype(np.float32)
        return flushed(values, self.net.format).astype(np.float32, copy=False) if flushes else values

    def label_and_radius(self, logits: Logits) -> Answers:
        """Computes the graph's outputs `label` and `radius` from logits (N, K), operation by operation."""
        first, second = np.moveaxis(np.sort(logits, axis=1)[:, :-3:-1], 1, 0)
        radius = np.maximum((first - second - radius_slack(self.net)) * np.float32(0.5), np.float32(0))
        return {"label": logits.argmax(1), "radius": radius}


class Hull:
    """Several evaluators of one net, when it is not known which of them an engine follows.

    Guarantees of `bounds` what the module says, for every engine that follows one of them at each image.
    """

    def __init__(self, net: PixelNet, roundings: Sequence[Rounding]) -> None:
        self.net = net
        self.members = tuple(ReferenceEngine(net, rounding) for rounding in roundings)

    def bounds(self, lower: Images, upper: Images) -> Ends:
        """As `ReferenceEngine.bounds`: the smallest lower and the largest upper ends."""
        return _hull([member.bounds(lower, upper) for member in self.members])

    def stages(self, lower: Images, upper: Images) -> Iterator[tuple[Ends | None, Ends]]:
        """Yields those of each member."""
        for member in self.members:
            yield from member.stages(lower, upper)

    def explains(self, images: Images, logits: Logits) -> Flags:
        """Returns for which images (N,) a member has the very logits (N, K)."""
        same: Flags = np.logical_or.reduce([member.explains(images, logits) for member in self.members])
        return same


def evaluator_of(net: PixelNet, roundings: Sequence[Rounding]) -> ReferenceEngine | Hull | None:
    """Returns what bounds an engine that follows one of the roundings; None if there is none."""
    if len(roundings) < 2:
        return ReferenceEngine(net, roundings[0]) if roundings else None
    return Hull(net, roundings)


def _hull(ends: Sequence[Ends]) -> Ends:
    lower, upper = zip(*ends, strict=True)
    return np.minimum.reduce(lower), np.maximum.reduce(upper)


def _head_logits(head: MlpHead, x: Logits) -> Logits:
    """Returns the logits (N, K) of features (N, F): sums and tanh in float64, each rounded once to the format."""
    for index, (weight, bias) in enumerate(zip(head.weights, head.biases, strict=True)):
        y = x.astype(np.float64) @ weight.astype(np.float64).T + bias
        x = y.astype(weight.dtype).astype(np.float32)
        if index + 1 < len(head.weights):
            y = np.tanh(x.astype(np.float64)) if head.activation == "tanh" else np.clip(x, -1, 1)
            x = y.astype(weight.dtype).astype(np.float32)
    return x


def _parts(layer: PixelLayer, count: int) -> Iterator[slice]:
    """Yields slices of so many inputs that their windows fit into memory, at least one."""
    step = count or 1
    if layer.window is not None:
        step = max(CELLS // (layer.positions * layer.window.terms), 1)
    yield from (slice(i, i + step) for i in range(0, count or 1, step))
