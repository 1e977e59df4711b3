# SPDX-License-Identifier: Apache-2.0
"""Every number that the page shows stands in `report.json`, but for those of fixed sentences and of the axes."""

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from fractions import Fraction
from html.parser import HTMLParser
from typing import Any

import pytest
from report.samples import ALL, HOSTILE, passing

from linfdeploy.report import words
from linfdeploy.report.html import html_bytes
from linfdeploy.report.json import json_bytes
from linfdeploy.report.model import AuditReport

NUMBER = re.compile(r"\d+(?:\.\d+)?(?:e[-+]?\d+)?")

# In sentences that are the same on every page.
FIXED = (
    "of 255 levels",
    "levels of 255",
    "images of 8 bits",
    "more than 2 eps",
    "exceeds 2 eps",
    "above 2 eps",
    "2 eps =",
    "1-Lipschitz",
    "no pair exceeding 1.",
    "at most 1",
    "above 1",
    "100.0 % means all",
    "SHA-256",
    "multiples of 2",
    "TF32, fp16",
)


class Shown(HTMLParser):
    """Collects the texts and the descriptions of a page, but not its style and the labels of its axes."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.skipping = 0
        self.texts: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        if tag == "style" or (tag == "text" and found.get("class", "").startswith("tick")):
            self.skipping += 1
        self.texts += [found[name] for name in ("alt", "aria-label") if name in found]

    def handle_endtag(self, tag: str) -> None:
        if self.skipping and tag in {"style", "text"}:
            self.skipping -= 1

    def handle_data(self, data: str) -> None:
        if not self.skipping:
            self.texts.append(data)


@pytest.fixture(params=list(ALL.values()), ids=list(ALL))
def report(request: pytest.FixtureRequest) -> AuditReport:
    make: Callable[[], AuditReport] = request.param
    return make()


def missing(page: bytes, data: Any) -> set[str]:
    """Returns the numbers of a page that are not in a report."""
    text = " ".join(" ".join(Shown(page.decode("utf-8")).texts).split()).replace("\u00a0", " ")
    for fixed in FIXED:
        text = text.replace(fixed, " ")
    # A place in `attack.robust_by_step`.
    text = re.sub(r"after step \d+", " ", text)
    for hostile in (HOSTILE.replace("\udcff", "\\udcff").replace("\x07", "\\u0007").replace("\u202e", "\\u202e"),):
        text = text.replace(hostile, " ")
    return set(NUMBER.findall(text)) - set(_numbers(data))


def _numbers(data: Any) -> Iterator[str]:
    if isinstance(data, dict):
        for key, value in data.items():
            yield from NUMBER.findall(key)
            yield from _numbers(value)
    elif isinstance(data, list):
        yield str(len(data))
        for item in data:
            yield from _numbers(item)
    elif isinstance(data, str):
        yield from NUMBER.findall(data)
        # A name that is cut short, and a rational as a decimal.
        yield from NUMBER.findall(data[:12])
        if re.fullmatch(r"\d+(/\d+)?", data):
            yield from (words.level(Fraction(data)), words.decimal(data))
    elif data is not None and not isinstance(data, bool):
        yield from _spellings(data)


def _spellings(value: float) -> Iterator[str]:
    shown = (words.percent(value), words.level(value), f"{value:.1f}", *(f"{value:.{n}g}" for n in (4, 6)))
    for text in (repr(value), *shown):
        yield from NUMBER.findall(text)


def test_every_number_of_the_page_is_in_the_json(report: AuditReport) -> None:
    assert missing(html_bytes(report), json.loads(json_bytes(report))) == set()


@pytest.mark.parametrize(
    "part",
    ["samples", "attack", "conformance", "lipschitz", "curve", "classes", "engine", "pictures", "shown"],
)
def test_a_number_that_is_not_in_the_json_is_found(part: str) -> None:
    data = json.loads(json_bytes(passing()))
    del data[part]
    assert missing(html_bytes(passing()), data)


def test_the_page_of_another_report_is_found() -> None:
    other = replace(passing(), accuracy=replace(passing().accuracy, clean=0.12345))
    assert "12.3" in missing(html_bytes(other), json.loads(json_bytes(passing())))
