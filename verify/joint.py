# SPDX-License-Identifier: Apache-2.0
"""The last layer's difference of two distances, bounded jointly: a second stage where intervals do not separate.

Guarantees, for the box `[lower, upper]` of the last layer's inputs, every `z` in it, and every other class `j`:

    computed distance of y at z  <  computed distance of j at z      where  gaps(...) > 0

however the engine rounds the last layer: at most once each distance and once each sum, in the net's format. The
two distances share `z`, which their intervals ignore. The box is that of certificate I, with its assumption.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from linfdeploy.engines.base import Logits
from linfdeploy.onnx.pixel_net import PixelNet

__all__ = ["JointBound"]

Reals: TypeAlias = npt.NDArray[np.float64]
Indices: TypeAlias = npt.NDArray[np.int64]
Box: TypeAlias = tuple[Logits, Logits]

# Of float64, for one operation; each bound below counts its operations generously.
UNIT = 2.0**-53
OPERATIONS = 32
# Of a temporary: a dozen of them fit a core's cache.
CELLS = 2**14


@dataclass(frozen=True)
class JointBound:
    """The joint bound of a net's last layer.

    Attributes:
        weight: (K, I) float64, the last layer's.
        bias: (K,) float64.
        unit: Bound on the relative error of a rounding of the engine; 0 for an exact net, which has none.
        flush: Bound on the absolute error of an operation that flushes or underflows.
    """

    weight: Reals
    bias: Reals
    unit: float
    flush: float

    @classmethod
    def of(cls, net: PixelNet, *, exact: bool) -> JointBound:
        """Takes the last layer of a net; `exact` if it is proven to compute exactly on a grid."""
        last, info = net.layers[-1], np.finfo(net.format)
        # A value may pass through a wider format first: u + u' + u u'.
        unit = 0.0 if exact else float(info.eps) / 2 * (1 + 2.0**-10)
        flush = 0.0 if exact else 4 * float(info.smallest_normal)
        return cls(last.weight.astype(np.float64), last.bias.astype(np.float64), unit, flush)

    def gaps(self, box: Box, logits: Box, labels: Indices) -> Reals:
        """Bounds from below by how much each label's distance stays under all others, over boxes.

        Only the classes that intervals leave open are looked at.

        Args:
            box: Lower and upper ends of the last layer's inputs, each (N, I) float32.
            logits: Lower and upper ends of the logits on these boxes, each (N, K) float32.
            labels: (N,) the classes that should win.

        Returns:
            (N,) float64; above 0 the label wins strictly in the engine's own arithmetic, on the whole box. `-inf`
            for a box that is not finite.
        """
        by_class = _separations(*logits, labels)
        rows = np.arange(len(labels))
        # The closest class first: where it cannot be separated, the others need not be.
        for others in by_class.argsort(1).T:
            rows = rows[by_class[rows, others[rows]] <= 0]
            step = max(CELLS // self.weight.shape[1], 1)
            for i in range(0, len(rows), step):
                part = rows[i : i + step]
                by_class[part, others[part]] = self._pair_gaps(box, part, labels[part], others[part])
            rows = rows[by_class[rows, others[rows]] > 0]
        gap: Reals = by_class.min(1)
        return gap

    def _pair_gaps(self, box: Box, rows: Indices, labels: Indices, others: Indices) -> Reals:
        lower, upper = (ends[rows].astype(np.float64) for ends in box)
        finite = np.asarray(np.isfinite(np.stack([lower, upper])).all((0, 2)))
        lower, upper = (np.where(finite[:, None], ends, 0.0) for ends in (lower, upper))
        gap = -self._lead_at_nearest(lower, upper, labels, others)
        # The bound proper takes ten times as long; where one point already refutes it, it is not asked.
        hope = np.flatnonzero(gap > 0)
        box_of_hope, classes = (lower[hope], upper[hope]), (labels[hope], others[hope])
        gap[hope] = -self._sup(*box_of_hope, *classes) - self._guard(*box_of_hope)
        gap[~finite] = -np.inf
        return gap

    def _lead_at_nearest(self, low: Reals, high: Reals, labels: Indices, others: Indices) -> Reals:
        """Returns `d_label - d_other`, (P,), where the other class is nearest in the box."""
        a, c = self.weight[labels], self.weight[others]
        z = np.clip(c, low, high)
        lead: Reals = np.abs(z - a).max(1) - np.abs(z - c).max(1) + (self.bias[labels] - self.bias[others])
        return lead

    def _sup(self, low: Reals, high: Reals, labels: Indices, others: Indices) -> Reals:
        """Returns `sup (d_label - d_other)` over each box, (P,): section 9 of docs/theory.md."""
        a, c = self.weight[labels], self.weight[others]
        rest = _largest_of_others(np.maximum(np.maximum(low - c, c - high), 0.0))
        ends = low, high, np.clip(c - rest, low, high), np.clip(c + rest, low, high)
        values = [(np.abs(t - a) - np.maximum(np.abs(t - c), rest)).max(1) for t in ends]
        worst: Reals = np.maximum.reduce(values) + (self.bias[labels] - self.bias[others])
        return worst

    def _guard(self, lower: Reals, upper: Reals) -> Reals:
        """Bounds, (N,), the engine's roundings of two distances and sums, and those of `_sup` itself.

        An exact net's engine does not round, and neither does `_sup`: its values are multiples of the grid below
        2^26 steps.
        """
        if not self.unit:
            return np.zeros(len(lower))
        reach = np.maximum(np.abs(lower), np.abs(upper)).max(1) + np.abs(self.weight).max()
        size = reach + np.abs(self.bias).max()
        engine = 2 * (self.unit * reach + self.unit * (1 + self.unit) * size + 2 * self.flush)
        guard: Reals = (engine + OPERATIONS * UNIT * size) * (1 + OPERATIONS * UNIT)
        return guard


def _separations(lower: Logits, upper: Logits, labels: Indices) -> Reals:
    """Returns the label's lower end less each upper end, (N, K), `inf` at the label itself; its sign is exact."""
    rows = np.arange(len(labels))
    with np.errstate(invalid="ignore"):
        found = lower[rows, labels][:, None].astype(np.float64) - upper
    # Two infinite ends separate nothing.
    found = np.where(np.isnan(found), -np.inf, found)
    found[rows, labels] = np.inf
    return found


def _largest_of_others(values: Reals) -> Reals:
    """Returns, for each entry of the last axis, the largest of the others; 0 where there is none."""
    if values.shape[-1] == 1:
        return np.zeros_like(values)
    second, first = np.moveaxis(np.partition(values, -2, axis=-1)[..., -2:], -1, 0)
    largest: Reals = np.where(values == first[..., None], second[..., None], first[..., None])
    return largest
