# SPDX-License-Identifier: Apache-2.0
import copy
import json
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st
from report.samples import ALL, failing, infinite, passing

from linfdeploy.errors import InputError
from linfdeploy.report.json import json_bytes, read_json, report_to_json, write_json
from linfdeploy.report.model import Accuracy, AuditReport
from linfdeploy.report.schema import load_schema


@pytest.fixture(params=list(ALL.values()), ids=list(ALL))
def report(request: pytest.FixtureRequest) -> AuditReport:
    make: Callable[[], AuditReport] = request.param
    return make()


def test_conforms_to_the_published_schema(report: AuditReport) -> None:
    jsonschema.Draft202012Validator(load_schema()).validate(json.loads(json_bytes(report)))


def test_round_trip(report: AuditReport, tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    write_json(report, path)
    assert read_json(path) == report_to_json(report)


def test_holds_every_field_but_the_rows_and_the_verdict(report: AuditReport) -> None:
    data = report_to_json(report)
    assert set(data) == {item.name for item in fields(AuditReport)} - {"rows"} | {"verdict", "shown"}
    assert all(not {"image", "adversarial"} & set(picture) for picture in data["pictures"])
    assert data["verdict"] == ("fail" if report.violations else "pass")


def test_fields_that_readers_rely_on() -> None:
    data = report_to_json(passing())
    parts = {
        "engine": {"backend", "precision", "sha256"},
        "accuracy": {"clean", "reference_clean"},
        "certified": {"exact", "interval", "delta", "reference"},
        "attack": {"name", "steps", "restarts", "robust_accuracy"},
        "conformance": {"samples", "bit_identical", "max_ulp"},
        "lipschitz": {"pairs", "max_excess"},
    }
    for part, names in parts.items():
        assert names <= set(data[part])
    assert {"verdict", "samples", "eps", "threat_model", "violations"} <= set(data)


def test_text_is_stable_and_sorted() -> None:
    text = json_bytes(failing()).decode("ascii")
    assert text == json_bytes(failing()).decode("ascii")
    assert text.endswith("}\n")
    assert list(json.loads(text)) == sorted(json.loads(text))


def test_numbers_that_are_not_finite_become_null() -> None:
    text = json_bytes(infinite()).decode("ascii")
    assert "NaN" not in text
    assert "Infinity" not in text
    assert json.loads(text)["lipschitz"] == {
        "pairs": 40,
        "max_excess": None,
        "max_excess_ulp": None,
        "max_ratio": None,
        "ratios": [0.5, None, None],
    }


def test_a_report_that_would_not_be_read_is_not_written(tmp_path: Path) -> None:
    wrong = replace(passing(), accuracy=Accuracy(1.5, None))
    with pytest.raises(ValueError, match=r"accuracy\.clean is 1\.5; expected at most 1"):
        write_json(wrong, tmp_path / "report.json")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (b"", "is not JSON"),
        (b"\xff\xfe", "is not JSON"),
        (b'{"samples": NaN}', "NaN is not a finite number"),
        (b'{"samples": 1e999}', "1e999 is not a finite number"),
        (b"[" * 100_000, "is not JSON"),
        (b"9" * 10_000, "is not JSON"),
        (b"9" * 400, "an integer of 400 digits is too large"),
        (b"[]", r"the report is \[\]; expected object"),
        (b"{}", "the report lacks accuracy, assumptions"),
    ],
)
def test_refuses_what_is_no_report(text: bytes, fault: str, tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    path.write_bytes(text)
    with pytest.raises(InputError, match=fault) as error:
        read_json(path)
    assert "\n" not in str(error.value)
    assert str(path) in str(error.value)


@pytest.mark.parametrize(
    ("field", "value", "fault"),
    [
        ("schema", "linfdeploy.report/2", "schema is 'linfdeploy.report/2'; expected 'linfdeploy.report/1'"),
        ("verdict", "fail", "violations has 0 entries; expected at least 1"),
        ("samples", True, "samples is True; expected integer"),
        ("samples", 0, "samples is 0; expected at least 1"),
        ("created", "", "created is ''; expected at least 1 characters"),
        ("extra\n", 1, r"the report has an unknown field 'extra\n'"),
        ("curve", None, "curve is None; expected object"),
        ("accuracy", {"clean": 0.5}, "accuracy lacks reference_clean"),
        ("assumptions", {"exact": 3}, "assumptions.exact is 3; expected string"),
        ("assumptions", {"a\nb": 3}, r"assumptions.a\nb is 3; expected string"),
        (
            "eps",
            {"text": "", "fraction": "1/0", "pixels": "1", "levels": 1},
            "eps.fraction is '1/0'; expected text",
        ),
    ],
)
def test_names_the_field_that_is_wrong(field: str, value: object, fault: str, tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    path.write_text(json.dumps(report_to_json(passing()) | {field: value}))
    with pytest.raises(InputError) as error:
        read_json(path)
    assert fault in str(error.value)


def test_a_missing_file_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no such file; expected a report\.json"):
        read_json(tmp_path / "report.json")


def test_a_pass_with_violations_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    path.write_text(json.dumps(report_to_json(failing()) | {"verdict": "pass"}))
    with pytest.raises(InputError, match="violations has 4 entries; expected at most 0"):
        read_json(path)


VALUES = (
    st.none()
    | st.booleans()
    | st.integers(-2, 3)
    | st.floats(-2, 2)
    | st.sampled_from(["", "x", "1/2", [], {}, [1]])
)


@given(data=st.data())
def test_reads_a_changed_report_exactly_when_jsonschema_would(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    changed = copy.deepcopy(_SMALL[data.draw(st.sampled_from(sorted(_SMALL)))])
    for _ in range(data.draw(st.integers(1, 2))):
        _change(changed, data)
    path = tmp_path_factory.getbasetemp() / "changed.json"
    path.write_text(json.dumps(changed))
    expected = jsonschema.Draft202012Validator(load_schema()).is_valid(changed)
    try:
        read_json(path)
    except InputError:
        assert not expected
    else:
        assert expected


def _small(report: AuditReport) -> dict[str, Any]:
    return report_to_json(replace(report, lipschitz=replace(report.lipschitz, ratios=report.lipschitz.ratios[:3])))


_SMALL = {name: _small(make()) for name, make in ALL.items()}


def _change(node: Any, data: st.DataObject) -> None:
    """Walks to a random place and puts something else there, takes it away, or adds to it."""
    while True:
        places = sorted(node) if isinstance(node, dict) else list(range(len(node)))
        if not places:
            return
        place = data.draw(st.sampled_from(places))
        child = node[place]
        if isinstance(child, dict | list) and child and data.draw(st.integers(0, 3)):
            node = child
            continue
        action = data.draw(st.sampled_from(["put", "drop", "add"]))
        if action == "put":
            node[place] = data.draw(VALUES)
        elif action == "drop":
            del node[place]
        elif isinstance(node, dict):
            node[data.draw(st.sampled_from(["new", "exact", "0"]))] = data.draw(VALUES)
        else:
            node.append(data.draw(VALUES))
        return
