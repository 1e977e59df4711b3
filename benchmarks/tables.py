# SPDX-License-Identifier: Apache-2.0
"""Rows of a benchmark as plain text, Markdown, JSON and a bar chart."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from xml.etree import ElementTree

from timing import Measurement

from linfdeploy.report.svg import BOTTOM, LEFT, RIGHT, TOP, Axis, Plot

__all__ = ["Row", "bar_chart", "markdown", "plain"]

SHARES = ("of register peak", "of floor", "of read bandwidth", "of copy bandwidth")
ERRORS = ("forward error", "gradient error")
COLOURS = ("#0b6e4f", "#3d6fb6", "#c77d0a", "#8a4f9e", "#7a7a7a")
STYLE = (
    "text{font:10px sans-serif;fill:#222}.y,.end,.x{text-anchor:middle}.tick.y{text-anchor:end}"
    ".label.x,.note.end{text-anchor:end}.label.y{text-anchor:start}.legend{text-anchor:start}"
    ".grid{stroke:#ddd}.axis,.nick{stroke:#222}.level{stroke:#b02020;stroke-dasharray:4 3}"
    ".background{fill:#fff}" + "".join(f".c{place}{{fill:{colour}}}" for place, colour in enumerate(COLOURS))
)


@dataclass(frozen=True)
class Row:
    """A contender's measurement.

    Attributes:
        section: What is measured.
        case: The sizes and settings.
        contender: Who.
        measured: How long a call took.
        figures: What follows from it, by column; a column may be absent.
    """

    section: str
    case: str
    contender: str
    measured: Measurement
    figures: dict[str, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Returns the row with the time in seconds; a figure that is no finite number is null."""
        figures = {
            name: float(f"{value:.4g}") if math.isfinite(value) else None for name, value in self.figures.items()
        }
        named = {"section": self.section, "case": self.case, "contender": self.contender}
        return {**named, "seconds": self.measured.to_json(), **figures}


def plain(rows: Sequence[Row]) -> str:
    """Returns the rows of one section as an aligned table under its name."""
    cells = _cells(rows)
    widths = [max(len(line[column]) for line in cells) for column in range(len(cells[0]))]
    lines = [
        "  ".join(
            text.ljust(width) if column < 2 else text.rjust(width)
            for column, (text, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in cells
    ]
    return "\n".join([f"== {rows[0].section}", *lines, ""])


def markdown(rows: Sequence[Row]) -> str:
    """Returns the rows of one section as a Markdown table under its name."""
    head, *body = _cells(rows)
    lines = ["| " + " | ".join(line) + " |" for line in (head, ["---"] * len(head), *body)]
    return "\n".join([f"## {rows[0].section}", "", *lines, ""])


def bar_chart(rows: Sequence[Row], column: str, level: tuple[float, str]) -> str:
    """Draws a column of one section on a logarithmic scale, the bars grouped by case.

    Args:
        rows: The section's rows.
        column: The figure to draw; rows without it are left out.
        level: A value that is marked by a line, and its name.
    """
    shown = [row for row in rows if column in row.figures]
    cases = list(dict.fromkeys(row.case for row in shown))
    names = list(dict.fromkeys(row.contender for row in shown))
    low = math.floor(math.log10(min(row.figures[column] for row in shown)))
    # The legend stands above everything.
    high = math.log10(max(level[0], *(row.figures[column] for row in shown))) + 0.55
    x, y = Axis(0, len(cases), LEFT, RIGHT), Axis(low, high, BOTTOM, TOP)
    plot = Plot("chart", rows[0].section, f"{column} by case and contender", x, y)
    plot.axes("", column, [], [(power, f"{10.0**power:g}") for power in range(low, math.floor(high) + 1)])
    _bars(plot, shown, cases, names, column, low)
    plot.horizontal("", math.log10(level[0]), level[1], above=True)
    _legend(plot, names)
    return _standalone(plot)


def _bars(
    plot: Plot, rows: Sequence[Row], cases: Sequence[str], names: Sequence[str], column: str, low: float
) -> None:
    width = 0.84 / len(names)
    for row in rows:
        left = cases.index(row.case) + 0.08 + width * names.index(row.contender)
        value, css = row.figures[column], f"c{names.index(row.contender) % len(COLOURS)}"
        tip = f"{row.contender}, {row.case}: {value:.3g} {column}"
        plot.bar(css, left, left + width, low, math.log10(value), tip)
    for place, case in enumerate(cases):
        for line, text in enumerate(case.split(", ")):
            plot.text("tick x", plot.x.at(place + 0.5), BOTTOM + 14 + 12 * line, text)


def _legend(plot: Plot, names: Sequence[str]) -> None:
    step = (RIGHT - LEFT) / len(names)
    for place, name in enumerate(names):
        box = {"x": f"{LEFT + step * place:.1f}", "y": "5", "width": "8", "height": "8"}
        ElementTree.SubElement(plot.root, "rect", {"class": f"c{place % len(COLOURS)}", **box})
        plot.text("legend", LEFT + step * place + 11, 12, name)


def _standalone(plot: Plot) -> str:
    plot.root.set("xmlns", "http://www.w3.org/2000/svg")
    style = ElementTree.Element("style")
    style.text = STYLE
    background = ElementTree.Element("rect", {"class": "background", "width": "100%", "height": "100%"})
    plot.root.insert(0, background)
    plot.root.insert(0, style)
    return plot.markup() + "\n"


def _cells(rows: Sequence[Row]) -> list[list[str]]:
    columns = list(dict.fromkeys(name for row in rows for name in row.figures))
    head = ["case", "contender", "ms", "quartiles", *columns]
    return [head, *([row.case, row.contender, *_times(row.measured), *_figures(row, columns)] for row in rows)]


def _times(measured: Measurement) -> list[str]:
    first, third = measured.quartiles
    return [_digits(measured.median * 1e3), f"{_digits(first * 1e3)} to {_digits(third * 1e3)}"]


def _figures(row: Row, columns: Sequence[str]) -> list[str]:
    return [_figure(name, row.figures[name]) if name in row.figures else "" for name in columns]


def _figure(name: str, value: float) -> str:
    if name in SHARES:
        return f"{value:.0%}"
    if not math.isfinite(value):
        return "not finite"
    return f"{value:.1e}" if name in ERRORS else _digits(value)


def _digits(value: float) -> str:
    """Returns three significant digits, without an exponent.

    >>> _digits(0.01234), _digits(12.34), _digits(12345.6)
    ('0.0123', '12.3', '12346')
    """
    places = 2 - math.floor(math.log10(value)) if value > 0 else 2
    return f"{value:.{min(max(places, 0), 6)}f}"
