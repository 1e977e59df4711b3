# SPDX-License-Identifier: Apache-2.0
"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path

import click

__all__ = ["PATH", "one_line", "parse_batches", "parse_options"]

PATH = click.Path(path_type=Path)

MAX_LINE = 2000


def parse_batches(_ctx: click.Context, _param: click.Parameter, value: str | None) -> list[int] | None:
    """Reads a batch size, or the smallest, the usual and the largest, such as 1:64:256.

    What sizes there may be is for the backend to say.

    Raises:
        click.BadParameter: It is something else.
    """
    if value is None:
        return None
    sizes = [int(size) if size.isdecimal() else None for size in value.split(":")]
    match sizes:
        case [int(size)]:
            return [size] * 3
        case [int(least), int(usual), int(most)]:
            return [least, usual, most]
    raise click.BadParameter(f"{value!r} is no batch; expected a size, or three such as 1:64:256")


def one_line(text: str) -> str:
    """Returns text from outside as one printable line: no line breaks, no escape sequences, not endless."""
    line = "".join(char if char.isprintable() else repr(char)[1:-1] for char in text[: MAX_LINE + 1])
    return line if len(line) <= MAX_LINE else f"{line[:MAX_LINE]}..."


def parse_options(**options: object) -> dict[str, object]:
    """Returns the options that were given; the rest is left to the backend's defaults."""
    return {name: value for name, value in options.items() if value is not None}
