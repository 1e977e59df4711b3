# SPDX-License-Identifier: Apache-2.0
"""The weights of sorted distances as dyadic rationals, and how many bits of a float32 they may take.

Guarantees of `dyadic_weights(c, bits)`, for c >= 0 with sum 1 up to rounding: multiples of `2^-bits`, none
negative, which sum to 1 exactly, each within `2^-bits` of its c. So a sorted distance stays a convex combination.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from linfdeploy.onnx.chain import Doubles
from linfdeploy.onnx.pixel_net import EXACT_BITS, PixelLayer

__all__ = ["FEWEST_BITS", "MOST_TERMS", "bits_of_weights", "dyadic_weights", "spare_bits"]

MOST_TERMS = 32
"""The most terms of a sorted distance, as in the kernels and in a net's spec."""
FEWEST_BITS = 4
"""Coarser weights than multiples of 1/16 would make another net."""


def dyadic_weights(weights: Doubles, bits: int) -> npt.NDArray[np.float32]:
    """Rounds weights to multiples of 2^-bits by the largest remainder: what is missing goes where most was cut.

    Args:
        weights: (K,) not negative, with a sum near 1.
        bits: 0 to 23.

    Returns:
        (K,) float32.
    """
    scaled = weights / weights.sum() * 2.0**bits
    whole = np.floor(scaled)
    missing = round(2**bits - float(whole.sum()))
    # Of equal remainders the first; there are never more missing than weights.
    whole[np.argsort(whole - scaled, kind="stable")[:missing]] += 1
    rounded: npt.NDArray[np.float32] = (whole / 2.0**bits).astype(np.float32)
    return rounded


def bits_of_weights(layer: PixelLayer) -> int:
    """Returns the least m >= 1 for which all weights of a sort layer are multiples of 2^-m."""
    assert layer.sort is not None
    scaled, bits = layer.sort.astype(np.float64), 1
    while not np.array_equal(values := scaled * 2.0**bits, np.rint(values)):
        bits += 1
    return bits


def spare_bits(reach: float) -> int:
    """Returns how many bits below the point a float32 has for values up to `reach`, weights and grid together."""
    return EXACT_BITS - math.frexp(reach)[1]
