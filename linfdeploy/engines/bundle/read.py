# SPDX-License-Identifier: Apache-2.0
"""Reading an edge bundle: every file is there, is what its hash says, and nothing else is."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from linfdeploy.engines.bundle.golden import ANSWERS, PROBE, Golden, array_from_npy
from linfdeploy.engines.bundle.record import (
    AGAIN,
    BUILT,
    ENGINE,
    GOLDEN,
    MODEL,
    NAME,
    BundleRecord,
    record_from_bytes,
)
from linfdeploy.errors import InputError
from linfdeploy.files import read_bytes, sha256_of

__all__ = ["BACKEND", "Bundle", "read_bundle"]

BACKEND = "tensorrt"
"""What a bundle's engine is built with, unless another backend is asked for."""

MAX_RECORD_BYTES = 2**20
MAX_FILE_BYTES = 2**34


@dataclass(frozen=True)
class Bundle:
    """A bundle whose files were all checked.

    Attributes:
        path: The folder.
        record: What `bundle.json` says.
        golden: The golden images and their answers.
    """

    path: Path
    record: BundleRecord
    golden: Golden

    @property
    def model(self) -> Path:
        """The ONNX file."""
        return self.path / MODEL

    @property
    def model_sha256(self) -> str:
        """Of the ONNX file."""
        return self.record.files[MODEL].sha256

    @property
    def engine(self) -> Path:
        """Where the engine lies once it is built."""
        return self.path / ENGINE


def read_bundle(path: Path) -> Bundle:
    """Reads a bundle and checks the hash and the size of every file.

    Args:
        path: The folder; what building and verifying left in it is not looked at.

    Raises:
        InputError: It is no bundle, a file is missing, changed, a link, or not of the bundle.
    """
    if not (path / NAME).is_file():
        raise InputError(f"{path}: no {NAME} in it; expected a folder that linfdeploy bundle made")
    data = read_bytes(_plain(path, NAME), MAX_RECORD_BYTES, "the record of an edge bundle")
    record = record_from_bytes(data, str(path / NAME))
    for place in _places(path):
        if place not in record.files:
            raise InputError(f"{path}: {place} is not of the bundle; expected its own files alone: remove it")
    contents = {place: _checked(path, place, record) for place in sorted(record.files)}
    return Bundle(path, record, _golden(path, record, contents))


def _places(path: Path) -> Iterator[str]:
    """Yields the place of every entry that is not a folder, but for what was built and the record itself."""
    try:
        for folder, folders, names in os.walk(path, onerror=_raise):
            where = Path(folder).relative_to(path)
            if where == Path():
                folders[:] = [name for name in folders if name not in BUILT]
                names = [name for name in names if name not in {NAME, *BUILT}]  # noqa: PLW2901
            # A link to a folder is listed among the folders, and not entered.
            links = [name for name in folders if (Path(folder) / name).is_symlink()]
            yield from ((where / name).as_posix() for name in sorted([*names, *links]))
    except OSError as error:
        raise InputError(f"cannot read {error.filename}: {error.strerror}; expected an edge bundle") from None


def _raise(error: OSError) -> None:
    raise error


def _plain(path: Path, place: str) -> Path:
    """Returns the path of a file after refusing links on the way to it, which could lead anywhere."""
    file = path
    for part in place.split("/"):
        file /= part
        if file.is_symlink():
            raise InputError(f"{path}: {place} is or lies behind a link; expected the file itself: copy it there")
    return file


def _checked(path: Path, place: str, record: BundleRecord) -> bytes:
    """Returns a file's bytes, which are those that the record names."""
    file, expected = _plain(path, place), record.files[place]
    try:
        found = file.lstat()
    except OSError:
        raise InputError(f"{path}: {place} is missing; expected a whole bundle: copy it again") from None
    if not stat.S_ISREG(found.st_mode):
        raise InputError(f"{path}: {place} is no file; expected {expected.size} bytes: copy it again")
    if found.st_size != expected.size:
        raise InputError(f"{path}: {place} has {found.st_size} bytes; expected {expected.size}: copy it again")
    data = read_bytes(file, MAX_FILE_BYTES, "a file of an edge bundle")
    if (sha256 := sha256_of(data)) != expected.sha256:
        raise InputError(
            f"{path}: {place} was changed: its SHA-256 is {sha256}; expected {expected.sha256}: copy it again"
        )
    return data


def _golden(path: Path, record: BundleRecord, contents: dict[str, bytes]) -> Golden:
    count = record.images
    shapes = {"logits": (count, record.classes), "label": (count,), "radius": (count,)}

    def array(name: str, dtype: str, shape: tuple[int, ...]) -> npt.NDArray[Any]:
        place = f"{GOLDEN}/{name}.npy"
        found = array_from_npy(contents[place], dtype, shape)
        if found is None:
            raise InputError(f"{path}: {place} holds something else; expected {dtype} {shape}: {AGAIN}")
        return found

    images = array("images", "|u1", (count, *record.input_shape))
    labels = array("labels", "<i8", (count,))
    names = ANSWERS if record.radius else ("logits",)
    answers = {name: array(name, ANSWERS[name], shapes[name]) for name in names}
    known, probes = labels[: record.labelled], labels[record.labelled :]
    if known.min() < 0 or known.max() >= record.classes or (probes != PROBE).any():
        raise InputError(
            f"{path}: {GOLDEN}/labels.npy holds other labels; expected {record.labelled} of 0 to "
            f"{record.classes - 1}, then {PROBE}: {AGAIN}"
        )
    if not all(np.isfinite(values).all() for values in answers.values()):
        raise InputError(f"{path}: {GOLDEN} holds infinite or NaN answers; expected finite numbers: {AGAIN}")
    return Golden(images, labels, answers)
