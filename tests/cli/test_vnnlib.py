# SPDX-License-Identifier: Apache-2.0
from pathlib import Path
from typing import Any

import pytest
from command_line import assert_refused, call


@pytest.mark.parametrize("version", ["1.0", "2.0"])
def test_writes_a_folder(version: str, files: Any) -> None:
    out = files.folder / "instances"
    outcome = call(
        *("vnnlib", files.model, "-o", out, "--data", files.data, "--eps", "3px", "--version", version),
        *("--timeout", "7", "--samples", "30"),
    )
    assert (outcome.code, outcome.err) == (0, "")
    names = {path.name for path in (out / "instances").iterdir()}
    listed = [line.split(",") for line in (out / "instances.csv").read_text().splitlines()]
    assert {Path(row[1]).name for row in listed} == names
    assert {row[2] for row in listed} == {"7"}
    assert outcome.out.startswith(
        f"wrote {out}: {len(names)} instances of 30 images, VNN-LIB {version}, within 3 of"
    )
    assert {path.name for path in out.iterdir()} == {"instances", "instances.csv", "known.csv", "model.onnx"}


def test_a_folder_that_holds_something(files: Any) -> None:
    outcome = call("vnnlib", files.model, "-o", files.folder, "--data", files.data)
    assert_refused(outcome, "it holds files already; name a new or an empty folder")


def test_data_that_does_not_fit(files: Any) -> None:
    out = files.folder / "instances"
    assert_refused(call("vnnlib", files.model, "-o", out), "digits", "choose the data set")
    assert not out.exists()
