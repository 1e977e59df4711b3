# SPDX-License-Identifier: Apache-2.0
import re
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from report.samples import ALL, HOSTILE, SHA, bare, empty_curves, failing, infinite, passing

from linfdeploy.errors import InputError
from linfdeploy.report.html import comparisons, groups, html_bytes, write_html
from linfdeploy.report.model import Attack, AuditReport, Conformance, Raster, Violation
from linfdeploy.report.shown import change, shown_of

VOID = {"meta", "link", "br", "hr", "img", "input"}


class Walk(HTMLParser):
    """Balances tags, and collects texts and attributes."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str | None]] = []
        self.texts: list[str] = []
        self.feed(page)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, *pair) for pair in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.texts.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.texts))


@pytest.fixture(params=list(ALL.values()), ids=list(ALL))
def report(request: pytest.FixtureRequest) -> AuditReport:
    make: Callable[[], AuditReport] = request.param
    return make()


def _page(report: AuditReport) -> str:
    return html_bytes(report).decode("utf-8")


def test_is_well_formed(report: AuditReport) -> None:
    page = _page(report)
    assert page.startswith("<!DOCTYPE html>")
    walk = Walk(page)
    assert walk.tags.count("h1") == 1
    ids = [value for _, name, value in walk.attributes if name == "id"]
    assert len(set(ids)) == len(ids)


def test_needs_nothing_from_elsewhere(report: AuditReport) -> None:
    walk = Walk(_page(report))
    assert not {"script", "link", "iframe", "object", "embed", "form"} & set(walk.tags)
    assert not [item for item in walk.attributes if item[1] in {"href", "srcset", "action"}]
    sources = [value for _, name, value in walk.attributes if name == "src"]
    assert all(value and value.startswith("data:image/png;base64,") for value in sources)
    assert len(sources) == walk.tags.count("img")
    assert not [item for item in walk.attributes if item[1].startswith("on")]
    style = re.findall(r"<style>(.*?)</style>", _page(report), re.DOTALL)
    assert len(style) == 1
    assert "url(" not in style[0]
    assert "@import" not in style[0]


def test_forbids_the_browser_to_load_or_run_anything(report: AuditReport) -> None:
    policy = ("meta", "content", "default-src 'none'; style-src 'unsafe-inline'; img-src data:")
    assert policy in Walk(_page(report)).attributes


def test_the_verdict_comes_first(report: AuditReport) -> None:
    walk = Walk(_page(report))
    verdict = report.verdict.upper()
    headings = [
        walk.text.index(heading)
        for heading in ("What this rests on", "Before and after", "Plots", "What was audited")
    ]
    assert walk.text.index(f" {verdict} ") < min(headings)
    assert headings == sorted(headings)
    other = {"PASS": "FAIL", "FAIL": "PASS"}[verdict]
    assert not re.search(rf"\b{other}\b", walk.text)


def test_has_no_number_that_is_none(report: AuditReport) -> None:
    text = Walk(_page(report)).text
    assert not re.search(r"\b(None|nan|inf|NaN)\b", text)


def test_hostile_strings_are_shown_and_do_nothing() -> None:
    walk = Walk(_page(failing()))
    assert "script" not in walk.tags
    shown = HOSTILE.replace("\udcff", "\\udcff").replace("\x07", "\\u0007").replace("\u202e", "\\u202e")
    assert any(shown in text for text in walk.texts)
    assert f"violations/{shown}.npz" in walk.texts
    assert "<script" not in _page(failing())
    assert not {"\x07", "\u202e"} & set(_page(failing()))


def test_every_violation_has_a_row() -> None:
    text = Walk(_page(failing())).text
    for violation in failing().violations[:3]:
        assert violation.detail in text
        assert violation.saved is None or violation.saved in text
    assert "an attack changed the answer for a certified image" in text
    assert "certify nothing" in text
    assert "They promise nothing now" in text
    assert "whatever an attacker does" not in text


def test_many_violations_are_cut_short() -> None:
    many = tuple(Violation("certificate", f"number {index}", index) for index in range(1000))
    text = Walk(_page(replace(failing(), violations=many))).text
    assert "number 199 " in text
    assert "number 200 " not in text
    assert "And 800 more in report.json" in text


def test_shows_the_figures() -> None:
    text = Walk(_page(passing())).text
    for shown in ("99.1 %", "88.6 %", "90.4 %", "94.4 %", "97.7 %", SHA, "cd" * 32, "onnxruntime 1.31.1"):
        assert shown in text
    for assumption in passing().assumptions.values():
        assert assumption in text
    for probe in passing().conformance.probes:
        assert probe.name in text


def test_golden_images_are_told_of_where_there_are_some() -> None:
    text = "Of the logits of 1280 golden images of the edge bundle 99.9 % are equal."
    assert text in Walk(_page(passing())).text
    assert "golden" not in Walk(_page(bare())).text


@dataclass(frozen=True)
class _Attack(Attack):
    """An attack of several runs, each with its facts, and checks of them."""

    runs: tuple[Any, ...] = ()
    sanity: tuple[Any, ...] = ()


@dataclass(frozen=True)
class _Conformance(Conformance):
    """With what was found of the engine's order and of its weights."""

    orders: tuple[str, ...] = ()
    rebuilt: bool | None = None
    coverage: tuple[Any, ...] = ()


def test_each_attack_and_each_check_of_it_has_a_row() -> None:
    whole = passing()
    known = {item.name: getattr(whole.attack, item.name) for item in fields(Attack)}
    runs = (SimpleNamespace(name="Square", samples=31, images=31_000, robust_accuracy=0.951),)
    sanity = (SimpleNamespace(name="eps 0 breaks none", passed=False, found="2 fell", expected="0"),)
    text = Walk(_page(replace(whole, attack=_Attack(**known | {"runs": runs, "sanity": sanity})))).text
    assert "Square 31 31000 95.1 %" in text
    assert "eps 0 breaks none no 2 fell 0" in text
    bare_attack = _Attack(**known | {"runs": (), "sanity": ()})
    assert "Are these attacks worth their name?" not in Walk(_page(replace(whole, attack=bare_attack))).text


def test_what_the_probes_say_of_order_and_weights_is_told() -> None:
    whole = passing()
    known = {item.name: getattr(whole.conformance, item.name) for item in fields(Conformance)}
    more = {"orders": ("per-op",), "rebuilt": True, "coverage": (SimpleNamespace(weights=8192, reaching=777),)}
    text = Walk(_page(replace(whole, conformance=_Conformance(**known | more)))).text
    assert "Operation orders that explain every bit: per-op." in text
    assert "built again, the engine gives the same bits." in text
    assert "layer by layer: 777 of 8192." in text


def test_the_layers_and_the_model_are_named() -> None:
    text = Walk(_page(passing())).text
    assert "2 layers: 64 → 128 → 10" in text
    assert "ef" * 32 in text
    assert "none matched" not in text
    assert "none matched" in Walk(_page(bare())).text


def test_the_worst_images_have_pictures_and_captions() -> None:
    text = Walk(_page(passing())).text
    pair, single = passing().pictures
    assert f"{pair.label} → {pair.changed_to} sample {pair.index} margin 24.51 radius 12.25" in text
    assert f"{single.label} sample {single.index} margin 84.3 radius 42.15" in text
    odd = replace(single, image=Raster(2, 1, 1, b"ab"))
    assert "Worst images" not in Walk(_page(replace(passing(), pictures=(odd,)))).text


def test_proved_tested_and_assumed_are_three_parts() -> None:
    page = _page(passing())
    places = [page.index(f'<section class="{name}">') for name in ("proved", "tested", "assumed")]
    assert places == sorted(places)
    assert page.count("</section>", places[0], places[2]) == 2


def test_what_is_missing_is_said() -> None:
    text = Walk(_page(bare())).text
    for shown in (
        "No certificate applies",
        "No attack was run.",
        "No pair was compared.",
        "No probe was run.",
        "none given",
    ):
        assert shown in text
    assert "The attack has no steps to show." in Walk(_page(empty_curves())).text
    assert "an output was not a finite number" in Walk(_page(infinite())).text


def test_change_is_the_difference_of_the_shown_figures() -> None:
    table = {row.title: row for row in comparisons(passing(), shown_of(passing()))}
    assert table["Correct"].change == "+1.4"
    for before, after, words in ((0.5, 0.50001, "none"), (0.6, 0.5, "\N{MINUS SIGN}10.0"), (None, 0.5, "")):
        assert replace(table["Correct"], points=change(before, after)).change == words


def test_the_margin_row_names_the_certificate_that_applies() -> None:
    notes = {row.note for row in comparisons(failing(), shown_of(failing()))}
    assert "Margin less rounding (D)" in notes
    assert "Exact margin (E)" in {row.note for row in comparisons(passing(), shown_of(passing()))}


def test_each_image_is_in_one_group(report: AuditReport) -> None:
    assert sum(group.count for group in groups(report, shown_of(report))) == len(report.rows)


def test_groups_count_what_is_known() -> None:
    counts = {group.css: group.count for group in groups(passing(), shown_of(passing()))}
    rows = passing().rows
    assert counts["certified"] == round(449 * (passing().certified.interval or 0))
    assert counts["wrong"] == sum(row.label != row.prediction for row in rows)
    assert "broken" not in counts
    fallen = next(row for row in rows if row.interval and row.label == row.prediction)
    broken = replace(passing(), rows=(replace(fallen, attacked=True),))
    assert [group.css for group in groups(broken, shown_of(broken))] == ["broken"]


def test_tables_have_headers(report: AuditReport) -> None:
    walk = Walk(_page(report))
    scopes = [value for tag, name, value in walk.attributes if tag == "th" and name == "scope"]
    assert len(scopes) == walk.tags.count("th")


@pytest.mark.parametrize("scheme", ["light", "dark", "print"])
def test_colours_have_the_contrast_that_reading_needs(scheme: str) -> None:
    colour = _colours(_page(bare()))[scheme]
    for text, ground in (("ink", "page"), ("soft", "page"), ("on-verdict", "pass"), ("on-verdict", "fail")):
        assert _contrast(colour[text], colour[ground]) >= 4.5
    for mark in ("exact", "interval", "delta", "attack", "right", "wrong", "broken"):
        assert _contrast(colour[mark], colour["page"]) >= 3


def _colours(page: str) -> dict[str, dict[str, str]]:
    """Returns the variables of each scheme; what a later block does not set stays as in the first."""
    found: dict[str, dict[str, str]] = {}
    for scheme, block in zip(
        ("light", "dark", "print"), re.findall(r":root \{(.*?)\}", page, re.DOTALL), strict=True
    ):
        found[scheme] = {**found.get("light", {}), **dict(re.findall(r"--([\w-]+): (#\w{6});", block))}
    return found


def _contrast(one: str, other: str) -> float:
    """Returns the contrast ratio of WCAG 2."""
    low, high = sorted(map(_luminance, (one, other)))
    return (high + 0.05) / (low + 0.05)


def _luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_writes_a_file(tmp_path: Path) -> None:
    write_html(passing(), tmp_path / "report.html")
    assert (tmp_path / "report.html").read_bytes() == html_bytes(passing())


def test_an_unwritable_folder_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot write"):
        write_html(passing(), tmp_path / "file" / "report.html")
