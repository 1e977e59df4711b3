# SPDX-License-Identifier: Apache-2.0
"""Names of data sets, crops, and what reading costs."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from linfdeploy.errors import DatasetError
from linfdeploy.training.data import Dataset, load_dataset
from linfdeploy.training.data.dataset import centre_crop, statistics_of


def dataset_of(height: int, width: int) -> Dataset:
    images = np.random.default_rng(0).integers(0, 256, (3, 2, height, width), np.uint8)
    return Dataset("random", images, np.arange(3), 3, (0.5, 0.5), 0.25)


def test_an_unknown_name() -> None:
    with pytest.raises(DatasetError) as caught:
        load_dataset("cifar", "test")
    assert str(caught.value) == (
        "there is no data set 'cifar'; expected digits, mnist, fashion-mnist, cifar10, cifar100, tiny-imagenet, "
        "folder:PATH or the path of a file that ends in .npz"
    )


@pytest.mark.parametrize(("height", "width", "side"), [(8, 8, 6), (7, 9, 4), (6, 6, 6), (10, 5, 1)])
def test_the_middle_is_torchvisions(height: int, width: int, side: int) -> None:
    whole = dataset_of(height, width)
    # CenterCrop of torchvision 0.24, functional.center_crop.
    top, left = round((height - side) / 2.0), round((width - side) / 2.0)
    found = centre_crop(whole, side)
    assert found.name == f"random@{side}"
    assert np.array_equal(found.images, whole.images[:, :, top : top + side, left : left + side])


@pytest.mark.parametrize("side", [0, 8])
def test_no_middle_of_that_size(side: int) -> None:
    with pytest.raises(DatasetError) as caught:
        centre_crop(dataset_of(9, 7), side)
    assert str(caught.value) == (
        f"the middle {side} pixels are asked of random, whose images are 9x7; expected 1 to 7"
    )


def test_a_number_after_the_name_cuts() -> None:
    pytest.importorskip("sklearn.datasets", reason="scikit-learn is not installed")
    assert load_dataset("digits@6", "test").images.shape == (449, 1, 6, 6)


def test_statistics_are_numpys() -> None:
    images = np.random.default_rng(1).integers(0, 200, (9, 3, 5, 4), np.uint8)
    mean, std = statistics_of(images)
    assert mean == pytest.approx(images.mean((0, 2, 3)) / 255, rel=1e-12)
    assert std == pytest.approx(images.std() / 255, rel=1e-12)


def test_reading_needs_neither_torch_nor_scikit_learn() -> None:
    code = (
        "import sys; sys.modules['torch'] = sys.modules['sklearn'] = None; "
        "import linfdeploy.training.data, linfdeploy.training.recipe"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
