# SPDX-License-Identifier: Apache-2.0
"""What an audit found, as data (`model`), and its three faces: `report.json`, `report.html`, `samples.csv`."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from linfdeploy.errors import InputError
from linfdeploy.files import write_bytes
from linfdeploy.report.csv import csv_bytes
from linfdeploy.report.json import json_bytes
from linfdeploy.report.model import AuditReport

__all__ = ["ReportPaths", "write_report"]


@dataclass(frozen=True)
class ReportPaths:
    """Where a report lies."""

    json: Path
    html: Path
    samples: Path


def write_report(report: AuditReport, folder: Path) -> ReportPaths:
    """Writes `samples.csv`, `report.html` and last `report.json`, whose presence means that all three are whole.

    Args:
        report: What the audit found.
        folder: Made when it is missing; an older report in it is replaced.

    Returns:
        The three paths.

    Raises:
        InputError: The folder cannot be written to; no part of the new report is left.
    """
    from linfdeploy.report.html import html_bytes

    paths = ReportPaths(folder / "report.json", folder / "report.html", folder / "samples.csv")
    parts = {paths.samples: csv_bytes(report.rows), paths.html: html_bytes(report), paths.json: json_bytes(report)}
    _remove(paths.json)
    try:
        for path, data in parts.items():
            write_bytes(path, data)
    except BaseException:
        for path in parts:
            with suppress(OSError):
                path.unlink()
        raise
    return paths


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except NotADirectoryError:
        # Writing says it better.
        return
    except OSError as error:
        raise InputError(f"cannot replace {path}: {error.strerror}; choose another folder") from None
