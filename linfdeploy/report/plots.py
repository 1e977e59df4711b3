# SPDX-License-Identifier: Apache-2.0
"""The plots of a report as inline SVG; each is the empty string where there is nothing to draw.

Bins hold `left < value <= right` and one edge lies on the threshold, so the bars to its right count exactly what
is strictly greater: a tie certifies nothing.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import chain, pairwise

from linfdeploy.report.model import Curve, SampleRow
from linfdeploy.report.svg import BOTTOM, LEFT, RIGHT, TOP, Axis, Plot, labelled, nice_step
from linfdeploy.report.words import CERTIFICATES, percent

__all__ = ["attack_convergence", "certified_over_eps", "lipschitz_ratios", "margins", "ulps"]

BINS = 32
MAX_TIPS = 128
MAX_ULP_BARS = 10
DIGIT = 7.0
# Beyond it a value says only that the engine is broken, and would flatten the rest of the plot.
LARGEST = 1e9


def certified_over_eps(curve: Curve, asked: float, robust: float | None) -> str:
    """Draws certified accuracy over eps, with the asked eps marked and the attack's robust accuracy as a point.

    Between two radii a line takes the value of the larger one, which holds for both.

    Args:
        curve: The series.
        asked: The asked eps in levels of 255.
        robust: Fraction of the images that withstood the attack at the asked eps.
    """
    series = {name: values for name in CERTIFICATES if (values := getattr(curve, name))}
    if not series:
        return ""
    x = Axis(0, max(*curve.eps_pixels, asked) * 1.04 or 1, LEFT, RIGHT)
    said = [_at_asked(name, curve.eps_pixels, values, asked) for name, values in series.items()]
    plot = Plot("curve", "Certified accuracy over eps", " ".join(said), x, Axis(0, 1, BOTTOM, TOP))
    plot.axes("eps, levels of 255", "images correct and certified", labelled(x.ticks()), _shares(0, 1))
    for name, values in series.items():
        points = list(zip(curve.eps_pixels, values, strict=True))
        plot.line(f"series {name}", _staircase(points))
        for eps, value in points[:: math.ceil(len(points) / MAX_TIPS)]:
            plot.dot("tip", eps, value, 5, f"{CERTIFICATES[name][0]}: {percent(value)} at eps {eps:g}")
    plot.vertical(asked, f"asked: {asked:g}")
    if robust is not None:
        plot.diamond("attack", asked, robust, f"withstood the attack: {percent(robust)}")
    return plot.markup()


def margins(rows: Sequence[SampleRow], threshold: float) -> str:
    """Draws the histogram of margins, right and wrong answers stacked, with the threshold 2 eps marked."""
    right = [row.margin for row in rows if row.prediction == row.label]
    wrong = [row.margin for row in rows if row.prediction != row.label]
    over = sum(margin > threshold for margin in right)
    said = f"{over} of {len(rows)} images have the right answer and a margin above 2 eps = {threshold:g}."
    return _histogram(
        "margins",
        ("Margins", said),
        {"right": _drawable(right), "wrong": _drawable(wrong)},
        (threshold, f"2 eps = {threshold:g}"),
        "margin, levels of 255",
    )


def lipschitz_ratios(ratios: Sequence[float]) -> str:
    """Draws the histogram of Lipschitz ratios with 1 marked; what lies above 1 breaks the property."""
    kept = _drawable(ratios)
    groups = {"held": [value for value in kept if value <= 1], "broken": [value for value in kept if value > 1]}
    said = f"{len(groups['broken'])} of {len(kept)} pairs have a ratio above 1."
    label = "change of the output / change of the image"
    return _histogram("lipschitz", ("Lipschitz ratios", said), groups, (1.0, "1"), label)


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
    if certified is not None:
        plot.horizontal("certified", certified, f"certified {percent(certified)}", above=certified > final)
    plot.horizontal(
        "final", final, f"on the engine {percent(final)}", above=certified is None or certified <= final
    )
    points = list(enumerate(by_step, start=1))
    plot.line("series attack", points)
    for step, value in points[:: math.ceil(len(points) / MAX_TIPS)]:
        plot.dot("tip" if len(points) > 1 else "point", step, value, 5, f"{percent(value)} after step {step}")
    return plot.markup()


def ulps(counts: Mapping[str, int]) -> str:
    """Draws how many outputs differ by how many ulp, on a logarithmic scale of counts."""
    bars = _fold({key: counts[key] for key in sorted(counts, key=_first_number)})
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
    name: str,
    texts: tuple[str, str],
    groups: Mapping[str, Sequence[float]],
    mark: tuple[float, str],
    x_label: str,
) -> str:
    values = [value for group in groups.values() for value in group]
    if not values:
        return ""
    threshold = mark[0]
    low, high = min(*values, threshold), max(*values, threshold)
    width = nice_step(max((high - low) / BINS, 1e-6 * max(abs(low), abs(high), 1e-3)))
    bins = {css: Counter(_bin(value, threshold, width) for value in group) for css, group in groups.items()}
    total = sum(bins.values(), Counter[int]())
    first, last = min(*total, -1), max(*total, 0)
    x = Axis(threshold + first * width, threshold + (last + 1) * width, LEFT, RIGHT)
    y = Axis(0, max(total.values()) * 1.05, BOTTOM, TOP)
    plot = Plot(name, *texts, x, y)
    plot.axes(x_label, "count", labelled(x.ticks()), labelled(y.ticks(5, least=1)))
    for place in sorted(total):
        _stack(plot, bins, place, threshold, width)
    plot.vertical(*mark)
    return plot.markup()


def _bin(value: float, threshold: float, width: float) -> int:
    """Returns the bin of a value, 0 and above exactly for values above the threshold."""
    place = math.ceil((value - threshold) / width) - 1
    # A difference of two floats is 0 only where they are equal, but its quotient can underflow.
    return max(place, 0) if value > threshold else place


def _stack(plot: Plot, bins: Mapping[str, Counter[int]], place: int, threshold: float, width: float) -> None:
    base = 0
    left, right = threshold + place * width, threshold + (place + 1) * width
    for css, counts in bins.items():
        if count := counts[place]:
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


def _drawable(values: Sequence[float]) -> list[float]:
    return [value for value in values if abs(value) <= LARGEST]


def _short(key: str, bars: int) -> str:
    room = max(int((RIGHT - LEFT) / max(bars, 5) / DIGIT), 4)
    return key if len(key) <= room else f"{key[: room - 1]}…"


def _power(exponent: int) -> str:
    return f"{10 ** (exponent % 3)}{('', 'k', 'M', 'G', 'T')[min(exponent // 3, 4)]}"


def _first_number(key: str) -> tuple[float, str]:
    digits = re.search(r"\d+", key)
    return (int(digits[0]) if digits else math.inf, key)


def _fold(bars: dict[str, int]) -> dict[str, int]:
    if len(bars) <= MAX_ULP_BARS:
        return bars
    keys = list(bars)
    kept, rest = keys[: MAX_ULP_BARS - 1], keys[MAX_ULP_BARS - 1 :]
    return {**{key: bars[key] for key in kept}, f"≥{rest[0]}": sum(bars[key] for key in rest)}
