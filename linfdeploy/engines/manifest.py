# SPDX-License-Identifier: Apache-2.0
"""The manifest beside an engine, `model.engine.json`: what was promised when it was built."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from linfdeploy.errors import InputError
from linfdeploy.files import read_bytes, write_bytes
from linfdeploy.onnx.pixel_net import PRECISIONS, Precision

__all__ = ["FORMAT", "Manifest", "manifest_path", "read_manifest", "write_manifest"]

FORMAT = "linfdeploy.engine/1"
MAX_BYTES = 2**20


@dataclass(frozen=True)
class Manifest:
    """What `build` records.

    Attributes:
        backend: Name of the backend that built the engine.
        engine_sha256: Of the engine file.
        model_sha256: Of the ONNX file it was built from.
        precision: Of that model: `exact`, `fp32` or `fp16`.
        grid: k of the exact grid, or None.
        form: Of the graph.
        options: The build's options.
        versions: Of the libraries that built it.
        self_check: Images run after the build, and the share of logits that equal the bit-exact evaluator's.
    """

    backend: str
    engine_sha256: str
    model_sha256: str
    precision: Precision
    grid: int | None
    form: str
    options: Mapping[str, Any]
    versions: Mapping[str, str]
    self_check: Mapping[str, float]
    format: str = FORMAT


def manifest_path(engine: Path) -> Path:
    """Returns where an engine's manifest lies."""
    return engine.with_name(f"{engine.name}.json")


def write_manifest(engine: Path, manifest: Manifest) -> None:
    """Writes an engine's manifest atomically.

    Raises:
        InputError: The folder cannot be written to.
    """
    write_bytes(manifest_path(engine), (json.dumps(asdict(manifest), indent=2) + "\n").encode())


def read_manifest(engine: Path) -> Manifest | None:
    """Reads the manifest beside an engine; None when there is none.

    Raises:
        InputError: The manifest is malformed.
    """
    path = manifest_path(engine)
    if not path.exists():
        return None
    try:
        data = json.loads(read_bytes(path, MAX_BYTES, "an engine's manifest"))
    except ValueError:
        raise InputError(f"{path} is no JSON; expected an engine's manifest: build the engine again") from None
    expected = {name: field.type for name, field in Manifest.__dataclass_fields__.items()}
    if not isinstance(data, dict) or set(data) != set(expected) or data["format"] != FORMAT:
        raise InputError(f"{path} is no manifest of format {FORMAT!r}: build the engine again")
    for name in ("backend", "engine_sha256", "model_sha256", "precision", "form"):
        if not isinstance(data[name], str):
            raise InputError(f"{path}: {name} is {data[name]!r}; expected a string: build the engine again")
    if data["precision"] not in PRECISIONS:
        raise InputError(f"{path}: precision is {data['precision']!r}; expected one of {', '.join(PRECISIONS)}")
    if not (data["grid"] is None or type(data["grid"]) is int):
        raise InputError(f"{path}: grid is {data['grid']!r}; expected a number or null: build the engine again")
    if not isinstance(data["options"], dict):
        raise InputError(f"{path}: options are {data['options']!r}; expected a mapping: build the engine again")
    return Manifest(**data)
