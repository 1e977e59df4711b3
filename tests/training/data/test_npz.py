# SPDX-License-Identifier: Apache-2.0
"""`.npz` files: what is read, and what hostile or broken files are told."""

from __future__ import annotations

import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from linfdeploy.errors import DatasetError
from linfdeploy.training.data import load_dataset


def save(path: Path, **arrays: Any) -> str:
    np.savez(path, **arrays)
    return str(path)


def test_images_with_and_without_channels(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (6, 3, 4, 5), np.uint8)
    labels = np.array([0, 1, 2, 3, 4, 0], np.int32)
    colour = load_dataset(save(tmp_path / "a.npz", images=images, labels=labels), "train")
    assert np.array_equal(colour.images, images)
    assert (colour.classes, str(colour.labels.dtype)) == (5, "int64")
    assert colour.mean == pytest.approx(images.mean((0, 2, 3)) / 255)
    assert colour.std == pytest.approx(images.std() / 255)
    grey = load_dataset(save(tmp_path / "b.npz", images=images[:, 0], labels=labels), "train")
    assert grey.images.shape == (6, 1, 4, 5)


def test_split_in_the_path(tmp_path: Path) -> None:
    for split, count in (("train", 3), ("test", 2)):
        images = np.arange(count * 4, dtype=np.uint8).reshape(count, 2, 2)
        save(tmp_path / f"{split}.npz", images=images, labels=np.arange(count))
    name = str(tmp_path / "{split}.npz")
    assert [len(load_dataset(name, split).labels) for split in ("train", "test")] == [3, 2]


@pytest.mark.parametrize(
    ("images", "labels", "expected"),
    [
        (np.zeros((2, 4, 4), np.float32), np.arange(2), "images are float32 (2, 4, 4); expected uint8"),
        (np.zeros((2, 4), np.uint8), np.arange(2), "images are uint8 (2, 4); expected uint8 (N, C, H, W)"),
        (np.zeros((0, 4, 4), np.uint8), np.arange(0), "nothing empty"),
        (np.zeros((2, 4, 4), np.uint8), np.array([0.0, 1.0]), "labels are float64; expected integers"),
        (np.zeros((2, 4, 4), np.uint8), np.arange(3), "expected one whole number for each of the 2 images"),
        (np.zeros((2, 4, 4), np.uint8), np.array([-1, 1]), "holds the label -1; expected 0 to 1"),
        (np.zeros((2, 4, 4), np.uint8), np.array([0, 0]), "has 1 classes; expected 2 to 65536"),
        (np.zeros((2, 4, 4), np.uint8), np.array([0, 2**63], np.uint64), "classes; expected 2 to 65536"),
        (np.zeros((2, 4, 4), np.uint8), np.arange(2), "all pixels are equal; expected images"),
        (np.zeros((2, 4, 4), np.uint8), np.array([0, None]), "cannot be read (Object arrays cannot be loaded"),
        (np.array([[[None]]] * 2), np.arange(2), "cannot be read (Object arrays cannot be loaded"),
    ],
)
def test_bad_arrays_are_one_line(tmp_path: Path, images: Any, labels: Any, expected: str) -> None:
    name = save(tmp_path / "bad.npz", images=images, labels=labels)
    with pytest.raises(DatasetError) as caught:
        load_dataset(name, "train")
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_arrays(tmp_path: Path) -> None:
    name = save(tmp_path / "bad.npz", pictures=np.zeros(3))
    with pytest.raises(DatasetError, match=r"holds the arrays \['pictures'\]; expected images and labels"):
        load_dataset(name, "train")


def test_a_single_array_is_no_archive(tmp_path: Path) -> None:
    path = tmp_path / "bad.npz"
    with path.open("wb") as file:
        np.save(file, np.zeros(3))
    with pytest.raises(DatasetError, match=r"holds the arrays \['one without a name'\]; expected images"):
        load_dataset(str(path), "train")


@pytest.mark.parametrize("keep", [0, 10, 100, 300])
def test_truncated_files(tmp_path: Path, keep: int) -> None:
    path = tmp_path / "bad.npz"
    save(path, images=np.zeros((2, 4, 4), np.uint8), labels=np.arange(2))
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DatasetError, match=r"bad\.npz cannot be read \(.*numpy\.savez writes"):
        load_dataset(str(path), "train")


def test_an_array_that_claims_more_than_it_holds(tmp_path: Path) -> None:
    path = tmp_path / "bad.npz"
    header = np.lib.format.magic(1, 0)
    text = b"{'descr': '|u1', 'fortran_order': False, 'shape': (1000000000000, 28, 28)}"
    text = text.ljust(117) + b"\n"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("images.npy", header + struct.pack("<H", len(text)) + text)
        archive.writestr("labels.npy", header + struct.pack("<H", len(text)) + text)
    with pytest.raises(DatasetError, match=r"bad\.npz cannot be read"):
        load_dataset(str(path), "train")
