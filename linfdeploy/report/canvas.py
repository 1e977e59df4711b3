# SPDX-License-Identifier: Apache-2.0
"""A picture to draw on: smooth lines, boxes, and letters of `font`; coordinates are pixels from the upper left."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from linfdeploy.report import font

__all__ = ["Canvas", "Colour", "text_width"]

Colour = tuple[int, int, int]

SPACE = 3
"""Pixels of a letter that has no ink."""


class Canvas:
    """A white picture.

    Attributes:
        pixels: (H, W, 3) uint8, levels of red, green and blue.
    """

    def __init__(self, width: int, height: int) -> None:
        self.pixels: npt.NDArray[np.uint8] = np.full((height, width, 3), 255, np.uint8)

    def box(self, left: float, top: float, right: float, bottom: float, colour: Colour) -> None:
        """Fills a box; its ends are rounded to whole pixels."""
        self.pixels[round(top) : round(bottom), round(left) : round(right)] = colour

    def line(self, points: Sequence[tuple[float, float]], colour: Colour, thickness: float = 2.0) -> None:
        """Draws a line through points (x, y), with smooth edges."""
        if not points:
            return
        reach, (height, width) = thickness / 2 + 1, self.pixels.shape[:2]
        columns, rows = (
            _ends(ends, reach, size) for ends, size in zip(zip(*points, strict=True), (width, height), strict=True)
        )
        # Of all segments together, so that the ends where two of them meet are not inked twice.
        ink = np.zeros((rows.stop - rows.start, columns.stop - columns.start, 1), np.float32)
        inside = [(x - columns.start, y - rows.start) for x, y in points]
        for start, end in pairwise(inside):
            _segment(ink[..., 0], start, end, thickness / 2)
        part = self.pixels[rows, columns]
        part[...] = np.rint(part + ink * (np.array(colour, np.float32) - part))

    def dot(self, x: float, y: float, colour: Colour, radius: float = 4.0) -> None:
        """Draws a disc."""
        self.line([(x, y), (x, y)], colour, 2 * radius)

    def text(self, x: float, y: float, text: str, colour: Colour, scale: int = 2, anchor: float = 0.0) -> None:
        """Writes a text.

        Args:
            x: Where it starts, or with `anchor` 1 ends, or with 0.5 has its middle.
            y: The line that letters stand on.
            text: Letters without a shape of their own leave a space.
            colour: Of the ink.
            scale: Pixels of the picture for one of a letter.
            anchor: 0 to 1.
        """
        left = round(x - anchor * text_width(text, scale))
        top = round(y) - (font.HEIGHT - 2) * scale
        for letter in text:
            for row, column in _ink(letter):
                start, high = left + column * scale, top + row * scale
                self.box(start, high, start + scale, high + scale, colour)
            left += _advance(letter) * scale


def text_width(text: str, scale: int = 2) -> int:
    """Returns the width of a text in pixels."""
    return sum(map(_advance, text)) * scale - scale if text else 0


def _advance(letter: str) -> int:
    return (font.WIDTH if letter in font.GLYPHS else SPACE) + 1


def _ink(letter: str) -> list[tuple[int, int]]:
    rows = font.GLYPHS.get(letter, ())
    return [(row, column) for row, inks in enumerate(rows) for column, ink in enumerate(inks) if ink == "#"]


def _segment(
    ink: npt.NDArray[np.float32], start: tuple[float, float], end: tuple[float, float], radius: float
) -> None:
    """Raises `ink` to the share of each pixel that a thick segment covers."""
    height, width = ink.shape
    columns = _ends((start[0], end[0]), radius + 1, width)
    rows = _ends((start[1], end[1]), radius + 1, height)
    x = np.arange(columns.start, columns.stop) + 0.5 - start[0]
    y = np.arange(rows.start, rows.stop)[:, None] + 0.5 - start[1]
    along, down = end[0] - start[0], end[1] - start[1]
    share = np.clip((x * along + y * down) / (along * along + down * down or 1), 0, 1)
    distance = np.hypot(x - share * along, y - share * down)
    part = ink[rows, columns]
    np.maximum(part, np.clip(radius + 0.5 - distance, 0, 1), out=part, casting="unsafe")


def _ends(values: Sequence[float], reach: float, size: int) -> slice:
    low, high = math.floor(min(values) - reach), math.ceil(max(values) + reach)
    return slice(min(max(low, 0), size), min(max(high, 0), size))
