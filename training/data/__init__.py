# SPDX-License-Identifier: Apache-2.0
"""Data sets as numpy arrays, read without torch and without executing anything; docs/data.md has the layouts.

`digits`                    1797 real 8x8 digits that come inside scikit-learn; every fourth is a test image
`mnist`, `fashion-mnist`    IDX files as torchvision leaves them, compressed or not
`cifar10`, `cifar100`       the python or the binary version, unpacked or as `.tar.gz`
`tiny-imagenet`             the folder or the `.zip`; the validation images are the test images
`folder:PATH`               image folders, `PATH/train/<class>/*.png` and `PATH/test/<class>/*.png`
`*.npz`                     arrays `images`, uint8 (N, C, H, W) or (N, H, W), and `labels`, integers (N,);
                            `{split}` in the path stands for `train` or `test`

A number after a name, as in `tiny-imagenet@56`, cuts the middle square of so many pixels out of each image.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path

from linfdeploy.errors import DatasetError
from linfdeploy.training.data.cifar import cifar_dataset
from linfdeploy.training.data.dataset import Dataset, Split, centre_crop
from linfdeploy.training.data.digits import digits_dataset
from linfdeploy.training.data.folders import folder_dataset, tiny_imagenet_dataset
from linfdeploy.training.data.idx import idx_dataset
from linfdeploy.training.data.npz import npz_dataset

__all__ = ["Dataset", "Split", "load_dataset"]

DEFAULT_ROOT = Path("data")
FOLDER = "folder:"
CROPPED = re.compile(r"(.+)@(\d{1,4})")

# By name: what reads the part of a data set from a root folder.
READERS: Mapping[str, Callable[[str, Split, Path], Dataset]] = {
    "digits": lambda _, split, __: digits_dataset(split),
    "mnist": idx_dataset,
    "fashion-mnist": idx_dataset,
    "cifar10": cifar_dataset,
    "cifar100": cifar_dataset,
    "tiny-imagenet": lambda _, split, root: tiny_imagenet_dataset(split, root),
}


def load_dataset(name: str, split: Split, root: Path | None = None) -> Dataset:
    """Reads a data set.

    Args:
        name: One of the names above, `folder:` and a path, or the path of an `.npz` file; `@` and a number of
            pixels after it keeps the middle of each image.
        split: Which part; an `.npz` file whose path has no `{split}` is both.
        root: Where the files of a named data set lie: the folder that torchvision was given, or the one of the
            files themselves. `./data` without it.

    Raises:
        DatasetError: An unknown name, or files that are missing, malformed, contradictory or empty.
        MissingExtraError: `digits` without scikit-learn, or images without Pillow.
    """
    if match := CROPPED.fullmatch(name):
        return centre_crop(load_dataset(match[1], split, root), int(match[2]))
    if name in READERS:
        return READERS[name](name, split, DEFAULT_ROOT if root is None else root)
    if name.startswith(FOLDER):
        return folder_dataset(Path(name.removeprefix(FOLDER)), split)
    if name.endswith(".npz"):
        return npz_dataset(Path(name.replace("{split}", split)))
    raise DatasetError(
        f"there is no data set {name!r}; expected {', '.join(READERS)}, {FOLDER}PATH or the path of a file that "
        "ends in .npz"
    )
