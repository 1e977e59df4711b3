# SPDX-License-Identifier: Apache-2.0
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from report.samples import ALL, failing, passing

from linfdeploy.errors import InputError
from linfdeploy.report import write_report
from linfdeploy.report.json import read_json
from linfdeploy.report.model import Accuracy


@pytest.mark.parametrize("name", ALL)
def test_writes_three_files_and_nothing_else(name: str, tmp_path: Path) -> None:
    paths = write_report(ALL[name](), tmp_path / "new" / "report")
    assert {paths.json, paths.html, paths.samples} == set((tmp_path / "new" / "report").iterdir())
    assert read_json(paths.json)["samples"] == ALL[name]().samples


def test_replaces_an_older_report(tmp_path: Path) -> None:
    write_report(passing(), tmp_path)
    paths = write_report(failing(), tmp_path)
    assert read_json(paths.json)["verdict"] == "fail"
    assert "FAIL" in paths.html.read_text("utf-8")


@pytest.mark.parametrize("below", ["", "deeper/still"])
def test_a_file_in_the_place_of_the_folder(below: str, tmp_path: Path) -> None:
    (tmp_path / "report").write_text("mine")
    with pytest.raises(InputError, match="cannot write") as error:
        write_report(passing(), tmp_path / "report" / below)
    assert "\n" not in str(error.value)
    assert [path.name for path in tmp_path.rglob("*")] == ["report"]
    assert (tmp_path / "report").read_text() == "mine"


@pytest.mark.parametrize("name", ["report.json", "report.html", "samples.csv"])
def test_a_folder_in_the_place_of_a_file_leaves_nothing(name: str, tmp_path: Path) -> None:
    (tmp_path / name).mkdir()
    with pytest.raises(InputError, match=name):
        write_report(passing(), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_failure_takes_the_old_verdict_away(tmp_path: Path) -> None:
    """An old report.json beside newer files would vouch for the wrong engine."""
    write_report(passing(), tmp_path)
    (tmp_path / "report.html").unlink()
    (tmp_path / "report.html").mkdir()
    with pytest.raises(InputError):
        write_report(failing(), tmp_path)
    assert not (tmp_path / "report.json").exists()


def test_a_wrongly_filled_report_touches_nothing(tmp_path: Path) -> None:
    paths = write_report(passing(), tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(ValueError, match="reference_clean"):
        write_report(replace(passing(), accuracy=Accuracy(0.5, -1.0)), paths.json.parent)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_needs_only_what_a_device_has(tmp_path: Path) -> None:
    heavy = ("jsonschema", "torch", "onnx", "onnxruntime", "numpy", "matplotlib")
    code = (
        "import sys; from pathlib import Path; from report.samples import passing; import linfdeploy.report as r\n"
        "assert 'jinja2' not in sys.modules\n"
        f"r.write_report(passing(), Path({str(tmp_path)!r}))\n"
        f"assert not [name for name in {heavy} if name in sys.modules]"
    )
    tests = Path(__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code], cwd=tests, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
