# SPDX-License-Identifier: Apache-2.0
"""The canvas: where ink lies, how much of it, and letters."""

from __future__ import annotations

import numpy as np
import pytest

from linfdeploy.report import font
from linfdeploy.report.canvas import Canvas, text_width

BLACK = (0, 0, 0)


def ink(canvas: Canvas) -> float:
    """How many pixels' worth of black there is."""
    return float((255.0 - canvas.pixels[..., 0]).sum() / 255)


@pytest.mark.parametrize("end", [(50.0, 10.0), (10.0, 40.0), (45.0, 45.0), (30.0, 41.5)])
def test_a_line_has_the_ink_of_its_area(end: tuple[float, float]) -> None:
    canvas = Canvas(64, 64)
    canvas.line([(10, 10), end], BLACK, 3)
    length = np.hypot(end[0] - 10, end[1] - 10)
    # A box, and half a disc at either end.
    assert ink(canvas) == pytest.approx(3 * length + np.pi * 1.5**2, rel=0.04)
    assert canvas.pixels[round(end[1] / 2 + 5), round(end[0] / 2 + 5), 0] < 128


def test_where_segments_meet_nothing_is_inked_twice() -> None:
    once, twice = Canvas(40, 40), Canvas(40, 40)
    once.line([(5, 20), (35, 20)], (200, 0, 0))
    twice.line([(5, 20), (20, 20), (35, 20)], (200, 0, 0))
    assert np.array_equal(once.pixels, twice.pixels)


def test_what_lies_outside_is_cut_off() -> None:
    canvas = Canvas(20, 20)
    canvas.line([(-50, -50), (-40, -40)], BLACK)
    canvas.line([], BLACK)
    assert ink(canvas) == 0
    canvas.line([(-50, 10), (70, 10)], BLACK, 2)
    assert ink(canvas) == pytest.approx(40)
    canvas.dot(19, 19, BLACK, 5)
    assert canvas.pixels[19, 19].tolist() == [0, 0, 0]


def test_text_is_the_letters_of_the_font() -> None:
    canvas = Canvas(60, 20)
    canvas.text(4, 14, "p = 8", BLACK, 1)
    rows = canvas.pixels[14 - 7 : 14 + 2, 4 : 4 + font.WIDTH, 0] == 0
    drawn = ["".join("#" if dark else "." for dark in row) for row in rows]
    assert drawn == list(font.GLYPHS["p"])
    assert text_width("p = 8", 2) == 2 * (6 + 4 + 6 + 4 + 5)
    right = Canvas(60, 20)
    right.text(4 + text_width("p = 8", 1), 14, "p = 8", BLACK, 1, 1)
    assert np.array_equal(right.pixels, canvas.pixels)


def test_letters_differ_and_have_one_size() -> None:
    assert {len(rows) for rows in font.GLYPHS.values()} == {font.HEIGHT}
    assert {len(row) for rows in font.GLYPHS.values() for row in rows} == {font.WIDTH}
    assert len(set(font.GLYPHS.values())) == len(font.GLYPHS)
    assert set("0123456789abcdefghijklmnopqrstuvwxyz.,-=:%()/+") == set(font.GLYPHS)
    assert all(rows[7:] == (".....", ".....") for name, rows in font.GLYPHS.items() if name not in "gjpqy,")
