# SPDX-License-Identifier: Apache-2.0
"""Tests that share fixtures run on one worker."""

from __future__ import annotations

import itertools
import subprocess
import sys
from pathlib import Path

from work_units import LONGEST, SHARED, unit_of

TESTS = Path(__file__).parent
CONFTEST = f"""
import sys
sys.path.insert(0, {str(TESTS)!r})
from work_units import WorkUnits
def pytest_xdist_make_scheduler(config, log):
    return WorkUnits(config, log)
"""
FILE = """
import os, pytest, time
@pytest.mark.parametrize("number", range(8))
def test(number):
    time.sleep(0.02)
    with open(__file__ + ".workers", "a") as file:
        file.write(os.environ["PYTEST_XDIST_WORKER"] + " ")
"""


def test_a_unit_runs_on_one_worker_and_several_run_side_by_side(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text(CONFTEST)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    for number in range(4):
        (tmp_path / f"test_{number}.py").write_text(FILE)
    command = [sys.executable, "-m", "pytest", "-q", "-n2", "--dist=loadfile", "-p", "no:cacheprovider"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    workers = [set(path.read_text().split()) for path in tmp_path.glob("*.workers")]
    assert [len(used) for used in workers] == [1, 1, 1, 1]
    assert set.union(*workers) == {"gw0", "gw1"}


def test_what_is_named_is_there() -> None:
    named = {*itertools.chain(*SHARED.values()), *LONGEST} - set(SHARED)
    assert [file for file in named if not (TESTS / file).is_file()] == []


def test_units() -> None:
    assert unit_of("tests/cli/test_build.py::test_a[x::y@z]") == "cli/test_build.py"
    assert unit_of("tests/plugins_trt/test_aot.py::TestA::test_b") == unit_of(
        "tests/kernels/cuda/test_ops.py::test"
    )
