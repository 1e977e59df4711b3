# SPDX-License-Identifier: Apache-2.0
"""`report.json`: an audit for machines. Its layout is `report.schema.json`."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from linfdeploy.errors import InputError
from linfdeploy.files import read_bytes, write_bytes
from linfdeploy.report.model import AuditReport
from linfdeploy.report.schema import first_fault
from linfdeploy.report.shown import shown_of

__all__ = ["json_bytes", "plain_bytes", "read_json", "report_to_json", "write_json"]

MAX_BYTES = 64 * 2**20


def report_to_json(report: AuditReport) -> dict[str, Any]:
    """Returns the report as plain data with its verdict and what is shown of it.

    Left out are the rows, which are `samples.csv`, and the pixels of pictures. A number that is not finite becomes
    None.
    """
    return {**_plain(report), "verdict": report.verdict, "shown": _plain(shown_of(report))}


def json_bytes(report: AuditReport) -> bytes:
    """Returns the text of `report.json`: ASCII, keys sorted, lists of plain values on one line.

    Raises:
        ValueError: A field holds what the schema forbids.
    """
    data = report_to_json(report)
    if fault := first_fault(data):
        raise ValueError(f"the audit filled its report wrongly: {fault}")
    return f"{_text(data, '')}\n".encode("ascii")


def plain_bytes(value: object) -> bytes:
    """Returns a dataclass as JSON in the same form: what is not to be written is left out."""
    return f"{_text(_plain(value), '')}\n".encode("ascii")


def write_json(report: AuditReport, path: Path) -> None:
    """Writes `report.json` atomically.

    Raises:
        InputError: The folder cannot be written to.
    """
    write_bytes(path, json_bytes(report))


def read_json(path: Path) -> dict[str, Any]:
    """Reads what `write_json` wrote, checking every field.

    Raises:
        InputError: The file is unreadable, not JSON, or departs from the schema.
    """
    raw = read_bytes(path, MAX_BYTES, "a report.json")
    try:
        data = json.loads(raw, parse_constant=_finite, parse_float=_finite, parse_int=_integer)
    # A hostile file can also be nested too deep or hold a number of a million digits.
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not JSON ({error}); expected a report.json as verify writes it") from None
    if fault := first_fault(data):
        raise InputError(f"{path}: {fault}; write it anew with this version of linfdeploy")
    report: dict[str, Any] = data
    return report


def _plain(value: Any) -> Any:
    if is_dataclass(value):
        kept = (item.name for item in fields(value) if item.metadata.get("written", True))
        return {name: _plain(getattr(value, name)) for name in kept}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _text(value: Any, indent: str) -> str:
    inner = indent + "  "
    if isinstance(value, dict) and value:
        lines = (f"{inner}{json.dumps(key)}: {_text(item, inner)}" for key, item in sorted(value.items()))
        return "{\n" + ",\n".join(lines) + f"\n{indent}}}"
    if isinstance(value, list) and any(isinstance(item, dict) for item in value):
        return "[\n" + ",\n".join(inner + _text(item, inner) for item in value) + f"\n{indent}]"
    return json.dumps(value, allow_nan=False)


def _integer(text: str) -> int:
    # None that we write is larger, and larger ones do not become floats.
    if abs(number := int(text)) >= 2**63:
        raise ValueError(f"an integer of {len(text)} digits is too large")
    return number


def _finite(text: str) -> float:
    if not math.isfinite(number := float(text)):
        raise ValueError(f"{text} is not a finite number")
    return number
