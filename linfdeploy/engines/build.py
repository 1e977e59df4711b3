# SPDX-License-Identifier: Apache-2.0
"""From an ONNX file to an engine with its manifest, and back to something that runs."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np

from linfdeploy import __version__
from linfdeploy.engines.base import Backend, BuiltEngine, Engine
from linfdeploy.engines.manifest import Manifest, manifest_bytes, manifest_path, model_path, read_manifest
from linfdeploy.engines.reference import ReferenceEngine, roundings_of
from linfdeploy.errors import EngineError, InputError
from linfdeploy.files import atomic_write, read_bytes, sha256_of
from linfdeploy.onnx.read import MAX_BYTES, DeployedGraph, read_graph

__all__ = ["BACKENDS", "OpenedEngine", "engine_from_onnx", "open_engine", "rebuilder", "refitted_engine"]

BACKENDS = ("tensorrt", "onnxruntime", "tensorrt-rtx")
"""Backends in the order in which `build` tries them; each is a module of this package."""

SELF_CHECK_IMAGES = 64
PLAN_MAGIC = (b"ftrt", b"vtrt")
"""The first bytes of a plan of TensorRT and of TensorRT-RTX."""


@dataclass(frozen=True)
class OpenedEngine:
    """An engine that runs, the graph it was built from, and what was promised when it was built.

    Attributes:
        engine: Runs images.
        graph: Read from the engine's own file, or from the model that is kept beside a plan.
        manifest: None for a bare ONNX file.
        backend: Name of the backend.
        sha256: Of the engine's file.
        options: Of the backend, as it was opened.
    """

    engine: Engine
    graph: DeployedGraph
    manifest: Manifest | None
    backend: str
    sha256: str
    options: Mapping[str, Any] = field(default_factory=dict)


def engine_from_onnx(model: Path, out: Path, backend: str | None, options: Mapping[str, Any]) -> Manifest:
    """Builds an engine, runs it once against the bit-exact evaluator, and writes it with its manifest.

    What this machine can build but not run is written without that run, and the manifest has no `self_check`.

    Args:
        model: The ONNX file.
        out: The engine file; the manifest goes beside it, and so does the model, if the engine does not hold it.
        backend: One of BACKENDS, or None for the first that this machine can run.
        options: The backend's options, recorded in the manifest.

    Raises:
        InputError: The model cannot be read, or `out` cannot be written.
        EngineError: No backend can run, the graph is not ours, or the backend refuses it.
    """
    graph = _own_graph(model)
    chosen = _builder(backend)
    if unknown := sorted(set(options) - chosen.OPTIONS):
        taken = ", ".join(sorted(chosen.OPTIONS))
        raise EngineError(f"backend {chosen.BACKEND} has no option {unknown[0]!r}; expected {taken}")
    built = chosen.build(graph, options)
    manifest = _manifest(chosen, built, graph, options)
    _write(out, manifest, built.data, None if chosen.FILE_IS_GRAPH else _graph_data(graph))
    return manifest


def refitted_engine(model: Path, old: Path, out: Path) -> Manifest:
    """Gives an engine that was built to be refitted the weights of another model, and writes it as a new one.

    Args:
        model: An ONNX file that differs in its weights alone from the one that `old` was built from.
        old: The engine, which stays as it is.
        out: The new engine.

    Raises:
        InputError: A file cannot be read or written.
        EngineError: The backend cannot refit engines, or not this one with this model.
    """
    manifest = read_manifest(old)
    if manifest is None or not hasattr(backend := _backend(manifest.backend), "refit"):
        found = f"of {manifest.backend}" if manifest else "without a manifest"
        raise EngineError(f"{old} is an engine {found}; expected one of tensorrt, built with --refit")
    graph = _own_graph(model)
    if missing := backend.available():
        raise EngineError(f"backend {backend.BACKEND} cannot build here: {missing}")
    data = read_bytes(old, MAX_BYTES, "an engine")
    _check_plan(old, data, backend, manifest)
    built = backend.refit(read_graph(_kept_model(old, manifest)), graph, manifest.options, data)
    fresh = _manifest(backend, built, graph, manifest.options)
    _write(out, fresh, built.data, _graph_data(graph))
    return fresh


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
    backend = _backend(manifest.backend) if manifest else _first_runnable()
    if missing := backend.runnable():
        raise EngineError(f"backend {backend.BACKEND} cannot run here: {missing}")
    data = read_bytes(path, MAX_BYTES, "an engine or an ONNX model")
    _check_plan(path, data, backend, manifest)
    graph = read_graph(path if manifest is None or backend.FILE_IS_GRAPH else _kept_model(path, manifest))
    used = {**(manifest.options if manifest else {}), **(options or {})}
    return OpenedEngine(backend.load(graph, used, data), graph, manifest, backend.BACKEND, sha256_of(data), used)


def rebuilder(opened: OpenedEngine, *, dear: bool) -> Callable[[], Engine] | None:
    """Returns what builds and opens an engine again from its graph, with its options, writing nothing.

    Args:
        opened: The engine.
        dear: Whether a backend that takes minutes may build as well; only ONNX Runtime's plan is made in no time.

    Returns:
        None where it is not to be built, or this machine cannot.
    """
    if opened.backend not in BACKENDS:
        return None
    backend = _backend(opened.backend)
    if not (backend.FILE_IS_GRAPH or dear) or backend.available() is not None:
        return None

    def rebuild() -> Engine:
        return backend.load(opened.graph, opened.options, backend.build(opened.graph, opened.options).data)

    return rebuild


def _own_graph(model: Path) -> DeployedGraph:
    graph = read_graph(model)
    if graph.departures:
        raise EngineError(f"{model}: {graph.departures[0]}; expected a graph as exported: export it again")
    return graph


def _manifest(backend: Backend, built: BuiltEngine, graph: DeployedGraph, options: Mapping[str, Any]) -> Manifest:
    engine = None if backend.runnable() else backend.load(graph, options, built.data)
    return Manifest(
        backend=backend.BACKEND,
        engine_sha256=sha256_of(built.data),
        model_sha256=graph.sha256,
        graph_sha256=sha256_of(built.data if backend.FILE_IS_GRAPH else _graph_data(graph)),
        precision=graph.net.precision,
        grid=graph.net.grid,
        form=graph.options.form,
        options=dict(options),
        versions={"linfdeploy": __version__, **built.versions, **(engine.versions if engine else {})},
        self_check=_self_check(engine, graph) if engine else None,
        layers=built.layers,
    )


def _graph_data(graph: DeployedGraph) -> bytes:
    data: bytes = graph.model.SerializeToString(deterministic=True)
    return data


def _write(out: Path, manifest: Manifest, data: bytes, graph: bytes | None) -> None:
    """Writes an engine with what belongs beside it: all are whole before any takes its place."""
    with ExitStack() as files:
        if graph is not None:
            files.enter_context(atomic_write(model_path(out))).write(graph)
        files.enter_context(atomic_write(manifest_path(out))).write(manifest_bytes(manifest))
        files.enter_context(atomic_write(out)).write(data)


def _check_plan(path: Path, data: bytes, backend: Backend, manifest: Manifest | None) -> None:
    """A plan is code of the backend: none is loaded but the very one that was built."""
    if manifest is None:
        if data[:4] in PLAN_MAGIC:
            raise InputError(
                f"{path} is a TensorRT plan without its manifest; expected {manifest_path(path).name} beside it: "
                "build the engine with linfdeploy build"
            )
    elif not backend.FILE_IS_GRAPH and (found := sha256_of(data)) != manifest.engine_sha256:
        raise InputError(
            f"{path} is damaged or another engine: its SHA-256 is {found}; the manifest of its build says "
            f"{manifest.engine_sha256}: build the engine again"
        )


def _kept_model(engine: Path, manifest: Manifest) -> Path:
    path = model_path(engine)
    found = sha256_of(read_bytes(path, MAX_BYTES, "the ONNX model that the engine was built from"))
    if found != manifest.graph_sha256:
        raise InputError(
            f"{path} is not the model that the engine was built from: its SHA-256 is {found}; the manifest says "
            f"{manifest.graph_sha256}: build the engine again"
        )
    return path


def _backend(name: str) -> Backend:
    if name not in BACKENDS:
        raise EngineError(f"backend is {name!r}; expected one of {', '.join(BACKENDS)}")
    return cast(Backend, importlib.import_module(f"linfdeploy.engines.{name.replace('-', '_')}"))


def _builder(name: str | None) -> Backend:
    if name is None:
        return _first_runnable()
    backend = _backend(name)
    if missing := backend.available():
        raise EngineError(f"backend {name} cannot build here: {missing}")
    return backend


def _first_runnable() -> Backend:
    missing = {}
    for name in BACKENDS:
        backend = _backend(name)
        reason = backend.runnable()
        if reason is None:
            return backend
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
    # A head's sums have no order that all engines follow: there `verify` says what is right.
    if graph.net.precision == "exact" and graph.net.head is None and max(shares) < 1:
        raise EngineError(
            f"the engine differs from the bit-exact evaluator in {1 - max(shares):.1%} of the logits of random "
            "images; expected every bit equal: this backend computes something else and is not used"
        )
    return {"images": SELF_CHECK_IMAGES, "bit_identical": max(shares)}
