# SPDX-License-Identifier: Apache-2.0
"""`compare.json` and `compare.html`: two reports side by side, for machines and for people."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from linfdeploy.files import write_bytes
from linfdeploy.report import plots, words
from linfdeploy.report.compare import Comparison, FigureChange, SampleChanges
from linfdeploy.report.html import page_bytes
from linfdeploy.report.json import plain_bytes

__all__ = ["change_text", "figure_text", "sample_lines", "write_comparison"]

MAX_LISTED = 50


def write_comparison(found: Comparison, folder: Path) -> Path:
    """Writes `compare.json` and then `compare.html`.

    Args:
        found: What to write.
        folder: Made when it is missing.

    Returns:
        Where the page lies.

    Raises:
        InputError: The folder cannot be written to.
    """
    data, page = plain_bytes(found), _html_bytes(found)
    write_bytes(folder / "compare.json", data)
    write_bytes(folder / "compare.html", page)
    return folder / "compare.html"


def figure_text(figure: FigureChange, value: float | None) -> str:
    """Returns a figure as people read it."""
    if value is None:
        return "n/a"
    return words.percent(value) if figure.share else f"{value:.4g}"


def change_text(figure: FigureChange) -> str:
    """Returns the change as people read it; empty where there is none to give."""
    if figure.change is None:
        return ""
    if not figure.change:
        return "none"
    sign = "+" if figure.change > 0 else "\N{MINUS SIGN}"
    return f"{sign}{abs(figure.change):.1f}" if figure.share else f"{sign}{abs(figure.change):.4g}"


def sample_lines(samples: SampleChanges) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yields what became of samples, in words, with their indices."""
    yield "certified in A, wrong in B", samples.certified_then_wrong
    yield "right in A, wrong in B", samples.broke
    yield "wrong in A, right in B", samples.mended
    yield "lost their certificate", samples.lost
    yield "gained a certificate", samples.gained
    yield "withstood the attack in A, fell in B", samples.fell
    yield "fell in A, withstood the attack in B", samples.withstood


def _html_bytes(found: Comparison) -> bytes:
    drawn = [
        (
            words.CERTIFICATES[curve.certificate][0],
            plots.overlay(
                curve.certificate,
                curve.eps_pixels,
                (curve.a, curve.b),
                (float(found.a.levels), float(found.b.levels)),
            ),
        )
        for curve in found.curves
    ]
    return page_bytes(
        "compare.html",
        found=found,
        drawn=drawn,
        lines=list(sample_lines(found.samples)) if found.samples else [],
        figure_text=figure_text,
        change_text=change_text,
        max_listed=MAX_LISTED,
    )
