# SPDX-License-Identifier: Apache-2.0
"""Files are whole or absent: after errors, kills, full disks; and what is refused."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from linfdeploy.errors import InputError
from linfdeploy.files import atomic_write, cache_folder, read_bytes, sha256_of, write_bytes, write_folder


def _run(script: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)], capture_output=True, text=True, check=False
    )


def _names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def _write_half(path: Path, error: type[BaseException]) -> None:
    with atomic_write(path) as file:
        file.write(b"half")
        raise error


def test_writes_and_replaces(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folders" / "a.bin"
    write_bytes(path, b"old")
    with atomic_write(path) as file:
        file.write(b"n")
        assert path.read_bytes() == b"old"
        file.write(b"ew")
    assert path.read_bytes() == b"new"
    assert _names(path.parent) == ["a.bin"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit, GeneratorExit])
@pytest.mark.parametrize("old", [None, b"old"])
def test_an_exception_leaves_what_was_there(tmp_path: Path, error: type[BaseException], old: bytes | None) -> None:
    path = tmp_path / "a.bin"
    if old is not None:
        path.write_bytes(old)
    with pytest.raises(error):
        _write_half(path, error)
    assert [entry.read_bytes() for entry in tmp_path.iterdir()] == ([] if old is None else [old])


def test_an_error_about_another_file_stays_itself(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), atomic_write(tmp_path / "a.bin"):
        (tmp_path / "missing").read_bytes()
    assert _names(tmp_path) == []


@pytest.mark.parametrize("with_old", [False, True])
def test_a_killed_writer_leaves_what_was_there(tmp_path: Path, with_old: bool) -> None:
    path = tmp_path / "a.bin"
    if with_old:
        path.write_bytes(b"old")
    done = _run(
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from linfdeploy.files import atomic_write\n"
        "with atomic_write(Path(sys.argv[1])) as file:\n"
        "    file.write(b'half' * 10000)\n"
        "    file.flush()\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n",
        path,
    )
    assert done.returncode == -signal.SIGKILL
    assert (path.read_bytes() if path.exists() else None) == (b"old" if with_old else None)
    left = [name for name in _names(tmp_path) if name != "a.bin"]
    assert all(name.startswith(".a.bin.") and name.endswith(".part") for name in left)
    write_bytes(path, b"next")
    assert path.read_bytes() == b"next"


@pytest.mark.parametrize("writer", ["write_bytes(path, b'x' * 9999)", "save_plain(path, {'x': 'y' * 9999})"])
def test_a_full_disk_is_an_input_error(tmp_path: Path, writer: str) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    done = _run(
        "import resource, sys\n"
        "from pathlib import Path\n"
        "from linfdeploy.errors import InputError\n"
        "from linfdeploy.files import write_bytes\n"
        "from linfdeploy.nets.checkpoint import save_plain\n"
        "path = Path(sys.argv[1])\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        f"try:\n    {writer}\n"
        "except InputError as error:\n    print(error)\n",
        path,
    )
    assert done.stdout == f"cannot write {path}: File too large; free space or choose a folder\n", done.stderr
    assert _names(tmp_path) == ["a.bin"]
    assert path.read_bytes() == b"old"


def test_parent_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    path = tmp_path / "file" / "a.bin"
    with pytest.raises(InputError) as refused:
        write_bytes(path, b"x")
    assert str(refused.value) == f"cannot write {path}: File exists; choose a folder you can write to"


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="there is no /proc, where even root cannot write")
def test_folder_that_nobody_can_write_to() -> None:
    with pytest.raises(InputError) as refused:
        write_bytes(Path("/proc/a.bin"), b"x")
    assert str(refused.value).startswith("cannot write /proc/a.bin: ")
    assert str(refused.value).endswith("; choose a folder you can write to")


def test_path_is_a_folder(tmp_path: Path) -> None:
    (tmp_path / "a.bin").mkdir()
    with pytest.raises(InputError) as refused:
        write_bytes(tmp_path / "a.bin", b"x")
    assert str(refused.value) == f"cannot write {tmp_path / 'a.bin'}: it is a folder; name a file"
    assert _names(tmp_path) == ["a.bin"]


def test_devices_and_pipes_are_not_replaced(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(InputError) as refused:
        write_bytes(pipe, b"x")
    assert str(refused.value) == f"cannot write {pipe}: it is a device or a pipe; choose the name of a file"
    assert stat.S_ISFIFO(pipe.stat().st_mode)


@pytest.mark.parametrize("length", [254, 300])
def test_name_too_long(tmp_path: Path, length: int) -> None:
    with pytest.raises(InputError, match="File name too long"):
        write_bytes(tmp_path / ("x" * length), b"x")


def test_bytes_reach_the_disk_before_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.bin"
    seen: list[bool] = []
    monkeypatch.setattr(os, "fsync", lambda _: seen.append(path.exists()))
    write_bytes(path, b"x")
    assert seen == [False]


@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_mode_follows_the_umask(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        write_bytes(tmp_path / "a.bin", b"x")
        assert os.umask(umask) == umask
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a.bin").stat().st_mode) == 0o666 & ~umask


def test_reads_up_to_the_limit(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"12345")
    assert read_bytes(path, 5, "five bytes") == b"12345"
    with pytest.raises(InputError) as refused:
        read_bytes(path, 4, "an ONNX model")
    assert str(refused.value) == f"{path} has 5 bytes; expected an ONNX model of at most 4"


def test_reads_only_files(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "missing", tmp_path, tmp_path / "pipe"):
        with pytest.raises(InputError) as refused:
            read_bytes(path, 10, "a checkpoint")
        assert str(refused.value) == f"{path}: no such file; expected a checkpoint"


def test_unreadable(tmp_path: Path) -> None:
    path = tmp_path / ("x" * 300)
    with pytest.raises(InputError) as refused:
        read_bytes(path, 10, "a checkpoint")
    assert str(refused.value) == f"cannot read {path}: File name too long; expected a checkpoint"


def test_sha256() -> None:
    assert sha256_of(b"") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert sha256_of(b"abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_what_is_kept_has_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LINFDEPLOY_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder("a") == tmp_path / ".cache" / "linfdeploy" / "a"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder("a") == tmp_path / "xdg" / "linfdeploy" / "a"
    monkeypatch.setenv("LINFDEPLOY_CACHE", str(tmp_path / "own"))
    assert cache_folder("a") == tmp_path / "own" / "a"
    assert not (tmp_path / "own").exists()


# --- folders

PARTS = {"a": b"1", "deep/er/b": b"22", "deep/c": b""}


def _tree(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("empty", [False, True])
def test_writes_a_folder(empty: bool, tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder"
    if empty:
        path.mkdir(parents=True)
    write_folder(path, PARTS)
    assert _tree(path) == PARTS
    assert _names(path.parent) == ["folder"]


@pytest.mark.parametrize("at", [1, 2, 3])
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_an_interrupted_folder_is_absent(
    at: int, error: type[BaseException], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []

    def fsync(handle: int) -> None:
        calls.append(handle)
        if len(calls) == at:
            raise error

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(error):
        write_folder(tmp_path / "folder", PARTS)
    assert _names(tmp_path) == []


def test_a_killed_folder_is_absent(tmp_path: Path) -> None:
    done = _run(
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from linfdeploy.files import write_folder\n"
        "os.fsync = lambda handle: os.kill(os.getpid(), signal.SIGKILL)\n"
        "write_folder(Path(sys.argv[1]), {'a': b'half'})\n",
        tmp_path / "folder",
    )
    assert done.returncode == -signal.SIGKILL
    (left,) = _names(tmp_path)
    assert left.startswith(".folder.")
    assert left.endswith(".part")


def test_a_full_disk_leaves_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fsync(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(
        InputError, match=r"^cannot write .*folder: No space left on device; free space or choose a"
    ):
        write_folder(tmp_path / "folder", PARTS)
    assert _names(tmp_path) == []


def test_a_folder_that_was_filled_meanwhile_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "folder"

    def fsync(_: int) -> None:
        path.mkdir(exist_ok=True)
        (path / "mine").write_text("mine")

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(InputError, match=r"^cannot write .*folder: Directory not empty; "):
        write_folder(path, PARTS)
    assert _tree(tmp_path) == {"folder/mine": b"mine"}


def test_no_folder_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("mine")
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "empty")
    (tmp_path / "nowhere").symlink_to(tmp_path / "missing")
    (tmp_path / "file").write_text("mine")
    monkeypatch.chdir(tmp_path / "empty")
    before = _tree(tmp_path)
    for path, reason in {
        tmp_path / "full": "it holds files already; name a new or an empty folder",
        tmp_path / "file": "it is no folder; name a new or an empty one",
        tmp_path / "link": "it is no folder; name a new or an empty one",
        tmp_path / "nowhere": "it is no folder; name a new or an empty one",
        tmp_path / "empty": "it is the present folder; name a new or another empty one",
        Path(): "it is the present folder; name a new or another empty one",
    }.items():
        with pytest.raises(InputError) as refusal:
            write_folder(path, PARTS)
        assert str(refusal.value) == f"cannot write {path}: {reason}"
    assert _tree(tmp_path) == before


def test_no_folder_below_a_file_or_of_a_name_too_long(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for path in (tmp_path / "file" / "folder", tmp_path / ("n" * 300), Path("/proc/folder")):
        with pytest.raises(InputError, match=r"^cannot write .*; choose"):
            write_folder(path, PARTS)
    assert _names(tmp_path) == ["file"]


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_a_folders_mode_follows_the_umask(umask: int, tmp_path: Path) -> None:
    before = os.umask(umask)
    try:
        write_folder(tmp_path / "folder", PARTS)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "folder").stat().st_mode) == 0o777 & ~umask
    assert stat.S_IMODE((tmp_path / "folder" / "a").stat().st_mode) == 0o666 & ~umask
