# SPDX-License-Identifier: Apache-2.0
"""Folders of pictures: TinyImageNet, as a folder or as its `.zip`, and a folder for each class."""

from __future__ import annotations

import io
import warnings
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from linfdeploy.errors import DatasetError, MissingExtraError
from linfdeploy.training.data.dataset import (
    MAX_BYTES,
    STATISTICS,
    Dataset,
    Images,
    Split,
    read_file,
    statistics_of,
)

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["TINY", "folder_dataset", "tiny_imagenet_dataset"]

TINY = "tiny-imagenet-200"
TINY_SIDE = 64
MAX_PICTURE_BYTES = 2**26
MAX_SIDE = 4096
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp")
FORMATS = ("PNG", "JPEG", "BMP")
# Eight bits of grey, colours, or colours by their number; anything else would lose something on the way to RGB.
MODES = {"L", "RGB", "P"}

Labelled = Sequence[tuple[str, int]]


class _Tree(Protocol):
    """Files by their path within a folder or an archive."""

    def names(self, under: str) -> list[str]:
        """Returns the paths of all files below a folder, in alphabetical order."""

    def read(self, name: str) -> bytes:
        """Reads a file."""


class _Folder:
    def __init__(self, path: Path) -> None:
        self._path = path

    def __str__(self) -> str:
        return str(self._path)

    def names(self, under: str) -> list[str]:
        found = (path for path in (self._path / under).rglob("*") if path.is_file())
        return sorted(path.relative_to(self._path).as_posix() for path in found)

    def read(self, name: str) -> bytes:
        return read_file(self._path / name, "a file of this data set", MAX_PICTURE_BYTES)


class _Zip:
    """An archive, of which nothing is unpacked to the disk."""

    def __init__(self, path: Path, folder: str) -> None:
        self._path, self._folder = path, folder
        try:
            self._file = zipfile.ZipFile(path)
        except (OSError, zipfile.BadZipFile) as error:
            raise self._damaged(error) from None

    def __str__(self) -> str:
        return str(self._path)

    def names(self, under: str) -> list[str]:
        start = f"{self._folder}/"
        found = (name for name in self._file.namelist() if name.startswith(f"{start}{under}/"))
        return sorted(name.removeprefix(start) for name in found if not name.endswith("/"))

    def read(self, name: str) -> bytes:
        try:
            entry = self._file.getinfo(f"{self._folder}/{name}")
            if entry.file_size > MAX_PICTURE_BYTES:
                raise DatasetError(
                    f"{self}: {name} has {entry.file_size} bytes; expected at most {MAX_PICTURE_BYTES}"
                )
            return self._file.read(entry)
        except KeyError:
            raise DatasetError(f"{self} holds no {name}; expected it: download it again") from None
        except (OSError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
            raise self._damaged(error) from None

    def _damaged(self, error: Exception) -> DatasetError:
        return DatasetError(
            f"{self._path} is truncated or no archive ({error}); expected a .zip: download it again"
        )


def tiny_imagenet_dataset(split: Split, root: Path) -> Dataset:
    """Reads TinyImageNet; the validation images, which have labels, are the test images.

    Classes are numbered in the alphabetical order of their names, as torchvision numbers folders.

    Raises:
        DatasetError: Files are missing, malformed or contradictory.
        MissingExtraError: Pillow is not installed.
    """
    tree = _tiny_tree(root)
    classes = {name: label for label, name in enumerate(sorted(_lines(tree, "wnids.txt")))}
    labelled = _tiny_train(tree, classes) if split == "train" else _tiny_test(tree, classes)
    images = _decoded(tree, labelled, grey=False)
    if images.shape[1:] != (3, TINY_SIDE, TINY_SIDE):
        raise DatasetError(f"{tree}: images are {images.shape[2]}x{images.shape[3]}; expected 64x64")
    labels = np.array([label for _, label in labelled], np.int64)
    return Dataset("tiny-imagenet", images, labels, len(classes), *STATISTICS["tiny-imagenet"])


def _tiny_tree(root: Path) -> _Tree:
    for folder in (root / TINY, root):
        if (folder / "wnids.txt").is_file():
            return _Folder(folder)
    if (archive := root / f"{TINY}.zip").is_file():
        return _Zip(archive, TINY)
    raise DatasetError(
        f"no {TINY} or {TINY}.zip in {root}; expected TinyImageNet: copy it there, name its folder with "
        "--data-root, or train with --download"
    )


def _lines(tree: _Tree, name: str) -> list[str]:
    text = tree.read(name).decode("ascii", "replace")
    return [line for line in text.splitlines() if line.strip()]


def _tiny_train(tree: _Tree, classes: Mapping[str, int]) -> Labelled:
    paths = (name.split("/") for name in tree.names("train"))
    found = [
        ("/".join(path), classes[path[1]])
        for path in paths
        if len(path) == 4 and path[1] in classes and _is_picture(path[-1])
    ]
    return _not_empty(tree, found, "train/<class>/images/*.JPEG")


def _tiny_test(tree: _Tree, classes: Mapping[str, int]) -> Labelled:
    found = []
    for number, line in enumerate(_lines(tree, "val/val_annotations.txt"), start=1):
        name, _, rest = line.partition("\t")
        label = classes.get(rest.partition("\t")[0])
        if label is None or "/" in name or not _is_picture(name):
            raise DatasetError(
                f"{tree}: line {number} of val/val_annotations.txt is {line[:60]!r}; expected a picture's name "
                "and one of the classes of wnids.txt, with tabs between them"
            )
        found.append((f"val/images/{name}", label))
    return _not_empty(tree, found, "val/images/*.JPEG")


def folder_dataset(path: Path, split: Split) -> Dataset:
    """Reads `path/train/<class>/*` or `path/test/<class>/*` (`val` where there is no `test`).

    Classes are numbered in the alphabetical order of the folders in `train`. Pictures that are all grey have one
    channel, others three.

    Raises:
        DatasetError: There are no such folders, or pictures that are broken or of unequal sizes.
        MissingExtraError: Pillow is not installed.
    """
    tree = _Folder(path)
    classes = {name: label for label, name in enumerate(_classes(path / "train"))}
    part = split if split == "train" or (path / split).is_dir() else "val"
    if unknown := sorted(set(_classes(path / part)) - set(classes)):
        raise DatasetError(
            f"{path / part} has the class {unknown[0]!r}, which {path / 'train'} has not; expected the same "
            "folders"
        )
    paths = (name.split("/") for name in tree.names(part))
    found = [("/".join(place), classes[place[1]]) for place in paths if len(place) > 2 and _is_picture(place[-1])]
    labelled = _not_empty(tree, found, f"{part}/<class>/*.png")
    images = _decoded(tree, labelled, grey=True)
    labels = np.array([label for _, label in labelled], np.int64)
    return Dataset(f"folder:{path}", images, labels, len(classes), *statistics_of(images))


def _classes(folder: Path) -> list[str]:
    if not folder.is_dir():
        raise DatasetError(f"{folder}: no such folder; expected one with a folder of pictures for each class")
    return sorted(path.name for path in folder.iterdir() if path.is_dir())


def _is_picture(name: str) -> bool:
    return name.lower().endswith(SUFFIXES) and not name.startswith(".")


def _not_empty(tree: _Tree, found: Labelled, expected: str) -> Labelled:
    if not found:
        raise DatasetError(f"{tree} holds no pictures; expected {expected}")
    return found


def _decoded(tree: _Tree, labelled: Labelled, *, grey: bool) -> Images:
    """Returns all pictures, (N, 3, H, W), or (N, 1, H, W) where `grey` is allowed and all of them are.

    Held once, as bytes: the array is made when the first picture tells its size.
    """
    pictures = _pictures(tree, [name for name, _ in labelled])
    images, all_grey = np.empty((0, 3, 0, 0), np.uint8), True
    for index, (name, picture) in enumerate(pictures):
        width, height = picture.size
        if index == 0:
            _check_memory(tree, len(labelled), height, width)
            images = np.empty((len(labelled), 3, height, width), np.uint8)
        if (height, width) != images.shape[2:]:
            raise DatasetError(
                f"{tree}: {name} has {height}x{width} pixels and {labelled[0][0]} has "
                f"{images.shape[2]}x{images.shape[3]}; expected one size: resize or crop the pictures first"
            )
        all_grey = all_grey and picture.mode == "L"
        images[index] = np.asarray(picture.convert("RGB")).transpose(2, 0, 1)
    return images[:, :1].copy() if grey and all_grey else images


def _check_memory(tree: _Tree, count: int, height: int, width: int) -> None:
    if max(height, width) > MAX_SIDE or count * height * width * 3 > MAX_BYTES:
        raise DatasetError(
            f"{tree} holds {count} pictures of {height}x{width} pixels; expected at most {MAX_SIDE} pixels a side "
            f"and {MAX_BYTES} bytes together: resize or crop them first"
        )


def _pictures(tree: _Tree, names: Sequence[str]) -> Iterator[tuple[str, Image.Image]]:
    """Yields decoded pictures; sizes are checked before anything is decoded."""
    try:
        from PIL import Image
    except ImportError:
        raise MissingExtraError("reading pictures", "train") from None
    for name in names:
        raw = tree.read(name)
        try:
            # Pillow warns of what it finds too large or strange; ours to judge, in one line.
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                picture = Image.open(io.BytesIO(raw), formats=FORMATS)
                _check_picture(tree, name, picture)
                picture.load()
        except DatasetError:
            raise
        # Pillow raises almost anything on a damaged file.
        except Exception as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            reason = "no PNG, JPEG or BMP" if "cannot identify" in reason else reason
            raise DatasetError(
                f"{tree}: {name} is no picture or a damaged one ({reason}); expected PNG, JPEG or BMP"
            ) from None
        yield name, picture


def _check_picture(tree: _Tree, name: str, picture: Image.Image) -> None:
    if picture.mode not in MODES or "transparency" in picture.info:
        found = "a transparent colour" if "transparency" in picture.info else f"the mode {picture.mode}"
        raise DatasetError(
            f"{tree}: {name} has {found}; expected 8 bits of grey or of red, green and blue: convert the pictures "
            "first"
        )
    if max(picture.size) > MAX_SIDE:
        raise DatasetError(
            f"{tree}: {name} has {picture.height}x{picture.width} pixels; expected at most {MAX_SIDE} a side"
        )
