# SPDX-License-Identifier: Apache-2.0
"""Data sets as numpy arrays, read without torch; scikit-learn is needed for the digits alone.

`digits`                    1797 real 8x8 digits that come inside scikit-learn; every fourth is a test image
`mnist`, `fashion-mnist`    IDX files as torchvision leaves them, compressed or not
`*.npz`                     arrays `images`, uint8 (N, C, H, W) or (N, H, W), and `labels`, integers (N,);
                            `{split}` in the path stands for `train` or `test`
"""

from __future__ import annotations

import gzip
import io
import struct
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from linfdeploy.errors import DatasetError, InputError, MissingExtraError
from linfdeploy.files import read_bytes

__all__ = ["Dataset", "Split", "load_dataset"]

Split: TypeAlias = Literal["train", "test"]

MAX_BYTES = 16 * 2**30
MAX_IDX_BYTES = 2**30
MAX_CLASSES = 2**16
DEFAULT_ROOT = Path("data")

IDX_FOLDERS = {"mnist": "MNIST", "fashion-mnist": "FashionMNIST"}
IDX_STEMS = {"train": "train", "test": "t10k"}
IDX_SIDE = 28
# Two zero bytes, 8 for unsigned bytes, the number of dimensions.
IDX_MAGIC = {1: 0x0801, 3: 0x0803}

# Mean and standard deviation of the training images: those of the papers where there are papers.
STATISTICS = {"digits": (0.3053, 0.3762), "mnist": (0.1307, 0.3081), "fashion-mnist": (0.2860, 0.3520)}


@dataclass(frozen=True, eq=False)
class Dataset:
    """Labelled images.

    Attributes:
        name: As it was asked for.
        images: (N, C, H, W) uint8, N >= 1.
        labels: (N,) int64, in [0, classes).
        classes: Number of classes, at least 2.
        mean: One per channel, in [0, 1] pixel units.
        std: One for all channels, in the same units.
    """

    name: str
    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]
    classes: int
    mean: tuple[float, ...]
    std: float

    def __post_init__(self) -> None:
        """Checks that the parts fit together.

        Raises:
            DatasetError: They do not.
        """
        if self.images.dtype != np.uint8 or self.images.ndim != 4 or 0 in self.images.shape:
            raise DatasetError(
                f"{self.name}: images are {self.images.dtype} {self.images.shape}; "
                "expected uint8 (N, C, H, W) with nothing empty"
            )
        if self.labels.dtype != np.int64 or self.labels.shape != self.images.shape[:1]:
            raise DatasetError(
                f"{self.name}: labels are {self.labels.dtype} {self.labels.shape}; "
                f"expected one whole number for each of the {len(self.images)} images"
            )
        if not 2 <= self.classes <= MAX_CLASSES:
            raise DatasetError(f"{self.name} has {self.classes} classes; expected 2 to {MAX_CLASSES}")
        low, high = int(self.labels.min()), int(self.labels.max())
        if low < 0 or high >= self.classes:
            raise DatasetError(
                f"{self.name} holds the label {low if low < 0 else high}; expected 0 to {self.classes - 1}"
            )
        if not self.std > 0:
            raise DatasetError(f"{self.name}: all pixels are equal; expected images")


def load_dataset(name: str, split: Split, root: Path | None = None) -> Dataset:
    """Reads a data set.

    Args:
        name: `digits`, `mnist`, `fashion-mnist` or the path of an `.npz` file.
        split: Which part; an `.npz` file whose path has no `{split}` is both.
        root: Where `mnist` and `fashion-mnist` lie: the folder that torchvision was given, or the one of the
            files themselves. `./data` without it.

    Raises:
        DatasetError: An unknown name, or files that are missing, malformed, contradictory or empty.
        MissingExtraError: `digits` without scikit-learn.
    """
    if name == "digits":
        return _digits(split)
    if name in IDX_FOLDERS:
        return _idx_dataset(name, split, DEFAULT_ROOT if root is None else root)
    if name.endswith(".npz"):
        return _npz_dataset(Path(name.replace("{split}", split)))
    raise DatasetError(
        f"there is no data set {name!r}; expected digits, mnist, fashion-mnist or the path of a file that ends "
        "in .npz"
    )


def _digits(split: Split) -> Dataset:
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise MissingExtraError("the digits data set", "train") from None
    data = load_digits()
    images = np.rint(data.images * (255 / 16)).astype(np.uint8)[:, None]
    chosen = (np.arange(len(images)) % 4 == 3) == (split == "test")
    mean, std = STATISTICS["digits"]
    return Dataset("digits", images[chosen], data.target[chosen].astype(np.int64), 10, (mean,), std)


def _idx_dataset(name: str, split: Split, root: Path) -> Dataset:
    folder = _idx_folder(name, split, root)
    images = _idx_array(_idx_file(folder, f"{IDX_STEMS[split]}-images-idx3-ubyte"), 3)
    labels = _idx_array(_idx_file(folder, f"{IDX_STEMS[split]}-labels-idx1-ubyte"), 1)
    if images.shape[1:] != (IDX_SIDE, IDX_SIDE):
        raise DatasetError(
            f"{folder}: images are {images.shape[1]}x{images.shape[2]}; expected {IDX_SIDE}x{IDX_SIDE}"
        )
    mean, std = STATISTICS[name]
    return Dataset(name, images[:, None], labels.astype(np.int64), 10, (mean,), std)


def _idx_folder(name: str, split: Split, root: Path) -> Path:
    stem = f"{IDX_STEMS[split]}-images-idx3-ubyte"
    candidates = [root / IDX_FOLDERS[name] / "raw", root / "raw", root]
    for folder in candidates:
        if any(path.is_file() for path in _idx_paths(folder, stem)):
            return folder
    raise DatasetError(
        f"no {stem} or {stem}.gz in {', '.join(map(str, candidates))}; expected {name} as torchvision leaves it: "
        "copy it there or name its folder with --data-root"
    )


def _idx_paths(folder: Path, stem: str) -> tuple[Path, Path]:
    return folder / stem, folder / f"{stem}.gz"


def _idx_file(folder: Path, stem: str) -> Path:
    plain, compressed = _idx_paths(folder, stem)
    return plain if plain.is_file() else compressed


def _idx_array(path: Path, dimensions: int) -> npt.NDArray[np.uint8]:
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
    raw = _read(path, "an IDX file")
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


def _npz_dataset(path: Path) -> Dataset:
    arrays = _npz_arrays(path)
    images, labels = arrays["images"], arrays["labels"]
    if images.ndim == 3:
        images = images[:, None]
    if labels.dtype.kind not in "iu":
        raise DatasetError(f"{path}: labels are {labels.dtype}; expected integers")
    if images.dtype != np.uint8 or images.ndim != 4 or 0 in images.shape:
        raise DatasetError(
            f"{path}: images are {arrays['images'].dtype} {arrays['images'].shape}; "
            "expected uint8 (N, C, H, W) or (N, H, W) with nothing empty"
        )
    channels = tuple(float(value) for value in images.mean((0, 2, 3)) / 255)
    classes = int(labels.max()) + 1 if labels.size else 0
    std = float(images.std() / 255)
    return Dataset(str(path), images, labels.astype(np.int64), classes, channels, std)


def _npz_arrays(path: Path) -> dict[str, npt.NDArray[Any]]:
    raw = _read(path, "an .npz file of images and labels")
    try:
        data = np.load(io.BytesIO(raw), allow_pickle=False)
        found = sorted(data.files) if isinstance(data, np.lib.npyio.NpzFile) else ["one without a name"]
        if not {"images", "labels"} <= set(found):
            raise DatasetError(f"{path} holds the arrays {found}; expected images and labels")
        return {name: data[name] for name in ("images", "labels")}
    # What numpy and zipfile raise on files that are no archives, truncated, encrypted, lie about sizes or hold
    # pickled objects, which are never executed.
    except (OSError, ValueError, EOFError, RuntimeError, MemoryError, zipfile.BadZipFile, zlib.error) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DatasetError(
            f"{path} cannot be read ({reason}); expected an .npz file of plain arrays, as numpy.savez writes it"
        ) from None


def _read(path: Path, what: str) -> bytes:
    try:
        return read_bytes(path, MAX_BYTES, what)
    except InputError as error:
        raise DatasetError(str(error)) from None
