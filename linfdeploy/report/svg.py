# SPDX-License-Identifier: Apache-2.0
"""Axes and marks for small inline SVG plots; colours and fonts come from the page."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from xml.etree import ElementTree

__all__ = ["BOTTOM", "HEIGHT", "LEFT", "RIGHT", "TOP", "WIDTH", "Axis", "Plot", "labelled", "nice_step", "number"]

# Narrow enough that the text stays legible where the page is 400 pixels wide.
WIDTH, HEIGHT = 440.0, 274.0
LEFT, RIGHT, TOP, BOTTOM = 46.0, 426.0, 36.0, 232.0


@dataclass(frozen=True)
class Axis:
    """Maps values from `low` to `high` to coordinates from `start` to `end`."""

    low: float
    high: float
    start: float
    end: float

    def at(self, value: float) -> float:
        """Returns the coordinate of a value, held inside the axis."""
        share = (min(max(value, self.low), self.high) - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)

    def ticks(self, most: int = 6, least: float = 0.0) -> list[float]:
        """Returns at most `most` round values inside the axis, `least` or more apart."""
        step = max(nice_step((self.high - self.low) / (most - 1)), least)
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [index * step for index in range(first, last + 1)]


class Plot:
    """A plot with a vertical grid-lined and a horizontal axis, built mark by mark."""

    def __init__(self, name: str, title: str, description: str, x: Axis, y: Axis) -> None:
        self.x, self.y = x, y
        attributes = {"viewBox": f"0 0 {number(WIDTH)} {number(HEIGHT)}", "role": "img", "class": f"plot {name}"}
        labels = {"aria-labelledby": f"{name}-title {name}-description"}
        self.root = ElementTree.Element("svg", {**attributes, **labels})
        ElementTree.SubElement(self.root, "title", {"id": f"{name}-title"}).text = title
        ElementTree.SubElement(self.root, "desc", {"id": f"{name}-description"}).text = description

    def axes(
        self,
        x_label: str,
        y_label: str,
        x_ticks: Iterable[tuple[float, str]],
        y_ticks: Iterable[tuple[float, str]],
    ) -> None:
        """Draws the grid, the tick labels (value, text) and what the axes show."""
        for value, text in y_ticks:
            self._line("grid", LEFT, self.y.at(value), RIGHT, self.y.at(value))
            self.text("tick y", LEFT - 6, self.y.at(value) + 4, text)
        for value, text in x_ticks:
            self._line("nick", self.x.at(value), BOTTOM, self.x.at(value), BOTTOM + 4)
            self.text("tick x", self.x.at(value), BOTTOM + 17, text)
        self._line("axis", LEFT, BOTTOM, RIGHT, BOTTOM)
        self.text("label y", 2, 12, y_label)
        self.text("label x", RIGHT, BOTTOM + 35, x_label)

    def line(self, css: str, points: Iterable[tuple[float, float]]) -> None:
        """Draws a line through points in data coordinates."""
        path = " ".join(f"{number(self.x.at(x))},{number(self.y.at(y))}" for x, y in points)
        ElementTree.SubElement(self.root, "polyline", {"class": css, "points": path})

    def bar(self, css: str, left: float, right: float, low: float, high: float, tip: str) -> None:
        """Draws a bar in data coordinates, with a hair of space to its neighbours."""
        start, end = self.x.at(left) + 0.5, self.x.at(right) - 0.5
        top, bottom = self.y.at(high), self.y.at(low)
        box = {"x": start, "y": top, "width": max(end - start, 0.5), "height": bottom - top}
        shape = {key: number(value) for key, value in box.items()}
        self._tip(ElementTree.SubElement(self.root, "rect", {"class": css, **shape}), tip)

    def dot(self, css: str, x: float, y: float, radius: float, tip: str) -> None:
        """Draws a dot at a point in data coordinates."""
        shape = {"cx": number(self.x.at(x)), "cy": number(self.y.at(y)), "r": number(radius)}
        self._tip(ElementTree.SubElement(self.root, "circle", {"class": css, **shape}), tip)

    def diamond(self, css: str, x: float, y: float, tip: str) -> None:
        """Draws a diamond at a point in data coordinates."""
        moves = f"M{number(self.x.at(x))},{number(self.y.at(y) - 6)}l6,6l-6,6l-6,-6z"
        self._tip(ElementTree.SubElement(self.root, "path", {"class": css, "d": moves}), tip)

    def vertical(self, value: float, text: str) -> None:
        """Marks a value of the horizontal axis with a line and a text on the side that has more room."""
        x = self.x.at(value)
        self._line("mark", x, TOP - 8, x, BOTTOM)
        side, shift = ("start", 5.0) if x < (LEFT + RIGHT) / 2 else ("end", -5.0)
        self.text(f"note {side}", x + shift, TOP - 1, text)

    def horizontal(self, css: str, value: float, text: str = "") -> None:
        """Marks a value of the vertical axis with a line and a text above its end."""
        y = self.y.at(value)
        self._line(f"level {css}", LEFT, y, RIGHT, y)
        if text:
            self.text(f"note end {css}", RIGHT - 2, y - 5, text)

    def text(self, css: str, x: float, y: float, text: str) -> None:
        """Writes a text at plot coordinates; its class says how it is anchored."""
        place = {"class": css, "x": number(x), "y": number(y)}
        ElementTree.SubElement(self.root, "text", place).text = text

    def markup(self) -> str:
        """Returns the SVG element; every text in it is escaped."""
        return ElementTree.tostring(self.root, encoding="unicode")

    def _line(self, css: str, x1: float, y1: float, x2: float, y2: float) -> None:
        ends = {"x1": number(x1), "y1": number(y1), "x2": number(x2), "y2": number(y2)}
        ElementTree.SubElement(self.root, "line", {"class": css, **ends})

    @staticmethod
    def _tip(shape: ElementTree.Element, text: str) -> None:
        ElementTree.SubElement(shape, "title").text = text


def nice_step(size: float) -> float:
    """Returns the smallest of 1, 2 and 5 times a power of ten that is not below `size`.

    >>> nice_step(0.3), nice_step(7), nice_step(20)
    (0.5, 10.0, 20.0)
    """
    power = 10.0 ** math.floor(math.log10(size))
    return next(power * factor for factor in (1, 2, 5, 10, 20) if power * factor >= size * (1 - 1e-9))


def number(value: float) -> str:
    """Returns a number to two decimals without trailing zeros."""
    return f"{value:.2f}".rstrip("0").rstrip(".")


def labelled(values: Sequence[float], text: Callable[[float], str] = "{:g}".format) -> list[tuple[float, str]]:
    """Returns each value with its text."""
    return [(value, text(value)) for value in values]
