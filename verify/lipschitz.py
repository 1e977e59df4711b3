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
from linfdeploy.verify.draws import mixed
from linfdeploy.verify.kept import Arrays

__all__ = ["KEPT_RATIOS", "LipschitzAudit", "NoLipschitzAudit"]

KEPT_RATIOS = 4096
LAYOUT = {
    "pairs": "i8",
    "max_excess": "f8",
    "max_excess_ulp": "f8",
    "max_ratio": "f8",
    "worst": "u1",
    "keys": "u8",
    "ratios": "f8",
}
SAVED = "lipschitz.npz"


@dataclass
class LipschitzAudit:
    """Collects pairs and the largest excess.

    The order in which pairs come makes no difference to the figures, and to the pair that is saved only where two
    have the same excess: then it is the first.

    Attributes:
        allowed: The largest excess that rounding explains, in pixels; 0 for an exact net.
        kept: How many ratios are kept for the histogram: those whose hash, of sample and ratio, is least.
    """

    allowed: float
    kept: int = KEPT_RATIOS
    _pairs: int = 0
    _max_excess: float = 0.0
    _max_excess_ulp: float = 0.0
    _max_ratio: float = 0.0
    _worst: Images | None = None
    _keys: npt.NDArray[np.uint64] = field(default_factory=lambda: np.empty(0, np.uint64))
    _ratios: npt.NDArray[np.float64] = field(default_factory=lambda: np.empty(0))

    def add(
        self,
        images: Images,
        logits: Logits,
        others: Images,
        other_logits: Logits,
        samples: npt.NDArray[np.int64] | None = None,
    ) -> npt.NDArray[np.float64]:
        """Compares images (N, C, H, W) with others, row by row; equal pairs are left out.

        Args:
            images: (N, C, H, W) uint8.
            logits: (N, K) float32.
            others: Compared with them, likewise.
            other_logits: Likewise.
            samples: (N,) int64, whose pairs they are; 0, 1, ... if None.

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
            worst = int(excess.argmax())
            self._note(float(excess[worst]), np.stack([images[worst], others[worst]]))
            # numpy's maximum keeps NaN, which Python's may drop.
            self._max_excess_ulp = float(np.maximum(self._max_excess_ulp, ulps[apart].max()))
            ratios = changes.max(1)[apart] / moved[apart]
            self._max_ratio = float(np.maximum(self._max_ratio, ratios.max()))
            rows = (np.arange(len(images)) if samples is None else samples)[apart].astype(np.uint64)
            self._keep(mixed(mixed(ratios.view(np.uint64)) + rows), ratios)
        return excess

    def _note(self, excess: float, pair: Images) -> None:
        """Keeps the worst pair; one with logits that are not finite is the worst of all."""
        # Written so that NaN is worse; argmax finds it as well.
        if not excess <= self._max_excess and not np.isnan(self._max_excess):
            self._worst, self._max_excess = pair, excess

    def _keep(self, keys: npt.NDArray[np.uint64], ratios: npt.NDArray[np.float64]) -> None:
        # Equal keys have equal ratios, so which of them stays is no question.
        keys, ratios = np.concatenate([self._keys, keys]), np.concatenate([self._ratios, ratios])
        first = keys.argsort(kind="stable")[: self.kept]
        self._keys, self._ratios = keys[first], ratios[first]

    def arrays(self, shape: tuple[int, ...]) -> Arrays:
        """Returns what was collected; `shape` (C, H, W) is that of the images."""
        return {
            "pairs": np.array([self._pairs]),
            "max_excess": np.array([self._max_excess]),
            "max_excess_ulp": np.array([self._max_excess_ulp]),
            "max_ratio": np.array([self._max_ratio]),
            "worst": (np.zeros((2, *shape), np.uint8) if self._worst is None else self._worst)[None],
            "keys": self._keys,
            "ratios": self._ratios,
        }

    @staticmethod
    def fits(arrays: Arrays, shape: tuple[int, ...]) -> bool:
        """Whether arrays could be what one audit collected of images of a shape (C, H, W)."""
        if any(name not in arrays or arrays[name].dtype != dtype for name, dtype in LAYOUT.items()):
            return False
        one = all(arrays[name].shape == (1,) for name in ("pairs", "max_excess", "max_excess_ulp", "max_ratio"))
        one = one and arrays["worst"].shape == (1, 2, *shape)
        return one and arrays["ratios"].ndim == 1 and arrays["ratios"].shape == arrays["keys"].shape

    def merge(self, arrays: Arrays) -> None:
        """Adds what other audits collected, each array joined along its first axis."""
        self._pairs += int(arrays["pairs"].sum())
        worst = int(arrays["max_excess"].argmax())
        self._note(float(arrays["max_excess"][worst]), arrays["worst"][worst])
        self._max_excess_ulp = float(np.maximum(self._max_excess_ulp, arrays["max_excess_ulp"].max()))
        self._max_ratio = float(np.maximum(self._max_ratio, arrays["max_ratio"].max()))
        self._keep(arrays["keys"], arrays["ratios"])

    def result(self) -> Lipschitz:
        """Returns the figures for the report."""
        ratios = tuple(self._ratios.tolist())
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


class NoLipschitzAudit(LipschitzAudit):
    """Of a net with a head, whose logits may move further than the image: it looks at no pair, and counts none."""

    def add(
        self,
        images: Images,
        logits: Logits,
        others: Images,
        other_logits: Logits,
        samples: npt.NDArray[np.int64] | None = None,
    ) -> npt.NDArray[np.float64]:
        """Returns minus infinity, (N,): nothing is compared."""
        return np.full(len(images), -np.inf)
