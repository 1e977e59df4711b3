# SPDX-License-Identifier: Apache-2.0
"""PNG files say what was drawn, as a decoder written from the standard reads them."""

from __future__ import annotations

import re
import struct
import zlib
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from linfdeploy.report.png import png_bytes
from linfdeploy.report.sheet import MAX_ROWS, adversarial_sheet


def decoded(data: bytes) -> npt.NDArray[np.uint8]:
    """Reads a PNG of 8 bits, grey or colour, without interlacing, chunk by chunk."""
    assert data[:8] == bytes([137, 80, 78, 71, 13, 10, 26, 10])
    chunks, at = list[tuple[bytes, bytes]](), 8
    while at < len(data):
        (length,) = struct.unpack_from(">I", data, at)
        kind, body = data[at + 4 : at + 8], data[at + 8 : at + 8 + length]
        assert struct.unpack_from(">I", data, at + 8 + length) == (zlib.crc32(data[at + 4 : at + 8 + length]),)
        chunks.append((kind, body))
        at += 12 + length
    assert [kind for kind, _ in chunks] == [b"IHDR", b"IDAT", b"IEND"]
    width, height, depth, colour, *rest = struct.unpack(">IIBBBBB", chunks[0][1])
    assert (depth, rest) == (8, [0, 0, 0])
    channels = {0: 1, 2: 3}[colour]
    lines = np.frombuffer(zlib.decompress(chunks[1][1]), np.uint8).reshape(height, 1 + width * channels)
    assert (lines[:, 0] == 0).all()
    return lines[:, 1:].reshape((height, width) if channels == 1 else (height, width, 3))


@pytest.mark.parametrize("shape", [(1, 1), (7, 5), (1, 9), (6, 4, 3), (1, 1, 3)])
def test_what_is_written_is_read_again(shape: tuple[int, ...]) -> None:
    picture = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    assert np.array_equal(decoded(png_bytes(picture)), picture)


@pytest.mark.parametrize(
    ("picture", "found"),
    [
        (np.zeros((2, 2)), "float64 (2, 2)"),
        (np.zeros((2, 2, 4), np.uint8), "uint8 (2, 2, 4)"),
        (np.zeros(4, np.uint8), "uint8 (4,)"),
    ],
)
def test_another_picture_is_refused(picture: Any, found: str) -> None:
    text = f"a picture is {found}; expected uint8 (H, W) or (H, W, 3)"
    with pytest.raises(ValueError, match=f"^{re.escape(text)}$"):
        png_bytes(picture)


def test_a_row_shows_the_image_what_it_became_and_the_difference() -> None:
    images = np.full((1, 1, 64, 64), 100, np.uint8)
    adversarial = images.copy()
    adversarial[0, 0, 0, :3] = 108, 92, 104
    sheet = adversarial_sheet(images, adversarial, 8)
    assert sheet is not None
    assert sheet.shape == (2 + 64 + 2, 3 * (2 + 64) + 2)
    assert np.array_equal(sheet[2:66, 2:66], images[0, 0])
    assert np.array_equal(sheet[2:66, 68:132], adversarial[0, 0])
    assert sheet[2, 134:138].tolist() == [255, 1, 191, 128]
    assert (sheet[3:66, 134:198] == 128).all()
    assert (sheet[:2] == 255).all()


def test_small_pictures_are_enlarged_and_colours_kept() -> None:
    images = np.random.default_rng(0).integers(0, 256, (40, 3, 8, 8), np.uint8)
    sheet = adversarial_sheet(images, images[::-1].copy(), 255)
    assert sheet is not None
    assert sheet.shape == (MAX_ROWS * (2 + 64) + 2, 3 * (2 + 64) + 2, 3)
    assert np.array_equal(sheet[2:66:8, 2:66:8], images[0].transpose(1, 2, 0))
    assert np.array_equal(sheet[2:66:8, 68:132:8], images[-1].transpose(1, 2, 0))


def test_nothing_is_drawn_without_images_or_for_other_channels() -> None:
    assert adversarial_sheet(np.zeros((0, 1, 4, 4), np.uint8), np.zeros((0, 1, 4, 4), np.uint8), 8) is None
    assert adversarial_sheet(np.zeros((2, 4, 4, 4), np.uint8), np.zeros((2, 4, 4, 4), np.uint8), 8) is None
