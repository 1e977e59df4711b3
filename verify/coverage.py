# SPDX-License-Identifier: Apache-2.0
"""Which weights probes look at: a layer's distance is one weight's, and a logit shows one weight of each layer.

A weight that attains no maximum on any probe can change, within limits, without a bit of these outputs changing:
no comparison of them finds it wrong. So the share that was looked at measures the probes, not the engine.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from linfdeploy.engines.base import Images
from linfdeploy.engines.reference import ReferenceEngine
from linfdeploy.onnx.pixel_net import PixelNet
from linfdeploy.report.model import LayerCoverage

__all__ = ["Coverage", "operations"]

Flags: TypeAlias = npt.NDArray[np.bool_]
Indices: TypeAlias = npt.NDArray[np.int64]

CHUNK = 256


class Coverage:
    """Collects, layer by layer, the weights that attain a maximum, and those on whose maximum a logit rests."""

    def __init__(self, net: PixelNet) -> None:
        self._evaluator = ReferenceEngine(net)
        self._layers = net.layers
        self._attained = [np.zeros(layer.weight.shape, np.bool_) for layer in net.layers]
        self._reached = [np.zeros(layer.weight.shape, np.bool_) for layer in net.layers]
        self.images = 0

    def add(self, images: Images) -> Flags:
        """Takes images (N, C, H, W) and returns, (N,), which of them show a weight that no earlier one showed."""
        parts = [self._add(images[i : i + CHUNK]) for i in range(0, len(images), CHUNK)]
        return np.concatenate([*parts, np.zeros(0, np.bool_)])

    @property
    def layers(self) -> tuple[LayerCoverage, ...]:
        """The counts of every layer."""
        both = zip(self._attained, self._reached, strict=True)
        return tuple(LayerCoverage(seen.size, int(seen.sum()), int(reached.sum())) for seen, reached in both)

    def unreached(self, layer: int) -> Indices:
        """Returns the pairs (output, input), (P, 2), of a layer on which no logit rested so far."""
        return np.argwhere(~self._reached[layer])

    def _add(self, images: Images) -> Flags:
        attaining = list(self._evaluator.attaining(images))
        for layer, seen, terms in zip(self._layers, self._attained, attaining, strict=True):
            seen[np.arange(layer.outputs) // layer.positions, terms] = True
        fresh = np.zeros(len(images), np.bool_)
        outputs = np.broadcast_to(np.arange(self._layers[-1].outputs), attaining[-1].shape)
        steps = zip(reversed(self._layers), reversed(self._reached), reversed(attaining), strict=True)
        for layer, reached, terms in steps:
            # Where a path has come to a zero beside an image it ends.
            goes_on = outputs < layer.outputs
            outputs = np.where(goes_on, outputs, 0)
            columns, rows = np.take_along_axis(terms, outputs, 1), outputs // layer.positions
            fresh |= (goes_on & ~reached[rows, columns]).any(1)
            reached[rows[goes_on], columns[goes_on]] = True
            outputs = np.where(goes_on, layer.sources(outputs, columns), layer.inputs)
        self.images += len(images)
        return fresh


def operations(net: PixelNet) -> int:
    """Returns how many differences one image takes."""
    return sum(layer.weight.size * layer.positions for layer in net.layers)
