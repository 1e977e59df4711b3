# SPDX-License-Identifier: Apache-2.0
import doctest
from dataclasses import replace
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st
from report.samples import ALL, bare, failing, one_sample, passing

from linfdeploy.report import svg, words
from linfdeploy.report.model import Certified


@pytest.mark.parametrize("module", [words, svg])
def test_examples(module: object) -> None:
    assert doctest.testmod(module).failed == 0  # type: ignore[arg-type]


@given(st.integers(1, 999_999).flatmap(lambda total: st.tuples(st.integers(0, total), st.just(total))))
def test_percent_is_the_exact_fraction_rounded_down(pair: tuple[int, int]) -> None:
    count, total = pair
    tenths = Fraction(words.percent(count / total).removesuffix(" %")) * 10
    assert tenths == count * 1000 // total


@given(st.fractions(0, 255))
def test_decimal_is_exact(value: Fraction) -> None:
    assert Fraction(words.decimal(str(value))) == value


def test_the_quotable_sentence() -> None:
    report = replace(passing(), certified=Certified(398 / 449, None, None, None, None))
    assert words.sentence(report) == (
        "Of 449 test images (digits), 88.6 % are classified correctly and certified for every change of up to 25 "
        "of 255 levels per pixel, by the engine with SHA-256 ab12cd34ef56…, computed exactly."
    )


def test_real_changes_are_called_so() -> None:
    report = replace(passing(), threat_model="real", engine=replace(passing().engine, precision="fp16"))
    assert "certified for every real-valued change of up to 25.5 of 255 levels per pixel" in words.sentence(report)
    assert words.sentence(report).endswith("computed with the engine's own roundings.")


def test_one_image_is_singular() -> None:
    assert words.sentence(one_sample()).startswith("Of 1 test image (digits), 100.0 % is classified correctly")


def test_a_failed_audit_quotes_no_figure() -> None:
    assert "%" not in words.sentence(failing())
    assert "failed with 4 violations: no certified figure of it may be quoted." in words.sentence(failing())
    assert words.bracket(failing()) == ""
    assert "Do not rely" in words.claim(failing())


def test_without_a_certificate_none_is_claimed() -> None:
    assert words.sentence(bare()).endswith("no certificate applies to it.")
    assert "no certificate applies" in words.claim(bare())


def test_the_truth_lies_between_proof_and_attack() -> None:
    assert "between 406 and 424 of the 449 images" in words.bracket(passing())


@pytest.mark.parametrize(
    ("certified", "expected"),
    [
        (Certified(0.5, 0.6, 0.4, 0.9, 0.9), ("interval", 0.6)),
        (Certified(0.6, 0.6, None, None, None), ("exact", 0.6)),
        (Certified(None, None, 0.0, 0.9, 0.9), ("delta", 0.0)),
        (Certified(None, None, None, 0.9, 0.9), None),
    ],
)
def test_strongest(certified: Certified, expected: tuple[str, float] | None) -> None:
    assert words.strongest(certified) == expected


@pytest.mark.parametrize("name", ALL)
def test_words_are_one_line(name: str) -> None:
    report = ALL[name]()
    assert all("\n" not in text for text in (words.claim(report), words.sentence(report), words.bracket(report)))
