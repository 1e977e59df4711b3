# SPDX-License-Identifier: Apache-2.0
"""From an ONNX file to an engine with its manifest, and back to something that runs."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from linfdeploy import __version__
from linfdeploy.engines.base import Engine
from linfdeploy.engines.manifest import Manifest, manifest_bytes, manifest_path, read_manifest
from linfdeploy.engines.reference import ReferenceEngine, roundings_of
from linfdeploy.errors import EngineError
from linfdeploy.files import atomic_write, sha256_of
from linfdeploy.onnx.read import DeployedGraph, read_graph

__all__ = ["BACKENDS", "OpenedEngine", "engine_from_onnx", "open_engine"]

BACKENDS = ("onnxruntime",)
"""Backends in the order in which `build` tries them; each is a module of this package."""

SELF_CHECK_IMAGES = 64


@dataclass(frozen=True)
class OpenedEngine:
    """An engine that runs, the graph it was built from, and what was promised when it was built.

    Attributes:
        engine: Runs images.
        graph: Read from the engine's own file.
        manifest: None for a bare ONNX file.
        backend: Name of the backend.
    """

    engine: Engine
    graph: DeployedGraph
    manifest: Manifest | None
    backend: str


def engine_from_onnx(model: Path, out: Path, backend: str | None, options: Mapping[str, Any]) -> Manifest:
    """Builds an engine, runs it once against the bit-exact evaluator, and writes it with its manifest.

    Args:
        model: The ONNX file.
        out: The engine file; the manifest goes beside it.
        backend: One of BACKENDS, or None for the first that this machine can run.
        options: The backend's options, recorded in the manifest.

    Raises:
        InputError: The model cannot be read, or `out` cannot be written.
        EngineError: No backend can run, the graph is not ours, or the backend refuses it.
    """
    graph = read_graph(model)
    if graph.departures:
        raise EngineError(f"{model}: {graph.departures[0]}; expected a graph as exported: export it again")
    name = backend or _first_available()
    data = _backend(name).build(graph, options)
    engine = _backend(name).load(graph, options)
    manifest = Manifest(
        backend=name,
        engine_sha256=sha256_of(data),
        model_sha256=graph.sha256,
        precision=graph.net.precision,
        grid=graph.net.grid,
        form=graph.options.form,
        options=dict(options),
        versions={"linfdeploy": __version__, **engine.versions},
        self_check=_self_check(engine, graph),
    )
    # Both are whole before either takes its place: no engine without its manifest.
    with atomic_write(manifest_path(out)) as beside, atomic_write(out) as file:
        beside.write(manifest_bytes(manifest))
        file.write(data)
    return manifest


def open_engine(path: Path, options: Mapping[str, Any] | None = None) -> OpenedEngine:
    """Opens an engine that `engine_from_onnx` wrote, or a bare ONNX file with the first available backend.

    Args:
        path: The engine or ONNX file.
        options: Overrides the options of the build.

    Raises:
        InputError: The file or its manifest cannot be read.
        EngineError: The backend is missing or refuses the file.
    """
    manifest = read_manifest(path)
    graph = read_graph(path)
    name = manifest.backend if manifest else _first_available()
    used = {**(manifest.options if manifest else {}), **(options or {})}
    return OpenedEngine(_backend(name).load(graph, used), graph, manifest, name)


def _backend(name: str) -> ModuleType:
    if name not in BACKENDS:
        raise EngineError(f"backend is {name!r}; expected one of {', '.join(BACKENDS)}")
    module = importlib.import_module(f"linfdeploy.engines.{name}")
    if missing := module.available():
        raise EngineError(f"backend {name} cannot run here: {missing}")
    return module


def _first_available() -> str:
    missing = {}
    for name in BACKENDS:
        reason = importlib.import_module(f"linfdeploy.engines.{name}").available()
        if reason is None:
            return name
        missing[name] = reason
    raise EngineError("no backend can run here: " + "; ".join(f"{name}: {why}" for name, why in missing.items()))


def _self_check(engine: Engine, graph: DeployedGraph) -> dict[str, float]:
    """Runs random images; records the largest share of equal logits over the roundings an engine may follow."""
    shape = (SELF_CHECK_IMAGES, *graph.net.input_shape)
    images = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    logits = engine.run(images)
    shares = [
        float((logits == ReferenceEngine(graph.net, rounding).run(images)).mean())
        for rounding in roundings_of(graph.net)
    ]
    if graph.net.precision == "exact" and max(shares) < 1:
        raise EngineError(
            f"the engine differs from the bit-exact evaluator in {1 - max(shares):.1%} of the logits of random "
            "images; expected every bit equal: this backend computes something else and is not used"
        )
    return {"images": SELF_CHECK_IMAGES, "bit_identical": max(shares)}
