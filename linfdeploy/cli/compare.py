# SPDX-License-Identifier: Apache-2.0
"""`linfdeploy verify --compare A B`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from linfdeploy.cli.options import one_line

if TYPE_CHECKING:
    from linfdeploy.report.compare import Comparison

__all__ = ["compare_reports"]

MAX_SHOWN = 12


def compare_reports(a: Path, b: Path, folder: Path) -> None:
    """Compares two reports, prints what differs, and writes `compare.json` and `compare.html`.

    Raises:
        InputError: One of the reports cannot be read, or they have nothing in common.
    """
    from linfdeploy.report.compare import compared, read_side
    from linfdeploy.report.compare_page import write_comparison

    found = compared(read_side(a), read_side(b))
    page = write_comparison(found, folder)
    _print(found)
    click.echo(f"comparison: {page}")


def _print(found: Comparison) -> None:
    from rich.console import Console

    from linfdeploy.report.compare_page import sample_lines

    console = Console(highlight=False)
    for name, side in (("A", found.a), ("B", found.b)):
        _line(console, f"{name}: {side.verdict}, {side.path}")
    for obstacle in found.obstacles:
        _line(console, obstacle)
    for fact in found.facts:
        if fact.differs:
            _line(console, f"{fact.name}: {fact.a or '-'} | {fact.b or '-'}")
    console.print(_table(found))
    for text, indices in sample_lines(found.samples) if found.samples else ():
        shown = ", ".join(map(str, indices[:MAX_SHOWN])) + (", ..." if len(indices) > MAX_SHOWN else "")
        if indices:
            _line(console, f"{text}: {len(indices)} ({shown})")
    if found.samples and not any(indices for _, indices in sample_lines(found.samples)):
        _line(console, f"no sample changed, of {found.samples.common} in both")


def _line(console: Any, text: str) -> None:
    # What stands in a report is from outside.
    console.print(one_line(text), markup=False, soft_wrap=True)


def _table(found: Comparison) -> Any:
    from rich.table import Table

    from linfdeploy.report.compare_page import change_text, figure_text

    table = Table("figure")
    for title in ("A", "B", "change"):
        table.add_column(title, justify="right")
    for figure in found.figures:
        values = (figure_text(figure, value) for value in (figure.a, figure.b))
        table.add_row(figure.title, *values, change_text(figure))
    return table
