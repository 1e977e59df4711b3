# SPDX-License-Identifier: Apache-2.0
"""Windows against loops over places: what each shows, and where it goes."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from linfdeploy.nets.windows import Window


@st.composite
def windows(draw: st.DrawFn) -> Window:
    """Windows of all sizes that fit, strides that leave a remainder, and paddings wider than the window."""
    size = st.integers(1, 6)
    shape, padding = (draw(st.integers(1, 3)), draw(size), draw(size)), draw(st.integers(0, 3))
    kernel = draw(st.integers(1, min(shape[1:]) + 2 * padding))
    return Window(shape, kernel, draw(st.integers(1, 4)), padding)


@given(windows())
def test_a_row_is_what_the_window_shows(window: Window) -> None:
    channels, height, width = window.shape
    x = np.arange(1, 1 + 2 * window.inputs).reshape(2, -1)
    images = x.reshape(2, channels, height, width)
    rows = []
    for image in images:
        for top in range(-window.padding, height + window.padding - window.kernel + 1, window.stride):
            for left in range(-window.padding, width + window.padding - window.kernel + 1, window.stride):
                rows.append(
                    [
                        image[c, row, column] if 0 <= row < height and 0 <= column < width else 0
                        for c in range(channels)
                        for row in range(top, top + window.kernel)
                        for column in range(left, left + window.kernel)
                    ]
                )
    np.testing.assert_array_equal(window.rows(x), rows)
    assert len(rows) == 2 * window.positions


@given(windows(), st.integers(1, 3))
def test_rows_go_to_their_places_channel_by_channel(window: Window, outputs: int) -> None:
    y = np.arange(2 * window.positions * outputs).reshape(-1, outputs)
    flat = window.flat(y).reshape(2, outputs, *window.places)
    for image in range(2):
        for place, (row, column) in enumerate(np.ndindex(*window.places)):
            np.testing.assert_array_equal(flat[image, :, row, column], y[image * window.positions + place])


def test_zeros_beside_the_image_have_an_index_of_their_own() -> None:
    window = Window((1, 2, 2), 3, 1, 1)
    assert window.index[0].tolist() == [4, 4, 4, 4, 0, 1, 4, 2, 3]
    assert window.pads
    assert not Window((1, 2, 2), 2, 1, 0).pads
