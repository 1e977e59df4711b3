# SPDX-License-Identifier: Apache-2.0
"""Pairs of images on which the engine may move by more than the images do: it must not.

For a real 1-Lipschitz net `|f(x) - f(x')| <= |x - x'|` in l_inf; for an engine with rounding error delta the
excess is at most `2 delta`. A larger one is a violation. `lipschitz_search` looks for the pairs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from linfdeploy.engines.base import Images, Logits
from linfdeploy.report.model import Lipschitz, Violation

__all__ = ["LipschitzAudit"]

KEPT_RATIOS = 4096
SAVED = "lipschitz.npz"


@dataclass
class LipschitzAudit:
    """Collects pairs and the largest excess.

    Attributes:
        allowed: The largest excess that rounding explains, in pixels; 0 for an exact net.
    """

    allowed: float
    _pairs: int = 0
    _max_excess: float = 0.0
    _max_excess_ulp: float = 0.0
    _max_ratio: float = 0.0
    _ratios: list[float] = field(default_factory=list)
    _worst: tuple[Images, Images] | None = None

    def add(self, images: Images, logits: Logits, others: Images, other_logits: Logits) -> npt.NDArray[np.float64]:
        """Compares images (N, C, H, W) with others, row by row; equal pairs are left out.

        Returns:
            (N,) how much further each pair's logits move than its images, in pixels; minus infinity for equal
            ones.
        """
        moved = np.abs(images.astype(np.int16) - others.astype(np.int16)).reshape(len(images), -1).max(1)
        # Differences of float32 are exact in float64 at these magnitudes.
        with np.errstate(invalid="ignore"):
            changes = np.abs(logits.astype(np.float64) - other_logits.astype(np.float64))
            beyond = changes - moved[:, None]
            ulps = beyond / np.spacing(np.maximum(np.abs(logits), np.abs(other_logits)))
        apart = moved > 0
        excess = np.where(apart, beyond.max(1), -np.inf)
        self._pairs += int(apart.sum())
        if apart.any():
            self._note(excess, images, others)
            # numpy's maximum keeps NaN, which Python's may drop.
            self._max_excess = float(np.maximum(self._max_excess, excess.max()))
            self._max_excess_ulp = float(np.maximum(self._max_excess_ulp, ulps[apart].max()))
            ratios = changes.max(1)[apart] / moved[apart]
            self._max_ratio = float(np.maximum(self._max_ratio, ratios.max()))
            self._ratios += ratios.tolist()[: KEPT_RATIOS - len(self._ratios)]
        return excess

    def _note(self, excess: npt.NDArray[np.float64], images: Images, others: Images) -> None:
        """Keeps the worst pair; one with logits that are not finite is the worst of all."""
        # Written so that NaN is worse; argmax finds it as well.
        if not excess.max() <= self._max_excess and not np.isnan(self._max_excess):
            worst = int(excess.argmax())
            self._worst = images[worst].copy(), others[worst].copy()

    def result(self) -> Lipschitz:
        """Returns the figures for the report."""
        ratios = tuple(self._ratios)
        return Lipschitz(self._pairs, self._max_excess, self._max_ratio, ratios, self._max_excess_ulp)

    def violations(self) -> Iterable[Violation]:
        """Yields a violation when rounding does not explain the excess."""
        if not self._max_excess <= self.allowed:
            yield Violation(
                "lipschitz",
                f"two images' logits move {self._max_excess:g} pixel further than the images; "
                f"at most {self.allowed:g} is explained by rounding",
                saved=SAVED,
            )

    def evidence(self) -> Mapping[str, Mapping[str, npt.NDArray[Any]]]:
        """Returns the pair that shows the violation, to be saved; nothing where there is none."""
        if self._worst is None or self._max_excess <= self.allowed:
            return {}
        return {SAVED: dict(zip(("image", "other"), self._worst, strict=True))}
