# SPDX-License-Identifier: Apache-2.0
"""Pairs of images on which the engine may move by more than the images do: it must not.

For a real 1-Lipschitz net `|f(x) - f(x')| <= |x - x'|` in l_inf; for an engine with rounding error delta the
excess is at most `2 delta`. A larger one is a violation.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from linfdeploy.engines.base import Images, Logits
from linfdeploy.report.model import Lipschitz, Violation

__all__ = ["LipschitzAudit"]

KEPT_RATIOS = 4096


@dataclass
class LipschitzAudit:
    """Collects pairs and the largest excess.

    Attributes:
        allowed: The largest excess that rounding explains, in pixels; 0 for an exact net.
    """

    allowed: float
    _pairs: int = 0
    _max_excess: float = 0.0
    _max_ratio: float = 0.0
    _ratios: list[float] = field(default_factory=list)

    def add(self, images: Images, logits: Logits, others: Images, other_logits: Logits) -> None:
        """Compares images (N, C, H, W) with others, row by row; equal pairs are left out."""
        moved = np.abs(images.astype(np.int16) - others.astype(np.int16)).reshape(len(images), -1).max(1)
        # Differences of float32 are exact in float64 at these magnitudes.
        with np.errstate(invalid="ignore"):
            change = np.abs(logits.astype(np.float64) - other_logits.astype(np.float64)).max(1)
        apart = moved > 0
        self._pairs += int(apart.sum())
        if apart.any():
            # numpy's maximum keeps NaN, which Python's may drop.
            self._max_excess = float(np.maximum(self._max_excess, (change - moved)[apart].max()))
            ratios = change[apart] / moved[apart]
            self._max_ratio = float(np.maximum(self._max_ratio, ratios.max()))
            self._ratios += ratios.tolist()[: KEPT_RATIOS - len(self._ratios)]

    def result(self) -> Lipschitz:
        """Returns the figures for the report."""
        return Lipschitz(self._pairs, self._max_excess, self._max_ratio, tuple(self._ratios))

    def violations(self) -> Iterable[Violation]:
        """Yields a violation when rounding does not explain the excess."""
        if not self._max_excess <= self.allowed:
            yield Violation(
                "lipschitz",
                f"two images' logits move {self._max_excess:g} pixel further than the images; "
                f"at most {self.allowed:g} is explained by rounding",
            )
