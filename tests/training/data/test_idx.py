# SPDX-License-Identifier: Apache-2.0
"""IDX files: what is read, and what hostile or broken files are told."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from linfdeploy.errors import DatasetError
from linfdeploy.training.data import Split, load_dataset

REAL_MNIST = Path(__file__).parents[4] / "shared" / "data"


def idx_bytes(array: npt.NDArray[np.uint8]) -> bytes:
    return struct.pack(f">{1 + array.ndim}I", 0x0800 + array.ndim, *array.shape) + array.tobytes()


def random_mnist(count: int) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (count, 28, 28), np.uint8), rng.integers(0, 10, count, np.uint8)


def write_idx(folder: Path, stem: str, images: bytes, labels: bytes, compressed: bool = False) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in ((f"{stem}-images-idx3-ubyte", images), (f"{stem}-labels-idx1-ubyte", labels)):
        path = folder / (f"{name}.gz" if compressed else name)
        path.write_bytes(gzip.compress(data) if compressed else data)


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize(
    ("name", "folder"),
    [("mnist", "MNIST/raw"), ("fashion-mnist", "FashionMNIST/raw"), ("mnist", "raw"), ("fashion-mnist", ".")],
)
@pytest.mark.parametrize(("split", "stem"), [("train", "train"), ("test", "t10k")])
def test_every_layout_is_found(
    tmp_path: Path, name: str, folder: str, split: Split, stem: str, compressed: bool
) -> None:
    images, labels = random_mnist(5)
    write_idx(tmp_path / folder, stem, idx_bytes(images), idx_bytes(labels), compressed)
    found = load_dataset(name, split, tmp_path)
    assert np.array_equal(found.images, images[:, None])
    assert found.labels.tolist() == labels.tolist()
    assert (str(found.labels.dtype), found.classes) == ("int64", 10)
    assert found.images.flags.writeable


def test_the_default_root_is_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DatasetError, match=r"no t10k-images-idx3-ubyte or .* in data/MNIST/raw, data/raw, data"):
        load_dataset("mnist", "test")


@pytest.mark.parametrize(
    ("images", "labels", "expected"),
    [
        (b"", b"", "has 0 bytes; expected an IDX file, whose header alone has 16"),
        (idx_bytes(random_mnist(5)[0])[:-1], None, "claims 5x28x28 bytes and holds 3919; expected as many"),
        (idx_bytes(random_mnist(5)[0]) + b"x", None, "claims 5x28x28 bytes and holds 3921"),
        (struct.pack(">4I", 0x0803, *[2**32 - 1] * 3), None, "claims 4294967295x4294967295x4294967295 bytes"),
        (struct.pack(">4I", 0x0801, 1, 1, 1) + b"x", None, "starts with 0x00000801; expected 0x00000803"),
        (struct.pack(">4I", 0x0D03, 1, 1, 1) + b"xxxx", None, "starts with 0x00000d03"),
        (idx_bytes(np.zeros((5, 8, 8), np.uint8)), None, "images are 8x8; expected 28x28"),
        (idx_bytes(np.zeros((0, 28, 28), np.uint8)), idx_bytes(np.zeros(0, np.uint8)), "nothing empty"),
        (None, idx_bytes(random_mnist(4)[1]), "expected one whole number for each of the 5 images"),
        (None, idx_bytes(np.array([0, 1, 2, 3, 10], np.uint8)), "mnist holds the label 10; expected 0 to 9"),
        (None, idx_bytes(random_mnist(5)[0]), "starts with 0x00000803; expected 0x00000801"),
    ],
)
@pytest.mark.parametrize("compressed", [False, True])
def test_a_bad_file_is_one_line(
    tmp_path: Path, images: bytes | None, labels: bytes | None, expected: str, compressed: bool
) -> None:
    good_images, good_labels = random_mnist(5)
    write_idx(
        tmp_path,
        "t10k",
        idx_bytes(good_images) if images is None else images,
        idx_bytes(good_labels) if labels is None else labels,
        compressed,
    )
    with pytest.raises(DatasetError) as caught:
        load_dataset("mnist", "test", tmp_path)
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("damage", [lambda data: data[:-20], lambda data: b"no gzip", lambda data: data[:9]])
def test_a_damaged_archive(tmp_path: Path, damage: Any) -> None:
    images, labels = random_mnist(5)
    write_idx(tmp_path, "t10k", idx_bytes(images), idx_bytes(labels), compressed=True)
    path = tmp_path / "t10k-images-idx3-ubyte.gz"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DatasetError, match=r"is truncated or not gzip \(.*download it again"):
        load_dataset("mnist", "test", tmp_path)


def test_an_archive_that_unpacks_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("linfdeploy.training.data.idx.MAX_IDX_BYTES", 1000)
    images, labels = random_mnist(5)
    write_idx(tmp_path, "t10k", idx_bytes(images), idx_bytes(labels), compressed=True)
    with pytest.raises(DatasetError, match="unpacks to more than 1000 bytes"):
        load_dataset("mnist", "test", tmp_path)


def test_missing_labels(tmp_path: Path) -> None:
    write_idx(tmp_path, "t10k", idx_bytes(random_mnist(5)[0]), b"")
    (tmp_path / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(DatasetError, match=r"t10k-labels-idx1-ubyte\.gz: no such file"):
        load_dataset("mnist", "test", tmp_path)


@pytest.mark.skipif(not (REAL_MNIST / "MNIST" / "raw").is_dir(), reason=f"no MNIST in {REAL_MNIST}")
def test_the_real_thing() -> None:
    test = load_dataset("mnist", "test", REAL_MNIST)
    assert test.images.shape == (10_000, 1, 28, 28)
    assert np.bincount(test.labels).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
