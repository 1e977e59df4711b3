# SPDX-License-Identifier: Apache-2.0
"""Histograms with an edge on a threshold.

Bins hold `left < value <= right`, so the bins to the right of the threshold count exactly what is strictly
greater: a tie certifies nothing.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from linfdeploy.report.svg import nice_step

__all__ = ["LARGEST", "Histogram", "histogram"]

BINS = 32
# Beyond it a value says only that the engine is broken, and would flatten the rest of the plot.
LARGEST = 1e9


@dataclass(frozen=True)
class Histogram:
    """Counts of several groups of values in the same bins.

    Attributes:
        edges: One more than there are bins.
        counts: Of each group, one a bin.
        above: Of each group, how many values exceed the threshold.
        omitted: How many values are not finite or beyond 1e9, and so in no bin.
    """

    edges: tuple[float, ...]
    counts: Mapping[str, tuple[int, ...]]
    above: Mapping[str, int]
    omitted: int


def histogram(groups: Mapping[str, Sequence[float]], threshold: float) -> Histogram | None:
    """Counts the values of each group; None where there is nothing to count.

    Args:
        groups: Values by the name of their group.
        threshold: Becomes an edge.
    """
    kept = {name: [value for value in group if abs(value) <= LARGEST] for name, group in groups.items()}
    values = [value for group in kept.values() for value in group]
    if not values:
        return None
    low, high = min(*values, threshold), max(*values, threshold)
    width = nice_step(max((high - low) / BINS, 1e-6 * max(abs(low), abs(high), 1e-3)))
    bins = {name: Counter(_bin(value, threshold, width) for value in group) for name, group in kept.items()}
    found = [place for counts in bins.values() for place in counts]
    places = range(min(*found, -1), max(*found, 0) + 1)
    return Histogram(
        edges=tuple(threshold + place * width for place in range(places.start, places.stop + 1)),
        counts={name: tuple(counts[place] for place in places) for name, counts in bins.items()},
        above={name: sum(value > threshold for value in group) for name, group in kept.items()},
        omitted=sum(map(len, groups.values())) - len(values),
    )


def _bin(value: float, threshold: float, width: float) -> int:
    """Returns the bin of a value, 0 and above exactly for values above the threshold."""
    place = math.ceil((value - threshold) / width) - 1
    # A difference of two floats is 0 only where they are equal, but its quotient can underflow.
    return max(place, 0) if value > threshold else place
