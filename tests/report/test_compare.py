# SPDX-License-Identifier: Apache-2.0
import json
import re
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from importlib import resources
from pathlib import Path
from typing import Any, TypeAlias

import jsonschema
import pytest
from report.samples import HOSTILE, failing_alike, passing
from report.test_html import Walk

from linfdeploy.errors import InputError
from linfdeploy.report import write_report
from linfdeploy.report.compare import SCHEMA, Comparison, compared, read_side
from linfdeploy.report.compare_page import change_text, figure_text, write_comparison
from linfdeploy.report.model import Accuracy, AuditReport, Eps, SampleRow

SHOWN = HOSTILE.replace("\udcff", "\\udcff").replace("\x07", "\\u0007").replace("\u202e", "\\u202e")

Change: TypeAlias = Callable[[SampleRow], SampleRow]


@pytest.fixture
def against(tmp_path: Path) -> Callable[[AuditReport, AuditReport], Comparison]:
    def compare(a: AuditReport, b: AuditReport) -> Comparison:
        sides = [read_side(write_report(it, tmp_path / n).json.parent) for n, it in (("a", a), ("b", b))]
        return compared(sides[0], sides[1])

    return compare


def _with_rows(report: AuditReport, changes: dict[int, Change]) -> AuditReport:
    """Changes samples, and counts the figures again that are checked when a report is read."""
    rows = tuple(changes[row.index](row) if row.index in changes else row for row in report.rows)
    right = [row for row in rows if row.label == row.prediction]

    def share(name: str) -> float:
        return sum(bool(getattr(row, name)) for row in right) / len(rows)

    certified = replace(
        report.certified, exact=share("exact"), interval=share("interval"), joint=share("joint"), delta=None
    )
    return replace(report, rows=rows, certified=certified, accuracy=Accuracy(len(right) / len(rows), 0.977))


def _wrong(row: SampleRow) -> SampleRow:
    return replace(row, prediction=(row.label + 1) % 10, margin=-1.5, attacked=False)


def _weaker(row: SampleRow) -> SampleRow:
    row = replace(row, exact=False, interval=False, joint=False)
    return replace(row, radius_exact="49/2", radius_interval=24, radius_joint=24)


def _stronger(row: SampleRow) -> SampleRow:
    return replace(row, joint=True, radius_joint=25)


def _fallen(row: SampleRow) -> SampleRow:
    return replace(row, attacked=True)


def test_the_same_report_twice_has_no_change(against: Callable[..., Comparison]) -> None:
    found = against(passing(), passing())
    assert found.obstacles == ()
    assert not [fact.name for fact in found.facts if fact.differs]
    assert {figure.change for figure in found.figures} == {0.0}
    assert found.samples is not None
    assert found.samples.common == 449
    changes = found.samples
    for name in ("gained", "lost", "broke", "mended", "certified_then_wrong", "fell", "withstood"):
        assert getattr(changes, name) == ()
    assert changes.largest_margin_change == 0
    assert [curve.certificate for curve in found.curves] == ["exact", "interval", "joint"]
    assert all(curve.a == curve.b for curve in found.curves)


def test_changes_of_samples_are_found(against: Callable[..., Comparison]) -> None:
    rows = passing().rows
    strong = [row.index for row in rows if row.joint and row.label == row.prediction and not row.attacked]
    weak = [row.index for row in rows if not row.joint and row.label == row.prediction and not row.attacked]
    wrong = [row.index for row in rows if row.label != row.prediction]
    broke, lost, gained, fell, mended = strong[0], strong[1], weak[0], weak[1], wrong[0]
    b = _with_rows(
        passing(),
        {
            broke: _wrong,
            lost: _weaker,
            gained: _stronger,
            fell: _fallen,
            mended: lambda row: replace(row, prediction=row.label),
        },
    )
    samples = against(passing(), b).samples
    assert samples is not None
    assert samples.broke == samples.certified_then_wrong == (broke,)
    assert samples.lost == tuple(sorted((broke, lost)))
    assert samples.gained == (gained,)
    assert samples.fell == (fell,)
    assert samples.mended == (mended,)
    assert samples.certified_b == samples.certified_a - 1
    assert samples.largest_margin_change == rows[broke].margin + 1.5


def test_certified_counts_are_those_of_the_radii(against: Callable[..., Comparison]) -> None:
    """Against the smaller of two eps both are certified anew, counted here from the rationals."""
    smaller = replace(passing(), eps=Eps("20px", "4/51", "20", 20))
    found = against(passing(), smaller).samples
    right = [row for row in passing().rows if row.label == row.prediction]
    expected = sum(Fraction(row.radius_exact or 0) > 20 or (row.radius_joint or -1) >= 20 for row in right)
    assert found is not None
    assert (found.levels, found.certified_a, found.certified_b) == (20, expected, expected)


def test_another_eps_compares_what_does_not_depend_on_it(against: Callable[..., Comparison]) -> None:
    found = against(passing(), replace(passing(), eps=Eps("20px", "4/51", "20", 20)))
    assert found.obstacles[0] == (
        "A is against pixels within 25 levels, B against pixels within 20 levels: certified shares are not "
        "compared, curves are."
    )
    given = {figure.name for figure in found.figures if figure.change is not None}
    assert given == {"accuracy.clean", "accuracy.reference_clean"}
    assert found.curves


def test_other_images_have_no_change_at_all(against: Callable[..., Comparison]) -> None:
    found = against(passing(), replace(passing(), data="mnist"))
    assert "A is of digits, B of mnist" in found.obstacles[0]
    assert not [figure for figure in found.figures if figure.change is not None]
    assert found.samples is None


def test_fewer_samples_are_compared_where_both_have_them(against: Callable[..., Comparison]) -> None:
    found = against(passing(), passing(300))
    assert "A has 449 samples, B 300" in found.obstacles[0]
    assert not [figure for figure in found.figures if figure.change is not None]
    assert found.samples is not None
    assert found.samples.common == 300


def test_labels_that_differ_are_other_images(against: Callable[..., Comparison]) -> None:
    row = passing().rows[0]
    other = _with_rows(passing(), {0: lambda _: replace(row, label=row.label + 1, prediction=row.prediction + 1)})
    found = against(passing(), other)
    assert found.obstacles == ("The labels in the two samples.csv differ: they are of other images.",)
    assert found.samples is None
    assert not [figure for figure in found.figures if figure.change is not None]


def test_other_attacks_are_not_compared(against: Callable[..., Comparison]) -> None:
    attack = passing().attack
    assert attack is not None
    found = against(passing(), replace(passing(), attack=replace(attack, name="another")))
    assert found.obstacles == ("A and B were attacked otherwise: what withstood the attack is not compared.",)
    figures = {figure.name: figure.change for figure in found.figures}
    assert figures["attack.robust_accuracy"] is None
    assert figures["certified.exact"] == 0


def test_nothing_in_common_is_refused(against: Callable[..., Comparison], tmp_path: Path) -> None:
    other = replace(passing(), data="mnist", eps=Eps("20px", "4/51", "20", 20))
    with pytest.raises(InputError) as error:
        against(passing(), other)
    assert str(error.value) == (
        f"{tmp_path}/a/report.json is of digits within 25 levels, {tmp_path}/b/report.json of mnist within 20: "
        "they have no figure in common; audit both on the same images or within the same eps"
    )


def test_without_samples_the_figures_remain(tmp_path: Path) -> None:
    paths = write_report(passing(), tmp_path / "a")
    alone = tmp_path / "alone.json"
    alone.write_bytes(paths.json.read_bytes())
    found = compared(read_side(tmp_path / "a"), read_side(alone))
    assert found.samples is None
    assert found.obstacles == ("B has no samples.csv: single samples are not compared.",)
    assert found.figures[0].change == 0


def _shortened(text: str) -> str:
    return text[: text.rindex("\n", 0, -1) + 1]


def _relabelled(text: str) -> str:
    header, first, *rest = text.split("\n")
    index, label, *cells = first.split(",")
    return "\n".join([header, ",".join([index, str(int(label) + 1), *cells]), *rest])


@pytest.mark.parametrize(
    ("spoil", "fault"),
    [
        (_shortened, "it has 448 samples; expected 449"),
        (_relabelled, "its rows give accuracy.clean = 0.98"),
    ],
)
def test_samples_of_another_report_are_refused(spoil: Callable[[str], str], fault: str, tmp_path: Path) -> None:
    paths = write_report(passing(), tmp_path)
    paths.samples.write_text(spoil(paths.samples.read_text()))
    with pytest.raises(InputError) as error:
        read_side(tmp_path)
    assert str(error.value).startswith(f"{paths.samples} is not of {paths.json}: {fault}")


def test_what_is_no_report_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"report\.json: no such file; expected a report\.json"):
        read_side(tmp_path)
    paths = write_report(passing(), tmp_path)
    paths.json.write_text(json.dumps(json.loads(paths.json.read_text()) | {"verdict": "maybe"}))
    with pytest.raises(InputError, match="verdict is 'maybe'; expected 'pass' or 'fail'"):
        read_side(tmp_path)


def _conforms(path: Path) -> Any:
    """Returns a compare.json that follows the published schema."""
    data = json.loads(path.read_text("ascii"))
    schema = json.loads(resources.files("linfdeploy.report").joinpath("compare.schema.json").read_text("utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(data, schema)
    return data


@pytest.mark.parametrize("b", [passing, failing_alike, lambda: passing(7), lambda: replace(passing(), data="x")])
def test_follows_the_published_schema(
    b: Callable[[], AuditReport], against: Callable[..., Comparison], tmp_path: Path
) -> None:
    write_comparison(against(passing(), b()), tmp_path / "c")
    _conforms(tmp_path / "c" / "compare.json")


HUGE = {
    "eps": {"text": "x", "fraction": "1", "pixels": "9" * 400, "levels": 2**63 - 1},
    "curve": {"eps_pixels": [1e308, 1.7e308, 3], "exact": [0, 1], "interval": [1], "joint": None, "delta": []},
    "lipschitz": {"pairs": 2**62, "max_excess": -1.7e308, "max_ratio": 1.7e308, "ratios": []},
    "engine": {"layers": [], "versions": {"\ud800": "\x1b[31m"}, "grid": -(2**62), "path": "\n" * 3000},
}


@pytest.mark.parametrize("part", HUGE)
def test_numbers_and_texts_that_no_report_of_ours_has(part: str, tmp_path: Path) -> None:
    path = write_report(passing(), tmp_path / "a").json
    data = json.loads(path.read_text())
    data[part] |= HUGE[part]
    other = tmp_path / "other.json"
    other.write_text(json.dumps(data))
    found = compared(read_side(path), read_side(other))
    page = write_comparison(found, tmp_path / "c").read_text("utf-8")
    assert "\x1b" not in page
    assert not re.search(r"[\" ,]-?(nan|inf)\b", page)
    Walk(page)
    _conforms(tmp_path / "c" / "compare.json")


def test_the_page_shows_both_and_every_change(against: Callable[..., Comparison], tmp_path: Path) -> None:
    found = against(passing(), failing_alike())
    page = write_comparison(found, tmp_path / "c").read_text("utf-8")
    walk = Walk(page)
    assert page.startswith("<!DOCTYPE html>")
    assert "script" not in walk.tags
    assert not [item for item in walk.attributes if item[1] in {"src", "href"}]
    assert "A: PASS" in walk.text
    assert "B: FAIL" in walk.text
    assert f"versions.{SHOWN}" in walk.text
    for fact in found.facts:
        assert fact.name in walk.text or HOSTILE in fact.name
    for figure in found.figures:
        assert figure_text(figure, figure.a).replace(" %", "\u00a0%") in page
        assert change_text(figure) in page
    ids = [value for _, name, value in walk.attributes if name == "id"]
    assert len(set(ids)) == len(ids)


def test_the_json_holds_what_the_page_counts(against: Callable[..., Comparison], tmp_path: Path) -> None:
    found = against(passing(), failing_alike())
    write_comparison(found, tmp_path / "c")
    data = _conforms(tmp_path / "c" / "compare.json")
    assert data["schema"] == SCHEMA
    assert found.samples is not None
    assert data["samples"]["lost"] == list(found.samples.lost)
    assert [item["change"] for item in data["figures"]] == [item.change for item in found.figures]


def test_changes_in_words(against: Callable[..., Comparison]) -> None:
    by_name = {figure.name: figure for figure in against(passing(), passing()).figures}
    share, ratio = by_name["accuracy.clean"], by_name["lipschitz.max_ratio"]
    for figure, change, words in (
        (share, 1.4, "+1.4"),
        (share, -0.1, "\N{MINUS SIGN}0.1"),
        (share, 0.0, "none"),
        (share, None, ""),
        (ratio, 0.02, "+0.02"),
    ):
        assert change_text(replace(figure, change=change)) == words
