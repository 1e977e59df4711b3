# SPDX-License-Identifier: Apache-2.0
"""The plots of a report as inline SVG; each is the empty string where there is nothing to draw."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import chain, pairwise

from linfdeploy.report.histogram import Histogram
from linfdeploy.report.model import Curve, SampleRow
from linfdeploy.report.shown import ClassRadii, folded_ulps, margin_histogram, ratio_histogram
from linfdeploy.report.svg import BOTTOM, LEFT, RIGHT, TOP, Axis, Plot, labelled
from linfdeploy.report.words import CERTIFICATES, percent

__all__ = [
    "attack_convergence",
    "certified_over_eps",
    "lipschitz_ratios",
    "margins",
    "overlay",
    "radii_by_class",
    "ulps",
]

MAX_TIPS = 128
MAX_BOXES = 20
DIGIT = 7.0


def certified_over_eps(curve: Curve, asked: float, robust: float | None, clean: float | None = None) -> str:
    """Draws certified accuracy over eps, with the asked eps marked and what the attack left above it.

    Between two radii a line takes the value of the larger one, which holds for both. The attack's line is an upper
    bound everywhere: no more than what is correct without it, and from the asked eps on no more than what
    withstood it there.

    Args:
        curve: The series.
        asked: The asked eps in levels of 255.
        robust: Fraction of the images that withstood the attack at the asked eps.
        clean: Fraction of the images that are correct without an attacker.
    """
    series = {name: values for name in CERTIFICATES if (values := getattr(curve, name))}
    if not series:
        return ""
    x = Axis(0, max(*curve.eps_pixels, asked) * 1.04 or 1, LEFT, RIGHT)
    said = [_at_asked(name, curve.eps_pixels, values, asked) for name, values in series.items()]
    plot = Plot("curve", "Certified accuracy over eps", " ".join(said), x, Axis(0, 1, BOTTOM, TOP))
    plot.axes("eps, levels of 255", "images correct and certified", labelled(x.ticks()), _shares(0, 1))
    if clean is not None:
        left = clean if robust is None else robust
        plot.line("bound attack", [(0, clean), (asked, clean), (asked, left), (x.high, left)])
    for name, values in series.items():
        points = list(zip(curve.eps_pixels, values, strict=True))
        plot.line(f"series {name}", _staircase(points))
        for eps, value in points[:: math.ceil(len(points) / MAX_TIPS)]:
            plot.dot("tip", eps, value, 5, f"{CERTIFICATES[name][0]}: {percent(value)} at eps {eps:g}")
    plot.vertical(asked, f"asked: {asked:g}")
    if robust is not None:
        plot.diamond("attack", asked, robust, f"withstood the attack: {percent(robust)}")
    return plot.markup()


def overlay(name: str, radii: Sequence[float], values: Sequence[Sequence[float]], asked: Sequence[float]) -> str:
    """Draws one certificate's accuracy over eps for two reports, A before B.

    Args:
        name: The certificate, by its field in `Curve`.
        radii: In levels of 255, ascending.
        values: Fractions at each radius, of A and of B.
        asked: The asked eps of A and of B, in levels.
    """
    if not radii:
        return ""
    x = Axis(0, max(*radii, *asked) * 1.04 or 1, LEFT, RIGHT)
    title = CERTIFICATES[name][0]
    said = [
        f"{side}: {_at_asked(name, radii, of, eps)}" for side, of, eps in zip("AB", values, asked, strict=True)
    ]
    plot = Plot(f"overlay-{name}", f"{title}, A and B", " ".join(said), x, Axis(0, 1, BOTTOM, TOP))
    plot.axes("eps, levels of 255", "images correct and certified", labelled(x.ticks()), _shares(0, 1))
    for css, of in zip(("before", "after"), values, strict=True):
        points = list(zip(radii, of, strict=True))
        plot.line(f"series {css}", _staircase(points))
        for eps, value in points[:: math.ceil(len(points) / MAX_TIPS)]:
            plot.dot("tip", eps, value, 5, f"{'A' if css == 'before' else 'B'}: {percent(value)} at eps {eps:g}")
    for eps in sorted(set(asked)):
        plot.vertical(eps, f"asked: {eps:g}")
    return plot.markup()


def margins(rows: Sequence[SampleRow], threshold: float) -> str:
    """Draws the histogram of margins, right and wrong answers stacked, with the threshold 2 eps marked."""
    found = margin_histogram(rows, threshold)
    over = found.above["right"] if found else 0
    said = f"{over} of {len(rows)} images have the right answer and a margin above 2 eps = {threshold:g}."
    mark = threshold, f"2 eps = {threshold:g}"
    return _histogram("margins", ("Margins", said), found, mark, "margin, levels of 255")


def lipschitz_ratios(ratios: Sequence[float]) -> str:
    """Draws the histogram of Lipschitz ratios with 1 marked; what lies above 1 breaks the property."""
    found = ratio_histogram(ratios)
    over, kept = (found.above["broken"], len(ratios) - found.omitted) if found else (0, 0)
    said = f"{over} of {kept} pairs have a ratio above 1."
    label = "change of the output / change of the image"
    return _histogram("lipschitz", ("Lipschitz ratios", said), found, (1.0, "1"), label)


def radii_by_class(radii: Sequence[ClassRadii], asked: float) -> str:
    """Draws a box for each class: a line from the smallest to the largest radius, the middle half wide, a median.

    Args:
        radii: Of each class; of many, those with the smallest medians are drawn.
        asked: The asked eps in levels of 255, which is marked.
    """
    found = [item for item in radii if item.median is not None]
    if not found:
        return ""
    kept = sorted(sorted(found, key=_median)[:MAX_BOXES], key=lambda item: item.label)
    # Room for the mark's text beside the boxes.
    x = Axis(0, max(len(kept), 4) * 1.22, LEFT, RIGHT)
    y = Axis(0, max(*(item.highest or 0 for item in kept), asked) * 1.06 or 1, BOTTOM, TOP)
    worst = min(found, key=_median)
    said = f"The smallest median is {_median(worst):g}, of class {worst.label}; asked is {asked:g}."
    plot = Plot("radii", "Certified radius of each class", said, x, y)
    plot.axes("class", "certified radius, levels of 255", [], labelled(y.ticks()))
    for place, item in enumerate(kept):
        _box(plot, place, item)
    plot.horizontal("asked", asked, f"asked: {asked:g}")
    return plot.markup()


def _median(item: ClassRadii) -> float:
    assert item.median is not None
    return item.median


def _box(plot: Plot, place: int, item: ClassRadii) -> None:
    low, lower, middle, upper, high = (
        max(value or 0.0, 0.0)
        for value in (item.lowest, item.lower_quartile, item.median, item.upper_quartile, item.highest)
    )
    plot.text("tick x", plot.x.at(place + 0.5), BOTTOM + 17, str(item.label))
    plot.line("whisker", [(place + 0.5, low), (place + 0.5, high)])
    tip = f"class {item.label}: {low:g} to {high:g}, median {middle:g}, middle half {lower:g} to {upper:g}"
    plot.bar("bar box", place + 0.2, place + 0.8, lower, upper, tip)
    plot.line("median", [(place + 0.2, middle), (place + 0.8, middle)])


def attack_convergence(by_step: Sequence[float], final: float, certified: float | None) -> str:
    """Draws robust accuracy over the attack's steps, its final value on the engine, and the certified fraction.

    Args:
        by_step: Robust accuracy of the engine's twin after each step.
        final: Robust accuracy of the engine, over all restarts.
        certified: Fraction certified, below which no attack can get.
    """
    if not by_step:
        return ""
    levels = [final] if certified is None else [final, certified]
    low, high = _around([*by_step, *levels])
    x, y = Axis(0, len(by_step), LEFT, RIGHT), Axis(low, high, BOTTOM, TOP)
    said = f"From {percent(by_step[0])} after the first step to {percent(by_step[-1])} after step {len(by_step)}."
    plot = Plot("convergence", "Attack convergence", said, x, y)
    plot.axes("step of the attack", "images that withstand it", labelled(x.ticks(least=1)), _shares(low, high))
    points = list(enumerate(by_step, start=1))
    plot.line("series attack", points)
    for step, value in points[:: math.ceil(len(points) / MAX_TIPS)]:
        plot.dot("tip" if len(points) > 1 else "point", step, value, 5, f"{percent(value)} after step {step}")
    plot.horizontal("final", final)
    if certified is not None:
        plot.horizontal("certified", certified)
    return plot.markup()


def ulps(counts: Mapping[str, int]) -> str:
    """Draws how many outputs differ by how many ulp, on a logarithmic scale of counts."""
    bars = folded_ulps(counts)
    if not any(bars.values()):
        return ""
    decades = math.ceil(math.log10(max(bars.values())) + 0.3)
    x, y = Axis(0, max(len(bars), 5), LEFT, RIGHT), Axis(-0.5, max(decades, 1), BOTTOM, TOP)
    said = ", ".join(f"{key} ulp: {count}" for key, count in bars.items())
    plot = Plot("ulps", "Outputs by distance in ulp", said, x, y)
    y_ticks = [(float(exponent), _power(exponent)) for exponent in range(decades + 1)]
    plot.axes("distance from the evaluator, ulp", "outputs (logarithmic)", [], y_ticks)
    for place, (key, count) in enumerate(bars.items()):
        plot.text("tick x", x.at(place + 0.5), BOTTOM + 17, _short(key, len(bars)))
        top = math.log10(count) if count else -0.5
        css = "held" if key == "0" else "broken"
        plot.bar(f"bar {css}", place + 0.15, place + 0.85, -0.5, top, f"{count} outputs at {key} ulp")
        plot.text("count", x.at(place + 0.5), y.at(top) - 5, str(count))
    return plot.markup()


def _histogram(
    name: str, texts: tuple[str, str], found: Histogram | None, mark: tuple[float, str], x_label: str
) -> str:
    if found is None:
        return ""
    heights = [sum(counts) for counts in zip(*found.counts.values(), strict=True)]
    x = Axis(found.edges[0], found.edges[-1], LEFT, RIGHT)
    y = Axis(0, max(heights) * 1.05, BOTTOM, TOP)
    plot = Plot(name, *texts, x, y)
    plot.axes(x_label, "count", labelled(x.ticks()), labelled(y.ticks(5, least=1)))
    for place, edges in enumerate(pairwise(found.edges)):
        _stack(plot, {css: counts[place] for css, counts in found.counts.items()}, *edges)
    plot.vertical(*mark)
    return plot.markup()


def _stack(plot: Plot, counts: Mapping[str, int], left: float, right: float) -> None:
    base = 0
    for css, count in counts.items():
        if count:
            tip = f"{count} {css}, above {left:.6g} up to {right:.6g}"
            plot.bar(f"bar {css}", left, right, base, base + count, tip)
            base += count


def _staircase(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    steps = (((left, value), (right, value)) for (left, _), (right, value) in pairwise(points))
    return [points[0], *chain.from_iterable(steps)]


def _at_asked(name: str, radii: Sequence[float], values: Sequence[float], asked: float) -> str:
    holds = next((value for eps, value in zip(radii, values, strict=True) if eps >= asked), None)
    title = CERTIFICATES[name][0]
    return (
        f"{title}: no value at eps {asked:g}." if holds is None else f"{title}: {percent(holds)} at eps {asked:g}."
    )


def _shares(low: float, high: float) -> list[tuple[float, str]]:
    return [(value / 100, f"{value:g} %") for value in Axis(low * 100, high * 100, 0, 1).ticks()]


def _around(values: Sequence[float]) -> tuple[float, float]:
    room = max(0.15 * (max(values) - min(values)), 0.01)
    return max(min(values) - room, 0.0), min(max(values) + room, 1.0)


def _short(key: str, bars: int) -> str:
    room = max(int((RIGHT - LEFT) / max(bars, 5) / DIGIT), 4)
    return key if len(key) <= room else f"{key[: room - 1]}…"


def _power(exponent: int) -> str:
    return f"{10 ** (exponent % 3)}{('', 'k', 'M', 'G', 'T')[min(exponent // 3, 4)]}"
