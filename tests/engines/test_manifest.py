# SPDX-License-Identifier: Apache-2.0
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from linfdeploy.engines.manifest import FORMAT, Manifest, manifest_path, read_manifest, write_manifest
from linfdeploy.errors import InputError

MANIFEST = Manifest(
    backend="onnxruntime",
    engine_sha256="a" * 64,
    model_sha256="b" * 64,
    graph_sha256="c" * 64,
    precision="exact",
    grid=12,
    form="function",
    options={"threads": 2},
    versions={"onnxruntime": "1.2"},
    self_check={"images": 64, "bit_identical": 1.0},
)


def test_round_trip(tmp_path: Path) -> None:
    engine = tmp_path / "model.engine"
    write_manifest(engine, MANIFEST)
    assert manifest_path(engine) == tmp_path / "model.engine.json"
    assert read_manifest(engine) == MANIFEST
    assert json.loads(manifest_path(engine).read_text())["format"] == FORMAT


def test_none_where_there_is_none(tmp_path: Path) -> None:
    assert read_manifest(tmp_path / "model.engine") is None


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (
            {"format": "linfdeploy.engine/1"},
            "is no manifest of format 'linfdeploy.engine/2': build the engine again",
        ),
        ({"extra": 1}, "is no manifest of format"),
        ({"backend": 3}, "backend is 3; expected a plain word: build"),
        ({"backend": "../evil"}, "backend is '../evil'; expected a plain word"),
        ({"backend": "a\nb"}, "expected a plain word"),
        ({"engine_sha256": None}, "engine_sha256 is None; expected"),
        ({"model_sha256": ["a"]}, r"model_sha256 is \['a'\]; expected"),
        ({"precision": "best"}, "precision is 'best'; expected one of exact, fp32, fp16"),
        ({"grid": "12"}, "grid is '12'; expected 0 to 23 or null"),
        ({"grid": True}, "grid is True; expected"),
        ({"grid": 99999}, "grid is 99999; expected"),
        ({"grid": -1}, "grid is -1; expected"),
        ({"form": 1.5}, "form is 1.5; expected"),
        ({"options": []}, r"options is \[\]; expected a mapping"),
        ({"versions": "x"}, "versions is 'x'; expected a mapping"),
        ({"self_check": 1}, "self_check is 1; expected a mapping"),
        ({"layers": "x"}, "layers is 'x'; expected a mapping"),
        ({"graph_sha256": 1}, "graph_sha256 is 1; expected a plain word"),
    ],
)
def test_refuses(change: dict[str, Any], text: str, tmp_path: Path) -> None:
    engine = tmp_path / "model.engine"
    manifest_path(engine).write_text(json.dumps({**asdict(MANIFEST), **change}))
    with pytest.raises(InputError, match=text):
        read_manifest(engine)


@pytest.mark.parametrize(
    "data", [b"", b"{", b"[1]", b"null", b"\xff\xfe\xff", b"[" * 200000, b'{"grid": ' + b"9" * 9999]
)
def test_refuses_what_is_no_manifest(data: bytes, tmp_path: Path) -> None:
    engine = tmp_path / "model.engine"
    manifest_path(engine).write_bytes(data)
    with pytest.raises(InputError, match=r"expected an engine's manifest|is no manifest of format"):
        read_manifest(engine)


def test_refuses_a_folder_and_a_huge_file(tmp_path: Path) -> None:
    engine = tmp_path / "model.engine"
    manifest_path(engine).mkdir()
    with pytest.raises(InputError, match="expected an engine's manifest"):
        read_manifest(engine)
    manifest_path(engine).rmdir()
    with manifest_path(engine).open("wb") as file:
        file.truncate(2**20 + 1)
    with pytest.raises(InputError, match="has 1048577 bytes; expected an engine's manifest of at most 1048576"):
        read_manifest(engine)
