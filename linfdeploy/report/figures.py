# SPDX-License-Identifier: Apache-2.0
"""The plots of the page with their words."""

from __future__ import annotations

from dataclasses import dataclass

from linfdeploy.report import plots, words
from linfdeploy.report.model import AuditReport
from linfdeploy.report.shown import Shown

__all__ = ["Figure", "figures", "unbroken"]

_CURVE_HOLDS = (
    "How many images stay correct, whatever an attacker does, as he is allowed more. A certificate's line is a "
    "lower bound; the attack's line above them is an upper bound. The truth lies between."
)
_CURVE_VOID = (
    "What the certificates would promise for other radii, had the audit not failed. They promise nothing now."
)


@dataclass(frozen=True)
class Figure:
    """A plot with its words; without an `svg` the page says `absent`."""

    title: str
    caption: str
    svg: str
    absent: str
    legend: tuple[tuple[str, str], ...] = ()


def figures(report: AuditReport, shown: Shown) -> list[Figure]:
    """Returns the plots in the order of the page."""
    return [
        _curve(report),
        _margins(report),
        _radii(report, shown),
        _convergence(report),
        _lipschitz(report),
        _ulps(report),
    ]


def unbroken(text: str) -> str:
    """Keeps a number and its unit on one line."""
    return text.replace(" %", "\u00a0%")


def _curve(report: AuditReport) -> Figure:
    robust = report.attack.robust_accuracy if report.attack else None
    drawn = {name: getattr(report.certified, name) for name in words.CERTIFICATES if getattr(report.curve, name)}
    legend = [
        (f"series {name}", f"{words.CERTIFICATES[name][0]}: {_share(value)}") for name, value in drawn.items()
    ]
    if robust is not None:
        legend.append(("attack", f"Withstood the attack: {_share(robust)}"))
    legend.append(("bound", f"Upper bound; without an attacker {_share(report.accuracy.clean)}"))
    return Figure(
        "Certified accuracy over eps",
        _CURVE_VOID if report.violations else _CURVE_HOLDS,
        plots.certified_over_eps(report.curve, float(report.eps.levels), robust, report.accuracy.clean),
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


def _radii(report: AuditReport, shown: Shown) -> Figure:
    title = words.CERTIFICATES[shown.radii_of][0] if shown.radii_of else ""
    caption = (
        f"How far the right answers of each class are certified by {title}: the line reaches from the smallest to "
        "the largest radius, the box holds the middle half, the bar in it is the median."
    )
    if len(shown.radii) > plots.MAX_BOXES:
        caption += f" Drawn are the {plots.MAX_BOXES} classes with the smallest medians."
    return Figure(
        "Certified radius of each class",
        caption if title else "How far the right answers of each class are certified.",
        plots.radii_by_class(shown.radii, float(report.eps.levels)),
        "No right answer has a certified radius.",
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
        _convergence_legend(report),
    )


def _convergence_legend(report: AuditReport) -> tuple[tuple[str, str], ...]:
    attack, best = report.attack, words.strongest(report.certified)
    if attack is None:
        return ()
    found = [
        ("series attack", "on the engine's twin"),
        ("level final", f"on the engine, all runs: {_share(attack.robust_accuracy)}"),
    ]
    return (*found, ("level certified", f"certified: {_share(best[1])}")) if best else tuple(found)


def _ulps(report: AuditReport) -> Figure:
    equal = sum(report.conformance.ulps.values()) if not report.conformance.max_ulp else 0
    # One bar says no more than this sentence.
    same = equal > 0 and set(report.conformance.ulps) == {"0"}
    return Figure(
        "Engine against evaluator",
        "The engine's outputs by their distance from the bit-exact evaluator's, in units in the last place.",
        "" if same else plots.ulps(report.conformance.ulps),
        f"All {equal} outputs are equal, bit for bit." if same else "No output was compared.",
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
    return "n/a" if value is None else unbroken(words.percent(value))
