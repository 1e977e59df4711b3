# SPDX-License-Identifier: Apache-2.0
"""PNG is read back with a reader of its own: chunks, checksums, zlib, no filter."""

import base64
import struct
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from linfdeploy.report.model import Raster
from linfdeploy.report.picture import data_uri, drawable, png_of


def _read(png: bytes) -> tuple[tuple[int, int, int], bytes]:
    """Returns (width, height, colour type) and the values, line by line, channels last."""
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    place, chunks = 8, []
    while place < len(png):
        (length,) = struct.unpack(">I", png[place : place + 4])
        kind, data = png[place + 4 : place + 8], png[place + 8 : place + 8 + length]
        assert struct.unpack(">I", png[place + 8 + length : place + 12 + length])[0] == zlib.crc32(kind + data)
        chunks.append((kind, data))
        place += 12 + length
    assert [kind for kind, _ in chunks] == [b"IHDR", b"IDAT", b"IEND"]
    width, height, depth, colour, *methods = struct.unpack(">IIBBBBB", chunks[0][1])
    assert (depth, methods) == (8, [0, 0, 0])
    lines = zlib.decompress(chunks[1][1])
    size = width * (3 if colour == 2 else 1) + 1
    assert len(lines) == size * height
    assert set(lines[::size]) == {0}
    return (width, height, colour), b"".join(lines[i + 1 : i + size] for i in range(0, len(lines), size))


@given(st.sampled_from([1, 3]), st.integers(1, 9), st.integers(1, 9), st.data())
def test_every_pixel_is_where_it_was(channels: int, height: int, width: int, data: st.DataObject) -> None:
    count = channels * height * width
    pixels = data.draw(st.binary(min_size=count, max_size=count))
    found, values = _read(png_of(Raster(channels, height, width, pixels)))
    assert found == (width, height, {1: 0, 3: 2}[channels])
    expected = [
        pixels[(channel * height + y) * width + x]
        for y in range(height)
        for x in range(width)
        for channel in range(channels)
    ]
    assert list(values) == expected


def test_address() -> None:
    raster = Raster(1, 1, 1, b"\x07")
    kind, text = data_uri(raster).split(",")
    assert kind == "data:image/png;base64"
    assert base64.b64decode(text) == png_of(raster)


@pytest.mark.parametrize(("channels", "expected"), [(1, True), (2, False), (3, True), (4, False)])
def test_only_grey_and_colour_can_be_drawn(channels: int, expected: bool) -> None:
    assert drawable(Raster(channels, 1, 1, bytes(channels))) is expected
