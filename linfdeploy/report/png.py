# SPDX-License-Identifier: Apache-2.0
"""PNG files of 8 bits, written with nothing but zlib."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import numpy.typing as npt

__all__ = ["png_bytes"]

SIGNATURE = b"\x89PNG\r\n\x1a\n"
GREY, COLOUR = 0, 2


def png_bytes(picture: npt.NDArray[np.uint8]) -> bytes:
    """Returns a PNG file.

    Args:
        picture: (H, W) grey or (H, W, 3) red, green, blue; uint8, at least one pixel.

    Raises:
        ValueError: Another shape or dtype.
    """
    if picture.dtype != np.uint8 or picture.ndim not in {2, 3} or picture.shape[2:] not in {(), (3,)}:
        raise ValueError(f"a picture is {picture.dtype} {picture.shape}; expected uint8 (H, W) or (H, W, 3)")
    height, width = picture.shape[:2]
    header = struct.pack(">IIBBBBB", width, height, 8, GREY if picture.ndim == 2 else COLOUR, 0, 0, 0)
    # Each line begins with the number of its filter; 0 is none.
    lines = np.zeros((height, 1 + picture[0].size), np.uint8)
    lines[:, 1:] = picture.reshape(height, -1)
    chunks = (b"IHDR", header), (b"IDAT", zlib.compress(lines.tobytes(), 9)), (b"IEND", b"")
    return SIGNATURE + b"".join(_chunk(kind, data) for kind, data in chunks)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
