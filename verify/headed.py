# SPDX-License-Identifier: Apache-2.0
"""What an engine of a net with a head may answer: features by the bit-exact evaluator, the head by bounds.

Guarantees, for every image in a box, an engine whose features follow one of the roundings and whose head computes
within its arithmetic, in whatever order it sums:

    bounds(...)[0] <= logits <= bounds(...)[1]       and        the label wins strictly where gaps(...) > 0

Features cannot be seen from outside, so no bits are compared: `explains` says where logits are possible.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from linfdeploy.engines.base import Images, Logits
from linfdeploy.engines.reference import Ends, Flags, Hull, ReferenceEngine, Rounding, evaluator_of
from linfdeploy.onnx.mlp_head import MlpHead
from linfdeploy.onnx.passes.ranges import rounding_error, value_ranges
from linfdeploy.onnx.pixel_net import PixelNet
from linfdeploy.verify.head import HeadArithmetic, arithmetic_of, head_bounds, head_gaps
from linfdeploy.verify.radii import Levels, largest_levels

__all__ = ["DELTA_STEP", "HeadBound", "HeadedEvaluator", "ball_levels", "explainer_of", "head_bound_of"]

Reals = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]

DELTA_STEP = 2.0**-10
"""In pixels: by so much more than whole levels the ball of certificate D reaches, so that its radius is open."""


@dataclass(frozen=True)
class HeadBound:
    """A head's bounds in the place of the last layer's joint bound.

    Attributes:
        head: The layers.
        arithmetic: What the engine's operations may lose.
    """

    head: MlpHead
    arithmetic: HeadArithmetic

    def gaps(self, box: Ends, logits: Ends, labels: Indices) -> Reals:
        """See `head_gaps`; `box` is of features, `logits` are not looked at."""
        return head_gaps(self.head, box, labels, self.arithmetic)


def head_bound_of(net: PixelNet) -> HeadBound:
    """Returns the bound of a net's head, in the arithmetic of its format."""
    assert net.head is not None
    return HeadBound(net.head, arithmetic_of("fp16" if net.format == np.float16 else "fp32"))


class HeadedEvaluator:
    """Bounds an engine of a net with a head, as `ReferenceEngine` and `Hull` do of a pure one."""

    def __init__(self, net: PixelNet, roundings: Sequence[Rounding], slack: float = 0.0) -> None:
        """Takes the roundings one of which the features follow, at least one.

        Args:
            net: With a head.
            roundings: Of its distance layers.
            slack: In pixels, how far features may be from all of them besides.
        """
        inner = evaluator_of(net.distances, roundings)
        assert inner is not None
        self.net = net
        self._inner = inner
        self._members = inner.members if isinstance(inner, Hull) else (inner,)
        self._head = head_bound_of(net)
        self._slack = slack

    def bounds(self, lower: Images, upper: Images) -> Ends:
        """Bounds the logits over boxes of images, (N, K) each."""
        return self._logits(self._features(self._inner, lower, upper))

    def stages(self, lower: Images, upper: Images) -> Iterator[tuple[Ends, Ends]]:
        """Yields the bounds of features and of logits, for each rounding that is possible."""
        for member in self._members:
            box = self._features(member, lower, upper)
            yield box, self._logits(box)

    def explains(self, images: Images, logits: Logits) -> Flags:
        """Returns for which images (N,) the logits (N, K) are possible with the features of some rounding."""
        found: Flags = np.zeros(len(images), bool)
        for _, (low, high) in self.stages(images, images):
            found |= ((logits >= low) & (logits <= high)).all(1)
        return found

    def _features(self, evaluator: ReferenceEngine | Hull, lower: Images, upper: Images) -> Ends:
        low, high = evaluator.bounds(lower, upper)
        # In float64 a sum of float32 numbers may round: by less than the next number is away.
        if not self._slack:
            return -high, -low
        wide = (-high.astype(np.float64) - self._slack, -low.astype(np.float64) + self._slack)
        return np.nextafter(wide[0], -np.inf), np.nextafter(wide[1], np.inf)

    def _logits(self, box: Ends) -> Ends:
        return head_bounds(self._head.head, box, self._head.arithmetic)  # type: ignore[return-value]


def explainer_of(net: PixelNet, rounding: Rounding) -> ReferenceEngine | HeadedEvaluator:
    """Returns what says whether logits are those of a rounding."""
    return HeadedEvaluator(net, [rounding]) if net.head is not None else ReferenceEngine(net, rounding)


def ball_levels(net: PixelNet, images: Images, labels: Indices) -> Levels:
    """Certificate D of a net with a head: the largest whole levels, (N,) int64, and -1 for none.

    Real features are 1-Lipschitz, and computed ones within delta of them whatever is rounded: so at every image
    within k levels they lie within `k + 2 delta` of any that are computed here. The label must win on that ball.

    Args:
        net: With a head.
        images: (N, C, H, W) uint8.
        labels: (N,) the engine's labels.
    """
    bound, delta = head_bound_of(net), float(rounding_error(net, value_ranges(net)))
    centre = -ReferenceEngine(net.distances).run(images).astype(np.float64)

    def gaps(rows: Levels, levels: Levels) -> Reals:
        radius = (levels + DELTA_STEP + 2 * delta * (1 + 2.0**-40))[:, None]
        box = np.nextafter(centre[rows] - radius, -np.inf), np.nextafter(centre[rows] + radius, np.inf)
        return head_gaps(bound.head, box, labels[rows], bound.arithmetic)

    every = np.arange(len(images))
    at_once = gaps(every, np.zeros(len(images), np.int64))
    return largest_levels(gaps, at_once, np.full(len(images), -1))
