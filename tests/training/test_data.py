# SPDX-License-Identifier: Apache-2.0
"""Data sets: what is read, and what hostile or broken files are told."""

from __future__ import annotations

import gzip
import struct
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from linfdeploy.errors import DatasetError, MissingExtraError
from linfdeploy.training.data import Split, load_dataset

REAL_MNIST = Path(__file__).parents[3] / "shared" / "data"


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


class TestDigits:
    def test_every_fourth_is_a_test_image(self) -> None:
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

    def test_without_scikit_learn_the_extra_is_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
        with pytest.raises(
            MissingExtraError, match=r"the digits data set needs .* pip install 'linfdeploy\[train\]'"
        ):
            load_dataset("digits", "test")


class TestIdx:
    @pytest.mark.parametrize("compressed", [False, True])
    @pytest.mark.parametrize(
        ("name", "folder"),
        [("mnist", "MNIST/raw"), ("fashion-mnist", "FashionMNIST/raw"), ("mnist", "raw"), ("fashion-mnist", ".")],
    )
    @pytest.mark.parametrize(("split", "stem"), [("train", "train"), ("test", "t10k")])
    def test_every_layout_is_found(
        self, tmp_path: Path, name: str, folder: str, split: Split, stem: str, compressed: bool
    ) -> None:
        images, labels = random_mnist(5)
        write_idx(tmp_path / folder, stem, idx_bytes(images), idx_bytes(labels), compressed)
        found = load_dataset(name, split, tmp_path)
        assert np.array_equal(found.images, images[:, None])
        assert found.labels.tolist() == labels.tolist()
        assert (str(found.labels.dtype), found.classes) == ("int64", 10)
        assert found.images.flags.writeable

    def test_the_default_root_is_data(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        with pytest.raises(
            DatasetError, match=r"no t10k-images-idx3-ubyte or .* in data/MNIST/raw, data/raw, data"
        ):
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
        self, tmp_path: Path, images: bytes | None, labels: bytes | None, expected: str, compressed: bool
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
    def test_a_damaged_archive(self, tmp_path: Path, damage: Any) -> None:
        images, labels = random_mnist(5)
        write_idx(tmp_path, "t10k", idx_bytes(images), idx_bytes(labels), compressed=True)
        path = tmp_path / "t10k-images-idx3-ubyte.gz"
        path.write_bytes(damage(path.read_bytes()))
        with pytest.raises(DatasetError, match=r"is truncated or not gzip \(.*download it again"):
            load_dataset("mnist", "test", tmp_path)

    def test_an_archive_that_unpacks_without_end(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("linfdeploy.training.data.MAX_IDX_BYTES", 1000)
        images, labels = random_mnist(5)
        write_idx(tmp_path, "t10k", idx_bytes(images), idx_bytes(labels), compressed=True)
        with pytest.raises(DatasetError, match="unpacks to more than 1000 bytes"):
            load_dataset("mnist", "test", tmp_path)

    def test_missing_labels(self, tmp_path: Path) -> None:
        write_idx(tmp_path, "t10k", idx_bytes(random_mnist(5)[0]), b"")
        (tmp_path / "t10k-labels-idx1-ubyte").unlink()
        with pytest.raises(DatasetError, match=r"t10k-labels-idx1-ubyte\.gz: no such file"):
            load_dataset("mnist", "test", tmp_path)

    @pytest.mark.skipif(not (REAL_MNIST / "MNIST" / "raw").is_dir(), reason=f"no MNIST in {REAL_MNIST}")
    def test_the_real_thing(self) -> None:
        test = load_dataset("mnist", "test", REAL_MNIST)
        assert test.images.shape == (10_000, 1, 28, 28)
        assert np.bincount(test.labels).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]


class TestNpz:
    def save(self, path: Path, **arrays: Any) -> str:
        np.savez(path, **arrays)
        return str(path)

    def test_images_with_and_without_channels(self, tmp_path: Path) -> None:
        images = np.random.default_rng(0).integers(0, 256, (6, 3, 4, 5), np.uint8)
        labels = np.array([0, 1, 2, 3, 4, 0], np.int32)
        colour = load_dataset(self.save(tmp_path / "a.npz", images=images, labels=labels), "train")
        assert np.array_equal(colour.images, images)
        assert (colour.classes, str(colour.labels.dtype)) == (5, "int64")
        assert colour.mean == pytest.approx(images.mean((0, 2, 3)) / 255)
        assert colour.std == pytest.approx(images.std() / 255)
        grey = load_dataset(self.save(tmp_path / "b.npz", images=images[:, 0], labels=labels), "train")
        assert grey.images.shape == (6, 1, 4, 5)

    def test_split_in_the_path(self, tmp_path: Path) -> None:
        for split, count in (("train", 3), ("test", 2)):
            images = np.arange(count * 4, dtype=np.uint8).reshape(count, 2, 2)
            self.save(tmp_path / f"{split}.npz", images=images, labels=np.arange(count))
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
    def test_bad_arrays_are_one_line(self, tmp_path: Path, images: Any, labels: Any, expected: str) -> None:
        name = self.save(tmp_path / "bad.npz", images=images, labels=labels)
        with pytest.raises(DatasetError) as caught:
            load_dataset(name, "train")
        assert expected in str(caught.value)
        assert "\n" not in str(caught.value)

    def test_missing_arrays(self, tmp_path: Path) -> None:
        name = self.save(tmp_path / "bad.npz", pictures=np.zeros(3))
        with pytest.raises(DatasetError, match=r"holds the arrays \['pictures'\]; expected images and labels"):
            load_dataset(name, "train")

    def test_a_single_array_is_no_archive(self, tmp_path: Path) -> None:
        path = tmp_path / "bad.npz"
        with path.open("wb") as file:
            np.save(file, np.zeros(3))
        with pytest.raises(DatasetError, match=r"holds the arrays \['one without a name'\]; expected images"):
            load_dataset(str(path), "train")

    @pytest.mark.parametrize("keep", [0, 10, 100, 300])
    def test_truncated_files(self, tmp_path: Path, keep: int) -> None:
        path = tmp_path / "bad.npz"
        self.save(path, images=np.zeros((2, 4, 4), np.uint8), labels=np.arange(2))
        path.write_bytes(path.read_bytes()[:keep])
        with pytest.raises(DatasetError, match=r"bad\.npz cannot be read \(.*numpy\.savez writes"):
            load_dataset(str(path), "train")

    def test_an_array_that_claims_more_than_it_holds(self, tmp_path: Path) -> None:
        path = tmp_path / "bad.npz"
        header = np.lib.format.magic(1, 0)
        text = b"{'descr': '|u1', 'fortran_order': False, 'shape': (1000000000000, 28, 28)}"
        text = text.ljust(117) + b"\n"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("images.npy", header + struct.pack("<H", len(text)) + text)
            archive.writestr("labels.npy", header + struct.pack("<H", len(text)) + text)
        with pytest.raises(DatasetError, match=r"bad\.npz cannot be read"):
            load_dataset(str(path), "train")


def test_an_unknown_name() -> None:
    with pytest.raises(
        DatasetError, match=r"no data set 'cifar'; expected digits, mnist, fashion-mnist or .*\.npz"
    ):
        load_dataset("cifar", "test")


def test_reading_needs_neither_torch_nor_scikit_learn() -> None:
    code = (
        "import sys; sys.modules['torch'] = sys.modules['sklearn'] = None; "
        "import linfdeploy.training.data, linfdeploy.training.recipe"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
