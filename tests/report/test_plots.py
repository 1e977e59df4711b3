# SPDX-License-Identifier: Apache-2.0
"""The plots are read back from their SVG: the tick labels give the scales, the scales give the values."""

import math
import re
from dataclasses import replace
from itertools import pairwise
from xml.etree import ElementTree

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from report.samples import failing, infinite, passing

from linfdeploy.report import plots
from linfdeploy.report.model import Curve, SampleRow
from linfdeploy.report.shown import ClassRadii

PIXEL = 0.011
FRACTIONS = st.floats(0, 1)


class Read:
    """A plot as a viewer sees it."""

    def __init__(self, text: str) -> None:
        assert "nan" not in text.lower()
        assert "inf" not in re.sub(r">[^<]*<", "><", text)
        self.root = ElementTree.fromstring(text)
        self.x = self._scale("tick x", "x", 0.0)
        self.y = self._scale("tick y", "y", -4.0)

    def _scale(self, css: str, key: str, shift: float) -> tuple[float, float]:
        """Returns (coordinate of 0, coordinates a unit) from the first and the last tick label."""
        ticks = [(_value(tick.text or ""), float(tick.attrib[key]) + shift) for tick in self.all("text", css)]
        (low, at_low), (high, at_high) = ticks[0], ticks[-1]
        if low == high:
            return at_low, float("nan")
        unit = (at_high - at_low) / (high - low)
        return at_low - low * unit, unit

    def all(self, tag: str, css: str) -> list[ElementTree.Element]:
        return [item for item in self.root.iter(tag) if item.get("class") == css]

    def to_x(self, coordinate: float) -> float:
        return (coordinate - self.x[0]) / self.x[1]

    def to_y(self, coordinate: float) -> float:
        return (coordinate - self.y[0]) / self.y[1]

    def line(self, css: str) -> list[tuple[float, float]]:
        (line,) = self.all("polyline", css)
        points = [point.split(",") for point in line.attrib["points"].split()]
        return [(self.to_x(float(x)), self.to_y(float(y))) for x, y in points]

    def bars(self, css: str) -> list[tuple[float, float, float]]:
        """Returns (left, right, height) of each bar, without the hair of space."""
        found = []
        for bar in self.all("rect", f"bar {css}"):
            x, width, height = (float(bar.attrib[key]) for key in ("x", "width", "height"))
            found.append((self.to_x(x - 0.5), self.to_x(x + width + 0.5), abs(height / self.y[1])))
        return found

    def mark(self) -> float:
        (mark,) = self.all("line", "mark")
        return self.to_x(float(mark.attrib["x1"]))


def _value(text: str) -> float:
    return float(text.removesuffix(" %")) / (100 if text.endswith("%") else 1)


def _curves() -> st.SearchStrategy[Curve]:
    radii = st.lists(st.floats(0, 255), min_size=1, max_size=20, unique=True).map(sorted)
    return radii.flatmap(
        lambda eps: st.lists(FRACTIONS, min_size=len(eps), max_size=len(eps)).map(
            lambda values: Curve(tuple(eps), tuple(sorted(values, reverse=True)), None, None)
        )
    )


@given(_curves(), st.floats(0.25, 255), FRACTIONS)
def test_curve_never_claims_more_than_was_certified(curve: Curve, asked: float, robust: float) -> None:
    read = Read(plots.certified_over_eps(curve, asked, robust))
    assert curve.exact is not None
    at = abs(PIXEL / read.x[1])
    for x, y in read.line("series exact"):
        # The true accuracy at x is at least that of the next larger radius that was computed.
        holds = next(value for eps, value in zip(curve.eps_pixels, curve.exact, strict=True) if eps >= x - 2 * at)
        assert y <= holds + 1e-3
    corners = {(round(x / at / 4), round(y, 2)) for x, y in read.line("series exact")}
    assert len(corners) <= 2 * len(curve.eps_pixels) - 1


def test_curve_passes_through_its_points_and_marks_what_was_asked() -> None:
    report = passing()
    read = Read(plots.certified_over_eps(report.curve, 25.0, 0.9))
    for name in ("exact", "interval"):
        values = getattr(report.curve, name)
        drawn = read.line(f"series {name}")[::2]
        assert len(drawn) == len(values)
        for (x, y), eps, value in zip(drawn, report.curve.eps_pixels, values, strict=True):
            assert x == pytest.approx(eps, abs=0.01)
            assert y == pytest.approx(value, abs=1e-4)
    assert read.mark() == pytest.approx(25, abs=0.01)
    (point,) = read.all("path", "attack")
    top = re.match(r"M([\d.]+),([\d.]+)l6,6", point.attrib["d"])
    assert top
    assert read.to_x(float(top[1])) == pytest.approx(25, abs=0.01)
    assert read.to_y(float(top[2]) + 6) == pytest.approx(0.9, abs=1e-4)


def test_curve_says_what_holds_at_the_asked_eps() -> None:
    curve = Curve((0.0, 10.0, 20.0), (0.9, 0.8, 0.7), None, (0.5, 0.4, 0.3))
    description = Read(plots.certified_over_eps(curve, 15.0, None)).root.findtext("desc")
    assert description == "Exact margin (E): 70.0 % at eps 15. Margin less rounding (D): 30.0 % at eps 15."
    beyond = Read(plots.certified_over_eps(curve, 21.0, None)).root.findtext("desc")
    assert beyond is not None
    assert beyond.startswith("Exact margin (E): no value at eps 21.")


@given(_curves(), st.integers(1, 255).map(float), FRACTIONS, FRACTIONS)
def test_the_bound_is_what_is_correct_and_then_what_withstood(
    curve: Curve, asked: float, one: float, other: float
) -> None:
    robust, clean = sorted((one, other))
    read = Read(plots.certified_over_eps(curve, asked, robust, clean))
    points = read.line("bound attack")
    unit = PIXEL / abs(read.y[1])
    assert [y for _, y in points] == pytest.approx([clean, clean, robust, robust], abs=3 * unit)
    step = 3 * PIXEL / abs(read.x[1])
    assert [x for x, _ in points[:3]] == pytest.approx([0, asked, asked], abs=step)


def test_without_an_attack_the_bound_is_what_is_correct() -> None:
    read = Read(plots.certified_over_eps(passing().curve, 25.0, None, 0.97))
    assert {round(y, 3) for _, y in read.line("bound attack")} == {0.97}


@given(st.lists(st.lists(st.floats(0, 255), min_size=5, max_size=5).map(sorted), min_size=1, max_size=12))
def test_boxes_are_drawn_to_scale(found: list[list[float]]) -> None:
    radii = [ClassRadii(label, 9, *values) for label, values in enumerate(found)]
    root = ElementTree.fromstring(plots.radii_by_class(radii, 25.0))
    ticks = [item for item in root.iter("text") if item.get("class") == "tick y"]
    low, high = ((float(item.text or ""), float(item.attrib["y"]) - 4) for item in (ticks[0], ticks[-1]))
    unit = (high[1] - low[1]) / (high[0] - low[0])

    def value(coordinate: float) -> float:
        return low[0] + (coordinate - low[1]) / unit

    boxes = [item for item in root.iter("rect") if item.get("class") == "bar box"]
    lines = [item.attrib["points"] for item in root.iter("polyline") if item.get("class") == "whisker"]
    medians = [item.attrib["points"] for item in root.iter("polyline") if item.get("class") == "median"]
    slack = 3 * PIXEL / abs(unit)
    for box, line, median, values in zip(boxes, lines, medians, found, strict=True):
        bottom, top = (value(float(point.split(",")[1])) for point in line.split())
        y, height = float(box.attrib["y"]), float(box.attrib["height"])
        middle = value(float(median.split()[0].split(",")[1]))
        drawn = [bottom, value(y + height), middle, value(y), top]
        assert drawn == pytest.approx(values, abs=slack)


def test_of_many_classes_the_worst_are_drawn() -> None:
    radii = [ClassRadii(label, 9, 0.0, 1.0, float(100 - label), 120.0, 130.0) for label in range(60)]
    root = ElementTree.fromstring(plots.radii_by_class(radii, 25.0))
    labels = [item.text for item in root.iter("text") if item.get("class") == "tick x"]
    assert labels == [str(label) for label in range(40, 60)]


@given(_curves(), st.lists(FRACTIONS, min_size=20, max_size=20))
def test_overlays_show_both_reports(curve: Curve, other: list[float]) -> None:
    first = curve.exact or ()
    second = sorted(other[: len(first)], reverse=True)
    read = Read(plots.overlay("exact", curve.eps_pixels, (first, second), (10.0, 20.0)))
    for css, values in (("before", first), ("after", second)):
        assert [y for _, y in read.line(f"series {css}")][::2] == pytest.approx(list(values), abs=1e-3)
    assert len(read.all("line", "mark")) == 2
    assert plots.overlay("exact", (), ((), ()), (10.0, 10.0)) == ""


MARGINS = st.lists(st.tuples(st.floats(-300, 300), st.booleans()), min_size=1, max_size=60)


@given(MARGINS, st.integers(0, 128).map(float))
@example([(33.0, True), (5e-324, True)], 0.0)
@example([(33.0, True), (-5e-324, False)], 0.0)
@example([(300.0, True), (math.nextafter(50, 51), True), (50.0, True)], 50.0)
def test_margins_right_of_the_mark_are_the_certified_ones(
    found: list[tuple[float, bool]], threshold: float
) -> None:
    rows = [
        SampleRow(i, 0, 0 if right else 1, margin, None, None, None, None)
        for i, (margin, right) in enumerate(found)
    ]
    read = Read(plots.margins(rows, threshold))
    assert read.mark() == pytest.approx(threshold, abs=0.05 / abs(read.x[1]))
    for css, wanted in (("right", True), ("wrong", False)):
        bars = read.bars(css)
        over = sum(height for left, right, height in bars if (left + right) / 2 > read.mark())
        assert over == pytest.approx(
            sum(margin > threshold for margin, right in found if right is wanted), abs=0.1
        )
        assert sum(height for *_, height in bars) == pytest.approx(
            sum(right is wanted for _, right in found), abs=0.1
        )


def test_a_margin_on_the_threshold_is_not_above_it() -> None:
    rows = [SampleRow(0, 0, 0, 50.0, None, None, None, None), SampleRow(1, 0, 0, 90.0, None, None, None, None)]
    text = plots.margins(rows, 50.0)
    assert "1 of 2 images have the right answer and a margin above 2 eps = 50." in text
    read = Read(text)
    assert sorted((left + right) / 2 > 50 for left, right, _ in read.bars("right")) == [False, True]


def test_bars_lie_where_their_values_do() -> None:
    rows = passing().rows
    bars = Read(plots.margins(rows, 50.0)).bars("right")
    for left, right, height in bars:
        low, high = round(left), round(right)
        assert (left, right) == pytest.approx((low, high), abs=0.02)
        inside = sum(low < row.margin <= high for row in rows if row.prediction == row.label)
        assert height == pytest.approx(inside, abs=0.01)


@given(st.lists(FRACTIONS, min_size=2, max_size=50), FRACTIONS, st.none() | FRACTIONS)
def test_convergence_is_drawn_to_scale(by_step: list[float], final: float, certified: float | None) -> None:
    read = Read(plots.attack_convergence(by_step, final, certified))
    drawn = read.line("series attack")
    assert [round(x) for x, _ in drawn] == list(range(1, len(by_step) + 1))
    unit = PIXEL / abs(read.y[1])
    assert [y for _, y in drawn] == pytest.approx(by_step, abs=3 * unit)
    (level,) = read.all("line", "level final")
    assert read.to_y(float(level.attrib["y1"])) == pytest.approx(final, abs=3 * unit)
    assert len(read.all("line", "level certified")) == (certified is not None)


def test_ulps_on_a_logarithmic_scale() -> None:
    text = plots.ulps({"8+": 1, "0": 1000, "1": 10, "4-7": 0})
    root = ElementTree.fromstring(text)
    heights = [float(bar.attrib["height"]) for bar in root.iter("rect")]
    decade = (heights[0] - heights[1]) / 2
    assert heights[2] == 0
    assert heights == pytest.approx([3.5 * decade, 1.5 * decade, 0, 0.5 * decade], abs=0.05)
    labels = [item.text for item in root.iter("text") if item.get("class") == "tick x"]
    assert labels == ["0", "1", "4-7", "8+"]


def test_many_ulps_are_folded() -> None:
    text = plots.ulps({str(distance): distance + 1 for distance in range(100)})
    root = ElementTree.fromstring(text)
    counts = [item.text for item in root.iter("text") if item.get("class") == "count"]
    assert counts == [*map(str, range(1, 10)), str(sum(range(10, 101)))]
    assert "≥9" in text


@given(st.lists(st.floats(0, 2), min_size=1, max_size=60))
def test_ratios_above_one_are_shown_as_broken(ratios: list[float]) -> None:
    read = Read(plots.lipschitz_ratios(ratios))
    assert sum(height for *_, height in read.bars("broken")) == pytest.approx(sum(r > 1 for r in ratios), abs=0.1)
    assert sum(height for *_, height in read.bars("held")) == pytest.approx(sum(r <= 1 for r in ratios), abs=0.1)
    assert all(left > 1 - PIXEL for left, *_ in read.bars("broken"))


def test_nothing_to_draw_is_nothing() -> None:
    assert plots.certified_over_eps(Curve((), None, None, None), 1.0, 0.5) == ""
    assert plots.certified_over_eps(Curve((), (), (), ()), 1.0, 0.5) == ""
    assert plots.margins((), 2.0) == ""
    assert plots.margins([replace(infinite().rows[0])], 2.0) == ""
    assert plots.lipschitz_ratios([]) == ""
    assert plots.lipschitz_ratios([float("inf"), float("nan")]) == ""
    assert plots.attack_convergence((), 0.5, 0.5) == ""
    assert plots.ulps({}) == ""
    assert plots.ulps({"0": 0}) == ""
    assert plots.radii_by_class((), 25.0) == ""
    assert plots.radii_by_class([ClassRadii(3, 0, None, None, None, None, None)], 25.0) == ""


@pytest.mark.parametrize("margin", [0.0, 1e-30, -1e-30, 1e8, -1e8, 1e30, 5e-324])
def test_single_and_extreme_margins(margin: float) -> None:
    rows = [SampleRow(0, 0, 0, margin, None, None, None, None), SampleRow(1, 0, 0, 3.0, None, None, None, None)]
    Read(plots.margins(rows, 0.0))
    Read(plots.margins(rows, 50.0))


def test_degenerate_inputs_stay_finite() -> None:
    Read(plots.certified_over_eps(Curve((0.0,), (1.0,), None, None), 0.0, 1.0))
    Read(plots.attack_convergence((0.0,), 0.0, 0.0))
    Read(plots.attack_convergence((1.0,), 1.0, None))
    Read(plots.lipschitz_ratios([1.0]))
    Read(plots.lipschitz_ratios([0.0] * 5))


def test_texts_are_escaped() -> None:
    text = plots.ulps(failing().conformance.ulps)
    assert "<script" not in text
    assert "&lt;script&gt;" in text


def test_each_plot_is_named_and_described() -> None:
    report = passing()
    drawn = [
        plots.certified_over_eps(report.curve, 25, 0.9),
        plots.margins(report.rows, 50),
        plots.lipschitz_ratios(report.lipschitz.ratios),
        plots.attack_convergence((0.9, 0.8), 0.8, 0.7),
        plots.ulps({"0": 5}),
        plots.radii_by_class([ClassRadii(3, 2, 1.0, 1.0, 1.0, 2.0, 2.0)], 25.0),
        plots.overlay("exact", (0.0, 1.0), ((1.0, 0.5), (1.0, 0.4)), (1.0, 1.0)),
    ]
    ids = []
    for text in drawn:
        root = ElementTree.fromstring(text)
        assert root.get("role") == "img"
        assert root[0].tag == "title"
        assert root[1].tag == "desc"
        assert root.attrib["aria-labelledby"].split() == [root[0].attrib["id"], root[1].attrib["id"]]
        ids += root.attrib["aria-labelledby"].split()
    assert len(set(ids)) == len(ids)


@given(st.lists(FRACTIONS, min_size=2, max_size=8))
def test_staircase_has_only_level_and_upright_pieces(values: list[float]) -> None:
    points = [(float(x), value) for x, value in enumerate(values)]
    assert all(a[0] == b[0] or a[1] == b[1] for a, b in pairwise(plots._staircase(points)))
