# SPDX-License-Identifier: Apache-2.0
"""Which pixel each logit hangs on: at p = inf exactly one, at the end of the path of attained maxima.

logit_k = -y_L,k,   y_l,o = |y_(l-1),i - W_l,oi| + B_l,o   with the i that attains the maximum

A sorted distance hangs on several inputs; the path follows the one of the largest difference, which weighs most.
Through a head a logit hangs on all features; followed is the one to which it is steepest.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from linfdeploy.engines.base import Images, Logits
from linfdeploy.kernels import linf_dist_argmax, sort_dist
from linfdeploy.onnx.mlp_head import MlpHead
from linfdeploy.onnx.pixel_net import PixelLayer, PixelNet

__all__ = ["PathFinder", "Paths"]

Indices: TypeAlias = npt.NDArray[np.int64]
Reals: TypeAlias = npt.NDArray[np.float64]

# Of rows whose slopes are held at once.
CHUNK = 64


@dataclass(frozen=True)
class Paths:
    """The ends of the paths.

    Attributes:
        pixels: (N, K) int64, the pixel that each logit hangs on, as an index into the flat image.
        rising: (N, K) int64, +1 or -1: in which direction the pixel raises the logit; 0 where the logit hangs on a
            zero beside the image of a convolution, and `pixels` is of no meaning.
        weights: (N, K) float32, what the pixel is compared with; the logit's slope changes sign there.
    """

    pixels: npt.NDArray[np.int64]
    rising: npt.NDArray[np.int64]
    weights: npt.NDArray[np.float32]


class PathFinder:
    """Follows attained maxima back to the pixels; roundings after a layer are left out."""

    def __init__(self, net: PixelNet) -> None:
        self._net = net
        self._weights = [layer.weight.astype(np.float32) for layer in net.layers]

    def find(self, images: Images) -> Paths:
        """Returns the paths' ends for images (N, C, H, W) uint8."""
        centre = self._net.input_centre
        x, steps = images.reshape(len(images), -1).astype(np.float32) - centre, []
        for layer, weight in zip(self._net.layers, self._weights, strict=True):
            y, terms, signs = self._attaining(layer, weight, x)
            steps.append((layer, terms, signs))
            x = y + layer.output_bias.astype(np.float32)
        unit, rising = self._of_logits(x)
        compared = np.zeros(unit.shape, np.float32)
        for layer, terms, signs in reversed(steps):
            # A path that has come to a zero beside an image ends there: nothing moves it.
            open_ends = unit < layer.outputs
            unit = np.where(open_ends, unit, 0)
            term = np.take_along_axis(terms, unit, 1)
            rising = rising * np.where(open_ends, np.take_along_axis(signs, unit, 1), 0)
            compared = layer.weight[unit // layer.positions, term].astype(np.float32)
            unit = np.where(open_ends, layer.sources(unit, term), layer.inputs)
        open_ends = unit < self._net.inputs
        pixels = np.where(open_ends, unit, 0)
        return Paths(pixels, np.where(open_ends, rising, 0), compared + centre[pixels])

    def _attaining(self, layer: PixelLayer, weight: Logits, x: Logits) -> tuple[Logits, Indices, Indices]:
        """Returns a layer's distances, which column of the weight each attains, and whether it rises or falls."""
        rows = layer.rows(x)
        y, index = linf_dist_argmax(rows, weight)
        if layer.sort is not None:
            y = sort_dist(rows, weight, layer.sort, self._net.grid)
        above = np.take_along_axis(rows, index, 1) >= weight[np.arange(len(weight)), index]
        return layer.flat(y), layer.flat(index), layer.flat(np.where(above, 1, -1))

    def _of_logits(self, x: Logits) -> tuple[Indices, Indices]:
        """Returns which of the last distance layer's outputs (N, F) each logit hangs on, (N, K), and how."""
        head = self._net.head
        if head is None:
            return np.broadcast_to(np.arange(x.shape[1]), x.shape), np.full(x.shape, -1)
        parts = [_steepest(head, x[i : i + CHUNK]) for i in range(0, len(x), CHUNK)]
        units, signs = zip(*parts, strict=True)
        return np.concatenate(units), np.concatenate(signs)


def _steepest(head: MlpHead, x: Logits) -> tuple[Indices, Indices]:
    """Returns the feature to which each logit is steepest, (N, K), and +1 or -1: whether it rises with it."""
    slope: Reals = np.empty(0)
    y: Reals = x.astype(np.float64)
    for index, (weight, bias) in enumerate(zip(head.weights, head.biases, strict=True)):
        if index:
            inside = 1 - np.tanh(y) ** 2 if head.activation == "tanh" else (np.abs(y) < 1).astype(np.float64)
            y = np.tanh(y) if head.activation == "tanh" else np.clip(y, -1, 1)
            slope = inside[:, :, None] * slope
        slope = weight.astype(np.float64) @ slope if index else np.broadcast_to(weight, (len(x), *weight.shape))
        y = y @ weight.astype(np.float64).T + bias
    unit: Indices = np.abs(slope).argmax(2)
    return unit, np.where(np.take_along_axis(slope, unit[:, :, None], 2)[:, :, 0] >= 0, 1, -1)
