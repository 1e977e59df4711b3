# SPDX-License-Identifier: Apache-2.0
"""CIFAR's batches: files as Python 2 pickled them, by hand, and as today's numpy does; hostile ones."""

from __future__ import annotations

import io
import os
import pickle
import struct
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from linfdeploy.errors import DatasetError
from linfdeploy.training.data import Split, load_dataset

Pixels = npt.NDArray[np.uint8]


def pixels_of(count: int, seed: int = 0) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (count, 3072), np.uint8)


def python2_string(data: bytes) -> bytes:
    return b"U" + bytes([len(data)]) + data if len(data) < 256 else b"T" + struct.pack("<i", len(data)) + data


def python2_batch(pixels: Pixels, labels: list[int], key: bytes = b"labels") -> bytes:
    """The instructions that Python 2's cPickle wrote: byte strings, and numpy's array of its time."""
    rows, columns = pixels.shape
    kind = b"cnumpy\ndtype\n" + python2_string(b"u1") + b"K\x00K\x01\x87R(K\x03" + python2_string(b"|")
    kind += b"NNN" + b"J\xff\xff\xff\xff" * 2 + b"K\x00tb"
    array = b"cnumpy.core.multiarray\n_reconstruct\nq\x08cnumpy\nndarray\nq\x09K\x00\x85" + python2_string(b"b")
    array += b"\x87R(K\x01M" + struct.pack("<H", rows) + b"M" + struct.pack("<H", columns) + b"\x86" + kind
    array += b"\x89" + python2_string(pixels.tobytes()) + b"tb"
    numbers = b"](" + b"".join(b"K" + bytes([label]) for label in labels) + b"e"
    names = b"](" + b"".join(python2_string(f"x_{index}.png".encode()) for index in range(rows)) + b"e"
    items = (
        python2_string(b"batch_label") + python2_string(b"training batch 1 of 5") + python2_string(key) + numbers
    )
    items += python2_string(b"data") + array + python2_string(b"filenames") + names
    return b"\x80\x02}q\x01(" + items + b"u."


def write(folder: Path, files: Mapping[str, bytes]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)


def archive_of(folder: str, files: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz", compresslevel=1) as file:
        for name, data in files.items():
            member = tarfile.TarInfo(f"{folder}/{name}")
            member.size = len(data)
            file.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def ten(batch: Any) -> dict[str, bytes]:
    """All files of CIFAR-10, with two images each."""
    names = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]
    return {name: batch(pixels_of(2, seed), [seed, 9]) for seed, name in enumerate(names)}


def assert_ten(root: Path) -> None:
    for split, seeds in (("train", range(5)), ("test", [5])):
        part: Split = "train" if split == "train" else "test"
        found = load_dataset("cifar10", part, root)
        assert found.images.shape == (2 * len(seeds), 3, 32, 32)
        expected = np.concatenate([pixels_of(2, seed) for seed in seeds])
        assert np.array_equal(found.images.reshape(-1, 3072), expected)
        assert found.labels.tolist() == [label for seed in seeds for label in (seed, 9)]
        assert (found.classes, found.mean, found.std) == (10, (0.4914, 0.4822, 0.4465), 0.2009)
        assert found.images.flags.writeable


def test_python2s_own_bytes_are_what_pickle_reads() -> None:
    """The files made by hand are what Python makes of the real ones."""
    read = pickle.loads(python2_batch(pixels_of(3), [1, 2, 3]), encoding="bytes")
    assert np.array_equal(read[b"data"], pixels_of(3))
    assert read[b"labels"] == [1, 2, 3]


@pytest.mark.parametrize("place", ["folder", "root", "archive"])
def test_the_python_version_of_cifar10(tmp_path: Path, place: str) -> None:
    files = ten(python2_batch)
    if place == "archive":
        (tmp_path / "cifar-10-python.tar.gz").write_bytes(archive_of("cifar-10-batches-py", files))
    else:
        write(tmp_path / "cifar-10-batches-py" if place == "folder" else tmp_path, files)
    assert_ten(tmp_path)


@pytest.mark.parametrize("compressed", [False, True])
def test_the_binary_version_of_cifar10(tmp_path: Path, compressed: bool) -> None:
    def rows(pixels: Pixels, labels: list[int]) -> bytes:
        return b"".join(bytes([label]) + row.tobytes() for label, row in zip(labels, pixels, strict=True))

    files = {f"{name}.bin": data for name, data in ten(rows).items()}
    if compressed:
        (tmp_path / "cifar-10-binary.tar.gz").write_bytes(archive_of("cifar-10-batches-bin", files))
    else:
        write(tmp_path / "cifar-10-batches-bin", files)
    assert_ten(tmp_path)


def test_cifar100_has_fine_labels(tmp_path: Path) -> None:
    pixels, labels = pixels_of(3), [0, 99, 42]
    data = python2_batch(pixels, labels, b"fine_labels")
    write(tmp_path / "python" / "cifar-100-python", {"train": data, "test": data})
    rows = b"".join(bytes([7, label]) + row.tobytes() for label, row in zip(labels, pixels, strict=True))
    write(tmp_path / "binary" / "cifar-100-binary", {"train.bin": rows, "test.bin": rows})
    for version in ("python", "binary"):
        found = load_dataset("cifar100", "test", tmp_path / version)
        assert np.array_equal(found.images.reshape(3, -1), pixels)
        assert (found.labels.tolist(), found.classes) == (labels, 100)
        assert (found.mean, found.std) == ((0.5071, 0.4867, 0.4408), 0.2667)


@pytest.mark.parametrize("protocol", [2, 3, 4])
@pytest.mark.parametrize("order", ["C", "F"])
def test_batches_that_todays_numpy_wrote(tmp_path: Path, protocol: int, order: Any) -> None:
    pixels = np.array(pixels_of(4), order=order)
    write(tmp_path, {"test_batch": pickle.dumps({b"data": pixels, "labels": [0, 1, 2, 3]}, protocol)})
    assert np.array_equal(load_dataset("cifar10", "test", tmp_path).images.reshape(4, -1), pixels)


class Hostile:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("executed",)


GOOD = pixels_of(2)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (
            b"",
            "is no batch of CIFAR (its pickle is cut off or damaged); expected a pickled dict of data and labels",
        ),
        (python2_batch(GOOD, [1, 2])[:-40], "is no batch of CIFAR (its pickle is cut off or damaged); expected"),
        (pickle.dumps([1, 2]), "holds [1, 2]; expected a dict of data and labels"),
        (pickle.dumps({"data": Hostile(), "labels": [1, 2]}), "data is no array of bytes (N, 3072); expected one"),
        (pickle.dumps({"data": GOOD, "labels": Hostile()}), "labels are Inert(name="),
        (pickle.dumps({"data": GOOD.astype(np.int8), "labels": [1, 2]}, 2), "data is no array of bytes (N, 3072)"),
        (pickle.dumps({"data": GOOD[:, 1:], "labels": [1, 2]}, 2), "data is no array of bytes (N, 3072)"),
        (pickle.dumps({"data": GOOD, "labels": [1, "2"]}, 2), "labels are [1, '2']; expected a list of whole"),
        (pickle.dumps({"data": GOOD, "labels": [1, -2]}, 2), "labels are [1, -2]; expected a list of whole"),
        (pickle.dumps({"data": GOOD, "labels": [1, 10]}, 2), "cifar10 holds the label 10; expected 0 to 9"),
        (pickle.dumps({"data": GOOD, "labels": [1]}, 2), "expected one whole number for each of the 2 images"),
        (pickle.dumps({"labels": [1, 2]}, 2), "data is no array of bytes (N, 3072); expected one: download it"),
        (pickle.dumps({"data": GOOD}, 2), "labels are None; expected a list of whole numbers"),
    ],
)
def test_a_bad_batch_is_one_line_and_executes_nothing(
    tmp_path: Path, data: bytes, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "root", {"test_batch": data})
    with pytest.raises(DatasetError) as caught:
        load_dataset("cifar10", "test", tmp_path / "root")
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "executed").exists()


def test_an_array_whose_state_lies_about_its_size(tmp_path: Path) -> None:
    data = python2_batch(GOOD, [1, 2]).replace(b"(K\x01M\x02\x00", b"(K\x01M\x03\x00")
    write(tmp_path, {"test_batch": data})
    with pytest.raises(DatasetError, match=r"test_batch: data is no array of bytes \(N, 3072\)"):
        load_dataset("cifar10", "test", tmp_path)


def test_a_binary_batch_that_is_cut_off(tmp_path: Path) -> None:
    write(tmp_path, {"test_batch.bin": bytes(3072)})
    with pytest.raises(DatasetError, match=r"test_batch\.bin has 3072 bytes; expected a multiple of 3073"):
        load_dataset("cifar10", "test", tmp_path)


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (lambda data: data[: len(data) // 2], "is truncated or no archive"),
        (lambda data: b"no archive", "is truncated or no archive"),
        (
            lambda _: archive_of("cifar-10-batches-py", {"other": b""}),
            "holds no cifar-10-batches-py/test_batch of",
        ),
    ],
)
def test_a_bad_archive_is_one_line(tmp_path: Path, damage: Any, expected: str) -> None:
    data = archive_of("cifar-10-batches-py", {"test_batch": python2_batch(GOOD, [1, 2])})
    (tmp_path / "cifar-10-python.tar.gz").write_bytes(damage(data))
    with pytest.raises(DatasetError) as caught:
        load_dataset("cifar10", "test", tmp_path)
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(DatasetError) as caught:
        load_dataset("cifar100", "train", tmp_path)
    assert str(caught.value) == (
        "no cifar-100-python, cifar-100-python.tar.gz, cifar-100-binary or cifar-100-binary.tar.gz in "
        f"{tmp_path}; expected cifar100 as torchvision leaves it: copy it there, name its folder with "
        "--data-root, or train with --download"
    )
