# SPDX-License-Identifier: Apache-2.0
"""The bit-exact evaluator of a pixel net, and its interval twin.

`run` computes what an engine must compute, operation by operation, with the roundings named by `Rounding`.
`bounds` propagates a box through the same operations with the same roundings. Guarantees, for every image `x` with
`lower <= x <= upper` (integers, or values of the net's format):

    bounds(lower, upper)[0] <= run(x) <= bounds(lower, upper)[1]

with no slack: each operation is monotone in each argument, and so is rounding.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np

from linfdeploy.engines.base import Answers, Engine, Images, Logits
from linfdeploy.kernels import linf_dist, linf_dist_bounds
from linfdeploy.onnx.pixel_net import PixelNet
from linfdeploy.onnx.radius import radius_slack

__all__ = ["PER_OP", "ReferenceEngine", "Rounding", "roundings_of"]


@dataclass(frozen=True)
class Rounding:
    """After which operations a float16 net rounds to float16; elsewhere it holds float32.

    Attributes:
        distance: After the hidden layers' distances.
        bias: After the hidden layers' bias sums.
        last_distance: After the last layer's distance.
        last_bias: After the last layer's bias sum.
    """

    distance: bool = True
    bias: bool = True
    last_distance: bool = True
    last_bias: bool = True

    @property
    def name(self) -> str:
        """`per-op`, `fp32 held throughout`, or the operations that round."""
        rounds = [name.replace("_", " ") for name, on in vars(self).items() if on]
        if len(rounds) == len(vars(self)):
            return "per-op"
        return f"rounds after {', '.join(rounds)}" if rounds else "fp32 held throughout"


PER_OP = Rounding()


def roundings_of(net: PixelNet) -> Iterator[Rounding]:
    """Yields the roundings an engine of the net may follow, per-op first. In float32 there is just one."""
    if net.format != np.float16:
        yield PER_OP
        return
    flags = (True, False)
    for distance, bias, last_distance, last_bias in product(flags, repeat=4):
        yield Rounding(distance, bias, last_distance, last_bias)


class ReferenceEngine(Engine):
    """Evaluates a pixel net with the roundings of its format."""

    def __init__(self, net: PixelNet, rounding: Rounding = PER_OP, *, radius: bool = False) -> None:
        self.net = net
        self.rounding = rounding
        self.input_shape = net.input_shape
        self.classes = net.classes
        self.versions = {"numpy": np.__version__}
        self._weights = [layer.weight.astype(np.float32) for layer in net.layers]
        self._biases = [layer.bias.astype(np.float32) for layer in net.layers]
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
        low, high = _flat(lower), _flat(upper)
        for index in range(len(self._weights) - 1):
            low, high = self._layer_bounds(low, high, index)
        return low, high

    def last_bounds(self, low: Logits, high: Logits) -> tuple[Logits, Logits]:
        """Bounds the logits, (N, K) float32 each, from the bounds of `last_inputs`."""
        low, high = self._layer_bounds(low, high, len(self._weights) - 1)
        return -high, -low

    def _layer_bounds(self, low: Logits, high: Logits, index: int) -> tuple[Logits, Logits]:
        low, high = self.distance_bounds(low, high, self._weights[index])
        return self._add(low, self._biases[index], index), self._add(high, self._biases[index], index)

    def _answer(self, images: Images) -> Answers:
        x = _flat(images)
        for index, (weight, bias) in enumerate(zip(self._weights, self._biases, strict=True)):
            x = self._add(self.distance(x, weight), bias, index)
        return {"logits": -x, **(self.label_and_radius(-x) if self._radius else {})}

    def distance(self, x: Logits, w: Logits) -> Logits:
        """Returns the distances of rows, (N, O) float32; see `linfdeploy.kernels.linf_dist`."""
        return linf_dist(x, w)

    def distance_bounds(self, lower: Logits, upper: Logits, w: Logits) -> tuple[Logits, Logits]:
        """Returns the distances' bounds over boxes; see `linfdeploy.kernels.linf_dist_bounds`."""
        return linf_dist_bounds(lower, upper, w)

    def _add(self, distance: Logits, bias: Logits, index: int) -> Logits:
        """Rounds the distance, adds the bias, rounds the sum, as the net's rounding says."""
        last, rounding = index == len(self._weights) - 1, self.rounding
        # Weights beyond the format's range are reported, not met with numpy's warnings.
        with np.errstate(over="ignore"):
            if self.net.format != np.float16:
                return distance + bias
            rounded = _half(distance, rounding.last_distance if last else rounding.distance) + bias
            return _half(rounded, rounding.last_bias if last else rounding.bias)

    def label_and_radius(self, logits: Logits) -> Answers:
        """Computes the graph's outputs `label` and `radius` from logits (N, K), operation by operation."""
        first, second = np.moveaxis(np.sort(logits, axis=1)[:, :-3:-1], 1, 0)
        radius = np.maximum((first - second - radius_slack(self.net)) * np.float32(0.5), np.float32(0))
        return {"label": logits.argmax(1), "radius": radius}


def _flat(images: Images) -> Logits:
    return images.reshape(len(images), -1).astype(np.float32)


def _half(values: Logits, rounds: bool) -> Logits:
    # Rounding a float32 result of float16 operands gives the float16 result: 24 >= 2*11 + 2 bits.
    return values.astype(np.float16).astype(np.float32) if rounds else values
