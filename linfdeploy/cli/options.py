# SPDX-License-Identifier: Apache-2.0
"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path

import click

__all__ = ["PATH", "one_line", "parse_options"]

PATH = click.Path(path_type=Path)

MAX_LINE = 2000


def one_line(text: str) -> str:
    """Returns text from outside as one printable line: no line breaks, no escape sequences, not endless."""
    line = "".join(char if char.isprintable() else repr(char)[1:-1] for char in text[: MAX_LINE + 1])
    return line if len(line) <= MAX_LINE else f"{line[:MAX_LINE]}..."


def parse_options(**options: object) -> dict[str, object]:
    """Returns the options that were given; the rest is left to the backend's defaults."""
    return {name: value for name, value in options.items() if value is not None}
