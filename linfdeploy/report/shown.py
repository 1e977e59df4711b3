# SPDX-License-Identifier: Apache-2.0
"""The figures of the page that are counted from samples and other figures; `report.json` has them as `shown`."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal, TypeAlias

from linfdeploy.report import words
from linfdeploy.report.histogram import Histogram, histogram
from linfdeploy.report.model import AuditReport, SampleRow

__all__ = [
    "FATES",
    "ClassRadii",
    "Fate",
    "Shown",
    "Truth",
    "change",
    "class_radii",
    "fate_of",
    "folded_ulps",
    "margin_histogram",
    "ratio_histogram",
    "shown_of",
]

Fate: TypeAlias = Literal["certified", "open", "fell", "wrong", "broken"]
FATES: tuple[Fate, ...] = ("certified", "open", "fell", "wrong", "broken")

MAX_ULP_BARS = 10


@dataclass(frozen=True)
class ClassRadii:
    """Radii up to which the right answers of a class are certified, in levels of 255; None where there is none.

    Attributes:
        label: The class.
        samples: How many of its samples are classified correctly.
        lowest: The smallest radius.
        lower_quartile: The smallest radius of a sample that a quarter of the samples or more do not exceed.
        median: Likewise half of them.
        upper_quartile: Likewise three quarters.
        highest: The largest.
    """

    label: int
    samples: int
    lowest: float | None
    lower_quartile: float | None
    median: float | None
    upper_quartile: float | None
    highest: float | None


@dataclass(frozen=True)
class Truth:
    """Counts between which the number of images lies that no change within eps turns wrong."""

    proved: int
    withstood: int


@dataclass(frozen=True)
class Shown:
    """What the page counts.

    Attributes:
        fates: How many samples are certified, open, fell, wrong and broken.
        truth: None where proof and attack do not enclose it.
        changes: By how many points of percent, as they are shown, a figure differs after deployment.
        margins: Histogram of margins, right and wrong answers, with an edge on 2 eps.
        ratios: Histogram of the Lipschitz ratios, with an edge on 1.
        radii_of: The certificate that `radii` are of, by its name in `certified`.
        radii: Of each class.
        ulps: Outputs by distance, with few entries.
    """

    fates: Mapping[str, int]
    truth: Truth | None
    changes: Mapping[str, float | None]
    margins: Histogram | None
    ratios: Histogram | None
    radii_of: str | None
    radii: tuple[ClassRadii, ...]
    ulps: Mapping[str, int]


def shown_of(report: AuditReport) -> Shown:
    """Counts what the page shows."""
    best = words.strongest(report.certified)
    name = best[0] if best else None
    fates = Counter(fate_of(row, name) for row in report.rows)
    return Shown(
        fates={fate: fates[fate] for fate in FATES},
        truth=_truth(report),
        changes=_changes(report),
        margins=margin_histogram(report.rows, 2 * float(report.eps.levels)),
        ratios=ratio_histogram(report.lipschitz.ratios),
        radii_of=name,
        radii=class_radii(report.rows, name),
        ulps=folded_ulps(report.conformance.ulps),
    )


def fate_of(row: SampleRow, certificate: str | None) -> Fate:
    """Returns what is known of a sample, judged by one certificate."""
    certified = certificate is not None and bool(getattr(row, certificate))
    if row.prediction != row.label:
        return "wrong"
    if row.attacked:
        return "broken" if certified else "fell"
    return "certified" if certified else "open"


def margin_histogram(rows: Sequence[SampleRow], threshold: float) -> Histogram | None:
    """Counts margins of right and wrong answers, with an edge on the threshold 2 eps."""
    right = [row.margin for row in rows if row.prediction == row.label]
    wrong = [row.margin for row in rows if row.prediction != row.label]
    return histogram({"right": right, "wrong": wrong}, threshold)


def ratio_histogram(ratios: Sequence[float]) -> Histogram | None:
    """Counts Lipschitz ratios, those up to 1 and those above."""
    # Written so that NaN is in neither but still counted as omitted.
    held = [value for value in ratios if not value > 1]
    return histogram({"held": held, "broken": [value for value in ratios if value > 1]}, 1.0)


def class_radii(rows: Sequence[SampleRow], certificate: str | None) -> tuple[ClassRadii, ...]:
    """Returns, for each class, the five numbers of its right answers' radii; nothing without a certificate."""
    if certificate is None:
        return ()
    name = f"radius_{certificate}"
    found: dict[int, list[float]] = {row.label: [] for row in rows}
    for row in rows:
        radius = getattr(row, name)
        if row.prediction == row.label and radius is not None:
            found[row.label].append(float(Fraction(radius)))
    return tuple(_class_radii(label, sorted(radii)) for label, radii in sorted(found.items()))


def _class_radii(label: int, radii: Sequence[float]) -> ClassRadii:
    if not radii:
        return ClassRadii(label, 0, None, None, None, None, None)
    ranks = (-(-len(radii) * quarter // 4) for quarter in range(5))
    return ClassRadii(label, len(radii), *(radii[max(rank - 1, 0)] for rank in ranks))


def folded_ulps(counts: Mapping[str, int]) -> dict[str, int]:
    """Returns outputs by distance, the nearest first, the farthest of many together as one entry."""
    bars = {key: counts[key] for key in sorted(counts, key=_first_number)}
    if len(bars) <= MAX_ULP_BARS:
        return bars
    keys = list(bars)
    kept, rest = keys[: MAX_ULP_BARS - 1], keys[MAX_ULP_BARS - 1 :]
    return {**{key: bars[key] for key in kept}, f"≥{rest[0]}": sum(bars[key] for key in rest)}


def change(before: float | None, after: float | None) -> float | None:
    """Returns the difference of two fractions in points of percent, of the percentages as they are shown."""
    if before is None or after is None:
        return None
    tenths = [round(float(words.percent(value).removesuffix(" %")) * 10) for value in (before, after)]
    return (tenths[1] - tenths[0]) / 10


def _truth(report: AuditReport) -> Truth | None:
    found = words.enclosed(report)
    return Truth(*found) if found else None


def _changes(report: AuditReport) -> dict[str, float | None]:
    certified, attack = report.certified, report.attack
    by_margin = certified.exact if certified.exact is not None else certified.delta
    return {
        "clean": change(report.accuracy.reference_clean, report.accuracy.clean),
        "margin": change(certified.reference_margin, by_margin),
        "interval": change(certified.reference, certified.interval),
        "attack": change(attack.reference_robust_accuracy, attack.robust_accuracy) if attack else None,
    }


def _first_number(key: str) -> tuple[float, str]:
    digits = re.search(r"\d+", key)
    return (int(digits[0]) if digits else float("inf"), key)
