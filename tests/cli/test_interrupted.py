# SPDX-License-Identifier: Apache-2.0
"""What a command leaves behind when it is interrupted or killed."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from small_nets import checkpoint, exported

# A shell shows both as 130: where native code was running Python, the interpreter ends by the signal itself.
INTERRUPTED = {130, -signal.SIGINT}

# Calls the command line with an fsync that sends a signal to its own process, at the call of the given number.
KILLED_WHILE_WRITING = """
import os, signal, sys
number, at = int(sys.argv[1]), int(sys.argv[2])
calls, fsync = [], os.fsync
def kill_then_fsync(handle):
    calls.append(handle)
    if len(calls) == at:
        signal.raise_signal(number)  # to this very thread: another one would notice it some time later
    fsync(handle)
os.fsync = kill_then_fsync
sys.argv = ["linfdeploy", *sys.argv[3:]]
from linfdeploy.cli import main
main()
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A checkpoint, a model, and an old engine with its manifest."""
    checkpoint(tmp_path / "ckpt.pt")
    (tmp_path / "model.onnx").write_bytes(exported())
    (tmp_path / "out").mkdir()
    for name in ("engine", "engine.json", "new.onnx"):
        (tmp_path / "out" / name).write_bytes(b"old")
    return tmp_path


def command(folder: Path, verb: str) -> list[str]:
    if verb == "export":
        return ["export", str(folder / "ckpt.pt"), str(folder / "out" / "new.onnx")]
    return ["build", str(folder / "model.onnx"), str(folder / "out" / "engine")]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / "out").iterdir()}


@pytest.mark.parametrize(
    ("verb", "number", "at"),
    [
        ("build", signal.SIGKILL, 1),
        ("build", signal.SIGTERM, 1),
        ("build", signal.SIGINT, 1),
        ("export", signal.SIGTERM, 1),
    ],
)
def test_killed_in_the_middle_of_writing(verb: str, number: signal.Signals, at: int, folder: Path) -> None:
    before = contents(folder)
    program = [sys.executable, "-c", KILLED_WHILE_WRITING, str(int(number)), str(at), *command(folder, verb)]
    done = subprocess.run(program, capture_output=True, text=True, timeout=120, check=False)
    after = contents(folder)
    assert {name: after[name] for name in before} == before
    if number == signal.SIGKILL:
        assert done.returncode == -signal.SIGKILL
        assert all(name.startswith(".") and name.endswith(".part") for name in set(after) - set(before))
    else:
        assert done.returncode in INTERRUPTED
        assert done.stderr.strip() == "interrupted: nothing half-written was left behind"
        assert after == before


def test_killed_between_engine_and_manifest_is_seen(folder: Path) -> None:
    """The engine is renamed first: the old manifest beside it then does not match, which the audit finds."""
    subprocess.run(
        [sys.executable, "-m", "linfdeploy", *command(folder, "build")], check=True, capture_output=True
    )
    before = contents(folder)
    (folder / "model.onnx").write_bytes(exported("fp32"))
    program = [
        sys.executable,
        "-c",
        KILLED_WHILE_WRITING,
        str(int(signal.SIGKILL)),
        "2",
        *command(folder, "build"),
    ]
    subprocess.run(program, capture_output=True, timeout=120, check=False)
    after = contents(folder)
    assert after["engine"] != before["engine"]
    assert after["engine.json"] == before["engine.json"]
    shown = subprocess.run(
        [sys.executable, "-m", "linfdeploy", "inspect", str(folder / "out" / "engine")],
        check=True,
        capture_output=True,
        text=True,
    )
    assert "WARNING      the file is not the one that was built" in shown.stdout


@pytest.mark.parametrize("delay", [0.0, 0.05, 0.15, 0.3, 0.5, 0.8])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_killed_at_any_moment(number: signal.Signals, delay: float, folder: Path) -> None:
    before = contents(folder)
    process = subprocess.Popen(
        [sys.executable, "-m", "linfdeploy", *command(folder, "build")],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    time.sleep(delay)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    after = contents(folder)
    whole = process.returncode == 0 or after["engine"] != b"old"
    assert after["engine"] == (exported() if whole else b"old")
    assert after["new.onnx"] == b"old"
    if number == signal.SIGTERM:
        assert set(after) == set(before), errors
        assert process.returncode in {0, *INTERRUPTED, -signal.SIGTERM}, errors
