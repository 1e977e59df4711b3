# SPDX-License-Identifier: Apache-2.0
"""Files and folders that are either whole or absent: write beside, fsync, rename."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from linfdeploy.errors import InputError

__all__ = [
    "atomic_write",
    "cache_folder",
    "check_new_folder",
    "read_bytes",
    "sha256_of",
    "write_bytes",
    "write_folder",
]


@contextmanager
def atomic_write(path: Path) -> Iterator[BinaryIO]:
    """Opens a temporary file beside `path` and renames it to `path` when the block succeeds.

    A failing or interrupted block removes the temporary file; a killed one can leave it (a dot file
    ending in `.part`), but `path` itself is always the old file or the whole new one.

    Args:
        path: The file to write; its folder is made when it is missing.

    Yields:
        A binary file to write to.

    Raises:
        InputError: The folder cannot be made or written to, the disk is full, or `path` is a folder, a device or a
            pipe, which the rename would replace.
    """
    try:
        if path.is_dir():
            raise InputError(f"cannot write {path}: it is a folder; name a file")
        if path.exists() and not path.is_file():
            raise InputError(f"cannot write {path}: it is a device or a pipe; choose the name of a file")
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}; choose a folder you can write to") from None
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        # mkstemp makes the file private; the result gets the mode any new file would have.
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
    except BaseException as error:
        with suppress(FileNotFoundError):
            temporary.unlink()
        # A failing write names no file, unlike a failing open of another file inside the block.
        if isinstance(error, OSError) and error.filename in {None, str(temporary)}:
            raise InputError(f"cannot write {path}: {error.strerror}; free space or choose a folder") from None
        raise


def write_bytes(path: Path, data: bytes) -> None:
    """Writes `data` to `path` atomically.

    Raises:
        InputError: The folder cannot be made or written to.
    """
    with atomic_write(path) as file:
        file.write(data)


def check_new_folder(path: Path) -> None:
    """Refuses a folder that `write_folder` would not write.

    Raises:
        InputError: `path` is a file, a link, a folder that holds something, or the one that we are in.
    """
    try:
        if path.is_symlink() or (path.exists() and not path.is_dir()):
            raise InputError(f"cannot write {path}: it is no folder; name a new or an empty one")
        if path.is_dir() and any(path.iterdir()):
            raise InputError(f"cannot write {path}: it holds files already; name a new or an empty folder")
        # The rename would leave the shell in a folder that is no more.
        if path.is_dir() and path.samefile("."):
            raise InputError(f"cannot write {path}: it is the present folder; name a new or another empty one")
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}; choose another folder") from None


def write_folder(path: Path, files: Mapping[str, bytes]) -> None:
    """Writes a new folder, which is either whole or absent: it is written beside and renamed.

    A failing or interrupted call leaves nothing; a killed one can leave a dot folder ending in `.part`.

    Args:
        path: The folder; new or empty. The folder that it is in is made when it is missing.
        files: What it holds, by the place inside it, with `/` between folders.

    Raises:
        InputError: The folder holds something, cannot be made or written to, or the disk is full.
    """
    check_new_folder(path)
    whole = Path(os.path.abspath(path))  # noqa: PTH100  # resolve() would follow links
    try:
        whole.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=f".{whole.name}.", suffix=".part", dir=whole.parent))
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}; choose a folder you can write to") from None
    try:
        for name, data in files.items():
            _write_through(staging / name, data)
        # mkdtemp makes the folder private; the result gets the mode any new folder would have.
        staging.chmod(0o777 & ~_umask())
        # Replaces an empty folder; fails on one that somebody has filled meanwhile.
        staging.rename(whole)
    except BaseException as error:
        shutil.rmtree(staging, ignore_errors=True)
        if isinstance(error, OSError):
            raise InputError(f"cannot write {path}: {error.strerror}; free space or choose a folder") from None
        raise


def read_bytes(path: Path, limit: int, what: str) -> bytes:
    """Reads a file from outside, refusing what is missing or larger than `limit` bytes.

    Args:
        path: The file to read.
        limit: The largest size in bytes that is read.
        what: What the file should be, for the error text, such as "an ONNX model".

    Raises:
        InputError: The file is missing, not a file, unreadable or too large.
    """
    try:
        if not path.is_file():
            raise InputError(f"{path}: no such file; expected {what}")
        if (size := path.stat().st_size) > limit:
            raise InputError(f"{path} has {size} bytes; expected {what} of at most {limit}")
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}; expected {what}") from None


def sha256_of(data: bytes) -> str:
    """Returns the SHA-256 of `data` in hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def cache_folder(name: str) -> Path:
    """Returns the folder of that name among what this package makes once and finds again; it need not exist."""
    caches = os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()
    return Path(os.environ.get("LINFDEPLOY_CACHE") or Path(caches) / "linfdeploy") / name


def _write_through(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
