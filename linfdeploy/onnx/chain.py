# SPDX-License-Identifier: Apache-2.0
"""A traced net as a chain of steps, in float64: what the passes work on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from linfdeploy.nets.windows import Window

__all__ = ["Centre", "Chain", "Distance", "Doubles", "Linear", "Normalize", "Shift", "Step", "Tanh"]

Doubles: TypeAlias = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Normalize:
    """`(image - mean) / std`, with image in [0, 1], mean (I,) and one scalar std."""

    mean: Doubles
    std: float


@dataclass(frozen=True)
class Centre:
    """`image - offset` with offset (C,), one for each channel, in front of a convolution that shows zeros."""

    offset: Doubles


@dataclass(frozen=True)
class Distance:
    """`max_i |x_i - weight_oi|` with weight (O, I); with `sort` (K,) the sorted distance weighted by it.

    With `window` it is a convolution, and weight (O, window.terms).
    """

    weight: Doubles
    sort: Doubles | None = None
    window: Window | None = None


@dataclass(frozen=True)
class Shift:
    """`x + offset` with offset (O,); behind a convolution one for each channel."""

    offset: Doubles


@dataclass(frozen=True)
class Linear:
    """`weight x + bias` with weight (O, I) and bias (O,)."""

    weight: Doubles
    bias: Doubles


@dataclass(frozen=True)
class Tanh:
    """`tanh(x)`."""


Step: TypeAlias = Normalize | Centre | Distance | Shift | Linear | Tanh


@dataclass(frozen=True)
class Chain:
    """A net for images of `input_shape` (C, H, W): its steps in order, then a negation if none is Linear."""

    input_shape: tuple[int, int, int]
    steps: tuple[Step, ...]

    @property
    def distances(self) -> tuple[Step, ...]:
        """The steps in front of the head: all of a pure net."""
        return self.steps[: self._first_linear]

    @property
    def head(self) -> tuple[Step, ...]:
        """The steps from the first Linear on; none in a pure net."""
        return self.steps[self._first_linear :]

    @property
    def _first_linear(self) -> int:
        linear = (index for index, step in enumerate(self.steps) if isinstance(step, Linear))
        return next(linear, len(self.steps))
