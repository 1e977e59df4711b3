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

__all__ = ["JointBound", "Pair", "sup_of_difference"]

Reals: TypeAlias = npt.NDArray[np.float64]
Indices: TypeAlias = npt.NDArray[np.int64]
Box: TypeAlias = tuple[Logits, Logits]

# Of float64, for one operation; each bound below counts its operations generously.
UNIT = 2.0**-53
OPERATIONS = 32
# Of a temporary: a dozen of them fit a core's cache.
CELLS = 2**14


@dataclass(frozen=True)
class Pair:
    """Weights (P, I) and biases (P,) of the last layer for the label and for another class."""

    label: Reals
    label_bias: Reals
    other: Reals
    other_bias: Reals

    def at(self, rows: Indices) -> Pair:
        """Returns some of the pairs."""
        return Pair(self.label[rows], self.label_bias[rows], self.other[rows], self.other_bias[rows])


@dataclass(frozen=True)
class JointBound:
    """The joint bound of a net's last layer.

    Attributes:
        weight: (K, I) float64, the last layer's.
        bias: (K,) float64.
        unit: Bound on the relative error of a rounding of the engine; 0 for an exact net, which has none.
        flush: Bound on the absolute error of an operation that flushes or underflows.
        sorts: Whether the last layer has sorted distances or is a convolution, of which there is no joint bound:
            intervals stand.
    """

    weight: Reals
    bias: Reals
    unit: float
    flush: float
    sorts: bool = False

    @classmethod
    def of(cls, net: PixelNet, *, exact: bool) -> JointBound:
        """Takes the last layer of a net; `exact` if it is proven to compute exactly on a grid."""
        last, info = net.layers[-1], np.finfo(net.format)
        # A value may pass through a wider format first: u + u' + u u'.
        unit = 0.0 if exact else float(info.eps) / 2 * (1 + 2.0**-10)
        flush = 0.0 if exact else 4 * float(info.smallest_normal)
        weight, bias = last.weight.astype(np.float64), last.bias.astype(np.float64)
        return cls(weight, bias, unit, flush, last.sort is not None or last.window is not None)

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
        if self.sorts:
            return np.asarray(by_class.min(1))
        rows = np.arange(len(labels))
        # The closest class first: where it cannot be separated, the others need not be.
        for others in by_class.argsort(1).T:
            rows = rows[by_class[rows, others[rows]] <= 0]
            step = max(CELLS // self.weight.shape[-1], 1)
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
        pair = Pair(*self._of(rows, labels), *self._of(rows, others))
        gap = -_lead_at_nearest(lower, upper, pair)
        # The bound proper takes ten times as long; where one point already refutes it, it is not asked.
        hope = np.flatnonzero(gap > 0)
        box_of_hope, pair = (lower[hope], upper[hope]), pair.at(hope)
        gap[hope] = -sup_of_difference(*box_of_hope, pair) - self._guard(*box_of_hope, rows[hope])
        gap[~finite] = -np.inf
        return gap

    def _of(self, rows: Indices, classes: Indices) -> tuple[Reals, Reals]:
        """Returns the weights (P, I) and biases (P,) of one class for each row."""
        return self.weight[classes], self.bias[classes]

    def _sizes(self, rows: Indices) -> tuple[Reals, Reals]:
        """Returns the largest modulus of a weight and of a bias, for each row."""
        return np.abs(self.weight).max(keepdims=True).ravel(), np.abs(self.bias).max(keepdims=True)

    def _guard(self, lower: Reals, upper: Reals, rows: Indices) -> Reals:
        """Bounds, (N,), the engine's roundings of two distances and sums, and those of the bound itself.

        An exact net's engine does not round, and neither does the bound: its values are multiples of the grid
        below 2^26 steps.
        """
        if not self.unit:
            return np.zeros(len(lower))
        largest_weight, largest_bias = self._sizes(rows)
        reach = np.maximum(np.abs(lower), np.abs(upper)).max(1) + largest_weight
        size = reach + largest_bias
        engine = 2 * (self.unit * reach + self.unit * (1 + self.unit) * size + 2 * self.flush)
        guard: Reals = (engine + OPERATIONS * UNIT * size) * (1 + OPERATIONS * UNIT)
        return guard


def sup_of_difference(low: Reals, high: Reals, pair: Pair) -> Reals:
    """Returns `sup (d_label - d_other)` over each box, (P,): section 9 of docs/theory.md."""
    a, c = pair.label, pair.other
    rest = _largest_of_others(np.maximum(np.maximum(low - c, c - high), 0.0))
    ends = low, high, np.clip(c - rest, low, high), np.clip(c + rest, low, high)
    values = [(np.abs(t - a) - np.maximum(np.abs(t - c), rest)).max(1) for t in ends]
    worst: Reals = np.maximum.reduce(values) + (pair.label_bias - pair.other_bias)
    return worst


def _lead_at_nearest(low: Reals, high: Reals, pair: Pair) -> Reals:
    """Returns `d_label - d_other`, (P,), where the other class is nearest in the box."""
    z = np.clip(pair.other, low, high)
    distances = np.abs(z - pair.label).max(1), np.abs(z - pair.other).max(1)
    lead: Reals = distances[0] - distances[1] + (pair.label_bias - pair.other_bias)
    return lead


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
