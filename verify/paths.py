# SPDX-License-Identifier: Apache-2.0
"""Which pixel each logit hangs on: at p = inf exactly one, at the end of the path of attained maxima.

logit_k = -y_L,k,   y_l,o = |y_(l-1),i - W_l,oi| + B_l,o   with the i that attains the maximum

A sorted distance hangs on several inputs; the path follows the one of the largest difference, which weighs most.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from linfdeploy.engines.base import Images
from linfdeploy.kernels import linf_dist_argmax, sort_dist
from linfdeploy.onnx.pixel_net import PixelLayer, PixelNet

__all__ = ["PathFinder", "Paths"]


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
        self._layers = [
            PixelLayer(layer.weight.astype(np.float32), layer.bias.astype(np.float32), layer.sort)
            for layer in net.layers
        ]
        self._grid = net.grid

    def find(self, images: Images) -> Paths:
        """Returns the paths' ends for images (N, C, H, W) uint8."""
        x, steps = images.reshape(len(images), -1).astype(np.float32), []
        for layer in self._layers:
            weight, bias = layer.weight, layer.bias
            y, index = linf_dist_argmax(x, weight)
            if layer.sort is not None:
                y = sort_dist(x, weight, layer.sort, self._grid)
            # Which input each unit hangs on, and whether it rises or falls with it.
            above = np.take_along_axis(x, index, 1) >= weight[np.arange(len(weight)), index]
            steps.append((index, np.where(above, 1, -1)))
            x = y + bias
        unit = np.broadcast_to(np.arange(x.shape[1]), x.shape)
        rising = np.full(x.shape, -1)
        last = unit
        for index, sign in reversed(steps):
            rising = rising * np.take_along_axis(sign, unit, 1)
            last, unit = unit, np.take_along_axis(index, unit, 1)
        return Paths(unit, rising, self._layers[0].weight[last, unit])
