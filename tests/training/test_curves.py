# SPDX-License-Identifier: Apache-2.0
"""The picture of a run: read back as a PNG, with its lines where the numbers say."""

from __future__ import annotations

import math
import struct
import zlib
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest

from linfdeploy.report.canvas import Colour
from linfdeploy.training import curves
from linfdeploy.training.curves import curves_png
from linfdeploy.training.history import EpochRecord


def record(epoch: int, **values: float) -> EpochRecord:
    first = EpochRecord(epoch, 1.0, 8.0, 0.3, 0.03, 1.0, 1.0)
    return replace(first, **values)  # type: ignore[arg-type]


def read(data: bytes) -> npt.NDArray[np.uint8]:
    """A PNG of 8 bits a channel whose lines have no filter."""
    width, height = struct.unpack(">II", data[16:24])
    start = data.index(b"IDAT")
    length = int.from_bytes(data[start - 4 : start], "big")
    rows = np.frombuffer(zlib.decompress(data[start + 4 : start + 4 + length]), np.uint8).reshape(height, -1)
    assert not rows[:, 0].any()
    return rows[:, 1:].reshape(height, width, 3)


def quarter(picture: npt.NDArray[np.uint8], row: int, column: int) -> npt.NDArray[np.uint8]:
    """The ground of a panel's plot, without its axes."""
    top = curves.HEAD + row * (curves.HEIGHT - curves.HEAD) // 2
    bottom = top + (curves.HEIGHT - curves.HEAD) // 2
    left = column * curves.WIDTH // 2
    return picture[
        top + curves.TOP : bottom - curves.BOTTOM, left + curves.LEFT : left + curves.WIDTH // 2 - curves.RIGHT
    ]


def heights(panel: npt.NDArray[np.uint8], colour: Colour) -> npt.NDArray[np.float64]:
    """Where the line of a colour runs in each column, from 0 at the bottom to 1; NaN where it does not."""
    same = (panel == np.array(colour, np.uint8)).all(2)
    rows = np.arange(len(panel))[:, None]
    middle = np.where(same.any(0), (same * rows).sum(0) / np.maximum(same.sum(0), 1), np.nan)
    return 1 - middle / len(panel)


def test_lines_run_where_the_numbers_say() -> None:
    epochs = [record(epoch, clean=0.9, certified=epoch / 100, loss=1 + epoch / 100) for epoch in range(1, 51)]
    picture = read(curves_png("digits-0.1", epochs, 100))
    assert picture.shape == (curves.HEIGHT, curves.WIDTH, 3)
    accuracy = quarter(picture, 0, 0)
    clean, certified = heights(accuracy, curves.BLUE), heights(accuracy, curves.RED)
    middle = accuracy.shape[1] // 4
    assert clean[middle] == pytest.approx(0.9, abs=0.01)
    assert certified[middle] == pytest.approx(0.25, abs=0.01)
    # Half of the epochs are still to come.
    assert np.isnan(certified[2 * middle + 10 :]).all()
    assert np.isfinite(heights(quarter(picture, 0, 1), curves.BLUE)[20 : 2 * middle - 5]).all()


def test_epochs_at_infinity_have_a_darker_ground() -> None:
    epochs = [record(epoch, p=math.inf if epoch > 5 else 8.0 * 2**epoch) for epoch in range(1, 11)]
    panel = quarter(read(curves_png("x", epochs, 10)), 1, 0)
    bottom = panel[-10]
    width = len(bottom)
    assert (bottom[: width // 2 - 5] == 255).all()
    assert (bottom[width // 2 + 5 :] == np.array(curves.SHADE)).all()
    assert np.isnan(heights(panel, curves.BLUE)[width // 2 + 10 :]).all()


def test_what_is_proved_is_a_dot() -> None:
    epochs = [record(epoch) for epoch in range(1, 11)]
    without, with_dot = (read(curves_png("x", epochs, 10, exported)) for exported in (None, 0.5))
    green = (with_dot == np.array(curves.GREEN, np.uint8)).all(2)
    assert green.any()
    assert not (without == np.array(curves.GREEN, np.uint8)).all(2).any()


@pytest.mark.parametrize("count", [1, 2, 3000])
def test_any_number_of_epochs(count: int) -> None:
    epochs = [record(epoch, loss=0.0 if epoch == 2 else 1 / epoch, eps=0.0) for epoch in range(1, count + 1)]
    assert read(curves_png("x", epochs, max(count, 5))).min() < 100
