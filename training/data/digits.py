# SPDX-License-Identifier: Apache-2.0
"""The handwritten digits that come inside scikit-learn."""

from __future__ import annotations

import numpy as np

from linfdeploy.errors import MissingExtraError
from linfdeploy.training.data.dataset import STATISTICS, Dataset, Split

__all__ = ["digits_dataset"]


def digits_dataset(split: Split) -> Dataset:
    """Reads the digits, of which every fourth is a test image.

    Raises:
        MissingExtraError: scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise MissingExtraError("the digits data set", "train") from None
    data = load_digits()
    images = np.rint(data.images * (255 / 16)).astype(np.uint8)[:, None]
    chosen = (np.arange(len(images)) % 4 == 3) == (split == "test")
    return Dataset("digits", images[chosen], data.target[chosen].astype(np.int64), 10, *STATISTICS["digits"])
