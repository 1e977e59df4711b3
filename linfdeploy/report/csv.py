# SPDX-License-Identifier: Apache-2.0
"""`samples.csv`: one row a sample, so that any figure of the report can be counted again."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from dataclasses import astuple, fields
from pathlib import Path

from linfdeploy.files import write_bytes
from linfdeploy.report.model import SampleRow

__all__ = ["csv_bytes", "write_csv"]


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


def _cell(value: float | bool | str | None) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    return str(int(value)) if isinstance(value, bool) else repr(value)
