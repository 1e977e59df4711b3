# SPDX-License-Identifier: Apache-2.0
"""Nets with sorted distances on their way to the deployed one: weights and grid share the bits of a float32.

A weighted sum of multiples of `2^-k` with weights of `2^-m` is exact in float32, in any order, where the
differences stay below `2^(24 - k - m)`. So the ranges of the net decide on k + m. Weights get four bits more than
the grid: rounding them moves a sum by `2^-m` of the spread of the differences, some dozen pixels, while the grid
moves it by `2^-k` pixel. Measured on a small net of digits of 14 bits: k = 5 moves logits by 0.15 pixel, k = 7 by
1.3, k = 3 by 0.3. A head takes no part in this: it is rounded once, to float32, and its sums round.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import get_args

import numpy as np
import numpy.typing as npt

from linfdeploy.errors import ExportError
from linfdeploy.onnx.chain import Chain, Distance, Doubles
from linfdeploy.onnx.passes.fold import fold_head, fold_normalization
from linfdeploy.onnx.passes.ranges import check_exact, check_finite, value_ranges
from linfdeploy.onnx.passes.round import round_distances, round_head
from linfdeploy.onnx.passes.sort_weights import FEWEST_BITS, dyadic_weights, spare_bits
from linfdeploy.onnx.pixel_net import PixelNet, Precision

__all__ = ["real_net_from_chain", "sorting_net_from_chain"]

MORE_FOR_WEIGHTS = 4


def sorting_net_from_chain(chain: Chain, precision: Precision, grid: int | None) -> PixelNet:
    """Rounds a net with sorted distances to the exact one that is deployed.

    Args:
        chain: As it was traced.
        precision: `exact`.
        grid: k of the grid; None: its share of the bits that the ranges leave.

    Raises:
        ExportError: Another precision, or values too large for the grid or for a head's float32; the numbers say
            why.
    """
    if precision != "exact":
        raise ExportError(
            f"the net has sorted distances, whose sums would depend on their order in {precision}; expected "
            f"--precision exact (of {', '.join(get_args(Precision))}), where nothing rounds but what is said"
        )
    reach = _reach(chain)
    spare = spare_bits(reach)
    chosen = max((spare - MORE_FOR_WEIGHTS) // 2, 0) if grid is None else grid
    if chosen < 0 or spare - chosen < FEWEST_BITS:
        raise ExportError(
            f"differences reach {reach:.6g} pixels, which leaves {spare} of 24 bits to the grid and the weights "
            f"of sorted distances; expected at least {FEWEST_BITS} for the weights: "
            + (f"use --grid {spare - FEWEST_BITS}" if spare >= FEWEST_BITS else "check the checkpoint")
        )
    net = _rounded(
        chain, "exact", chosen, [None if c is None else dyadic_weights(c, spare - chosen) for c in _sorts(chain)]
    )
    check_exact(net, chosen)
    check_finite(net)
    return net


def real_net_from_chain(chain: Chain) -> PixelNet:
    """Returns the net in float32, which is what a checkpoint is judged by and not what is deployed."""
    return _rounded(
        chain, "fp32", None, [None if c is None else (c / c.sum()).astype(np.float32) for c in _sorts(chain)]
    )


def _rounded(
    chain: Chain, precision: Precision, grid: int | None, sorts: list[npt.NDArray[np.float32] | None]
) -> PixelNet:
    folded = fold_normalization(chain)
    layers, centre = round_distances(folded, precision, 0 if grid is None else grid)
    sorted_layers = (replace(layer, sort=sort) for layer, sort in zip(layers, sorts, strict=True))
    head = round_head(fold_head(folded), precision)
    return PixelNet(chain.input_shape, tuple(sorted_layers), grid, head, centre)


def _sorts(chain: Chain) -> list[Doubles | None]:
    return [step.sort for step in chain.steps if isinstance(step, Distance)]


def _reach(chain: Chain) -> float:
    """Bounds every difference, and half a step more, however finely the net is rounded."""
    net = replace(real_net_from_chain(chain), grid=0)
    largest = max(layer.difference for layer in value_ranges(net))
    # Rounding to a coarse grid moves constants by half a pixel each at most: two a layer, and the distance one.
    return largest + 2.0 * len(net.layers) + math.ulp(largest)
