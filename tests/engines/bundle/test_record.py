# SPDX-License-Identifier: Apache-2.0
"""`bundle.json` from anybody: one line that says what is wrong, or a record that holds together."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from bundles import bundle_at

from linfdeploy.engines.bundle.record import BundleRecord, record_bytes, record_from_bytes
from linfdeploy.errors import InputError

Change = Callable[[Any], None]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> BundleRecord:
    return bundle_at(tmp_path_factory.mktemp("bundle") / "b")


def test_round_trip(whole: BundleRecord) -> None:
    assert record_from_bytes(record_bytes(whole), "b.json") == whole


def put(name: str, value: Any) -> Change:
    def change(data: Any) -> None:
        data[name] = value

    return change


def drop(name: str) -> Change:
    def change(data: Any) -> None:
        del data[name]

    return change


def file(place: str, sha256: Any = "0" * 64, size: Any = 1) -> Change:
    def change(data: Any) -> None:
        data["files"][place] = {"sha256": sha256, "size": size}

    return change


def no_file(place: str) -> Change:
    def change(data: Any) -> None:
        del data["files"][place]

    return change


PLACES = "expected SHA-256 and size of each file, by its place inside the folder"
AGAIN = "make the bundle again"

HOSTILE: dict[str, tuple[Change, str]] = {
    "format": (
        put("format", "linfdeploy.bundle/2"),
        "format is 'linfdeploy.bundle/2'; expected 'linfdeploy.bundle/1'",
    ),
    "no format": (drop("format"), "format is None; expected 'linfdeploy.bundle/1'"),
    "unknown field": (put("zebra", 1), "the field 'zebra' is unknown; expected those of linfdeploy.bundle/1"),
    "missing field": (drop("eps"), "the field 'eps' is missing; expected those of linfdeploy.bundle/1"),
    "target": (put("target", "jetpack5"), "target is 'jetpack5'; expected one of jetpack6, jetpack7, jetpack7.2"),
    "target list": (put("target", []), "target is []; expected one of"),
    "form": (put("form", "onnx"), "form is 'onnx'; expected one of function, op, standard"),
    "precision": (put("precision", "int8"), "precision is 'int8'; expected one of exact, fp32, fp16"),
    "grid": (put("grid", 99), "grid is 99; expected 0 to 23 or null"),
    "grid true": (put("grid", True), "grid is True; expected 0 to 23 or null"),
    "no grid": (put("grid", None), "grid is None and precision exact; expected a grid for exact graphs alone"),
    "fp32 on a grid": (put("precision", "fp32"), "grid is 12 and precision fp32; expected a grid for exact"),
    "bits": (put("golden_bits", "definition"), "golden_bits is definition and precision exact; expected required"),
    "bits word": (put("golden_bits", 0), "golden_bits is 0; expected one of required, definition"),
    "shape": (put("input_shape", [1, 3]), "input_shape is [1, 3]; expected three positive numbers"),
    "shape zero": (put("input_shape", [1, 0, 3]), "input_shape is [1, 0, 3]; expected three positive numbers"),
    "shape text": (put("input_shape", "133"), "input_shape is '133'; expected three positive numbers"),
    "classes": (put("classes", 1), "classes is 1; expected at least 2"),
    "radius": (put("radius", 1), "radius is 1; expected true or false"),
    "eps": (put("eps", "0.1\n"), r"eps is '0.1\n'; expected a radius such as 0.1"),
    "eps number": (put("eps", 0.1), "eps is 0.1; expected a radius such as 0.1"),
    "data": (put("data", "a\x1b[2J"), r"data is 'a\x1b[2J'; expected the name of a data set"),
    "long data": (put("data", "a" * 201), "expected the name of a data set"),
    "images": (put("images", 0), "images is 0; expected at least 1"),
    "images float": (put("images", 1e300), "images is 1e+300; expected at least 1"),
    "no labelled": (put("labelled", 0), "labelled is 0; expected at least 1"),
    "count": (put("labelled", 21), "21 labelled images and 853 probes; expected 873"),
    "probes": (put("probes", {"random": -1}), "probes is {'random': -1}; expected numbers of images by name"),
    "probes list": (put("probes", []), "probes is []; expected numbers of images by name"),
    "seed": (put("seed", "0"), "seed is '0'; expected a whole number from 0 on"),
    "seed below 0": (put("seed", -1), "seed is -1; expected a whole number from 0 on"),
    "versions": (put("versions", {"numpy": 2}), "versions is {'numpy': 2}; expected texts by name"),
    "files": (put("files", []), f"files is []; {PLACES}"),
    "no model": (no_file("model.onnx"), "model.onnx is not among the files; expected a whole bundle"),
    "no readme": (no_file("README.md"), "README.md is not among the files; expected a whole bundle"),
    "no radius": (
        no_file("golden/radius.npy"),
        "golden/radius.npy is not among the files; expected a whole bundle",
    ),
    "above": (file("../model.onnx"), PLACES),
    "inside above": (file("plugin/../../x"), PLACES),
    "absolute": (file("/etc/passwd"), PLACES),
    "hidden": (file("plugin/.x"), PLACES),
    "empty part": (file("plugin//x"), PLACES),
    "empty": (file(""), PLACES),
    "newline": (file("x\n"), PLACES),
    "backslash": (file("..\\x"), PLACES),
    "nul": (file("x\0y"), PLACES),
    "long": (file("x" * 101), PLACES),
    "deep": (file("/".join("abcdefghi")), PLACES),
    "itself": (file("bundle.json"), PLACES),
    "the engine": (file("model.engine"), PLACES),
    "a built folder": (file("build/x"), PLACES),
    "hash": (file("x", sha256="0" * 63), PLACES),
    "hash number": (file("x", sha256=0), PLACES),
    "upper hash": (file("x", sha256="A" * 64), PLACES),
    "size": (file("x", size=-1), PLACES),
    "huge": (file("x", size=2**41), PLACES),
    "true size": (file("x", size=True), PLACES),
    "more about a file": (lambda data: data["files"]["model.onnx"].update(mode=0o777), PLACES),
}


@pytest.mark.parametrize(("change", "text"), HOSTILE.values(), ids=HOSTILE)
def test_hostile_records(change: Change, text: str, whole: BundleRecord) -> None:
    data = json.loads(record_bytes(whole))
    change(data)
    with pytest.raises(InputError) as refusal:
        record_from_bytes(json.dumps(data).encode(), "b/bundle.json")
    line = str(refusal.value)
    assert "\n" not in line
    assert line.startswith("b/bundle.json: ")
    assert text in line
    assert AGAIN in line
    assert len(line) < 600


def test_too_many_files(whole: BundleRecord) -> None:
    data = json.loads(record_bytes(whole))
    data["files"] |= {f"x{index}": {"sha256": "0" * 64, "size": 0} for index in range(1001)}
    with pytest.raises(InputError, match=PLACES):
        record_from_bytes(json.dumps(data).encode(), "b")


@pytest.mark.parametrize("data", [b"", b"{", b"\xff", b"[" * 100000, b"9" * 5000, b'{"format": 1e999'])
def test_no_json(data: bytes) -> None:
    with pytest.raises(InputError, match=f"^b is no JSON; expected the record of an edge bundle: {AGAIN}$"):
        record_from_bytes(data, "b")


@pytest.mark.parametrize("data", [b"[]", b"null", b"3", b'"linfdeploy.bundle/1"'])
def test_json_of_something_else(data: bytes) -> None:
    with pytest.raises(
        InputError, match=r"^b: format is missing; expected 'linfdeploy.bundle/1': make the bundle"
    ):
        record_from_bytes(data, "b")


def test_a_record_is_ascii_and_says_no_path_of_its_maker(whole: BundleRecord, tmp_path: Path) -> None:
    text = record_bytes(whole).decode("ascii")
    assert "/tmp" not in text
    assert str(Path.home()) not in text
