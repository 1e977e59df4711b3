# SPDX-License-Identifier: Apache-2.0
"""Ten thousand cases at the boundary: no certificate may hold where a counterexample exists."""

from __future__ import annotations

import sys

import pytest
from boundary_cases import CASES, Tally, boundary_cases, table, tally

SEED = 20


@pytest.fixture(scope="module")
def tallies() -> list[Tally]:
    rows = [tally(boundary_cases(family, SEED)) for family in CASES]
    sys.stdout.write(table(rows))
    return rows


def test_there_are_ten_thousand_cases_and_half_of_them_fall(tallies: list[Tally]) -> None:
    assert sum(row.cases for row in tallies) == 10_000
    assert all(0.3 < row.broken / row.cases < 0.8 for row in tallies)


def test_the_evaluator_confirms_every_counterexample(tallies: list[Tally]) -> None:
    assert [row.missed for row in tallies] == [0] * len(CASES)


@pytest.mark.parametrize("certificate", ["E", "I", "D"])
def test_no_certificate_is_false(tallies: list[Tally], certificate: str) -> None:
    assert {row.family: row.false[certificate] for row in tallies} == {family.name: 0 for family in CASES}


def test_the_naive_check_is_false_often_enough_to_show_that_the_cases_are_hard(tallies: list[Tally]) -> None:
    rounded = [row for row in tallies if not row.family.startswith("exact")]
    assert all(row.false["naive"] / row.certified["naive"] > 0.01 for row in rounded)


def test_interval_certifies_most_of_what_is_robust(tallies: list[Tally]) -> None:
    assert all(row.power("I") > 0.8 for row in tallies if "one layer" in row.family)
    assert all(row.power("I") > 0.5 for row in tallies if "two layers" in row.family)


def test_exact_is_given_exactly_above_the_boundary(tallies: list[Tally]) -> None:
    for row in tallies:
        if row.family.startswith("exact"):
            assert row.certified["E"] == row.certified["naive"] > 0
            assert row.certified["I"] >= row.certified["E"]
        else:
            assert row.certified["E"] == 0


def test_delta_certifies_nothing_within_its_own_slack(tallies: list[Tally]) -> None:
    assert all(row.certified["D"] == 0 for row in tallies if not row.family.startswith("exact"))
