# SPDX-License-Identifier: Apache-2.0
"""The radius up to which each certificate holds, sample by sample, in pixels: one pass gives the curve over eps.

Guarantees, for every sample and every whole number `k` of levels, clipped boxes included:

    E, D   radius > k, strictly   exactly where `margin > 2 k` and `margin > 2 k + 4 delta`
    I, J   level >= k             the box of k levels lies in one that was evaluated and separated

A radius of E or D is an exact rational. A level of I or J is the largest that holds, between -1, where the label
ties at the image itself, and 255.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from linfdeploy.onnx.pixel_net import PIXEL_MAX

__all__ = ["CertifiedRadii", "Gaps", "Levels", "above", "largest_levels", "margin_radii"]

Levels: TypeAlias = npt.NDArray[np.int64]
Gaps: TypeAlias = Callable[[Levels, Levels], npt.NDArray[np.float64]]
"""Takes indices of samples (M,) and a level for each (M,); returns by how much the box is separated, (M,)."""

# Every third probe halves the bracket, so 3 * 8 probes empty one of 256 levels.
HALVING = 3


@dataclass(frozen=True)
class CertifiedRadii:
    """How far each certificate reaches, one entry a sample; None where a certificate does not apply.

    Attributes:
        exact: Of E, in pixels; holds for radii strictly below.
        delta: Of D, likewise.
        interval: (N,) int64, of I: the largest number of levels that holds, -1 for none.
        joint: (N,) int64, of J, likewise; nowhere below `interval`.
    """

    exact: list[Fraction] | None
    delta: list[Fraction]
    interval: Levels | None
    joint: Levels | None

    def curve(self, name: str, levels: Sequence[int]) -> npt.NDArray[np.bool_] | None:
        """Returns where a certificate holds at each radius, (len(levels), N); None where it does not apply.

        Args:
            name: `exact`, `delta`, `interval` or `joint`.
            levels: Radii in whole pixels.
        """
        radii: list[Fraction] | Levels | None = getattr(self, name)
        if radii is None:
            return None
        if isinstance(radii, np.ndarray):
            return np.stack([radii >= level for level in levels])
        # The largest whole number strictly below the radius, so that rationals are compared once.
        whole = np.array([above(radius) for radius in radii], np.int64)
        return np.stack([whole >= level for level in levels])


def above(radius: Fraction) -> int:
    """Returns the largest whole number strictly below a radius; -1 for a radius of 0."""
    return -(-radius.numerator // radius.denominator) - 1


def margin_radii(margins: Sequence[Fraction], delta: Fraction) -> list[Fraction]:
    """Returns the radii of E (delta = 0) and D, `(margin - 4 delta) / 2`, and 0 where that is negative."""
    return [max(margin - 4 * delta, Fraction(0)) / 2 for margin in margins]


def largest_levels(gaps: Gaps, margins: npt.NDArray[np.float64], known: Levels) -> Levels:
    """Finds for each sample the largest level whose box is separated.

    Gaps fall as levels rise, since boxes are nested and every operation is monotone; in real arithmetic by at most
    2 a level. So the first probe goes where a fall of 2 a level ends, later ones where the chord of the bracket
    does, and every third halves the bracket.

    Args:
        gaps: By how much a box is separated; above 0 it is certified.
        margins: (N,) the gap at level 0.
        known: (N,) int64, levels known to hold; -1 where none is.

    Returns:
        (N,) int64, -1 where not even level 0 holds.
    """
    low = np.where(margins > 0, np.clip(known, 0, PIXEL_MAX), -1)
    high = np.full(len(margins), PIXEL_MAX + 1)
    high[margins <= 0] = 0
    # Where the gap was last seen above 0, and how large it was.
    at, gap = np.zeros(len(margins)), margins.astype(np.float64)
    high_gap = np.full(len(margins), np.nan)
    for turn in range(HALVING * PIXEL_MAX.bit_length() + HALVING):
        open_ = np.flatnonzero(high - low > 1)
        if not len(open_):
            break
        bracket = low[open_], high[open_]
        probe = _probe(turn, bracket, at[open_], gap[open_], high_gap[open_])
        found = gaps(open_, probe)
        holds = found > 0
        up, down = open_[holds], open_[~holds]
        low[up] = at[up] = probe[holds]
        gap[up], high[down], high_gap[down] = found[holds], probe[~holds], found[~holds]
    assert (high - low <= 1).all(), "every third probe halves the bracket"
    return low


def _probe(
    turn: int,
    bracket: tuple[Levels, Levels],
    at: npt.NDArray[np.float64],
    gap: npt.NDArray[np.float64],
    high_gap: npt.NDArray[np.float64],
) -> Levels:
    """Returns the level to try next, strictly inside each bracket."""
    low, high = bracket
    if turn % HALVING == HALVING - 1:
        return (low + high) // 2
    fall = np.where(np.isfinite(high_gap), (gap - high_gap) / (high - at), 2.0)
    # Gaps of boxes that overflow are infinite, and a fall may be 0.
    reach = np.nan_to_num(at + np.ceil(gap / np.maximum(fall, 1e-3)), nan=0.0, posinf=PIXEL_MAX)
    return np.clip(reach, low + 1, high - 1).astype(np.int64)
