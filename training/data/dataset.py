# SPDX-License-Identifier: Apache-2.0
"""What every reader of a data set returns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from linfdeploy.errors import DatasetError, InputError
from linfdeploy.files import read_bytes

__all__ = [
    "MAX_BYTES",
    "STATISTICS",
    "Dataset",
    "Images",
    "Split",
    "centre_crop",
    "read_file",
    "statistics_of",
]

Split: TypeAlias = Literal["train", "test"]
Images: TypeAlias = npt.NDArray[np.uint8]

MAX_BYTES = 16 * 2**30
"""The most bytes of images of one part of a data set, and of a file that holds them."""
MAX_CLASSES = 2**16

STATISTICS: Mapping[str, tuple[tuple[float, ...], float]] = {
    "digits": ((0.3053,), 0.3762),
    "mnist": ((0.1307,), 0.3081),
    "fashion-mnist": ((0.2860,), 0.3520),
    "cifar10": ((0.4914, 0.4822, 0.4465), 0.2009),
    "cifar100": ((0.5071, 0.4867, 0.4408), 0.2667),
    "tiny-imagenet": ((0.4802, 0.4481, 0.3975), 0.2276),
}
"""Mean of each channel and one deviation for all, of the training images: the papers' where there are papers."""


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
    images: Images
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


def centre_crop(dataset: Dataset, side: int) -> Dataset:
    """Keeps the middle square of each image, where torchvision's CenterCrop takes it.

    Args:
        dataset: With images of at least `side` pixels either way.
        side: In pixels.

    Raises:
        DatasetError: The images are smaller, or `side` is 0.
    """
    height, width = dataset.images.shape[2:]
    if not 1 <= side <= min(height, width):
        raise DatasetError(
            f"the middle {side} pixels are asked of {dataset.name}, whose images are {height}x{width}; expected 1 "
            f"to {min(height, width)}"
        )
    top, left = round((height - side) / 2), round((width - side) / 2)
    middle = dataset.images[:, :, top : top + side, left : left + side]
    return replace(dataset, name=f"{dataset.name}@{side}", images=np.ascontiguousarray(middle))


def statistics_of(images: Images) -> tuple[tuple[float, ...], float]:
    """Returns the mean of each channel and the deviation of all pixels from their common mean, in [0, 1].

    Counts levels, a few images at a time: numpy's own would hold eight bytes for each pixel.
    """
    counts = np.zeros((images.shape[1], 256), np.int64)
    step = max(1, 2**22 // max(1, images[:1].size))
    for start in range(0, len(images), step):
        for channel in range(len(counts)):
            counts[channel] += np.bincount(images[start : start + step, channel].ravel(), minlength=256)
    levels = np.arange(256)
    means = counts @ levels / counts.sum(1)
    total = counts.sum(0)
    variance = total @ (levels - total @ levels / total.sum()) ** 2 / total.sum()
    return tuple(float(mean) / 255 for mean in means), float(np.sqrt(variance)) / 255


def read_file(path: Path, what: str, limit: int = MAX_BYTES) -> bytes:
    """Reads a file of a data set.

    Raises:
        DatasetError: It is missing, unreadable or larger than `limit` bytes.
    """
    try:
        return read_bytes(path, limit, what)
    except InputError as error:
        raise DatasetError(str(error)) from None
