# SPDX-License-Identifier: Apache-2.0
"""The page of the documentation names what there is, no more and no less."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from report.samples import passing

from linfdeploy.report import words
from linfdeploy.report.json import report_to_json
from linfdeploy.report.model import SampleRow

PAGE = (Path(__file__).parents[2] / "docs" / "report.md").read_text("utf-8")


def _section(title: str) -> str:
    return PAGE.split(f"## {title}\n")[1].split("\n## ")[0]


def _paths(data: Mapping[str, Any]) -> Iterator[str]:
    free = {"reference", "assumptions", "conformance.ulps", "engine.versions"}
    for name, value in data.items():
        if isinstance(value, dict) and name not in free:
            yield from (f"{name}.{inner}" for inner in value)
        else:
            yield name


def test_every_field_has_a_row() -> None:
    described = set()
    for row in re.findall(r"^\| (`.*?) \|", _section("Fields of `report.json`"), re.MULTILINE):
        first, *more = re.findall(r"`([^`]+)`", row)
        described |= {first, *(first.rsplit(".", 1)[0] + name for name in more)}
    assert described == set(_paths(report_to_json(passing()))) | {"attack"}


def test_every_kind_is_explained() -> None:
    assert set(re.findall(r"^\| `([\w ]+)` \|", _section("The verdict"), re.MULTILINE)) == set(words.KINDS)


def test_every_column_is_explained() -> None:
    columns = {
        name
        for row in re.findall(r"^\| (`.*?) \|", _section("Columns of `samples.csv`"), re.MULTILINE)
        for name in re.findall(r"`(\w+)`", row)
    }
    assert columns == {item.name for item in fields(SampleRow)}
