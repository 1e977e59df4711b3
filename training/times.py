# SPDX-License-Identifier: Apache-2.0
"""How long an epoch takes in each phase of training, since kernels of different speed run in them."""

from __future__ import annotations

import math
from statistics import median

__all__ = ["PHASES", "PhaseTimes", "phase_of"]

PHASES = ("p = 8", "p below 40", "p from 40", "p = inf")
"""The phases in their order; each has kernels of its own."""


def phase_of(p: float) -> str:
    """Returns the phase to which a norm belongs."""
    if math.isinf(p):
        return PHASES[3]
    return PHASES[0] if p == 8 else PHASES[1] if p < 40 else PHASES[2]


class PhaseTimes:
    """The seconds of every epoch, by phase.

    Attributes:
        seconds: Of each epoch so far; phases without one are absent.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, list[float]] = {}

    def add(self, phase: str, seconds: float) -> None:
        """Adds an epoch."""
        self.seconds.setdefault(phase, []).append(seconds)

    def medians(self) -> dict[str, float]:
        """Returns the median epoch of each phase, in seconds; few are longer, for compiling and capturing."""
        return {phase: median(self.seconds[phase]) for phase in PHASES if phase in self.seconds}

    def restore(self, data: object) -> None:
        """Takes `seconds` from a file.

        Raises:
            ValueError: It is no such thing.
        """
        if not isinstance(data, dict) or not all(_is_phase(*item) for item in data.items()):
            raise ValueError("seconds are not those of epochs")
        self.seconds = data


def _is_phase(name: object, seconds: object) -> bool:
    return name in PHASES and isinstance(seconds, list) and all(type(value) is float for value in seconds)
