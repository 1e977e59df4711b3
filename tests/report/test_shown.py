# SPDX-License-Identifier: Apache-2.0
"""What the page counts, counted here a second time from the rows."""

from dataclasses import replace
from fractions import Fraction
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from report.samples import ALL, bare, failing, passing

from linfdeploy.report.histogram import histogram
from linfdeploy.report.model import SampleRow
from linfdeploy.report.shown import FATES, change, class_radii, folded_ulps, shown_of


@pytest.mark.parametrize("name", ALL)
def test_each_sample_has_one_fate(name: str) -> None:
    report = ALL[name]()
    fates = shown_of(report).fates
    assert tuple(fates) == FATES
    assert sum(fates.values()) == len(report.rows)


def test_truth_lies_between_the_certified_and_those_that_withstood() -> None:
    report = passing()
    truth = shown_of(report).truth
    assert truth is not None
    right = [row for row in report.rows if row.label == row.prediction]
    assert truth.proved == sum(bool(row.joint) for row in right)
    assert truth.withstood == sum(not row.attacked for row in right)
    assert shown_of(failing()).truth is None
    assert shown_of(bare()).truth is None


def test_radii_are_those_of_right_answers_of_the_strongest_certificate() -> None:
    report = passing()
    shown = shown_of(report)
    assert shown.radii_of == "interval"
    for item in shown.radii:
        radii = [row.radius_interval or 0 for row in report.rows if row.label == row.prediction == item.label]
        assert item.samples == len(radii)
        assert (item.lowest, item.highest) == (min(radii), max(radii))
    assert shown_of(bare()).radii == ()


RADII = st.lists(st.fractions(0, 255), min_size=1, max_size=40)


@given(RADII)
def test_quartiles_are_radii_that_enough_samples_do_not_exceed(radii: list[Fraction]) -> None:
    rows = [
        SampleRow(i, 3, 3, 1.0, True, None, None, None, radius_exact=str(radius)) for i, radius in enumerate(radii)
    ]
    (found,) = class_radii(rows, "exact")
    values = sorted(map(float, radii))
    for share, value in ((0.25, found.lower_quartile), (0.5, found.median), (0.75, found.upper_quartile)):
        assert value is not None
        assert value in values
        assert sum(radius <= value for radius in values) >= share * len(values)
        assert sum(radius < value for radius in values) < share * len(values)


def test_a_class_without_right_answers_has_no_radii() -> None:
    row = SampleRow(0, 3, 4, -1.0, False, None, None, None, radius_exact="5")
    (found,) = class_radii([row], "exact")
    assert (found.label, found.samples, found.median) == (3, 0, None)


VALUES = st.lists(st.floats(-300, 300), max_size=50)


@given(VALUES, VALUES, st.integers(-50, 50).map(float))
def test_histogram_counts_each_value_once(right: list[float], wrong: list[float], threshold: float) -> None:
    found = histogram({"right": right, "wrong": wrong}, threshold)
    if found is None:
        assert not right
        assert not wrong
        return
    assert threshold in found.edges
    assert all(low < high for low, high in pairwise(found.edges))
    edge = found.edges.index(threshold)
    for name, values in (("right", right), ("wrong", wrong)):
        counts = found.counts[name]
        assert len(counts) == len(found.edges) - 1 <= 70
        assert sum(counts) == len(values)
        assert sum(counts[edge:]) == found.above[name] == sum(value > threshold for value in values)
    assert found.omitted == 0


def test_what_is_not_finite_is_in_no_bin_and_told_of() -> None:
    found = histogram({"right": [1.0, float("nan"), float("inf"), -1e10]}, 0.0)
    assert found is not None
    assert (sum(found.counts["right"]), found.omitted) == (1, 3)
    assert histogram({"right": [float("nan")]}, 0.0) is None


def test_changes_are_of_the_figures_as_they_are_shown() -> None:
    assert change(0.97796, 0.9910913) == 1.4
    assert change(0.5, 0.50001) == 0
    assert change(None, 0.5) is None
    shown = shown_of(passing()).changes
    assert (shown["clean"], shown["attack"]) == (1.4, 1.4)
    assert shown_of(replace(passing(), attack=None)).changes["attack"] is None


def test_few_distances_stay_and_many_are_folded() -> None:
    assert folded_ulps({"8+": 1, "0": 5, "1": 2}) == {"0": 5, "1": 2, "8+": 1}
    many = folded_ulps({str(distance): distance + 1 for distance in range(100)})
    assert list(many)[-1] == "≥9"
    assert sum(many.values()) == sum(range(1, 101))
