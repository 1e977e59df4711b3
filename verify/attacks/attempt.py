# SPDX-License-Identifier: Apache-2.0
"""What an attack hands over to be run on the engine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from linfdeploy.engines.base import Images, Logits

__all__ = ["Attempt", "Rows", "Submit"]

Rows: TypeAlias = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Attempt:
    """Candidates of one run of an attack.

    Attributes:
        name: Which run.
        images: (M, C, H, W) uint8, inside the threat's box.
        samples: (M,) int64, which sample each replaces; a sample may occur more than once. None: one for each
            sample, in order.
        final: Whether this is what the run arrived at, and not one of many queries on its way.
    """

    name: str
    images: Images
    samples: Rows | None = None
    final: bool = True

    @property
    def rows(self) -> Rows:
        """(M,) int64, which sample each image replaces."""
        return np.arange(len(self.images)) if self.samples is None else self.samples


Submit: TypeAlias = Callable[[Attempt], Logits]
"""Runs an attempt's images on the engine and returns the logits, (M, K)."""
