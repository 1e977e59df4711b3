# SPDX-License-Identifier: Apache-2.0
"""Pictures in folders and in TinyImageNet's archive; broken, hostile and unequal ones."""

from __future__ import annotations

import io
import struct
import sys
import zipfile
import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from linfdeploy.errors import DatasetError, MissingExtraError
from linfdeploy.report.png import png_bytes
from linfdeploy.training.data import load_dataset

PIL = pytest.importorskip("PIL.Image", reason="pictures need Pillow: pip install 'linfdeploy[train]'")

Picture = npt.NDArray[np.uint8]


def picture_of(seed: int, height: int = 4, width: int = 5, grey: bool = False) -> Picture:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (height, width) if grey else (height, width, 3), np.uint8)


def write(path: Path, data: bytes | Picture) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data if isinstance(data, bytes) else png_bytes(data))


def jpeg_of(picture: Picture) -> bytes:
    buffer = io.BytesIO()
    PIL.fromarray(picture).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def decoded(data: bytes) -> Picture:
    return np.asarray(PIL.open(io.BytesIO(data)).convert("RGB"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for place, seed in (("train/cat/a", 0), ("train/cat/b", 1), ("train/dog/c", 2), ("test/dog/d", 3)):
        write(tmp_path / f"{place}.png", picture_of(seed))
    (tmp_path / "train" / "dog" / "notes.txt").touch()
    return tmp_path


def refused(name: str, root: Path | None = None) -> str:
    with pytest.raises(DatasetError) as caught:
        load_dataset(name, "train", root)
    assert "\n" not in str(caught.value)
    return str(caught.value)


class TestFolder:
    def test_classes_are_the_training_folders(self, folder: Path) -> None:
        train, test = (load_dataset(f"folder:{folder}", split) for split in ("train", "test"))
        assert (train.images.shape, train.labels.tolist(), train.classes) == ((3, 3, 4, 5), [0, 0, 1], 2)
        assert np.array_equal(
            train.images, np.stack([picture_of(seed) for seed in range(3)]).transpose(0, 3, 1, 2)
        )
        # The test images have one class alone, and its number is still the training folder's.
        assert (test.labels.tolist(), test.classes) == ([1], 2)
        assert train.mean == pytest.approx(train.images.mean((0, 2, 3)) / 255)
        assert train.std == pytest.approx(train.images.std() / 255)

    def test_val_stands_in_for_test(self, folder: Path) -> None:
        (folder / "test").rename(folder / "val")
        assert load_dataset(f"folder:{folder}", "test").labels.tolist() == [1]

    def test_grey_pictures_have_one_channel(self, tmp_path: Path) -> None:
        for index, place in enumerate(("train/a/0.png", "train/b/1.png")):
            write(tmp_path / place, picture_of(index, grey=True))
        found = load_dataset(f"folder:{tmp_path}", "train")
        assert np.array_equal(found.images[:, 0], np.stack([picture_of(index, grey=True) for index in range(2)]))
        write(tmp_path / "train/b/2.png", picture_of(2))
        assert load_dataset(f"folder:{tmp_path}", "train").images.shape == (3, 3, 4, 5)

    def test_unequal_sizes(self, folder: Path) -> None:
        write(folder / "train/dog/e.png", picture_of(4, 5, 5))
        assert refused(f"folder:{folder}") == (
            f"{folder}: train/dog/e.png has 5x5 pixels and train/cat/a.png has 4x5; expected one size: resize or "
            "crop the pictures first"
        )

    def test_a_class_without_training_images(self, folder: Path) -> None:
        write(folder / "test/bird/e.png", picture_of(4))
        with pytest.raises(DatasetError, match=r"has the class 'bird', which .*train has not; expected the same"):
            load_dataset(f"folder:{folder}", "test")

    def test_no_folder_and_no_pictures(self, tmp_path: Path) -> None:
        assert refused(f"folder:{tmp_path}") == (
            f"{tmp_path}/train: no such folder; expected one with a folder of pictures for each class"
        )
        (tmp_path / "train" / "a").mkdir(parents=True)
        assert refused(f"folder:{tmp_path}") == f"{tmp_path} holds no pictures; expected train/<class>/*.png"

    @pytest.mark.parametrize(
        ("data", "expected"),
        [
            (b"no picture", "is no picture or a damaged one (no PNG, JPEG or BMP); expected PNG, JPEG or BMP"),
            (png_bytes(picture_of(0))[:60], "is no picture or a damaged one ("),
            (b"", "is no picture or a damaged one (no PNG, JPEG or BMP)"),
        ],
    )
    def test_broken_pictures(self, folder: Path, data: bytes, expected: str) -> None:
        write(folder / "train/cat/a.png", data)
        assert expected in refused(f"folder:{folder}")

    def test_a_picture_that_claims_to_be_huge_is_not_decoded(self, folder: Path) -> None:
        header = struct.pack(">IIBBBBB", 8000, 9000, 8, 2, 0, 0, 0)
        data = png_bytes(picture_of(0))
        body = b"IHDR" + header
        data = data[:12] + body + struct.pack(">I", zlib.crc32(body)) + data[33:]
        write(folder / "train/cat/a.png", data)
        assert "a.png has 9000x8000 pixels; expected at most 4096 a side" in refused(f"folder:{folder}")

    def test_what_would_be_lost_is_refused(self, folder: Path) -> None:
        buffer = io.BytesIO()
        PIL.new("RGBA", (5, 4)).save(buffer, "PNG")
        write(folder / "train/cat/a.png", buffer.getvalue())
        assert "a.png has the mode RGBA; expected 8 bits of grey or of red, green and blue" in refused(
            f"folder:{folder}"
        )

    def test_memory_is_bounded(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("linfdeploy.training.data.folders.MAX_BYTES", 100)
        assert (
            "holds 3 pictures of 4x5 pixels; expected at most 4096 pixels a side and 100 bytes together"
            in refused(f"folder:{folder}")
        )

    def test_without_pillow_the_extra_is_named(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "PIL", None)
        with pytest.raises(
            MissingExtraError, match=r"reading pictures needs .* pip install 'linfdeploy\[train\]'"
        ):
            load_dataset(f"folder:{folder}", "train")


CLASSES = ("n02", "n01", "n03")


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """TinyImageNet with three classes, of which one picture is grey."""
    root = tmp_path / "tiny-imagenet-200"
    write(root / "wnids.txt", "".join(f"{name}\n" for name in CLASSES).encode())
    for seed, name in enumerate(CLASSES):
        picture = picture_of(seed, 64, 64, grey=seed == 2)
        write(root / f"train/{name}/images/{name}_0.JPEG", jpeg_of(picture))
        write(root / f"train/{name}/{name}_boxes.txt", b"0 0 1 1")
    lines = [f"val_{index}.JPEG\t{name}\t0\t0\t62\t57\n" for index, name in enumerate(CLASSES)]
    write(root / "val/val_annotations.txt", "".join(lines).encode())
    for index in range(3):
        write(root / f"val/images/val_{index}.JPEG", jpeg_of(picture_of(10 + index, 64, 64)))
    return tmp_path


def zipped(root: Path) -> Path:
    folder = root / "zipped"
    folder.mkdir()
    with zipfile.ZipFile(folder / "tiny-imagenet-200.zip", "w") as file:
        for path in sorted(root.rglob("tiny-imagenet-200/**/*")):
            file.write(path, path.relative_to(root))
    return folder


class TestTinyImageNet:
    @pytest.mark.parametrize("archive", [False, True])
    def test_classes_are_in_alphabetical_order(self, tiny: Path, archive: bool) -> None:
        root = zipped(tiny) if archive else tiny
        train, test = (load_dataset("tiny-imagenet", split, root) for split in ("train", "test"))
        assert train.labels.tolist() == [0, 1, 2]
        assert test.labels.tolist() == [1, 0, 2]
        raw = (tiny / "tiny-imagenet-200/train/n01/images/n01_0.JPEG").read_bytes()
        assert np.array_equal(train.images[0], decoded(raw).transpose(2, 0, 1))
        assert np.array_equal(train.images[2][0], train.images[2][1])
        assert (train.classes, train.mean, train.std) == (3, (0.4802, 0.4481, 0.3975), 0.2276)

    def test_the_middle(self, tiny: Path) -> None:
        whole, middle = (load_dataset(f"tiny-imagenet{cut}", "test", tiny) for cut in ("", "@56"))
        assert np.array_equal(middle.images, whole.images[:, :, 4:60, 4:60])

    def test_a_line_that_names_no_class(self, tiny: Path) -> None:
        write(tiny / "tiny-imagenet-200/val/val_annotations.txt", b"val_0.JPEG\tn09\t0\n")
        with pytest.raises(DatasetError, match=r"line 1 of val/val_annotations\.txt is 'val_0\.JPEG.*expected a"):
            load_dataset("tiny-imagenet", "test", tiny)

    def test_a_line_that_leaves_the_folder(self, tiny: Path) -> None:
        write(tiny / "tiny-imagenet-200/val/val_annotations.txt", b"../../secret.png\tn01\t0\n")
        with pytest.raises(DatasetError, match=r"line 1 of val/val_annotations\.txt is '\.\./"):
            load_dataset("tiny-imagenet", "test", tiny)

    def test_pictures_of_another_size(self, tiny: Path) -> None:
        for path in tiny.rglob("train/*/images/*"):
            write(path, jpeg_of(picture_of(0, 32, 32)))
        assert "images are 32x32; expected 64x64" in refused("tiny-imagenet", tiny)

    def test_nothing_there_or_no_archive(self, tmp_path: Path) -> None:
        assert refused("tiny-imagenet", tmp_path) == (
            f"no tiny-imagenet-200 or tiny-imagenet-200.zip in {tmp_path}; expected TinyImageNet: copy it "
            "there, name its folder with --data-root, or train with --download"
        )
        write(tmp_path / "tiny-imagenet-200.zip", b"no archive")
        assert "is truncated or no archive (File is not a zip file); expected a .zip" in refused(
            "tiny-imagenet", tmp_path
        )
        with zipfile.ZipFile(tmp_path / "tiny-imagenet-200.zip", "w") as file:
            file.writestr("tiny-imagenet-200/wnids.txt", "n01\n")
        assert "holds no pictures; expected train/<class>/images/*.JPEG" in refused("tiny-imagenet", tmp_path)
