# SPDX-License-Identifier: Apache-2.0
"""The figures of a report in words that may be quoted.

Rounding never flatters: percentages are rounded down, so that 100.0 % means all.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from fractions import Fraction

from linfdeploy.report.model import AuditReport, Certified

__all__ = [
    "CERTIFICATES",
    "KINDS",
    "LETTERS",
    "bracket",
    "claim",
    "decimal",
    "enclosed",
    "level",
    "percent",
    "plural",
    "sentence",
    "strongest",
]

CERTIFICATES: Mapping[str, tuple[str, str]] = {
    "exact": (
        "Exact margin (E)",
        "No operation of the engine rounds, so its answers cannot move by more than the image does: a lead of "
        "more than 2 eps over the next class cannot be overcome.",
    ),
    "interval": (
        "Intervals (I)",
        "Bounds on every value inside the net for all changed images at once, computed with the engine's own "
        "operations and roundings.",
    ),
    "joint": (
        "Intervals, last layer jointly (J)",
        "As I; where two classes' intervals overlap, the difference of the two is bounded instead of each alone.",
    ),
    "delta": (
        "Margin less rounding (D)",
        "A lead of more than 2 eps plus a bound on all rounding errors; in whatever order the engine computes.",
    ),
}
"""Title and explanation of each certificate, by its field in `Certified`."""

LETTERS: Mapping[str, str] = {"exact": "E", "interval": "I", "joint": "J", "delta": "D"}
"""The letter of each certificate, by its field in `Certified`."""

KINDS: Mapping[str, str] = {
    "engine file": "the file is not the one that was built: its hash is not the one in the manifest",
    "graph": "the file holds a graph or a function body that is not the one written for its weights",
    "precision": "the weights are not in the precision that was promised",
    "shape": "the layers have other sizes than the reference checkpoint's",
    "classes": "the weights are the reference's, with classes in other places",
    "bias": "a bias is not what the reference checkpoint exports to",
    "weight bit": "one bit of one weight is not what the reference checkpoint exports to",
    "input column": "the weights of one input are not what the reference checkpoint exports to",
    "weights": "weights are not what the reference checkpoint exports to",
    "reference": "the reference checkpoint cannot be exported as was promised",
    "conformance": "the engine's output differs from the bit-exact evaluator's by more than its precision allows",
    "golden": "the engine is not of the edge bundle's model, or does not give the bundle's golden answers",
    "not finite": "an output is infinite or NaN",
    "determinism": "equal images got different outputs: run again, in other batches, or by the engine built again",
    "label": "the graph's own label is not that of its logits",
    "radius": "the graph's own radius is not that of its logits",
    "lipschitz": "two outputs differ by more than their images do: the engine is not 1-Lipschitz",
    "containment": "an output left the interval that was certified to contain it",
    "certificate": "an attack changed the answer for a certified image: the certificate is wrong for this engine",
}
"""What each kind of violation means; an audit may add kinds."""

_HOW: Mapping[str, str] = {
    "exact": "computed exactly",
    "interval": "computed with the engine's own roundings",
    "joint": "computed with the engine's own roundings",
    "delta": "with every rounding error bounded",
}


def percent(fraction: float) -> str:
    """Returns a fraction in percent, rounded down to one decimal.

    >>> percent(398 / 449), percent(0.99999), percent(1.0)
    ('88.6 %', '99.9 %', '100.0 %')
    """
    # The slack undoes the rounding of count / samples; with fewer than a million samples it never reaches a count.
    return f"{math.floor(fraction * 1000 + 1e-9) / 10:.1f} %"


def decimal(rational: str) -> str:
    """Returns an exact rational as a decimal where that is exact, else as it is.

    >>> decimal("51/2"), decimal("8"), decimal("1/3")
    ('25.5', '8', '1/3')
    """
    value = Fraction(rational)
    text = f"{float(value):.6f}".rstrip("0").rstrip(".")
    return text if Fraction(text) == value else str(value)


def level(value: float | Fraction) -> str:
    """Returns a number of levels, rounded down to two decimals.

    >>> level(12.349), level(Fraction(51, 2)), level(-0.001), level(float("nan"))
    ('12.34', '25.5', '-0.01', 'not a number')
    """
    if not math.isfinite(value):
        return "not a number" if math.isnan(value) else "infinite" if value > 0 else "negative infinite"
    return f"{math.floor(Fraction(value) * 100) / 100:.2f}".rstrip("0").rstrip(".")


def plural(count: int, noun: str) -> str:
    """Returns the count with its noun.

    >>> plural(1, "pair"), plural(2000, "pair")
    ('1 pair', '2000 pairs')
    """
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def strongest(certified: Certified) -> tuple[str, float] | None:
    """Returns the name and fraction of the engine's certificate that covers most; None if none applies."""
    found = [(name, value) for name in CERTIFICATES if (value := getattr(certified, name)) is not None]
    return max(found, key=lambda item: item[1], default=None)


def claim(report: AuditReport) -> str:
    """Returns the verdict in a few words."""
    if report.violations:
        return f"The audit found {plural(len(report.violations), 'violation')}. Do not rely on this engine."
    if strongest(report.certified) is None:
        return "The audit found no fault, but no certificate applies to this engine."
    return "The engine keeps its certificate, and the audit found no fault."


def sentence(report: AuditReport) -> str:
    """Returns the one sentence that may be quoted."""
    engine = f"the engine with SHA-256 {report.engine.sha256[:12]}…"
    images = f"{plural(report.samples, 'test image')} ({report.data})"
    if report.violations:
        found = plural(len(report.violations), "violation")
        return f"The audit of {engine} on {images} failed with {found}: no certified figure of it may be quoted."
    are = "is" if report.samples == 1 else "are"
    best = strongest(report.certified)
    if best is None:
        right = percent(report.accuracy.clean)
        return f"Of {images}, {right} {are} classified correctly by {engine}; no certificate applies to it."
    name, certified = best
    how = _HOW["exact" if report.engine.precision == "exact" else name]
    return (
        f"Of {images}, {percent(certified)} {are} classified correctly and certified for {_changes(report)} "
        f"per pixel, by {engine}, {how}."
    )


def enclosed(report: AuditReport) -> tuple[int, int] | None:
    """Returns how many images are proved and how many withstood the attack; None where either is not known."""
    best = strongest(report.certified)
    if report.violations or report.attack is None or best is None:
        return None
    return round(best[1] * report.samples), round(report.attack.robust_accuracy * report.samples)


def bracket(report: AuditReport) -> str:
    """Returns between which counts the truth lies; empty where proof and attack do not enclose it."""
    if (found := enclosed(report)) is None:
        return ""
    low, high = found
    number = f"{low}" if low == high else f"between {low} and {high}"
    return (
        f"In truth, {number} of the {plural(report.samples, 'image')} cannot be turned wrong within this limit: "
        f"{low} are proved, and {high} withstood the attack."
    )


def _changes(report: AuditReport) -> str:
    if report.threat_model == "pixels":
        return f"every change of up to {report.eps.levels} of 255 levels"
    return f"every real-valued change of up to {decimal(report.eps.pixels)} of 255 levels"
