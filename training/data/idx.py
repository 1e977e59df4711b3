# SPDX-License-Identifier: Apache-2.0
"""MNIST and FashionMNIST as IDX files, compressed or not."""

from __future__ import annotations

import gzip
import io
import struct
import zlib
from pathlib import Path

import numpy as np

from linfdeploy.errors import DatasetError
from linfdeploy.training.data.dataset import STATISTICS, Dataset, Images, Split, read_file

__all__ = ["IDX_FOLDERS", "idx_dataset"]

MAX_IDX_BYTES = 2**30

IDX_FOLDERS = {"mnist": "MNIST", "fashion-mnist": "FashionMNIST"}
"""The folder of each data set in torchvision's root."""
IDX_STEMS = {"train": "train", "test": "t10k"}
IDX_SIDE = 28
# Two zero bytes, 8 for unsigned bytes, the number of dimensions.
IDX_MAGIC = {1: 0x0801, 3: 0x0803}


def idx_dataset(name: str, split: Split, root: Path) -> Dataset:
    """Reads `mnist` or `fashion-mnist`.

    Raises:
        DatasetError: Files are missing, malformed or contradictory.
    """
    folder = _idx_folder(name, split, root)
    images = _idx_array(_idx_file(folder, f"{IDX_STEMS[split]}-images-idx3-ubyte"), 3)
    labels = _idx_array(_idx_file(folder, f"{IDX_STEMS[split]}-labels-idx1-ubyte"), 1)
    if images.shape[1:] != (IDX_SIDE, IDX_SIDE):
        raise DatasetError(
            f"{folder}: images are {images.shape[1]}x{images.shape[2]}; expected {IDX_SIDE}x{IDX_SIDE}"
        )
    return Dataset(name, images[:, None], labels.astype(np.int64), 10, *STATISTICS[name])


def _idx_folder(name: str, split: Split, root: Path) -> Path:
    stem = f"{IDX_STEMS[split]}-images-idx3-ubyte"
    candidates = [root / IDX_FOLDERS[name] / "raw", root / "raw", root]
    for folder in candidates:
        if any(path.is_file() for path in _idx_paths(folder, stem)):
            return folder
    raise DatasetError(
        f"no {stem} or {stem}.gz in {', '.join(map(str, candidates))}; expected {name} as torchvision leaves it: "
        "copy it there, name its folder with --data-root, or train with --download"
    )


def _idx_paths(folder: Path, stem: str) -> tuple[Path, Path]:
    return folder / stem, folder / f"{stem}.gz"


def _idx_file(folder: Path, stem: str) -> Path:
    plain, compressed = _idx_paths(folder, stem)
    return plain if plain.is_file() else compressed


def _idx_array(path: Path, dimensions: int) -> Images:
    """Reads an IDX file of unsigned bytes, checking the claimed sizes against what is there."""
    raw = _unpacked(path)
    header = 4 * (1 + dimensions)
    if len(raw) < header:
        raise DatasetError(f"{path} has {len(raw)} bytes; expected an IDX file, whose header alone has {header}")
    magic, *sizes = struct.unpack(f">{1 + dimensions}I", raw[:header])
    if magic != IDX_MAGIC[dimensions]:
        raise DatasetError(
            f"{path} starts with {magic:#010x}; expected {IDX_MAGIC[dimensions]:#010x}, "
            f"an IDX file of bytes in {dimensions} dimensions"
        )
    # Python's integers do not overflow, whatever the file claims.
    claimed = int(np.prod(np.array(sizes, dtype=object)))
    if claimed != len(raw) - header:
        raise DatasetError(
            f"{path} claims {'x'.join(map(str, sizes))} bytes and holds {len(raw) - header}; "
            "expected as many as it claims: download it again"
        )
    # A copy can be written to, which torch asks of arrays it shares.
    return np.frombuffer(raw, np.uint8, offset=header).reshape(sizes).copy()


def _unpacked(path: Path) -> bytes:
    raw = read_file(path, "an IDX file")
    if path.suffix != ".gz":
        return raw
    try:
        with gzip.open(io.BytesIO(raw)) as file:
            # Bounded, so that a small file cannot fill the memory.
            unpacked = file.read(MAX_IDX_BYTES)
            if file.read(1):
                raise DatasetError(f"{path} unpacks to more than {MAX_IDX_BYTES} bytes; expected an IDX file")
    except (OSError, EOFError, zlib.error) as error:
        raise DatasetError(
            f"{path} is truncated or not gzip ({error}); expected a compressed IDX file: download it again"
        ) from None
    return unpacked
