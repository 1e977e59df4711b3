# SPDX-License-Identifier: Apache-2.0
import csv
import io
import math
from dataclasses import astuple, fields
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from report.samples import ALL, passing

from linfdeploy.errors import InputError
from linfdeploy.report.csv import csv_bytes, write_csv
from linfdeploy.report.model import SampleRow

FLAGS = st.none() | st.booleans()
RADII = st.none() | st.fractions(0, 255).map(str)
LEVELS = st.none() | st.integers(-1, 255)
ROWS = st.builds(
    SampleRow, *[st.integers(0, 10**9)] * 3, st.floats(), *[FLAGS] * 4, RADII, LEVELS, RADII, FLAGS, LEVELS
)


@given(st.lists(ROWS, max_size=5))
def test_parses_back_to_the_same_rows(rows: list[SampleRow]) -> None:
    parsed = [_row(cells) for cells in csv.DictReader(io.StringIO(csv_bytes(rows).decode("ascii")))]
    # repr tells -0.0 from 0.0 and equals itself for NaN.
    assert list(map(repr, parsed)) == list(map(repr, rows))


@pytest.mark.parametrize("name", ALL)
def test_one_line_a_sample(name: str) -> None:
    report = ALL[name]()
    lines = csv_bytes(report.rows).decode("ascii").splitlines()
    facts = "index,label,prediction,margin,exact,interval,delta,attacked"
    assert lines[0] == f"{facts},radius_exact,radius_interval,radius_delta,joint,radius_joint"
    assert len(lines) == 1 + len(report.rows)


def test_cells() -> None:
    row = SampleRow(7, 3, 4, -0.25, True, False, None, True, "51/2", -1, None, True, 8)
    assert csv_bytes([row]).decode("ascii").splitlines()[1] == "7,3,4,-0.25,1,0,,1,51/2,-1,,1,8"


def test_writes_a_file(tmp_path: Path) -> None:
    write_csv(passing().rows, tmp_path / "new" / "samples.csv")
    assert (tmp_path / "new" / "samples.csv").read_bytes() == csv_bytes(passing().rows)


def test_an_unwritable_folder_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot write"):
        write_csv((), tmp_path / "file" / "samples.csv")


def _row(cells: dict[str, str]) -> SampleRow:
    names = [item.name for item in fields(SampleRow)]
    assert list(cells) == names
    index, label, prediction = (int(cells[name]) for name in names[:3])
    flags: dict[str, Any] = {
        name: None if cells[name] == "" else cells[name] == "1" for name in [*names[4:8], "joint"]
    }
    radii: dict[str, Any] = {name: cells[name] or None for name in names if name.startswith("radius_")}
    for name in ("radius_interval", "radius_joint"):
        radii[name] = None if radii[name] is None else int(radii[name])
    row = SampleRow(index, label, prediction, float(cells["margin"]), **flags, **radii)
    assert len(astuple(row)) == len(cells)
    assert math.isnan(row.margin) or row.margin == float(cells["margin"])
    return row
