# SPDX-License-Identifier: Apache-2.0
"""CIFAR-10 and CIFAR-100: the python version, whose pickles are read and never executed, or the binary one."""

from __future__ import annotations

import io
import tarfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from linfdeploy.errors import CheckpointError, DatasetError, brief
from linfdeploy.training.data.dataset import STATISTICS, Dataset, Images, Split, read_file
from linfdeploy.training.importers.pickles import Built, Calls, read_pickle

__all__ = ["cifar_dataset"]

SHAPE = (3, 32, 32)
PIXELS = 3 * 32 * 32
MAX_BATCH_BYTES = 2**29
"""The largest batch, the 50000 training images of CIFAR-100, has 155 million bytes."""


@dataclass(frozen=True)
class _Form:
    """One of the forms in which a data set is published.

    Attributes:
        folder: Where its files lie, as a folder and in the archive.
        archive: Its compressed form.
        files: By part of the data set.
        labels: The key of the labels in the python version; None in the binary one.
        label_bytes: Before each image in the binary version; the last one counts.
    """

    folder: str
    archive: str
    files: Mapping[Split, Sequence[str]]
    labels: str | None
    label_bytes: int = 0


TEN = {"train": [f"data_batch_{number}" for number in range(1, 6)], "test": ["test_batch"]}
FORMS: Mapping[str, Sequence[_Form]] = {
    "cifar10": (
        _Form(
            "cifar-10-batches-py",
            "cifar-10-python.tar.gz",
            {"train": TEN["train"], "test": TEN["test"]},
            "labels",
        ),
        _Form(
            "cifar-10-batches-bin",
            "cifar-10-binary.tar.gz",
            {"train": [f"{name}.bin" for name in TEN["train"]], "test": ["test_batch.bin"]},
            None,
            1,
        ),
    ),
    "cifar100": (
        _Form(
            "cifar-100-python", "cifar-100-python.tar.gz", {"train": ["train"], "test": ["test"]}, "fine_labels"
        ),
        _Form(
            "cifar-100-binary",
            "cifar-100-binary.tar.gz",
            {"train": ["train.bin"], "test": ["test.bin"]},
            None,
            2,
        ),
    ),
}
CLASSES = {"cifar10": 10, "cifar100": 100}


def cifar_dataset(name: str, split: Split, root: Path) -> Dataset:
    """Reads `cifar10` or `cifar100`, with its fine labels.

    Raises:
        DatasetError: Files are missing, malformed or contradictory.
    """
    form, files = _found(name, split, root)
    parts = [_batch(form, place, raw) for place, raw in files]
    images = np.concatenate([images for images, _ in parts]).reshape(-1, *SHAPE)
    labels = np.concatenate([labels for _, labels in parts])
    return Dataset(name, images, labels, CLASSES[name], *STATISTICS[name])


def _found(name: str, split: Split, root: Path) -> tuple[_Form, Iterator[tuple[str, bytes]]]:
    """Returns the first form that is there, and its files with the names to be used in errors."""
    for form in FORMS[name]:
        for folder in (root / form.folder, root):
            if (folder / form.files[split][0]).is_file():
                return form, _in_folder(folder, form.files[split])
        if (archive := root / form.archive).is_file():
            return form, _in_archive(archive, [f"{form.folder}/{file}" for file in form.files[split]])
    python, binary = FORMS[name]
    raise DatasetError(
        f"no {python.folder}, {python.archive}, {binary.folder} or {binary.archive} in {root}; expected {name} as "
        "torchvision leaves it: copy it there, name its folder with --data-root, or train with --download"
    )


def _in_folder(folder: Path, names: Sequence[str]) -> Iterator[tuple[str, bytes]]:
    for name in names:
        yield str(folder / name), read_file(folder / name, "a batch of CIFAR", MAX_BATCH_BYTES)


def _in_archive(archive: Path, names: Sequence[str]) -> Iterator[tuple[str, bytes]]:
    """Yields members in the order asked for; nothing is unpacked to the disk."""
    found: dict[str, bytes] = {}
    try:
        with tarfile.open(archive, "r:gz") as file:
            for member in file:
                if member.name in names and member.isreg() and member.size <= MAX_BATCH_BYTES:
                    opened = file.extractfile(member)
                    assert opened is not None
                    found[member.name] = opened.read()
                if len(found) == len(names):
                    break
    except (OSError, EOFError, tarfile.TarError, zlib.error) as error:
        raise DatasetError(
            f"{archive} is truncated or no archive ({error}); expected a .tar.gz: download it again"
        ) from None
    for name in names:
        if name not in found:
            raise DatasetError(
                f"{archive} holds no {name} of at most {MAX_BATCH_BYTES} bytes; expected it: download it again"
            )
        yield f"{archive}: {name}", found.pop(name)


def _batch(form: _Form, place: str, raw: bytes) -> tuple[Images, npt.NDArray[np.int64]]:
    if form.labels is None:
        return _binary_batch(place, raw, form.label_bytes)
    return _python_batch(place, raw, form.labels)


def _binary_batch(place: str, raw: bytes, label_bytes: int) -> tuple[Images, npt.NDArray[np.int64]]:
    row = label_bytes + PIXELS
    if not raw or len(raw) % row:
        raise DatasetError(
            f"{place} has {len(raw)} bytes; expected a multiple of {row}, the labels and pixels of an image: "
            "download it again"
        )
    rows = np.frombuffer(raw, np.uint8).reshape(-1, row)
    return rows[:, label_bytes:], rows[:, label_bytes - 1].astype(np.int64)


class _Array(Built):
    """A numpy array of a pickle: the type, then the state."""


class _Type(Built):
    """A numpy dtype of a pickle, by its code."""

    def __init__(self, code: object, *_: object) -> None:
        self.code = code


def _bytes(text: object, *_: object) -> object:
    # How pickles of protocol 2 spell bytes.
    return text.encode("latin-1") if isinstance(text, str) else text


CALLS: Calls = {
    **{f"numpy.{core}.multiarray._reconstruct": lambda *_: _Array() for core in ("core", "_core")},
    "numpy.dtype": _Type,
    "_codecs.encode": _bytes,
}


def _python_batch(place: str, raw: bytes, key: str) -> tuple[Images, npt.NDArray[np.int64]]:
    try:
        data = read_pickle(io.BytesIO(raw), CALLS, lambda _: None)
    except (CheckpointError, UnicodeEncodeError) as error:
        raise DatasetError(
            f"{place} is no batch of CIFAR ({str(error).split(';')[0]}); expected a pickled dict of data and "
            f"{key}: download it again"
        ) from None
    if not isinstance(data, dict):
        raise DatasetError(f"{place} holds {brief(data)}; expected a dict of data and {key}")
    images, labels = (data.get(name, data.get(name.encode())) for name in ("data", key))
    return _pixels(place, images), _labels(place, key, labels)


def _labels(place: str, key: str, found: object) -> npt.NDArray[np.int64]:
    if not isinstance(found, list) or not all(type(label) is int and 0 <= label < 256 for label in found):
        raise DatasetError(f"{place}: {key} are {brief(found)}; expected a list of whole numbers")
    return np.array(found, np.int64)


def _pixels(place: str, found: object) -> Images:
    """Returns the pixels (N, 3072) of an array that was not made, by the state it would have had."""
    match found.state if isinstance(found, _Array) else None:
        case (_, (int(rows), int(columns)), _Type(code="u1" | "|u1"), bool(by_columns), data) if (
            columns == PIXELS and len(held := _raw(data)) == rows * columns
        ):
            order: Any = "F" if by_columns else "C"
            return np.frombuffer(held, np.uint8).reshape((rows, columns), order=order)
    raise DatasetError(f"{place}: data is no array of bytes (N, {PIXELS}); expected one: download it again")


def _raw(data: object) -> bytes:
    # Strings of Python 2 are bytes, which the reader shows as Latin-1.
    try:
        data = _bytes(data)
    except UnicodeEncodeError:
        return b""
    return data if isinstance(data, bytes) else b""
