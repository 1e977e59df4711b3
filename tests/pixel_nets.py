# SPDX-License-Identifier: Apache-2.0
"""Small random nets, and engines that compute them wrongly in ways that happen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from linfdeploy.engines.base import Answers, Engine, Images
from linfdeploy.engines.reference import PER_OP, ReferenceEngine, Rounding
from linfdeploy.onnx.passes.ranges import exactness_gap
from linfdeploy.onnx.pixel_net import PixelLayer, PixelNet, Precision

__all__ = ["GRID", "FaultyEngine", "faults", "random_images", "random_net", "subnormal_net", "with_layer"]

GRID = 12


def random_net(sizes: tuple[int, ...], precision: Precision, seed: int) -> PixelNet:
    """A net with weights around its inputs' ranges, so that every unit and column matters."""
    rng = np.random.default_rng(seed)
    layers = []
    for index, (inputs, outputs) in enumerate(pairwise(sizes)):
        low, high = (-20, 275) if index == 0 else (100, 350)
        values = rng.uniform(low, high, (outputs, inputs)), rng.uniform(-9, 9, outputs)
        layers.append(PixelLayer(*(_rounded(value, precision) for value in values)))
    net = PixelNet((1, 1, sizes[0]), tuple(layers), GRID if precision == "exact" else None)
    assert precision != "exact" or exactness_gap(net, GRID) is None
    return net


def subnormal_net(sizes: tuple[int, ...], precision: Precision, seed: int) -> PixelNet:
    """A float net on whose dark images distances, sums and weights are subnormal or nearly so."""
    rng = np.random.default_rng(seed)
    dtype = np.float16 if precision == "fp16" else np.float32
    tiny = float(np.finfo(dtype).smallest_normal)

    def values(*size: int) -> Any:
        return (tiny * rng.choice([0.25, 0.75, 1.5, 3.0], size) * rng.uniform(-1, 1, size)).astype(dtype)

    layers = tuple(PixelLayer(values(o, i), values(o)) for i, o in pairwise(sizes))
    return PixelNet((1, 1, sizes[0]), layers, None)


def random_images(net: PixelNet, count: int, seed: int) -> Images:
    return np.random.default_rng(seed).integers(0, 256, (count, *net.input_shape), np.uint8)


def with_layer(net: PixelNet, index: int, **parts: Any) -> PixelNet:
    """The net with parts of one layer replaced."""
    layers = list(net.layers)
    layers[index] = replace(layers[index], **parts)
    return replace(net, layers=tuple(layers))


def _rounded(values: npt.NDArray[np.float64], precision: Precision) -> Any:
    if precision == "exact":
        values = np.rint(values * 2.0**GRID) / 2.0**GRID
    return values.astype(np.float16 if precision == "fp16" else np.float32)


class FaultyEngine(Engine):
    """Runs a net through the evaluator and then spoils the logits with `fault(logits, call)`."""

    def __init__(
        self,
        net: PixelNet,
        fault: Callable[[npt.NDArray[np.float32], int], npt.NDArray[np.float32]] = lambda logits, _: logits,
        rounding: Rounding = PER_OP,
    ) -> None:
        self._inner = ReferenceEngine(net, rounding)
        self._fault = fault
        self._calls = 0
        self.input_shape, self.classes, self.versions = net.input_shape, net.classes, {"fake": "1"}

    def _answer(self, images: Images) -> Answers:
        self._calls += 1
        return {"logits": self._fault(self._inner.run(images).copy(), self._calls)}


def faults(net: PixelNet) -> dict[str, tuple[Engine, str]]:
    """Engines that do not compute an exact net, and the words by which the fault must be named."""
    last = len(net.layers) - 1
    first, bias = net.layers[0].weight, net.layers[last].bias
    stale = bias.copy()
    stale[1] += np.float32(2.0**-GRID)
    flipped = first.copy()
    flipped.view(np.uint32)[0, 0] ^= 1 << 21
    half = replace(
        net,
        grid=None,
        layers=tuple(PixelLayer(w.weight.astype(np.float16), w.bias.astype(np.float16)) for w in net.layers),
    )
    swap = np.arange(net.classes)
    swap[[0, 2]] = [2, 0]
    return {
        "stale bias": (
            FaultyEngine(with_layer(net, last, bias=stale)),
            "the bias of class 1 is off by +0.000244141",
        ),
        "swapped classes": (
            FaultyEngine(net, lambda logits, _: logits[:, swap]),
            "classes 0, 2 have changed places",
        ),
        "wrong row": (
            FaultyEngine(net, lambda logits, _: np.concatenate([logits[:-1], logits[:1]])),
            "rows of the batch hold another image's logits",
        ),
        "fp16": (FaultyEngine(half), "it computes in fp16"),
        "weight bit": (FaultyEngine(with_layer(net, 0, weight=flipped)), "no known fault explains it"),
        "not finite": (
            FaultyEngine(net, lambda logits, _: np.where(logits == logits.max(), np.float32(np.nan), logits)),
            "logits are infinite or NaN",
        ),
    }
