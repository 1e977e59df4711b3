# SPDX-License-Identifier: Apache-2.0
"""How far an audit is, for who watches."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from linfdeploy.cli.options import one_line

if TYPE_CHECKING:
    from rich.progress import Progress as Bar

__all__ = ["Notes", "progress_bar"]


class Notes:
    """Prints notes, on stderr, and no progress."""

    def __init__(self, *, silent: bool = False) -> None:
        self._silent = silent

    def step(self, name: str, total: int) -> None:
        """Says nothing."""

    def advance(self, count: int) -> None:
        """Says nothing."""

    def note(self, text: str) -> None:
        """Prints one line."""
        if not self._silent:
            click.echo(f"note: {one_line(text)}", err=True)


class _Bars(Notes):
    """A bar for each step, above which notes are printed."""

    def __init__(self, bar: Bar) -> None:
        super().__init__()
        self._bar = bar
        self._task = bar.add_task("reading", total=None)

    def step(self, name: str, total: int) -> None:
        """Replaces the bar of the step before."""
        self._bar.remove_task(self._task)
        self._task = self._bar.add_task(name, total=total)

    def advance(self, count: int) -> None:
        """Moves the bar."""
        self._bar.advance(self._task, count)

    def note(self, text: str) -> None:
        """Prints one line above the bar."""
        self._bar.console.print(f"note: {one_line(text)}", markup=False, highlight=False, soft_wrap=True)


@contextmanager
def progress_bar() -> Iterator[Notes]:
    """Shows the step, its samples, and the time that is left on a terminal; elsewhere notes alone."""
    if not sys.stderr.isatty():
        yield Notes()
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        SpinnerColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.progress import Progress as Bar

    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        yield _Bars(bar)
