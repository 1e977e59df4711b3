# SPDX-License-Identifier: Apache-2.0
"""Certificates for the label an engine gives. Comparisons are strict and exact; ties certify nothing.

With `m` the exact difference of the two largest logits of the engine, `k` the threat's levels:

    E  exact     m > 2 k            needs a net proven exact: then the engine is a real 1-Lipschitz function
    D  delta     m > 2 k + 4 delta  any engine that rounds as its format does, in any order (see passes/ranges.py)
    I  interval  lower(label) > upper(other) for every other label, over the box, in the engine's own roundings
    J  joint     I; or, for the labels it leaves open, the joint bound of the last layer, see joint.py

Of a net with a head: I and J are one, of features as intervals and the head's own bounds (`headed.py`), D puts a
ball of features through the head, and there is no E.

Each guarantees that no image within the threat gets another label from the engine. `Certifier.at` asks for one
radius and takes one pass of intervals; `Certifier.radii` has them all, see `radii.py`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from linfdeploy.engines.base import Images, Logits
from linfdeploy.engines.reference import Hull, ReferenceEngine, Rounding, evaluator_of
from linfdeploy.onnx.passes.ranges import overflow_gap, rounding_error, value_ranges
from linfdeploy.onnx.pixel_net import PixelNet
from linfdeploy.verify.headed import DELTA_STEP, HeadBound, HeadedEvaluator, ball_levels, head_bound_of
from linfdeploy.verify.joint import JointBound
from linfdeploy.verify.kept import Arrays
from linfdeploy.verify.radii import CertifiedRadii, Gaps, Levels, above, largest_levels, margin_radii
from linfdeploy.verify.threat import box_of

__all__ = [
    "Certificates",
    "CertifiedFlags",
    "Certifier",
    "Flags",
    "certified_by_interval",
    "certified_by_margin",
    "exact_margins",
    "gaps",
    "interval_gaps",
    "joint_gaps",
    "separated",
]

Flags: TypeAlias = npt.NDArray[np.bool_]

Evaluator: TypeAlias = ReferenceEngine | Hull | HeadedEvaluator

CHUNK = 1024


@dataclass(frozen=True)
class CertifiedFlags:
    """Which samples each certificate holds for, each (N,); None where the certificate does not apply."""

    exact: Flags | None
    interval: Flags | None
    delta: Flags
    joint: Flags | None = None

    @property
    def any(self) -> Flags:
        """Where at least one certificate holds."""
        applicable = [flags for flags in (self.exact, self.interval, self.joint, self.delta) if flags is not None]
        certified: Flags = np.logical_or.reduce(applicable)
        return certified


@dataclass(frozen=True)
class Certificates:
    """What is certified for the label that an engine gives to each of N samples.

    Attributes:
        labels: (N,) int64, the engine's.
        flags: Of the threat's radius.
        radii: How far each certificate reaches.
    """

    labels: npt.NDArray[np.int64]
    flags: CertifiedFlags
    radii: CertifiedRadii

    @classmethod
    def joined(cls, net: PixelNet, logits: Logits, levels: int, stages: Arrays) -> Certificates:
        """Puts the stages of all samples together with the margins, which are computed here.

        Args:
            net: The engine's.
            logits: (N, K) float32, the engine's.
            levels: The threat, in pixels.
            stages: See `Certifier.stages`.
        """
        margins = Certifier(net, None, None, logits)
        flags, radii = margins.at(levels), margins.radii
        if "delta_levels" in stages:
            reach = stages["delta_levels"].astype(np.int64)
            flags, radii = replace(flags, delta=reach >= levels), replace(radii, delta=_ball_radii(reach))
        if "interval" in stages:
            flags = replace(flags, interval=stages["interval"], joint=stages["joint"])
            ends = (stages[f"{name}_levels"].astype(np.int64) for name in ("interval", "joint"))
            radii = CertifiedRadii(radii.exact, radii.delta, *ends)
        return cls(margins.labels, flags, radii)


class Certifier:
    """Certifies one engine's labels for a set of images, at any radius."""

    def __init__(
        self, net: PixelNet, roundings: Rounding | Sequence[Rounding] | None, images: Images | None, logits: Logits
    ) -> None:
        """Takes the engine's logits (N, K) and the roundings one of which it follows: none, if none matched.

        The images (N, C, H, W) may be None where there is no rounding: margins do not need them.
        """
        self.labels: npt.NDArray[np.int64] = logits.argmax(1)
        self.delta = _shortened(rounding_error(net, value_ranges(net)))
        possible = (roundings,) if isinstance(roundings, Rounding) else roundings or ()
        self.evaluator: Evaluator | None = evaluator_of(net, possible)
        self._exact = net.precision == "exact" and net.head is None
        self._joint: JointBound | HeadBound = JointBound.of(net, exact=self._exact)
        self._headed = net if net.head is not None else None
        if net.head is not None:
            self.evaluator = HeadedEvaluator(net, possible) if possible else None
            self._joint = head_bound_of(net)
        # Where a value may overflow, no bound on rounding errors holds.
        self._bounded = overflow_gap(net) is None
        self._images = images
        self._margins = exact_margins(logits)
        self._float_margins = np.array([float(margin) for margin in self._margins])

    def at(self, levels: int) -> CertifiedFlags:
        """Returns the certificates at a radius of `levels` pixels."""
        interval, joint = self._stages(levels)
        return CertifiedFlags(
            exact=certified_by_margin(self._margins, levels, Fraction(0)) if self._exact else None,
            interval=interval,
            joint=joint,
            delta=self._by_delta(levels),
        )

    def _by_delta(self, levels: int) -> Flags:
        if self._headed is None:
            return certified_by_margin(self._margins, levels, self.delta) & self._bounded
        return self._ball_levels >= levels

    @cached_property
    def _ball_levels(self) -> Levels:
        """How far certificate D of a net with a head reaches; nowhere without the images."""
        if self._headed is None or self._images is None or not self._bounded:
            return np.full(len(self.labels), -1)
        return ball_levels(self._headed, self._images, self.labels)

    @cached_property
    def radii(self) -> CertifiedRadii:
        """How far each certificate reaches, sample by sample; intervals take a few passes over open samples."""
        exact = margin_radii(self._margins, Fraction(0)) if self._exact else None
        delta = margin_radii(self._margins if self._bounded else [Fraction(0)] * len(self._margins), self.delta)
        delta = delta if self._headed is None else _ball_radii(self._ball_levels)
        interval = self._interval_levels(exact)
        return CertifiedRadii(exact, delta, interval, None if interval is None else self._joint_levels(interval))

    def stages(self, levels: int) -> Arrays:
        """Returns what takes passes over the net, sample by sample, for `Certificates.joined`.

        Returns:
            `interval` and `joint`, (N,) bool, at a radius of `levels` pixels, and `interval_levels` and
            `joint_levels`, (N,) int16, as in `CertifiedRadii`; without a rounding only `labels`, (N,) int64. Of a
            net with a head `delta_levels`, (N,) int16, besides: -1 where D does not hold.
        """
        (interval, joint), radii = self._stages(levels), self.radii
        found: Arrays = {} if self._headed is None else {"delta_levels": self._ball_levels.astype(np.int16)}
        if interval is None or joint is None or radii.interval is None or radii.joint is None:
            return {"labels": self.labels, **found}
        return {
            **found,
            "interval": interval,
            "joint": joint,
            "interval_levels": radii.interval.astype(np.int16),
            "joint_levels": radii.joint.astype(np.int16),
        }

    def _stages(self, levels: int) -> tuple[Flags | None, Flags | None]:
        if self.evaluator is None or self._images is None:
            return None, None
        each = np.full(len(self._images), levels)
        first, second = _both_gaps(self.evaluator, self._joint, self._images, self.labels, each)
        return first > 0, second > 0

    def _joint_levels(self, interval: Levels) -> Levels:
        return largest_levels(self._joint_gaps, self._at_the_image(self._joint_gaps), interval)

    def _interval_levels(self, exact: list[Fraction] | None) -> Levels | None:
        if self.evaluator is None or self._images is None:
            return None
        # In exact arithmetic intervals are never weaker than margins: T8 (b).
        known = [-1] * len(self._images) if exact is None else map(above, exact)
        known_levels = np.fromiter(known, np.int64, len(self._images))
        return largest_levels(self._gaps, self._at_the_image(self._gaps), known_levels)

    def _at_the_image(self, found: Gaps) -> npt.NDArray[np.float64]:
        """Returns the gaps at level 0: the margins, but of a head whose sums might have come in another order."""
        if self._headed is None:
            return self._float_margins
        return found(np.arange(len(self.labels)), np.zeros(len(self.labels), np.int64))

    def _gaps(self, indices: Levels, levels: Levels) -> npt.NDArray[np.float64]:
        assert self.evaluator is not None
        assert self._images is not None
        if isinstance(self.evaluator, HeadedEvaluator):
            return self._joint_gaps(indices, levels)
        return interval_gaps(self.evaluator, self._images[indices], self.labels[indices], levels)

    def _joint_gaps(self, indices: Levels, levels: Levels) -> npt.NDArray[np.float64]:
        assert self.evaluator is not None
        assert self._images is not None
        return joint_gaps(self.evaluator, self._joint, self._images[indices], self.labels[indices], levels)


def exact_margins(logits: Logits) -> list[Fraction]:
    """Returns, for each row, the largest logit minus the second largest, as an exact rational.

    A row with a logit that is not finite has no largest one that could be trusted: its margin is 0, a tie.
    """
    finite = np.isfinite(logits).all(1, keepdims=True)
    top = np.sort(np.where(finite, logits, np.float32(0)), axis=1)[:, -2:].tolist()
    return [Fraction(first) - Fraction(second) for second, first in top]


def certified_by_margin(margins: Sequence[Fraction], levels: int, delta: Fraction) -> Flags:
    """Certificates E (delta = 0, for exact nets only) and D: `margin > 2 levels + 4 delta`.

    Args:
        margins: Exact margins of the engine's logits, in pixels.
        levels: The threat, in pixels.
        delta: Bound on the error of each logit, in pixels.
    """
    threshold = 2 * levels + 4 * delta
    return np.array([margin > threshold for margin in margins], bool)


def certified_by_interval(
    evaluator: ReferenceEngine | Hull, images: Images, labels: npt.NDArray[np.int64], levels: int
) -> Flags:
    """Certificate I: over the box around each image, no other logit reaches the label's.

    Args:
        evaluator: With the roundings that the engine was found to follow.
        images: (N, C, H, W) uint8.
        labels: (N,) the engine's labels.
        levels: The threat, in pixels.
    """
    flags: Flags = interval_gaps(evaluator, images, labels, np.full(len(images), levels)) > 0
    return flags


def interval_gaps(
    evaluator: ReferenceEngine | Hull, images: Images, labels: npt.NDArray[np.int64], levels: Levels
) -> npt.NDArray[np.float64]:
    """Returns, (N,), by how much the label's lower end exceeds every other upper end over each image's box.

    Args:
        evaluator: With the roundings that the engine was found to follow.
        images: (N, C, H, W) uint8.
        labels: (N,) the engine's labels.
        levels: (N,) radius of each image's box, in pixels.
    """
    found = [gaps(*evaluator.bounds(*box_of(images[part], levels[part])), labels[part]) for part in _parts(images)]
    return np.concatenate([*found, np.empty(0)])


def joint_gaps(
    evaluator: Evaluator,
    joint: JointBound | HeadBound,
    images: Images,
    labels: npt.NDArray[np.int64],
    levels: Levels,
) -> npt.NDArray[np.float64]:
    """Returns, (N,), a number above 0 only where the label wins over each image's whole box, by I or jointly.

    Args:
        evaluator: With the roundings that the engine was found to follow.
        joint: The joint bound of the same net.
        images: (N, C, H, W) uint8.
        labels: (N,) the engine's labels.
        levels: (N,) radius of each image's box, in pixels.
    """
    return _both_gaps(evaluator, joint, images, labels, levels)[1]


def _both_gaps(
    evaluator: Evaluator,
    joint: JointBound | HeadBound,
    images: Images,
    labels: npt.NDArray[np.int64],
    levels: Levels,
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Returns the gaps of I and of J from one pass over the hidden layers."""
    first, second = [np.empty(0)], [np.empty(0)]
    for part in _parts(images):
        stages = evaluator.stages(*box_of(images[part], levels[part]))
        found = [_stage_gaps(joint, box, logits, labels[part]) for box, logits in stages]
        # Whichever rounding the engine follows, it is one of them.
        first.append(np.minimum.reduce([interval for interval, _ in found]))
        second.append(np.minimum.reduce([jointly for _, jointly in found]))
    return np.concatenate(first), np.concatenate(second)


def _stage_gaps(
    joint: JointBound | HeadBound,
    box: tuple[Logits, Logits] | None,
    logits: tuple[Logits, Logits],
    labels: npt.NDArray[np.int64],
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    if isinstance(joint, HeadBound):
        # The last layer is taken by differences of its rows from the first.
        assert box is not None
        return (found := joint.gaps(box, logits, labels)), found
    interval = gaps(*logits, labels)
    # Folded biases are outside the joint bound's hypotheses: one rounding for each distance.
    return interval, interval if box is None else joint.gaps(box, logits, labels)


def _parts(images: Images) -> Iterator[slice]:
    return (slice(i, i + CHUNK) for i in range(0, len(images), CHUNK))


def gaps(lower: Logits, upper: Logits, labels: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Returns the label's lower end less the largest other upper end, (N,); its sign is exact.

    Two infinite ends give `-inf`: they separate nothing.
    """
    rows = np.arange(len(labels))
    others = upper.copy()
    others[rows, labels] = -np.inf
    with np.errstate(invalid="ignore"):
        # Two different float32 never have the difference 0 in float64.
        gap = lower[rows, labels].astype(np.float64) - others.max(1)
    return np.where(np.isnan(gap), -np.inf, gap)


def separated(lower: Logits, upper: Logits, labels: npt.NDArray[np.int64], slack: float = 0.0) -> Flags:
    """Returns where the label's lower end is above every other label's upper end by more than `slack`."""
    # The difference of two float32 is rounded in float64, by far less than any slack that is not zero.
    flags: Flags = gaps(lower, upper, labels) > slack
    return flags


def _ball_radii(levels: Levels) -> list[Fraction]:
    """Returns radii that hold strictly below, for levels each of which was certified with DELTA_STEP to spare."""
    return [Fraction(max(level, 0)) + (Fraction(DELTA_STEP) if level >= 0 else 0) for level in levels.tolist()]


def _shortened(delta: Fraction) -> Fraction:
    """Rounds a bound up to a multiple of 2^-48 pixel, so that radii can be read."""
    return Fraction(math.ceil(delta * 2**48), 2**48)
