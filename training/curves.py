# SPDX-License-Identifier: Apache-2.0
"""The run as a picture: accuracies, loss, p and the radius of the loss over its epochs, as a PNG file."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from linfdeploy.report.canvas import Canvas, Colour, text_width
from linfdeploy.report.png import png_bytes
from linfdeploy.report.svg import Axis, labelled
from linfdeploy.training.history import EpochRecord

__all__ = ["curves_png"]

WIDTH, HEIGHT = 1280, 880
# Of a panel's plot within its quarter of the picture.
LEFT, RIGHT, TOP, BOTTOM = 100, 30, 70, 60
HEAD = 40

INK, FAINT, GRID, SHADE = (40, 40, 40), (110, 110, 110), (228, 228, 228), (244, 244, 240)
BLUE, RED, GREEN = (31, 98, 173), (190, 60, 30), (30, 130, 80)

MOST_POINTS = 500
# Where the largest value is so many times the smallest, the axis is logarithmic.
DECADES = 30.0

Points = list[tuple[float, float]]


@dataclass(frozen=True)
class _Series:
    name: str
    colour: Colour
    points: Points


def curves_png(name: str, epochs: Sequence[EpochRecord], total: int, exported: float | None = None) -> bytes:
    """Draws a run.

    Args:
        name: Of the recipe.
        epochs: Those that are done, at least one.
        total: Those that are to be done.
        exported: The share of the test images that is certified after export, once it is known.
    """
    canvas = Canvas(WIDTH, HEIGHT)
    canvas.text(LEFT, 36, f"{name.lower()}: epoch {len(epochs)} of {total}", INK, 3)
    panels = _accuracies(epochs, exported), _loss(epochs), _norm(epochs), _radius(epochs)
    for index, (title, series, low, high, label) in enumerate(panels):
        left, top = index % 2 * WIDTH // 2, HEAD + index // 2 * (HEIGHT - HEAD) // 2
        box = left + LEFT, left + WIDTH // 2 - RIGHT, top + TOP, top + (HEIGHT - HEAD) // 2 - BOTTOM
        _Panel(canvas, box, total, (low, high), label).draw(title, series, _reached_infinity(epochs))
    return png_bytes(canvas.pixels)


_PanelOf = tuple[str, list[_Series], float, float, Callable[[float], str]]


def _accuracies(epochs: Sequence[EpochRecord], exported: float | None) -> _PanelOf:
    clean = [(record.epoch, record.clean) for record in epochs if record.clean is not None]
    certified = [(record.epoch, record.certified) for record in epochs if record.certified is not None]
    series = [_Series("clean", BLUE, _thinned(clean)), _Series("certified", RED, _thinned(certified))]
    if exported is not None:
        series.append(_Series(f"exported {exported:.2%}", GREEN, [(epochs[-1].epoch, exported)]))
    return "accuracy", series, 0, 1, lambda value: f"{100 * value:g} %"


def _loss(epochs: Sequence[EpochRecord]) -> _PanelOf:
    points = _thinned([(record.epoch, record.loss) for record in epochs])
    return "loss", [_Series("", BLUE, points)], *_range([value for _, value in points]), "{:g}".format


def _norm(epochs: Sequence[EpochRecord]) -> _PanelOf:
    points = [(record.epoch, record.p) for record in epochs if math.isfinite(record.p)]
    return "p", [_Series("", BLUE, _thinned(points))], *_range([value for _, value in points]), "{:g}".format


def _radius(epochs: Sequence[EpochRecord]) -> _PanelOf:
    points = _thinned([(record.epoch, record.eps) for record in epochs])
    high = max(value for _, value in points) * 1.1
    return "eps of the loss", [_Series("", BLUE, points)], 0, high or 1, "{:g}".format


def _range(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values, default=1.0), max(values, default=2.0)
    if low > 0 and high / low > DECADES:
        return 10 ** math.floor(math.log10(low)), 10 ** math.ceil(math.log10(high))
    return min(low, 0.0), high * 1.1 if high > 0 else 1.0


def _reached_infinity(epochs: Sequence[EpochRecord]) -> int | None:
    return next((record.epoch for record in epochs if math.isinf(record.p)), None)


def _thinned(points: Sequence[tuple[float, float]]) -> Points:
    step = math.ceil(len(points) / MOST_POINTS) or 1
    # The last point is where the run stands.
    return [*points[:-1:step], *points[-1:]]


class _Panel:
    """A plot over the epochs."""

    def __init__(
        self,
        canvas: Canvas,
        box: tuple[int, int, int, int],
        epochs: int,
        ends: tuple[float, float],
        label: Callable[[float], str],
    ) -> None:
        self._canvas = canvas
        self._left, self._right, self._top, self._bottom = box
        self._x = Axis(0, epochs, self._left, self._right)
        self._logarithmic = ends[0] > 0
        low, high = (math.log10(end) if self._logarithmic else end for end in ends)
        self._y = Axis(low, high, self._bottom, self._top)
        self._label = label

    def draw(self, title: str, series: Sequence[_Series], infinite_from: int | None) -> None:
        """Draws all of it; epochs at p = inf have a darker ground."""
        if infinite_from is not None:
            start = self._x.at(infinite_from - 1)
            self._canvas.box(start, self._top, self._right, self._bottom, SHADE)
            self._canvas.text((start + self._right) / 2, self._top + 20, "p = inf", FAINT, 1, 0.5)
        self._axes()
        self._canvas.text(self._left, self._top - 14, title, INK)
        self._legend(series)
        for one in series:
            self._series(one)

    def _series(self, one: _Series) -> None:
        points = [(self._x.at(epoch), self._at(value)) for epoch, value in one.points]
        self._canvas.line(points, one.colour, 2.5)
        if len(points) < 40:
            for x, y in points:
                self._canvas.dot(x, y, one.colour, 6 if len(points) == 1 else 3.5)

    def _at(self, value: float) -> float:
        return self._y.at(math.log10(value) if self._logarithmic else value)

    def _axes(self) -> None:
        for value, text in self._y_ticks():
            y = self._y.at(value)
            self._canvas.box(self._left, y, self._right, y + 1, GRID)
            self._canvas.text(self._left - 10, y + 6, text, FAINT, 2, 1)
        for value, text in labelled(self._x.ticks(least=1)):
            x = self._x.at(value)
            self._canvas.box(x, self._bottom, x + 1, self._bottom + 6, FAINT)
            self._canvas.text(x, self._bottom + 26, text, FAINT, 2, 0.5)
        self._canvas.box(self._left, self._bottom, self._right, self._bottom + 2, FAINT)

    def _y_ticks(self) -> list[tuple[float, str]]:
        if not self._logarithmic:
            return labelled(self._y.ticks(), self._label)
        exponents = range(round(self._y.low), round(self._y.high) + 1)
        return [(float(exponent), self._label(10.0**exponent)) for exponent in exponents]

    def _legend(self, series: Sequence[_Series]) -> None:
        right = float(self._right)
        for one in reversed([one for one in series if one.name]):
            right -= text_width(one.name)
            self._canvas.text(right, self._top - 14, one.name, one.colour)
            right -= 24
