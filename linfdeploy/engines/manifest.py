# SPDX-License-Identifier: Apache-2.0
"""The manifest beside an engine, `model.engine.json`: what was promised when it was built."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from linfdeploy.errors import InputError, brief
from linfdeploy.files import read_bytes, write_bytes
from linfdeploy.onnx.pixel_net import MAX_GRID, PRECISIONS, Precision

__all__ = [
    "FORMAT",
    "Manifest",
    "manifest_bytes",
    "manifest_path",
    "model_path",
    "read_manifest",
    "write_manifest",
]

FORMAT = "linfdeploy.engine/2"
MAX_BYTES = 2**20
# What may be printed and looked up without further thought.
PLAIN = re.compile(r"[A-Za-z0-9_.-]{1,64}")


@dataclass(frozen=True)
class Manifest:
    """What `build` records.

    Attributes:
        backend: Name of the backend that built the engine.
        engine_sha256: Of the engine file.
        model_sha256: Of the ONNX file it was built from.
        graph_sha256: Of that model as it lies in the engine file, or beside it, with all its data inside.
        precision: Of that model: `exact`, `fp32` or `fp16`.
        grid: k of the exact grid, or None.
        form: Of the graph.
        options: The build's options.
        versions: Of the libraries that built it.
        self_check: Images run after the build, and the share of logits that equal the bit-exact evaluator's; None
            for an engine that the machine of the build could not run.
        layers: Of the graph's LinfDist nodes, by name: how the engine runs each, as its own layer information
            says. None where the versions' `kernel` says it for all.
    """

    backend: str
    engine_sha256: str
    model_sha256: str
    graph_sha256: str
    precision: Precision
    grid: int | None
    form: str
    options: Mapping[str, Any]
    versions: Mapping[str, str]
    self_check: Mapping[str, float] | None
    layers: Mapping[str, str] | None = None
    format: str = FORMAT

    @property
    def file_is_graph(self) -> bool:
        """Whether the engine file is the graph itself, and not a plan with the graph beside it."""
        return self.engine_sha256 == self.graph_sha256


def manifest_path(engine: Path) -> Path:
    """Returns where an engine's manifest lies."""
    return engine.with_name(f"{engine.name}.json")


def model_path(engine: Path) -> Path:
    """Returns where the model lies that an engine was built from, if the engine file is not the model."""
    return engine.with_name(f"{engine.name}.onnx")


def write_manifest(engine: Path, manifest: Manifest) -> None:
    """Writes an engine's manifest atomically.

    Raises:
        InputError: The folder cannot be written to.
    """
    write_bytes(manifest_path(engine), manifest_bytes(manifest))


def manifest_bytes(manifest: Manifest) -> bytes:
    """Returns what `write_manifest` writes."""
    return (json.dumps(asdict(manifest), indent=2) + "\n").encode()


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
    # The latter: brackets within brackets within brackets.
    except (ValueError, RecursionError):
        raise InputError(f"{path} is no JSON; expected an engine's manifest: build the engine again") from None
    expected = {name: field.type for name, field in Manifest.__dataclass_fields__.items()}
    if not isinstance(data, dict) or set(data) != set(expected) or data["format"] != FORMAT:
        raise InputError(f"{path} is no manifest of format {FORMAT!r}: build the engine again")
    for name in ("backend", "engine_sha256", "model_sha256", "graph_sha256", "precision", "form"):
        if not isinstance(data[name], str) or not PLAIN.fullmatch(data[name]):
            raise InputError(f"{path}: {name} is {data[name]!r}; expected a plain word: build the engine again")
    if data["precision"] not in PRECISIONS:
        raise InputError(f"{path}: precision is {data['precision']!r}; expected one of {', '.join(PRECISIONS)}")
    if not (data["grid"] is None or (type(data["grid"]) is int and 0 <= data["grid"] <= MAX_GRID)):
        raise InputError(
            f"{path}: grid is {data['grid']!r}; expected 0 to {MAX_GRID} or null: build the engine again"
        )
    for name, may_miss in (("options", False), ("versions", False), ("self_check", True), ("layers", True)):
        if not (isinstance(data[name], dict) or (may_miss and data[name] is None)):
            raise InputError(f"{path}: {name} is {brief(data[name])}; expected a mapping: build the engine again")
    return Manifest(**data)
