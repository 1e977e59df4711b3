# SPDX-License-Identifier: Apache-2.0
"""PNG files of 8 bits, written with nothing but zlib."""

from __future__ import annotations

import struct
import zlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

__all__ = ["COLOUR", "png_bytes", "png_file"]

SIGNATURE = b"\x89PNG\r\n\x1a\n"
COLOUR = {1: 0, 3: 2}
"""PNG's colour types of grey and of red, green and blue, by the number of channels."""


def png_file(width: int, height: int, channels: int, pixels: bytes) -> bytes:
    """Returns a PNG file of 1 or 3 channels; pixels are row by row, a pixel's channels side by side."""
    assert len(pixels) == channels * height * width, "as many values as pixels"
    row = channels * width
    # Each line begins with the number of its filter; 0 is none.
    lines = b"".join(b"\0" + pixels[start : start + row] for start in range(0, len(pixels), row))
    header = struct.pack(">IIBBBBB", width, height, 8, COLOUR[channels], 0, 0, 0)
    chunks = (b"IHDR", header), (b"IDAT", zlib.compress(lines, 9)), (b"IEND", b"")
    return SIGNATURE + b"".join(_chunk(kind, data) for kind, data in chunks)


def png_bytes(picture: npt.NDArray[np.uint8]) -> bytes:
    """Returns a PNG file.

    Args:
        picture: (H, W) grey or (H, W, 3) red, green, blue; uint8, at least one pixel.

    Raises:
        ValueError: Another shape or dtype.
    """
    if str(picture.dtype) != "uint8" or picture.ndim not in {2, 3} or picture.shape[2:] not in {(), (3,)}:
        raise ValueError(f"a picture is {picture.dtype} {picture.shape}; expected uint8 (H, W) or (H, W, 3)")
    height, width = picture.shape[:2]
    return png_file(width, height, 1 if picture.ndim == 2 else 3, picture.tobytes())


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
