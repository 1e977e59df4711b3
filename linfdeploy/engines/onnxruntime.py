# SPDX-License-Identifier: Apache-2.0
"""ONNX Runtime, on the CPU or, where its CUDA provider is installed, on a GPU.

The engine file is the ONNX model itself: ONNX Runtime makes its plan when a session starts. LinfDist runs as a
custom op where the library of `custom_ops` is there, else inlined as the function that the graph carries.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

import numpy as np

from linfdeploy.engines.base import Answers, BuiltEngine, Engine, Images
from linfdeploy.engines.custom_ops.library import CustomOps, register
from linfdeploy.errors import EngineError, brief
from linfdeploy.onnx.read import DeployedGraph

__all__ = ["BACKEND", "FILE_IS_GRAPH", "OPTIONS", "OnnxRuntimeEngine", "available", "build", "load", "runnable"]

BACKEND = "onnxruntime"
OPTIONS = frozenset({"custom_ops", "device", "threads"})
FILE_IS_GRAPH = True
MAX_THREADS = 1024


class OnnxRuntimeEngine(Engine):
    """A session over a deployed graph."""

    def __init__(self, graph: DeployedGraph, options: Mapping[str, Any]) -> None:
        import onnxruntime

        session_options, providers = _session_options(options), _providers(options)
        on_cuda = providers[0] == "CUDAExecutionProvider"
        kernel = register(session_options, graph.options.form, _custom_ops(options), on_cuda=on_cuda)
        self.input_shape = graph.net.input_shape
        self.classes = graph.net.classes
        try:
            self._session = onnxruntime.InferenceSession(
                graph.model.SerializeToString(), session_options, providers=providers
            )
        # ONNX Runtime raises its own classes, which share no base but Exception.
        except Exception as error:
            raise EngineError(f"ONNX Runtime refuses the model: {_first_line(error)}") from None
        self._outputs = [output.name for output in self._session.get_outputs()]
        provider = self._session.get_providers()[0]
        self.versions = {"onnxruntime": onnxruntime.__version__, "provider": provider, "kernel": kernel}

    def _answer(self, images: Images) -> Answers:
        try:
            values = self._session.run(self._outputs, {"image": images})
        except Exception as error:
            raise EngineError(f"ONNX Runtime failed on a batch of {len(images)}: {_first_line(error)}") from None
        return {name: np.asarray(value) for name, value in zip(self._outputs, values, strict=True)}


def available() -> str | None:
    """Returns None when this machine can build, else what is missing."""
    try:
        import onnxruntime  # noqa: F401
    except ImportError:
        return "onnxruntime is not installed: pip install onnxruntime"
    return None


def runnable() -> str | None:
    """Returns None when this machine can run engines, else what is missing."""
    return available()


def build(graph: DeployedGraph, options: Mapping[str, Any]) -> BuiltEngine:
    """Returns the engine file; starts a session first, so that a model that cannot run is refused here."""
    engine = OnnxRuntimeEngine(graph, options)
    return BuiltEngine(graph.model.SerializeToString(deterministic=True), engine.versions)


def load(graph: DeployedGraph, options: Mapping[str, Any], _data: bytes = b"") -> Engine:
    """Opens an engine that `build` wrote."""
    return OnnxRuntimeEngine(graph, options)


def _session_options(options: Mapping[str, Any]) -> Any:
    import onnxruntime

    session_options = onnxruntime.SessionOptions()
    session_options.log_severity_level = 3
    session_options.intra_op_num_threads = _threads(options)
    return session_options


def _threads(options: Mapping[str, Any]) -> int:
    """Returns the number of threads; 0 leaves it to ONNX Runtime. A manifest from outside may claim anything."""
    threads = options.get("threads", 0)
    if type(threads) is not int or not 0 <= threads <= MAX_THREADS:
        raise EngineError(f"threads is {threads!r}; expected 1 to {MAX_THREADS}")
    return threads


def _custom_ops(options: Mapping[str, Any]) -> CustomOps:
    """Returns whether LinfDist runs as a custom op."""
    wanted = options.get("custom_ops", "auto")
    if wanted not in get_args(CustomOps):
        raise EngineError(f"custom_ops is {brief(wanted)}; expected one of {', '.join(get_args(CustomOps))}")
    return wanted  # type: ignore[no-any-return]  # checked above


def _providers(options: Mapping[str, Any]) -> list[str]:
    """Returns the providers to try: CUDA where it is installed, unless `device` says otherwise."""
    import onnxruntime

    has_cuda = "CUDAExecutionProvider" in onnxruntime.get_available_providers()
    device = options.get("device", "auto")
    if device == "cuda" and not has_cuda:
        raise EngineError(
            "this ONNX Runtime has no CUDA provider; expected one for --device cuda: pip install onnxruntime-gpu"
        )
    cuda = ["CUDAExecutionProvider"] if has_cuda and device != "cpu" else []
    return [*cuda, "CPUExecutionProvider"]


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
