# SPDX-License-Identifier: Apache-2.0
"""`report.html`: an audit for people, one page that needs no other file, no network and no script."""

from __future__ import annotations

import functools
import importlib.resources
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

from linfdeploy.files import write_bytes
from linfdeploy.report import words
from linfdeploy.report.figures import figures, unbroken
from linfdeploy.report.model import AuditReport, Picture
from linfdeploy.report.picture import data_uri, drawable
from linfdeploy.report.remedies import remedy
from linfdeploy.report.shown import FATES, Shown, shown_of

if TYPE_CHECKING:
    from jinja2 import Environment

__all__ = ["Comparison", "Group", "Shot", "comparisons", "groups", "html_bytes", "page_bytes", "write_html"]

MAX_VIOLATIONS = 200

# Control characters, and those that reverse the direction of what follows, could make one name look like another.
_HIDDEN = (
    *range(0x09),
    0x0B,
    *range(0x0E, 0x20),
    *range(0x7F, 0xA0),
    *range(0x202A, 0x202F),
    *range(0x2066, 0x206A),
)
_VISIBLE = {code: f"\\u{code:04x}" for code in _HIDDEN}

_PICTURES: Mapping[str, tuple[str, str]] = {
    "broken": (
        "Certified, yet changed by the attack",
        "Each of these contradicts its certificate. Left the image, right what the attack made of it.",
    ),
    "fell": (
        "Changed by the attack",
        "Right answers that were not certified, and an image within eps that the engine takes for another class.",
    ),
    "fragile": (
        "Least certified right answers",
        "Right answers with the smallest certified radius: what the engine is least sure to withstand.",
    ),
}


@dataclass(frozen=True)
class Comparison:
    """One figure before (the checkpoint) and after deployment (the engine); `points` as in `Shown.changes`."""

    title: str
    note: str
    before: float | None
    after: float | None
    points: float | None

    @property
    def change(self) -> str:
        """The points in words."""
        if self.points is None:
            return ""
        return f"{self.points:+.1f}".replace("-", "\N{MINUS SIGN}") if self.points else "none"


@dataclass(frozen=True)
class Group:
    """Samples of one fate: its name in the style sheet, what it means, how many."""

    css: str
    title: str
    count: int


@dataclass(frozen=True)
class Shot:
    """A picture as the page shows it: texts, and images as `data:` addresses."""

    index: int
    fate: str
    label: int
    changed_to: int | None
    margin: str
    radius: str
    image: str
    adversarial: str | None


def html_bytes(report: AuditReport) -> bytes:
    """Returns the page; strings of the report are escaped."""
    shown = shown_of(report)
    curve, *rest = figures(report, shown)
    return page_bytes(
        "report.html",
        report=report,
        shown=shown,
        sentence=words.sentence(report),
        comparisons=comparisons(report, shown),
        groups=groups(report, shown),
        strongest=words.strongest(report.certified),
        certificates=[name for name in words.CERTIFICATES if getattr(report.certified, name) is not None],
        radii_by_label={item.label: item for item in shown.radii},
        bracket=words.bracket(report),
        curve=curve,
        figures=rest,
        pictures=list(map(_shot, filter(_can_be_drawn, report.pictures))),
        picture_groups=_PICTURES,
        remedy=remedy,
        max_violations=MAX_VIOLATIONS,
    )


def write_html(report: AuditReport, path: Path) -> None:
    """Writes `report.html` atomically.

    Raises:
        InputError: The folder cannot be written to.
    """
    write_bytes(path, html_bytes(report))


def page_bytes(template: str, **context: object) -> bytes:
    """Returns a page as UTF-8; every string in it is escaped, and no character in it can hide another."""
    page = _environment().get_template(template).render(words=words, **context)
    # A file name that is not UTF-8 reaches us with lone surrogates.
    return page.translate(_VISIBLE).encode("utf-8", "backslashreplace")


def comparisons(report: AuditReport, shown: Shown) -> list[Comparison]:
    """Returns the table of what deployment changed."""
    return list(_comparisons(report, shown.changes))


def _comparisons(report: AuditReport, points: Mapping[str, float | None]) -> Iterator[Comparison]:
    accuracy, certified, attack = report.accuracy, report.certified, report.attack
    margin = "exact" if certified.exact is not None else "delta"
    yield Comparison("Correct", "no attacker", accuracy.reference_clean, accuracy.clean, points["clean"])
    yield Comparison(
        "Correct and certified by margin",
        words.CERTIFICATES[margin][0],
        certified.reference_margin,
        getattr(certified, margin),
        points["margin"],
    )
    yield Comparison(
        "Correct and certified by intervals",
        words.CERTIFICATES["interval"][0],
        certified.reference,
        certified.interval,
        points["interval"],
    )
    if attack is not None:
        note = f"{attack.name}, {words.plural(attack.steps, 'step')}, {words.plural(attack.restarts, 'restart')}"
        shares = attack.reference_robust_accuracy, attack.robust_accuracy
        yield Comparison("Correct under attack", note, *shares, points["attack"])


def groups(report: AuditReport, shown: Shown) -> list[Group]:
    """Sorts the samples by what is known of them; empty groups are left out."""
    kept = "withstood the attack" if report.attack else "not attacked"
    titles = {
        "certified": "correct, its certificate void" if report.violations else "correct and certified",
        "open": f"correct, not certified, {kept}",
        "fell": "correct, changed by the attack",
        "wrong": "classified wrongly",
        "broken": "certified, yet changed by the attack",
    }
    return [Group(fate, titles[fate], count) for fate in FATES if (count := shown.fates[fate])]


def _can_be_drawn(picture: Picture) -> bool:
    return drawable(picture.image)


def _shot(picture: Picture) -> Shot:
    return Shot(
        picture.index,
        picture.fate,
        picture.label,
        picture.changed_to,
        words.level(picture.margin),
        "none" if picture.radius is None or picture.radius == "-1" else words.level(Fraction(picture.radius)),
        data_uri(picture.image),
        data_uri(picture.adversarial) if picture.adversarial else None,
    )


@functools.cache
def _environment() -> Environment:
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    folder = importlib.resources.files("linfdeploy.report").joinpath("templates")
    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        loader=FunctionLoader(lambda name: folder.joinpath(name).read_text("utf-8")),
    )
    environment.filters["finite"] = math.isfinite
    environment.filters["level"] = words.level
    environment.filters["percent"] = words.percent
    environment.filters["unbroken"] = unbroken
    return environment
