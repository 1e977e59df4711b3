# SPDX-License-Identifier: Apache-2.0
"""Finished chunks of an unfinished audit, in a folder beside the report.

Each file names, by a hash, the audit, the step, and everything that was found before it; one of another audit is
not used. The hashes are no signature: whoever may write to the folder may forge them.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
import zlib
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from linfdeploy.errors import InputError
from linfdeploy.files import read_bytes, write_bytes

__all__ = ["FOLDER", "Arrays", "Kept"]

Arrays: TypeAlias = Mapping[str, npt.NDArray[Any]]

FOLDER = ".progress"
"""Name of the folder, inside that of the report."""

QUESTION = "question.json"
KEY = "key"
OURS = re.compile(rf"[a-z0-9-]+-\d+\.npz|{re.escape(QUESTION)}|\..*\.part")
MAX_BYTES = 2**30
MAX_QUESTION = 2**20


class Kept:
    """A folder of finished chunks; only those of the question it was opened for are ever used.

    Attributes:
        folder: The folder; made when the first chunk is kept.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._question = ""

    def open(self, question: Mapping[str, str]) -> str | None:
        """Takes up the folder; what it keeps of another question is removed.

        Args:
            question: What is asked, by name.

        Returns:
            Which parts of the question differ, if it was another one.
        """
        self._question = json.dumps(dict(question), indent=1, sort_keys=True)
        if not self.folder.exists():
            return None
        before = self._asked_before()
        if before == dict(question):
            return None
        self.remove()
        changed = (
            [QUESTION] if before is None else [name for name in question if before.get(name) != question[name]]
        )
        return ", ".join(changed)

    def path(self, step: str, number: int) -> Path:
        """Returns the file of a chunk."""
        return self.folder / f"{step.replace(' ', '-')}-{number}.npz"

    def load(self, step: str, number: int, key: str) -> Arrays | str | None:
        """Reads a chunk.

        Args:
            step: The step.
            number: Of the chunk.
            key: What it must be bound to.

        Returns:
            Its arrays; None where there is none; or what is wrong with the file.
        """
        path = self.path(step, number)
        if not path.exists():
            return None
        try:
            arrays = _arrays(read_bytes(path, MAX_BYTES, "a finished chunk"))
        except InputError as error:
            return str(error)
        # What numpy and zipfile raise on files that are no archives, truncated, encrypted, lie about sizes or hold
        # pickled objects, which are never executed.
        except (OSError, ValueError, EOFError, RuntimeError, MemoryError, zipfile.BadZipFile, zlib.error):
            return f"{path} is no finished chunk"
        return arrays if _text(arrays.pop(KEY, None)) == key else f"{path} is of another audit"

    def save(self, step: str, number: int, key: str, arrays: Arrays) -> None:
        """Keeps a chunk; the file is whole or absent.

        Raises:
            InputError: The folder cannot be written to.
        """
        if not (self.folder / QUESTION).exists():
            write_bytes(self.folder / QUESTION, self._question.encode())
        buffer = io.BytesIO()
        named: dict[str, Any] = {KEY: np.array(key), **arrays}
        np.savez(buffer, **named)
        write_bytes(self.path(step, number), buffer.getvalue())

    def remove(self) -> None:
        """Removes the files that this class writes, and the folder if nothing else is in it.

        Raises:
            InputError: They cannot be removed.
        """
        if not self.folder.is_dir():
            return
        try:
            for path in self.folder.iterdir():
                if OURS.fullmatch(path.name):
                    path.unlink(missing_ok=True)
        except OSError as error:
            raise InputError(f"cannot empty {self.folder}: {error.strerror}; remove it") from None
        with suppress(OSError):
            self.folder.rmdir()

    def _asked_before(self) -> dict[str, str] | None:
        try:
            found = json.loads(read_bytes(self.folder / QUESTION, MAX_QUESTION, "the question of an audit"))
        except (InputError, ValueError, RecursionError):
            return None
        return found if isinstance(found, dict) else None


def _arrays(raw: bytes) -> dict[str, npt.NDArray[Any]]:
    data = io.BytesIO(raw)
    if sum(member.file_size for member in zipfile.ZipFile(data).infolist()) > MAX_BYTES:
        raise ValueError("it unpacks to more than it may")
    data.seek(0)
    with np.load(data, allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}


def _text(array: npt.NDArray[Any] | None) -> str | None:
    return str(array) if array is not None and array.ndim == 0 and array.dtype.kind == "U" else None
