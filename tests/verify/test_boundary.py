# SPDX-License-Identifier: Apache-2.0
"""Twenty thousand cases at the boundary: no certificate may hold where a counterexample exists.

`benchmarks/boundary.py` runs the million of which these are a share.
"""

from __future__ import annotations

import sys

import numpy as np
import pytest
from boundary_cases import CASES, Family, blocks_of
from boundary_special import HEADS, ULP_CASES, head_tally, ulp_tally
from boundary_tally import Tally, each, stacked, table, tally

SEED, SHARE = 20, 0.02
NAMES = [family.name for family in CASES]


@pytest.fixture(scope="module")
def tallies() -> list[Tally]:
    rows = [tally(family, SEED, SHARE) for family in CASES]
    rows += [*ulp_tally(SEED, SHARE), *head_tally(SEED, SHARE)]
    sys.stdout.write(table(rows))
    return rows


def of_kind(tallies: list[Tally], *words: str) -> list[Tally]:
    found = [row for row in tallies if all(word in row.family for word in words)]
    assert found
    return found


def test_the_cases_are_a_million_and_these_are_a_fiftieth(tallies: list[Tally]) -> None:
    assert sum(family.cases for family in CASES) + ULP_CASES + HEADS == 1_000_000
    assert sum(row.cases for row in tallies) == 20_000


def test_about_half_of_them_fall(tallies: list[Tally]) -> None:
    for row in of_kind(tallies, "layer"):
        assert 0.3 < row.broken / row.cases < 0.8, row.family


def test_ties_and_subnormal_margins_always_fall(tallies: list[Tally]) -> None:
    assert all(row.broken == row.cases for row in [*of_kind(tallies, "ties"), *of_kind(tallies, "subnormal")])


def test_the_evaluator_confirms_every_counterexample(tallies: list[Tally]) -> None:
    assert {row.missed for row in tallies} == {0}


@pytest.mark.parametrize("certificate", ["E", "I", "J", "D", "H"])
def test_no_certificate_is_false(tallies: list[Tally], certificate: str) -> None:
    assert {row.family: row.false[certificate] for row in tallies if row.false.get(certificate)} == {}


def test_every_certificate_is_given_somewhere(tallies: list[Tally]) -> None:
    for certificate in ("E", "I", "J", "D", "H"):
        assert sum(row.certified.get(certificate, 0) for row in tallies) > 100


def test_the_naive_check_is_false_often_enough_to_show_that_the_cases_are_hard(tallies: list[Tally]) -> None:
    rounded = [row for row in tallies if not row.family.startswith("exact")]
    for words in (("one layer",), ("two layers",), ("absorbed",), ("ulp",), ("heads",)):
        for row in of_kind(rounded, *words):
            assert row.false["naive"] / row.certified["naive"] > 0.005, row.family


def test_intervals_certify_what_is_separated_beyond_eight_ulp(tallies: list[Tally]) -> None:
    outside = sum(row.outside for row in tallies)
    assert outside > 1000
    assert sum(row.kept for row in tallies) >= 0.99 * outside


def test_interval_certifies_most_of_what_is_robust(tallies: list[Tally]) -> None:
    assert all(row.power("I") > 0.8 for row in of_kind(tallies, "one layer"))
    assert all(row.power("I") > 0.5 for row in of_kind(tallies, "two layers"))


def test_joint_certifies_no_less_than_intervals_and_sometimes_more(tallies: list[Tally]) -> None:
    both = [row.certified for row in tallies if "J" in row.certified]
    assert all(row["J"] >= row["I"] for row in both)
    assert sum(row["J"] - row["I"] for row in both) > 50


def test_exact_is_given_exactly_above_the_boundary(tallies: list[Tally]) -> None:
    for row in tallies:
        if row.family.startswith("exact"):
            assert row.certified["E"] == row.certified["naive"]
            assert row.certified["I"] >= row.certified["E"]
        else:
            assert row.certified.get("E", 0) == 0


@pytest.mark.parametrize("family", CASES, ids=NAMES)
def test_one_by_one_the_package_certifies_the_same(family: Family) -> None:
    block = next(blocks_of(family, SEED, 60 / family.cases))
    one_by_one, at_once = each(block), stacked(block)
    for name in ("E", "I", "J", "D"):
        assert one_by_one[name].tolist() == at_once[name].tolist(), name
    union = np.logical_or.reduce([at_once[name] for name in ("E", "I", "J", "D")])
    assert one_by_one["radii"].tolist() == union.tolist()
