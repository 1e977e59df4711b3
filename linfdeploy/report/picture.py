# SPDX-License-Identifier: Apache-2.0
"""Images of 8 bits as PNG inside the page, written with nothing beyond Python."""

from __future__ import annotations

import base64
import struct
import zlib

from linfdeploy.report.model import Raster

__all__ = ["data_uri", "drawable", "png_of"]

SIGNATURE = b"\x89PNG\r\n\x1a\n"
# PNG's colour types of grey and of red, green and blue, by the number of channels.
COLOUR = {1: 0, 3: 2}


def drawable(raster: Raster) -> bool:
    """Says whether the image is grey or coloured, so that it can be drawn."""
    return raster.channels in COLOUR


def png_of(raster: Raster) -> bytes:
    """Returns a PNG file of an image with 1 or 3 channels."""
    height, width, channels = raster.height, raster.width, raster.channels
    assert len(raster.pixels) == channels * height * width, "as many values as pixels"
    plane = height * width
    interleaved = bytearray(len(raster.pixels))
    for channel in range(channels):
        interleaved[channel::channels] = raster.pixels[channel * plane : (channel + 1) * plane]
    row = channels * width
    # Each line begins with the number of its filter; 0 is none.
    lines = b"".join(b"\0" + interleaved[start : start + row] for start in range(0, len(interleaved), row))
    header = struct.pack(">IIBBBBB", width, height, 8, COLOUR[channels], 0, 0, 0)
    chunks = (b"IHDR", header), (b"IDAT", zlib.compress(lines, 9)), (b"IEND", b"")
    return SIGNATURE + b"".join(_chunk(kind, data) for kind, data in chunks)


def data_uri(raster: Raster) -> str:
    """Returns the image as a `data:` address."""
    return f"data:image/png;base64,{base64.b64encode(png_of(raster)).decode('ascii')}"


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
