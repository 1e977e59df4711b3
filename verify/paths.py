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
from linfdeploy.onnx.pixel_net import PixelNet

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
        rising: (N, K) int64, +1 or -1: in which direction the pixel raises the logit.
        weights: (N, K) float32, what the pixel is compared with; the logit's slope changes sign there.
    """

    pixels: npt.NDArray[np.int64]
    rising: npt.NDArray[np.int64]
    weights: npt.NDArray[np.float32]


class PathFinder:
    """Follows attained maxima back to the pixels; roundings after a layer are left out."""

    def __init__(self, net: PixelNet) -> None:
        self._head = net.head
        self._layers = [
            (layer.weight.astype(np.float32), layer.bias.astype(np.float32), layer.sort) for layer in net.layers
        ]
        self._grid = net.grid

    def find(self, images: Images) -> Paths:
        """Returns the paths' ends for images (N, C, H, W) uint8."""
        x, steps = images.reshape(len(images), -1).astype(np.float32), []
        for weight, bias, sort in self._layers:
            y, index = linf_dist_argmax(x, weight)
            if sort is not None:
                y = sort_dist(x, weight, sort, self._grid)
            # Which input each unit hangs on, and whether it rises or falls with it.
            above = np.take_along_axis(x, index, 1) >= weight[np.arange(len(weight)), index]
            steps.append((index, np.where(above, 1, -1)))
            x = y + bias
        unit, rising = self._of_logits(x)
        last = unit
        for index, sign in reversed(steps):
            rising = rising * np.take_along_axis(sign, unit, 1)
            last, unit = unit, np.take_along_axis(index, unit, 1)
        return Paths(unit, rising, self._layers[0][0][last, unit])

    def _of_logits(self, x: Logits) -> tuple[Indices, Indices]:
        """Returns which of the last distance layer's outputs (N, F) each logit hangs on, (N, K), and how."""
        if self._head is None:
            return np.broadcast_to(np.arange(x.shape[1]), x.shape), np.full(x.shape, -1)
        parts = [_steepest(self._head, x[i : i + CHUNK]) for i in range(0, len(x), CHUNK)]
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
