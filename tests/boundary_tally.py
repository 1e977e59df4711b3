# SPDX-License-Identifier: Apache-2.0
"""What each certificate makes of boundary cases: many nets at once, or one by one as an audit does.

Certifying a thousand nets at once replaces the evaluator's two kernels by numpy over a stack of weights;
intervals, comparisons, joint bounds and radii are the package's own code.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt
from boundary_cases import Boundary, Family, blocks_of, net_of, real_gaps

from linfdeploy.engines.base import Images, Logits
from linfdeploy.engines.reference import PER_OP, ReferenceEngine
from linfdeploy.onnx.passes.ranges import rounding_error, value_ranges
from linfdeploy.verify import certificates, radii, threat
from linfdeploy.verify.joint import JointBound

__all__ = ["BAND", "CHECKS", "Tally", "each", "stacked", "table", "tally", "tally_of"]

CHECKS = ("naive", "E", "I", "J", "D", "H")
BAND = 8
"""Cases whose real interval is separated by more than so many ulp should be certified."""

Rows = dict[str, npt.NDArray[np.bool_]]


@dataclass(frozen=True)
class Tally:
    """What each check made of a family's cases.

    Attributes:
        family: Its name.
        cases: How many.
        broken: How many have a counterexample.
        certified: Of all cases, by check.
        false: Of the broken ones, by check.
        missed: Counterexamples that the package's evaluator does not confirm; must be 0.
        outside: Cases separated by more than `BAND` ulp in real arithmetic.
        kept: How many of these I certifies.
    """

    family: str
    cases: int
    broken: int
    certified: dict[str, int]
    false: dict[str, int]
    missed: int = 0
    outside: int = 0
    kept: int = 0

    def power(self, check: str) -> float:
        """Returns the share of truly robust cases that a check certifies."""
        return (self.certified[check] - self.false[check]) / max(self.cases - self.broken, 1)


def tally(family: Family, seed: int, share: float = 1.0) -> Tally:
    """Certifies a share of a family's cases, a block at a time."""
    rows = [stacked(block) for block in blocks_of(family, seed, share)]
    return tally_of(family.name, {name: np.concatenate([row[name] for row in rows]) for name in rows[0]})


def tally_of(name: str, rows: Rows) -> Tally:
    """Counts flags, each (N,), by check, with `broken`, and perhaps `missed` and `outside`."""
    broken, none = rows["broken"], np.zeros(len(rows["broken"]), bool)
    outside = rows.get("outside", none)
    checks = {check: rows[check] for check in CHECKS if check in rows}
    return Tally(
        name,
        len(broken),
        int(broken.sum()),
        {check: int(flags.sum()) for check, flags in checks.items()},
        {check: int((flags & broken).sum()) for check, flags in checks.items()},
        int(rows.get("missed", none).sum()),
        int(outside.sum()),
        int((outside & rows.get("I", none)).sum()),
    )


def table(tallies: list[Tally]) -> str:
    """Returns the tallies as a table; each check has `certified (of them false)`."""
    lines = ["".join([f"{'family':<34}{'cases':>8}{'broken':>8}", *(f"{check:>14}" for check in CHECKS)])]
    for row in tallies:
        cells = [
            f"{f'{row.certified[check]} ({row.false[check]})' if check in row.certified else '-':>14}"
            for check in CHECKS
        ]
        lines.append("".join([f"{row.family:<34}{row.cases:>8}{row.broken:>8}", *cells]))
    return "\n".join(lines)


def stacked(boundary: Boundary) -> Rows:
    """Certifies a block of cases at once."""
    evaluator = StackedEngine(boundary)
    images = _as_images(boundary, boundary.images)
    logits = evaluator.run(images)
    labels, levels = np.zeros(len(images), np.int64), boundary.levels.astype(np.int64)
    # A margin of zero or less at the image itself makes another class the label: no case for class 0.
    right = (logits.argmax(1) == 0) & (logits[:, 0] > logits[:, 1:].max(1))
    margins = certificates.exact_margins(logits)
    joint = StackedJoint.of_stack(boundary)
    box = evaluator.last_inputs(*threat.box_of(images, levels))
    ends = evaluator.last_bounds(*box)
    gap, width = real_gaps(boundary)
    other = evaluator.run(_as_images(boundary, boundary.counterexamples))
    return {
        "broken": boundary.broken,
        "naive": boundary.naive,
        "E": right & _exact(boundary, margins),
        "I": right & (certificates.gaps(*ends, labels) > 0),
        "J": right & (joint.gaps(box, ends, labels) > 0),
        "D": right & _delta(boundary, margins),
        "missed": boundary.broken & (other[:, 0] > other[:, 1:].max(1)),
        "outside": right & (gap > BAND * width),
    }


def _exact(boundary: Boundary, margins: list[Fraction]) -> npt.NDArray[np.bool_]:
    if boundary.family.format != "exact":
        return np.zeros(len(margins), bool)
    reach = map(radii.above, radii.margin_radii(margins, Fraction(0)))
    return np.fromiter(reach, np.int64, len(margins)) >= boundary.levels


def _delta(boundary: Boundary, margins: list[Fraction]) -> npt.NDArray[np.bool_]:
    found = []
    for index, margin in enumerate(margins):
        # Delta is no less than 0; to compute it takes longer than all the rest.
        if margin <= 2 * int(boundary.levels[index]):
            found.append(False)
            continue
        net = net_of(boundary, index)
        (radius,) = radii.margin_radii([margin], rounding_error(net, value_ranges(net)))
        found.append(radii.above(radius) >= boundary.levels[index])
    return np.array(found, bool)


class StackedEngine(ReferenceEngine):
    """As the evaluator, for as many nets of one shape as there are images, one net an image."""

    def __init__(self, boundary: Boundary) -> None:
        super().__init__(net_of(boundary, 0))
        self._weights = tuple(weight.astype(np.float32) for weight in boundary.weights)
        self._biases = tuple(bias.astype(np.float32) for bias in boundary.biases)

    def distance(self, x: Logits, w: Logits) -> Logits:
        """Returns the distances of each image to its own rows."""
        distance: Logits = np.abs(x[:, None] - w).max(2)
        return distance

    def distance_bounds(self, lower: Logits, upper: Logits, w: Logits) -> tuple[Logits, Logits]:
        """Returns the smallest and the largest distance over each box."""
        below, above = lower[:, None] - w, upper[:, None] - w
        nearest = np.maximum(np.maximum(below, -above), np.float32(0)).max(2)
        return nearest, np.maximum(np.abs(below), np.abs(above)).max(2)


@dataclass(frozen=True)
class StackedJoint(JointBound):
    """As the joint bound, with (N, K, I) weights and (N, K) biases: one net a box."""

    @classmethod
    def of_stack(cls, boundary: Boundary) -> StackedJoint:
        """Takes the last layers of a block."""
        one = JointBound.of(net_of(boundary, 0), exact=boundary.family.format == "exact")
        last = boundary.weights[-1].astype(np.float64), boundary.biases[-1].astype(np.float64)
        return cls(*last, one.unit, one.flush)

    def _of(self, rows: Any, classes: Any) -> tuple[Any, Any]:
        return self.weight[rows, classes], self.bias[rows, classes]

    def _sizes(self, rows: Any) -> tuple[Any, Any]:
        return np.abs(self.weight[rows]).max((1, 2)), np.abs(self.bias[rows]).max(1)


def each(boundary: Boundary) -> Rows:
    """Certifies cases one by one, on the kernels and through `Certifier`, as an audit does."""
    rows: dict[str, list[bool]] = {"E": [], "I": [], "J": [], "D": [], "radii": []}
    for index in range(len(boundary.images)):
        net, level = net_of(boundary, index), int(boundary.levels[index])
        image = boundary.images[index].reshape(1, *net.input_shape)
        certifier = certificates.Certifier(net, PER_OP, image, ReferenceEngine(net).run(image))
        flags, right = certifier.at(level), bool(certifier.labels[0] == boundary.label)
        named = {"E": flags.exact, "I": flags.interval, "J": flags.joint, "D": flags.delta}
        for name, found in named.items():
            rows[name].append(found is not None and right and bool(found[0]))
        curves = (certifier.radii.curve(name, [level]) for name in ("exact", "interval", "joint", "delta"))
        rows["radii"].append(right and any(bool(curve[0, 0]) for curve in curves if curve is not None))
    arrays = {name: np.array(values, bool) for name, values in rows.items()}
    return {"broken": boundary.broken, "naive": boundary.naive, **arrays}


def _as_images(boundary: Boundary, pixels: npt.NDArray[np.uint8]) -> Images:
    return pixels.reshape(len(pixels), 1, 1, boundary.family.pixels)
