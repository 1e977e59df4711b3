# SPDX-License-Identifier: Apache-2.0
"""Whole or absent: what a command leaves behind when its writing fails, is interrupted or killed."""

import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from small_nets import checkpoint, exported

from linfdeploy.errors import InputError
from linfdeploy.files import atomic_write, read_bytes, sha256_of, write_bytes

# Calls the command line with an fsync that sends a signal to its own process, at the call of the given number.
KILLED_WHILE_WRITING = """
import os, sys
number, at = int(sys.argv[1]), int(sys.argv[2])
calls, fsync = [], os.fsync
def kill_then_fsync(handle):
    calls.append(handle)
    if len(calls) == at:
        os.kill(os.getpid(), number)
    fsync(handle)
os.fsync = kill_then_fsync
sys.argv = ["linfdeploy", *sys.argv[3:]]
from linfdeploy.cli import main
main()
"""


def test_writes_whole_files_and_makes_folders(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "file"
    write_bytes(path, b"one")
    write_bytes(path, b"two")
    assert path.read_bytes() == b"two"
    assert [p.name for p in path.parent.iterdir()] == ["file"]
    assert sha256_of(b"") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


@pytest.mark.parametrize("mask", [0o022, 0o077])
def test_mode_is_that_of_any_new_file(mask: int, tmp_path: Path) -> None:
    before = os.umask(mask)
    try:
        write_bytes(tmp_path / "file", b"")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o666 & ~mask


@pytest.mark.parametrize("error", [ValueError("x"), KeyboardInterrupt(), SystemExit(3)])
def test_a_failing_block_leaves_the_old_file(error: BaseException, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def fail() -> None:
        with atomic_write(path) as file:
            file.write(b"new")
            raise error

    with pytest.raises(type(error)):
        fail()
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_full_disk_is_an_input_error(step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync" if step == "fsync" else "pathlib.Path.replace", full)
    with pytest.raises(InputError, match=r"cannot write .*file: No space left on device; is the disk full"):
        write_bytes(tmp_path / "file", b"x")
    assert list(tmp_path.iterdir()) == []


def test_folders_and_files_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(InputError, match=r"cannot write .*: it is a folder; name a file"):
        write_bytes(tmp_path, b"")
    with pytest.raises(InputError, match=r"cannot write .*: .*; choose a folder you can write to"):
        write_bytes(tmp_path / "file" / "x", b"")


def test_reads_up_to_a_limit(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"12345")
    assert read_bytes(path, 5, "five bytes") == b"12345"
    with pytest.raises(InputError, match="has 5 bytes; expected four bytes of at most 4"):
        read_bytes(path, 4, "four bytes")
    for missing in (tmp_path, tmp_path / "missing"):
        with pytest.raises(InputError, match="no such file; expected something"):
            read_bytes(missing, 5, "something")
    with pytest.raises(InputError, match=r"cannot read .*too long; expected something"):
        read_bytes(tmp_path / ("n" * 300), 5, "something")


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
        assert done.returncode == 130
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
        assert process.returncode in {0, 130, -signal.SIGTERM}, errors


def test_the_old_model_is_read_while_a_new_one_is_written(folder: Path) -> None:
    path = folder / "out" / "new.onnx"
    with atomic_write(path) as file:
        file.write(b"new")
        file.flush()
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"
