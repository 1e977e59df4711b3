# SPDX-License-Identifier: Apache-2.0
"""The evaluator a second time, in plain numpy.

An engine may run on the very kernels that the evaluator runs on, and then a fault of those would be in both. This
one shares no line with them; it is slow, and for a few images.
"""

from __future__ import annotations

import numpy as np

from linfdeploy.engines.base import Images, Logits
from linfdeploy.engines.reference import ReferenceEngine
from linfdeploy.errors import EngineError
from linfdeploy.nets.windows import Window

__all__ = ["PlainEngine", "check_evaluator"]


class PlainEngine(ReferenceEngine):
    """As ReferenceEngine, by the definition of each operation."""

    def distance(self, x: Logits, w: Logits) -> Logits:
        """Returns the distances of rows, (N, O) float32, one row at a time."""
        return np.stack([np.abs(row - w).max(1) for row in x])

    def convolution(self, x: Logits, w: Logits, window: Window) -> Logits:
        """Returns the distances of windows of flat images, each window a row."""
        images = np.pad(x.reshape(-1, *window.shape), [(0, 0), (0, 0), *[(window.padding, window.padding)] * 2])
        columns = [self.distance(_window_at(images, place, window), w) for place in np.ndindex(*window.places)]
        return np.stack(columns, axis=2).reshape(len(x), -1)

    def distance_bounds(self, lower: Logits, upper: Logits, w: Logits) -> tuple[Logits, Logits]:
        """Returns the smallest and the largest distance over boxes, (N, O) float32 each."""
        ends = [_ends(low, high, w) for low, high in zip(lower, upper, strict=True)]
        return np.stack([nearest.max(1) for nearest, _ in ends]), np.stack([far.max(1) for _, far in ends])

    def sort_distance(self, x: Logits, w: Logits, c: Logits) -> Logits:
        """Returns the sorted distances of rows, (N, O) float32, one row at a time."""
        return np.stack([self._sorted(np.abs(row - w), c) for row in x])

    def sort_distance_bounds(self, lower: Logits, upper: Logits, w: Logits, c: Logits) -> tuple[Logits, Logits]:
        """Returns the smallest and the largest sorted distance over boxes, (N, O) float32 each."""
        ends = [_ends(low, high, w) for low, high in zip(lower, upper, strict=True)]
        near, far = zip(*((self._sorted(low, c), self._sorted(high, c)) for low, high in ends), strict=True)
        return np.stack(near), np.stack(far)

    def _sorted(self, differences: Logits, c: Logits) -> Logits:
        """Returns the sorted distance of each row of differences, (O,)."""
        largest = -np.sort(-differences, axis=1)
        distance = np.zeros(len(differences), np.float32)
        for k, weight in enumerate(c):
            distance = distance + weight * largest[:, k]
        if self.net.grid is None:
            return distance
        steps = np.float32(2.0**self.net.grid)
        return np.asarray(np.floor(distance * steps + np.float32(0.5)) / steps)


def check_evaluator(evaluator: ReferenceEngine, images: Images, lower: Images, upper: Images) -> None:
    """Holds the evaluator's kernels against plain numpy, bit by bit.

    Args:
        evaluator: What an audit will trust.
        images: (N, C, H, W) uint8; a few.
        lower: (M, C, H, W) uint8, lower ends of boxes.
        upper: (M, C, H, W) uint8, their upper ends.

    Raises:
        EngineError: They differ: nothing that this machine computes can be trusted.
    """
    plain = PlainEngine(evaluator.net, evaluator.rounding)
    found = (evaluator.run(images), *evaluator.bounds(lower, upper))
    for what, ours, expected in zip(
        ("logits", "lower bounds", "upper bounds"),
        found,
        (plain.run(images), *plain.bounds(lower, upper)),
        strict=True,
    ):
        if different := int((ours.view(np.uint32) != expected.view(np.uint32)).sum()):
            raise EngineError(
                f"the evaluator's {what} differ from plain numpy's in {different} of {ours.size} numbers; "
                "expected none: this build or machine computes wrongly, nothing is judged with it: install again"
            )


def _window_at(images: Logits, place: tuple[int, ...], window: Window) -> Logits:
    """Returns what the window shows at one place of padded images, (N, terms)."""
    top, left = (step * window.stride for step in place)
    shown = images[:, :, top : top + window.kernel, left : left + window.kernel]
    return shown.reshape(len(images), -1)


def _ends(lower: Logits, upper: Logits, w: Logits) -> tuple[Logits, Logits]:
    """The nearest and the farthest |x - w| of each interval, (O, I)."""
    below, above = np.abs(lower - w), np.abs(upper - w)
    inside = (lower <= w) & (w <= upper)
    return np.where(inside, np.float32(0), np.minimum(below, above)), np.maximum(below, above)
