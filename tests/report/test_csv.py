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
from linfdeploy.report.csv import csv_bytes, read_csv, write_csv
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


@given(rows=st.lists(ROWS, max_size=5, unique_by=lambda row: row.index))
def test_is_read_back(rows: list[SampleRow], tmp_path_factory: pytest.TempPathFactory) -> None:
    rows.sort(key=lambda row: row.index)
    path = tmp_path_factory.getbasetemp() / "samples.csv"
    write_csv(rows, path)
    assert list(map(repr, read_csv(path))) == list(map(repr, rows))


LINE = "7,3,4,-0.25,1,0,,1,51/2,-1,,1,8"


@pytest.mark.parametrize(
    ("column", "cell", "expected"),
    [
        ("index", "-1", "a whole number"),
        ("index", "1_0", "a whole number"),
        ("label", "", "a whole number"),
        ("prediction", "٣", "a whole number"),
        ("margin", "", "a number"),
        ("margin", "1e9999", "a number"),
        ("margin", "-nan", "a number"),
        ("exact", "True", "1, 0 or nothing"),
        ("attacked", "2", "1, 0 or nothing"),
        ("radius_interval", "-2", "a whole number from -1 up, or nothing"),
        ("radius_exact", "1/0", "a rational such as 51/2, or nothing"),
        ("radius_exact", "-1", "a rational such as 51/2, or nothing"),
        ("radius_exact", "9" * 513, "a rational such as 51/2, or nothing"),
        ("radius_delta", "0.5", "a rational such as 51/2, or nothing"),
    ],
)
def test_a_cell_of_another_form_is_refused(column: str, cell: str, expected: str, tmp_path: Path) -> None:
    names = [item.name for item in fields(SampleRow)]
    cells = LINE.split(",")
    cells[names.index(column)] = cell
    path = tmp_path / "samples.csv"
    path.write_text(f"{','.join(names)}\n{','.join(cells)}\n", encoding="utf-8")
    with pytest.raises(InputError) as error:
        read_csv(path)
    text = str(error.value)
    assert text.startswith(f"{path}, line 2: {column} is '")
    assert text.endswith(f"; expected {expected}: write it anew with verify")
    assert "\n" not in text
    assert len(text) < len(str(path)) + 400


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "its header is ''; expected index,label"),
        ("index,label\n", "its header is 'index,label'; expected index,label"),
        ("{header}", "has no line break at its end; expected a whole samples.csv: write it anew"),
        ("{header}\n" + LINE, "has no line break at its end"),
        ("{header}\n" + LINE + ",1\n", "line 2 has 14 cells; expected 13: write it anew with verify"),
        ("{header}\n\n", "line 2 has 1 cells; expected 13"),
        ("{header}\n" + LINE + "\n" + LINE + "\n", "sample 7 follows 7; expected ascending samples"),
    ],
)
def test_a_table_of_another_form_is_refused(text: str, fault: str, tmp_path: Path) -> None:
    path = tmp_path / "samples.csv"
    path.write_text(text.replace("{header}", ",".join(item.name for item in fields(SampleRow))))
    with pytest.raises(InputError) as error:
        read_csv(path)
    assert fault in str(error.value)
    assert "\n" not in str(error.value)


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
