# SPDX-License-Identifier: Apache-2.0
"""The digits of scikit-learn."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from linfdeploy.errors import MissingExtraError
from linfdeploy.training.data import load_dataset


def test_every_fourth_is_a_test_image() -> None:
    datasets = pytest.importorskip("sklearn.datasets", reason="scikit-learn is not installed")
    raw = datasets.load_digits()
    train, test = load_dataset("digits", "train"), load_dataset("digits", "test")
    assert (len(train.labels), len(test.labels)) == (1348, 449)
    assert test.images.shape == (449, 1, 8, 8)
    assert np.array_equal(test.labels, raw.target[3::4])
    expected = [round(value * 255 / 16) for value in raw.images[3::4].ravel()]
    assert test.images.ravel().tolist() == expected
    assert train.images.mean() / 255 == pytest.approx(train.mean[0], abs=1e-3)
    assert train.images.std() / 255 == pytest.approx(train.std, abs=1e-3)


def test_without_scikit_learn_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(MissingExtraError, match=r"the digits data set needs .* pip install 'linfdeploy\[train\]'"):
        load_dataset("digits", "test")
