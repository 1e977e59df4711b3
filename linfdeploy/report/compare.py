# SPDX-License-Identifier: Apache-2.0
"""Two reports side by side: what differs of the engines, of the figures, and sample by sample.

A figure's change is given only where both are of the same images and against the same threat. Samples are compared
at the smaller eps of the two, which every certified radius answers for.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

from linfdeploy.errors import InputError
from linfdeploy.report.csv import read_csv
from linfdeploy.report.json import read_json
from linfdeploy.report.model import UNWRITTEN, SampleRow
from linfdeploy.report.shown import change
from linfdeploy.report.words import CERTIFICATES

__all__ = [
    "SCHEMA",
    "Comparison",
    "Fact",
    "FigureChange",
    "Overlay",
    "SampleChanges",
    "Side",
    "compared",
    "read_side",
]

SCHEMA = "linfdeploy.compare/1"

PIXEL_MAX = 255


@dataclass(frozen=True)
class Side:
    """One of the two reports.

    Attributes:
        path: Of its report.json.
        sha256: Of its engine.
        verdict: `pass` or `fail`.
        samples: How many.
        levels: Its eps in whole levels.
        report: All of report.json.
        rows: Its samples; None where no samples.csv lies beside it.
    """

    path: str
    sha256: str
    verdict: str
    samples: int
    levels: int
    report: Mapping[str, Any] = field(repr=False, metadata=UNWRITTEN)
    rows: tuple[SampleRow, ...] | None = field(repr=False, metadata=UNWRITTEN)


@dataclass(frozen=True)
class Fact:
    """One fact of the audits, in words; None where a report has none."""

    name: str
    a: str | None
    b: str | None
    differs: bool


@dataclass(frozen=True)
class FigureChange:
    """One figure of both reports.

    Attributes:
        name: Its place in `report.json`.
        title: In words.
        share: Whether it is a fraction, so that `change` is in points of percent as they are shown.
        a: Null where it does not apply.
        b: Likewise.
        change: B less A; null where the two cannot be compared.
    """

    name: str
    title: str
    share: bool
    a: float | None
    b: float | None
    change: float | None


@dataclass(frozen=True)
class Overlay:
    """Certified accuracy of both at the radii that both reports have."""

    certificate: str
    eps_pixels: tuple[float, ...]
    a: tuple[float, ...]
    b: tuple[float, ...]


@dataclass(frozen=True)
class SampleChanges:
    """Samples that both reports have, by their index, and what became of them from A to B.

    Attributes:
        common: How many both have.
        levels: The radius in whole levels at which certificates are compared.
        certified_a: How many are right and certified in A.
        certified_b: Likewise in B.
        gained: Certified in B only.
        lost: Certified in A only.
        broke: Right in A, wrong in B.
        mended: Wrong in A, right in B.
        certified_then_wrong: Certified in A, wrong in B.
        fell: Withstood the attack in A, changed by the same attack in B.
        withstood: Changed by the attack in A, withstood the same attack in B.
        largest_margin_change: In levels of 255; null where none is finite.
    """

    common: int
    levels: int
    certified_a: int
    certified_b: int
    gained: tuple[int, ...]
    lost: tuple[int, ...]
    broke: tuple[int, ...]
    mended: tuple[int, ...]
    certified_then_wrong: tuple[int, ...]
    fell: tuple[int, ...]
    withstood: tuple[int, ...]
    largest_margin_change: float | None


@dataclass(frozen=True)
class Comparison:
    """What two reports have in common and what not.

    Attributes:
        a: The first report.
        b: The second.
        obstacles: Why not everything can be compared, a sentence each.
        facts: Of the audits and their engines.
        figures: Side by side.
        curves: Of each certificate that both have.
        samples: None where one has no samples.csv or they are of other images.
        schema: Version of this layout.
    """

    a: Side
    b: Side
    obstacles: tuple[str, ...]
    facts: tuple[Fact, ...]
    figures: tuple[FigureChange, ...]
    curves: tuple[Overlay, ...]
    samples: SampleChanges | None
    schema: str = SCHEMA


def read_side(path: Path) -> Side:
    """Reads a report and the samples beside it.

    Args:
        path: A report's folder or its report.json.

    Raises:
        InputError: One of the two is unreadable or malformed, or they do not belong together.
    """
    file = path / "report.json" if path.is_dir() else path
    report = read_json(file)
    table = file.parent / "samples.csv"
    rows = read_csv(table) if table.exists() else None
    if rows is not None and (fault := _fault(report, rows)):
        raise InputError(f"{table} is not of {file}: {fault}; audit again, or remove samples.csv")
    facts = report["engine"]["sha256"], report["verdict"], report["samples"], report["eps"]["levels"]
    return Side(str(file), *facts, report, rows)


def _fault(report: Mapping[str, Any], rows: Sequence[SampleRow]) -> str | None:
    """Says which figure of a report its rows do not give; None if they give all."""
    if len(rows) != report["samples"]:
        return f"it has {len(rows)} samples; expected {report['samples']}"
    right = [row for row in rows if row.label == row.prediction]
    counts = {"accuracy.clean": (report["accuracy"]["clean"], len(right))}
    for name in CERTIFICATES:
        held = sum(bool(getattr(row, name)) for row in right)
        counts[f"certified.{name}"] = (report["certified"][name], held)
    for name, (share, count) in counts.items():
        if share is not None and not math.isclose(share, count / len(rows), abs_tol=1e-9):
            return f"its rows give {name} = {count / len(rows):.6g}; expected {share:.6g}"
    return None


def compared(a: Side, b: Side) -> Comparison:
    """Compares two reports.

    Raises:
        InputError: They are of other data and against another threat: they have no figure in common.
    """
    same_data, same_threat = a.report["data"] == b.report["data"], _threat(a) == _threat(b)
    if not same_data and not same_threat:
        raise InputError(
            f"{a.path} is of {a.report['data']} within {a.levels} levels, {b.path} of {b.report['data']} within "
            f"{b.levels}: they have no figure in common; audit both on the same images or within the same eps"
        )
    obstacles = tuple(_obstacles(a, b))
    same_images = same_data and a.samples == b.samples and _same_labels(a, b)
    return Comparison(
        a=a,
        b=b,
        obstacles=obstacles,
        facts=tuple(_facts(a.report, b.report)),
        figures=tuple(_figures(a, b, same_images)),
        curves=tuple(_curves(a.report, b.report)),
        samples=_sample_changes(a, b) if same_data and _same_labels(a, b) else None,
    )


def _threat(side: Side) -> tuple[str, int]:
    return side.report["threat_model"], side.levels


def _obstacles(a: Side, b: Side) -> Iterator[str]:
    if (first := a.report["data"]) != (second := b.report["data"]):
        yield f"A is of {first}, B of {second}: no figure is of the same images, so no change is given."
    elif a.samples != b.samples:
        yield f"A has {a.samples} samples, B {b.samples}: shares are of other images, so no change is given."
    if _threat(a) != _threat(b):
        threats = [f"{model} within {levels} levels" for model, levels in map(_threat, (a, b))]
        yield f"A is against {threats[0]}, B against {threats[1]}: certified shares are not compared, curves are."
    if a.report["attack"] and b.report["attack"] and not _same_attack(a, b):
        yield "A and B were attacked otherwise: what withstood the attack is not compared."
    for name, side in (("A", a), ("B", b)):
        if side.rows is None:
            yield f"{name} has no samples.csv: single samples are not compared."
    if not _same_labels(a, b):
        yield "The labels in the two samples.csv differ: they are of other images."


def _same_attack(a: Side, b: Side) -> bool:
    names = [side.report["attack"]["name"] if side.report["attack"] else None for side in (a, b)]
    return names[0] is not None and names[0] == names[1] and _threat(a) == _threat(b)


def _same_labels(a: Side, b: Side) -> bool:
    """Says whether samples of one index have one label, as far as that is known."""
    if a.rows is None or b.rows is None:
        return True
    labels = {row.index: row.label for row in a.rows}
    return all(labels.get(row.index, row.label) == row.label for row in b.rows)


def _facts(a: Mapping[str, Any], b: Mapping[str, Any]) -> Iterator[Fact]:
    first, second = _facts_of(a), _facts_of(b)
    for name in dict.fromkeys([*first, *second]):
        one, other = first.get(name), second.get(name)
        yield Fact(name, one, other, one != other)


def _facts_of(report: Mapping[str, Any]) -> dict[str, str | None]:
    engine, attack, reference = report["engine"], report["attack"], report["reference"]
    layers = engine["layers"]
    sizes = [str(layer["outputs"]) for layer in layers]
    return {
        "Verdict": report["verdict"],
        "Audited": report["created"],
        "linfdeploy": report["linfdeploy"],
        "Images": f"{report['samples']} of {report['data']}",
        "Threat": f"{report['threat_model']}, eps {report['eps']['text']}, {report['eps']['levels']} levels",
        "Engine": engine["path"],
        "SHA-256": engine["sha256"],
        "Built from the model": engine["model_sha256"],
        "Backend": engine["backend"],
        "Precision": engine["precision"],
        "Grid": None if engine["grid"] is None else f"2^-{engine['grid']} pixels",
        "Layers": " → ".join([str(layers[0]["inputs"]), *sizes]) if layers else None,
        "Graph form": engine["form"],
        "Rounding order": engine["variant"],
        "Reference": reference and reference["sha256"],
        "Attack": attack and attack["name"],
        **{f"versions.{name}": version for name, version in sorted(engine["versions"].items())},
    }


# Place in report.json, title, whether it is a fraction.
_FIGURES = (
    ("accuracy.clean", "Correct", True),
    ("accuracy.reference_clean", "Correct, checkpoint", True),
    *((f"certified.{name}", f"Certified: {title}", True) for name, (title, _) in CERTIFICATES.items()),
    ("attack.robust_accuracy", "Withstood the attack", True),
    ("attack.reference_robust_accuracy", "Withstood the attack, checkpoint", True),
    ("conformance.bit_identical", "Outputs equal to the evaluator's", True),
    ("conformance.max_ulp", "Largest distance, ulp", False),
    ("lipschitz.max_ratio", "Largest Lipschitz ratio", False),
    ("lipschitz.max_excess", "Largest Lipschitz excess, levels", False),
)


def _figures(a: Side, b: Side, same_images: bool) -> Iterator[FigureChange]:
    # What a part of the report can be compared under, beside being of the same images.
    comparable = {"accuracy": True, "attack": _same_attack(a, b)}
    for name, title, share in _FIGURES:
        first, second = _at(a.report, name), _at(b.report, name)
        if first is None and second is None:
            continue
        alike = same_images and comparable.get(name.split(".")[0], _threat(a) == _threat(b))
        yield FigureChange(name, title, share, first, second, _difference(first, second, share) if alike else None)


def _at(report: Mapping[str, Any], name: str) -> float | None:
    part, field_ = name.split(".")
    value: float | None = (report[part] or {}).get(field_)
    return value


def _difference(first: float | None, second: float | None, share: bool) -> float | None:
    if share:
        return change(first, second)
    return None if first is None or second is None else second - first


def _curves(a: Mapping[str, Any], b: Mapping[str, Any]) -> Iterator[Overlay]:
    for name in CERTIFICATES:
        first, second = _series(a["curve"], name), _series(b["curve"], name)
        if both := sorted(set(first) & set(second)):
            yield Overlay(name, tuple(both), tuple(first[eps] for eps in both), tuple(second[eps] for eps in both))


def _series(curve: Mapping[str, Any], name: str) -> dict[float, float]:
    # A report of ours ends at the largest pixel.
    pairs = zip(curve["eps_pixels"], curve[name] or (), strict=False)
    return {eps: value for eps, value in pairs if eps <= PIXEL_MAX}


def _sample_changes(a: Side, b: Side) -> SampleChanges | None:
    if a.rows is None or b.rows is None:
        return None
    levels = min(a.levels, b.levels)
    others = {row.index: row for row in b.rows}
    pairs = [(row, others[row.index]) for row in a.rows if row.index in others]
    certified = {id(row): _certified(row, levels) for pair in pairs for row in pair}

    def where(test: Callable[[SampleRow, SampleRow], bool]) -> tuple[int, ...]:
        return tuple(one.index for one, other in pairs if test(one, other))

    attacked_alike = _same_attack(a, b)
    margins = [abs(one.margin - other.margin) for one, other in pairs]
    return SampleChanges(
        common=len(pairs),
        levels=levels,
        certified_a=sum(certified[id(one)] for one, _ in pairs),
        certified_b=sum(certified[id(other)] for _, other in pairs),
        gained=where(lambda one, other: certified[id(other)] and not certified[id(one)]),
        lost=where(lambda one, other: certified[id(one)] and not certified[id(other)]),
        broke=where(lambda one, other: _right(one) and not _right(other)),
        mended=where(lambda one, other: _right(other) and not _right(one)),
        certified_then_wrong=where(lambda one, other: certified[id(one)] and not _right(other)),
        fell=where(lambda one, other: attacked_alike and bool(other.attacked) and one.attacked is False),
        withstood=where(lambda one, other: attacked_alike and bool(one.attacked) and other.attacked is False),
        largest_margin_change=max(filter(math.isfinite, margins), default=None),
    )


def _right(row: SampleRow) -> bool:
    return row.label == row.prediction


def _certified(row: SampleRow, levels: int) -> bool:
    """Says whether the right answer is certified by any certificate at a radius of whole levels."""
    strict = [radius for radius in (row.radius_exact, row.radius_delta) if radius is not None]
    whole = [radius for radius in (row.radius_interval, row.radius_joint) if radius is not None]
    return _right(row) and (any(Fraction(r) > levels for r in strict) or any(r >= levels for r in whole))
