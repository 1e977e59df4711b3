# SPDX-License-Identifier: Apache-2.0
"""A traced net as a chain of steps, in float64: what the passes work on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

__all__ = ["Chain", "Distance", "Doubles", "Normalize", "Shift", "Step"]

Doubles: TypeAlias = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Normalize:
    """`(image - mean) / std`, with image in [0, 1], mean (I,) and one scalar std."""

    mean: Doubles
    std: float


@dataclass(frozen=True)
class Distance:
    """`max_i |x_i - weight_oi|` with weight (O, I); with `sort` (K,) the sorted distance weighted by it."""

    weight: Doubles
    sort: Doubles | None = None


@dataclass(frozen=True)
class Shift:
    """`x + offset` with offset (O,)."""

    offset: Doubles


Step: TypeAlias = Normalize | Distance | Shift


@dataclass(frozen=True)
class Chain:
    """A net for images of `input_shape` (C, H, W): its steps in order, then a negation."""

    input_shape: tuple[int, int, int]
    steps: tuple[Step, ...]
