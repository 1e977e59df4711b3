# SPDX-License-Identifier: Apache-2.0
"""The targets are those of the documentation."""

import re
from pathlib import Path

from linfdeploy.engines.bundle.targets import TARGETS

PAGE = (Path(__file__).parents[3] / "docs" / "tensorrt.md").read_text("utf-8")


def test_the_table_of_the_documentation() -> None:
    rows = re.findall(
        r"^\| `((?:jetpack|tensorrt)[\d.]+)`(.*?) \| (.*?) \| (.*?) \| (.*?) \|$", PAGE, re.MULTILINE
    )
    assert [name for name, *_ in rows] == list(TARGETS)
    for name, note, tensorrt, cuda, architectures in rows:
        target = TARGETS[name]
        assert (tensorrt, cuda) == (target.releases, target.cuda)
        assert [int(number) for number in re.findall(r"\b\d{2,3}\b", architectures)] == list(
            target.boards.values()
        )
        assert [number for number in re.findall(r"\d\.\d", note) if number not in target.title] == []


def test_functions_are_preferred_before_10_7_alone() -> None:
    assert [name for name, target in TARGETS.items() if target.prefers_functions] == ["jetpack6"]
    assert [name for name, target in TARGETS.items() if not target.strongly_typed] == ["tensorrt11"]
