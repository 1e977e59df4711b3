# SPDX-License-Identifier: Apache-2.0
"""`report.html`: an audit for people, one page that needs no other file, no network and no script."""

from __future__ import annotations

import functools
import importlib.resources
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from linfdeploy.files import write_bytes
from linfdeploy.report import plots, words
from linfdeploy.report.model import AuditReport, SampleRow

if TYPE_CHECKING:
    from jinja2 import Template

__all__ = ["Comparison", "Figure", "Group", "comparisons", "groups", "html_bytes", "write_html"]

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

_CURVE_HOLDS = (
    "How many images stay correct, whatever an attacker does, as he is allowed more. The attack's point is an "
    "upper bound, the lines are lower bounds; the truth lies between."
)
_CURVE_VOID = (
    "What the certificates would promise for other radii, had the audit not failed. They promise nothing now."
)


@dataclass(frozen=True)
class Comparison:
    """One figure before (the checkpoint) and after deployment (the engine)."""

    title: str
    note: str
    before: float | None
    after: float | None

    @property
    def change(self) -> str:
        """The difference of the two percentages as they are shown."""
        if self.before is None or self.after is None:
            return ""
        tenths = [
            round(float(words.percent(value).removesuffix(" %")) * 10) for value in (self.before, self.after)
        ]
        points = (tenths[1] - tenths[0]) / 10
        return f"{points:+.1f}".replace("-", "\N{MINUS SIGN}") if points else "none"


@dataclass(frozen=True)
class Group:
    """Samples of one fate: its name in the style sheet, what it means, how many."""

    css: str
    title: str
    count: int


@dataclass(frozen=True)
class Figure:
    """A plot with its words; without an `svg` the page says `absent`."""

    title: str
    caption: str
    svg: str
    absent: str
    legend: tuple[tuple[str, str], ...] = ()


def html_bytes(report: AuditReport) -> bytes:
    """Returns the page; strings of the report are escaped."""
    curve, *rest = figures(report)
    page = _template().render(
        report=report,
        words=words,
        sentence=words.sentence(report),
        comparisons=comparisons(report),
        groups=groups(report),
        strongest=words.strongest(report.certified),
        bracket=words.bracket(report),
        curve=curve,
        figures=rest,
        max_violations=MAX_VIOLATIONS,
    )
    # A file name that is not UTF-8 reaches us with lone surrogates.
    return page.translate(_VISIBLE).encode("utf-8", "backslashreplace")


def write_html(report: AuditReport, path: Path) -> None:
    """Writes `report.html` atomically.

    Raises:
        InputError: The folder cannot be written to.
    """
    write_bytes(path, html_bytes(report))


def comparisons(report: AuditReport) -> list[Comparison]:
    """Returns the table of what deployment changed."""
    certified, attack = report.certified, report.attack
    margin = "exact" if certified.exact is not None else "delta"
    found = [
        Comparison("Correct", "no attacker", report.accuracy.reference_clean, report.accuracy.clean),
        Comparison(
            "Correct and certified by margin",
            words.CERTIFICATES[margin][0],
            certified.reference_margin,
            getattr(certified, margin),
        ),
        Comparison(
            "Correct and certified by intervals",
            words.CERTIFICATES["interval"][0],
            certified.reference,
            certified.interval,
        ),
    ]
    if attack is None:
        return found
    note = f"{attack.name}, {words.plural(attack.steps, 'step')}, {words.plural(attack.restarts, 'restart')}"
    return [
        *found,
        Comparison("Correct under attack", note, attack.reference_robust_accuracy, attack.robust_accuracy),
    ]


def groups(report: AuditReport) -> list[Group]:
    """Sorts the samples by what is known of them; empty groups are left out."""
    best = words.strongest(report.certified)
    fates = [_fate(row, best[0] if best else None) for row in report.rows]
    kept = "withstood the attack" if report.attack else "not attacked"
    titles = {
        "certified": "correct, its certificate void" if report.violations else "correct and certified",
        "open": f"correct, not certified, {kept}",
        "fell": "correct, changed by the attack",
        "wrong": "classified wrongly",
        "broken": "certified, yet changed by the attack",
    }
    return [Group(css, title, count) for css, title in titles.items() if (count := fates.count(css))]


def figures(report: AuditReport) -> list[Figure]:
    """Returns the plots in the order of the page."""
    return [_curve(report), _margins(report), _convergence(report), _ulps(report), _lipschitz(report)]


def _fate(row: SampleRow, certificate: str | None) -> str:
    certified = certificate is not None and bool(getattr(row, certificate))
    if row.prediction != row.label:
        return "wrong"
    if row.attacked:
        return "broken" if certified else "fell"
    return "certified" if certified else "open"


def _curve(report: AuditReport) -> Figure:
    robust = report.attack.robust_accuracy if report.attack else None
    drawn = {name: getattr(report.certified, name) for name in words.CERTIFICATES if getattr(report.curve, name)}
    legend = [(name, f"{words.CERTIFICATES[name][0]}: {_share(value)}") for name, value in drawn.items()]
    if robust is not None:
        legend.append(("attack", f"Withstood the attack: {_share(robust)}"))
    return Figure(
        "Certified accuracy over eps",
        _CURVE_VOID if report.violations else _CURVE_HOLDS,
        plots.certified_over_eps(report.curve, float(report.eps.levels), robust),
        "No certificate applies to this engine.",
        tuple(legend),
    )


def _margins(report: AuditReport) -> Figure:
    return Figure(
        "Margins",
        "The engine's lead of the right class over the next. Right of the mark it exceeds 2 eps: more than any "
        "change within eps can take from a 1-Lipschitz net.",
        plots.margins(report.rows, 2 * float(report.eps.levels)),
        "No margin is a finite number.",
        (("right", "right answer"), ("wrong-answer", "wrong answer")),
    )


def _convergence(report: AuditReport) -> Figure:
    attack, best = report.attack, words.strongest(report.certified)
    svg = attack and plots.attack_convergence(
        attack.robust_by_step, attack.robust_accuracy, best[1] if best else None
    )
    return Figure(
        "Attack convergence",
        "A line that is still falling at its end says that the attack was stopped too early.",
        svg or "",
        "The attack has no steps to show." if attack else "No attack was run.",
    )


def _ulps(report: AuditReport) -> Figure:
    return Figure(
        "Engine against evaluator",
        "The engine's outputs by their distance from the bit-exact evaluator's, in units in the last place.",
        plots.ulps(report.conformance.ulps),
        "No output was compared.",
    )


def _lipschitz(report: AuditReport) -> Figure:
    return Figure(
        "Lipschitz ratios",
        "How far the outputs of two images moved apart, measured by the distance of the images. The certificates "
        "rest on no pair exceeding 1.",
        plots.lipschitz_ratios(report.lipschitz.ratios),
        "No pair was compared.",
        (("right", "at most 1"), ("above", "above 1")),
    )


def _share(value: float | None) -> str:
    return "n/a" if value is None else _unbroken(words.percent(value))


@functools.cache
def _template() -> Template:
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["finite"] = math.isfinite
    environment.filters["percent"] = words.percent
    environment.filters["unbroken"] = _unbroken
    text = importlib.resources.files("linfdeploy.report").joinpath("template.html").read_text("utf-8")
    return environment.from_string(text)


def _unbroken(text: str) -> str:
    """Keeps a number and its unit on one line."""
    return text.replace(" %", "\u00a0%")
