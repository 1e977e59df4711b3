# SPDX-License-Identifier: Apache-2.0
"""`samples.csv`: one row a sample, so that any figure of the report can be counted again.

A table from outside is read as strictly as it is written: the same header, every cell of its column's form.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import astuple, fields
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple, get_type_hints

from linfdeploy.errors import InputError, brief
from linfdeploy.files import read_bytes, write_bytes
from linfdeploy.report.model import SampleRow

__all__ = ["csv_bytes", "read_csv", "write_csv"]

MAX_BYTES = 2**30
MAX_CELL = 512


def csv_bytes(rows: Iterable[SampleRow]) -> bytes:
    """Returns the table with a header of field names; booleans are 1 and 0, None is empty."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(item.name for item in fields(SampleRow))
    writer.writerows(map(_cell, astuple(row)) for row in rows)
    return text.getvalue().encode("ascii")


def write_csv(rows: Iterable[SampleRow], path: Path) -> None:
    """Writes `samples.csv` atomically.

    Raises:
        InputError: The folder cannot be written to.
    """
    write_bytes(path, csv_bytes(rows))


def read_csv(path: Path) -> tuple[SampleRow, ...]:
    """Reads what `write_csv` wrote, checking every cell.

    Raises:
        InputError: The file is unreadable, has another header, a cell of another form, or samples out of order.
    """
    raw = read_bytes(path, MAX_BYTES, "a samples.csv")
    header = ",".join(item.name for item in fields(SampleRow))
    first, *lines = raw.decode("ascii", "backslashreplace").split("\n")
    if first != header:
        raise InputError(f"{path}: its header is {brief(first)}; expected {header}: write it anew with verify")
    if lines[-1:] != [""]:
        raise InputError(f"{path} has no line break at its end; expected a whole samples.csv: write it anew")
    rows = tuple(_row(line, f"{path}, line {number}") for number, line in enumerate(lines[:-1], start=2))
    for before, after in pairwise(rows):
        if after.index <= before.index:
            raise InputError(f"{path}: sample {after.index} follows {before.index}; expected ascending samples")
    return rows


class _Form(NamedTuple):
    """How a column's cells look, what they should be in words, and their value."""

    pattern: re.Pattern[str]
    expected: str
    value: Callable[[str], Any]


def _row(line: str, where: str) -> SampleRow:
    cells, forms = line.split(","), _forms()
    if len(cells) != len(forms):
        raise InputError(f"{where} has {len(cells)} cells; expected {len(forms)}: write it anew with verify")
    return SampleRow(**dict(_values(cells, forms, where)))


def _values(cells: Iterable[str], forms: Mapping[str, _Form], where: str) -> Iterator[tuple[str, Any]]:
    for cell, (name, form) in zip(cells, forms.items(), strict=True):
        if len(cell) > MAX_CELL or not form.pattern.fullmatch(cell):
            raise InputError(
                f"{where}: {name} is {brief(cell)}; expected {form.expected}: write it anew with verify"
            )
        yield name, form.value(cell)


def _forms() -> Mapping[str, _Form]:
    hints = get_type_hints(SampleRow)
    return {item.name: _FORMS[hints[item.name]] for item in fields(SampleRow)}


def _or_none(value: Callable[[str], Any]) -> Callable[[str], Any]:
    return lambda cell: value(cell) if cell else None


_FORMS: Mapping[Any, _Form] = {
    int: _Form(re.compile(r"[0-9]{1,18}"), "a whole number", int),
    float: _Form(re.compile(r"-?([0-9]+([.][0-9]+)?(e[-+]?[0-9]{1,3})?|inf)|nan"), "a number", float),
    bool | None: _Form(re.compile(r"[01]?"), "1, 0 or nothing", _or_none(lambda cell: cell == "1")),
    int | None: _Form(re.compile(r"(-1|[0-9]{1,18})?"), "a whole number from -1 up, or nothing", _or_none(int)),
    str | None: _Form(
        re.compile(r"([0-9]+(/[1-9][0-9]*)?)?"), "a rational such as 51/2, or nothing", _or_none(str)
    ),
}
"""The form of a column, by the type of its field."""


def _cell(value: float | bool | str | None) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    return str(int(value)) if isinstance(value, bool) else repr(value)
