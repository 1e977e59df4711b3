# SPDX-License-Identifier: Apache-2.0
"""TensorRT, on the GPU that an engine is built for; LinfDist as a plugin with the kernels of this package.

The user's TensorRT is used: of JetPack, or a server's. Releases from 10.3 on are meant.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

from linfdeploy.engines.base import BuiltEngine, Engine
from linfdeploy.engines.trt import device
from linfdeploy.engines.trt.builder import PlanSource, build_plan
from linfdeploy.engines.trt.information import engine_layers, kernel_words, ways_of
from linfdeploy.engines.trt.library import built_library, check_library, load_library, read_library
from linfdeploy.engines.trt.log import new_log
from linfdeploy.engines.trt.network import op_nodes
from linfdeploy.engines.trt.options import OPTIONS, TrtOptions, options_from
from linfdeploy.engines.trt.runtime import PlanEngine, engine_from_plan
from linfdeploy.errors import EngineError
from linfdeploy.onnx.read import DeployedGraph

__all__ = ["BACKEND", "FILE_IS_GRAPH", "OPTIONS", "available", "build", "load", "runnable"]

BACKEND = "tensorrt"
FILE_IS_GRAPH = False

LEAST_VERSION = (10, 3)
AMPERE = 80
WITHOUT_PLUGINS = {"function": "function body (built without the plugin)", "standard": "standard operators"}


def available() -> str | None:
    """Returns None when this machine can build, which needs its GPU, else what is missing."""
    if find_spec("tensorrt") is None:
        return (
            "Python's tensorrt is not installed: on a Jetson sudo apt install python3-libnvinfer, elsewhere "
            "pip install tensorrt"
        )
    return device.missing()


def runnable() -> str | None:
    """Returns None when this machine can run engines, else what is missing."""
    return available()


def build(graph: DeployedGraph, options: Mapping[str, Any]) -> BuiltEngine:
    """Builds a plan for this machine's GPU.

    Raises:
        EngineError: Something is missing, or TensorRT refuses the graph.
    """
    trt, settings = _module(), _settings(options, graph)
    if graph.options.form == "op" and settings.plugin == "none":
        raise EngineError(
            "the graph is of the form 'op', which only plugins can run, and --plugin is none; expected another "
            "--plugin, or a graph of the form 'function': export it again with --form function"
        )
    log, gpu = new_log(trt), device.Device()
    library = _ready(trt, settings, gpu.architecture)
    plan = build_plan(trt, log, PlanSource(graph, settings, library if settings.plugin == "embedded" else None))
    layers = engine_layers(trt, engine_from_plan(trt, log, plan, host_code=settings.plugin == "embedded"))
    ways = ways_of(op_nodes(graph), layers)
    kernel = kernel_words(settings.plugin, ways) if ways else WITHOUT_PLUGINS["standard"]
    return BuiltEngine(plan, {BACKEND: trt.__version__, "kernel": kernel}, ways or None)


def load(graph: DeployedGraph, options: Mapping[str, Any], data: bytes) -> Engine:
    """Opens a plan that `build` made.

    Raises:
        EngineError: TensorRT refuses it, or its plugin cannot be had here.
    """
    trt, settings = _module(), _settings(options, graph)
    log, gpu = new_log(trt), device.Device()
    if settings.plugin == "library":
        _ready(trt, settings, gpu.architecture)
    plan = engine_from_plan(trt, log, data, host_code=settings.plugin == "embedded")
    engine = PlanEngine(trt, plan, log, graph, gpu)
    engine.versions[BACKEND] = trt.__version__
    return engine if settings.cuda_graph else engine.without_graphs()


def _settings(options: Mapping[str, Any], graph: DeployedGraph) -> TrtOptions:
    return options_from(options, "none" if graph.options.form == "standard" else "library")


def _ready(trt: ModuleType, settings: TrtOptions, architecture: int) -> Path | None:
    """Brings the plugins into TensorRT's registry; returns the library they come from, if it is one."""
    target = AMPERE if settings.hardware == "ampere+" else architecture
    if settings.plugin == "none":
        return None
    if settings.plugin == "aot":
        from linfdeploy.plugins_trt import aot

        aot.check_version(trt)
        aot.register(target)
        return None
    given = settings.plugin_library
    library = read_library(given) if given else built_library(target, settings.tensorrt_root)
    check_library(library, architecture)
    load_library(trt, library.path)
    return library.path


def _module() -> ModuleType:
    try:
        import tensorrt
    # The bindings load TensorRT's libraries, which may be missing or of another release.
    except (ImportError, OSError) as error:
        raise EngineError(f"tensorrt does not load: {str(error).splitlines()[0]}: install it again") from None
    version = tuple(int(part) for part in tensorrt.__version__.split(".")[:2])
    if version < LEAST_VERSION:
        raise EngineError(
            f"TensorRT is {tensorrt.__version__}; expected {'.'.join(map(str, LEAST_VERSION))} or later"
        )
    module: ModuleType = tensorrt
    return module
