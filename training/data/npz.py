# SPDX-License-Identifier: Apache-2.0
"""`.npz` files of images and labels."""

from __future__ import annotations

import io
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from linfdeploy.errors import DatasetError
from linfdeploy.training.data.dataset import Dataset, read_file, statistics_of

__all__ = ["npz_dataset"]


def npz_dataset(path: Path) -> Dataset:
    """Reads `images`, uint8 (N, C, H, W) or (N, H, W), and `labels`, integers (N,).

    Raises:
        DatasetError: The file is missing, malformed, or holds something else.
    """
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
    classes = int(labels.max()) + 1 if labels.size else 0
    return Dataset(str(path), images, labels.astype(np.int64), classes, *statistics_of(images))


def _npz_arrays(path: Path) -> dict[str, npt.NDArray[Any]]:
    raw = read_file(path, "an .npz file of images and labels")
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
