# SPDX-License-Identifier: Apache-2.0
"""Images of 8 bits as PNG inside the page."""

from __future__ import annotations

import base64

from linfdeploy.report.model import Raster
from linfdeploy.report.png import COLOUR, png_file

__all__ = ["data_uri", "drawable", "png_of"]


def drawable(raster: Raster) -> bool:
    """Says whether the image is grey or coloured, so that it can be drawn."""
    return raster.channels in COLOUR


def png_of(raster: Raster) -> bytes:
    """Returns a PNG file of an image with 1 or 3 channels."""
    plane = raster.height * raster.width
    interleaved = bytearray(len(raster.pixels))
    for channel in range(raster.channels):
        interleaved[channel :: raster.channels] = raster.pixels[channel * plane : (channel + 1) * plane]
    return png_file(raster.width, raster.height, raster.channels, bytes(interleaved))


def data_uri(raster: Raster) -> str:
    """Returns the image as a `data:` address."""
    return f"data:image/png;base64,{base64.b64encode(png_of(raster)).decode('ascii')}"
