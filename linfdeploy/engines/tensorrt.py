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
from linfdeploy.engines.trt.log import Log, new_log
from linfdeploy.engines.trt.network import check_layers, op_nodes
from linfdeploy.engines.trt.options import OPTIONS, TrtOptions, options_from
from linfdeploy.engines.trt.refit import exchanged_constants, refit_engine
from linfdeploy.engines.trt.runtime import PlanEngine, engine_from_plan
from linfdeploy.errors import EngineError
from linfdeploy.onnx.read import DeployedGraph

__all__ = ["BACKEND", "FILE_IS_GRAPH", "OPTIONS", "available", "build", "load", "refit", "runnable"]

BACKEND = "tensorrt"
FILE_IS_GRAPH = False

LEAST_VERSION = (10, 3)
AMPERE = 80


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
    check_layers(graph)
    trt, settings = _module(), _settings(options, graph)
    if graph.options.form == "op" and settings.plugin == "none":
        raise EngineError(
            "the graph is of the form 'op', which only plugins can run, and --plugin is none; expected another "
            "--plugin, or a graph of the form 'function': export it again with --form function"
        )
    log = new_log(trt)
    library = _ready(trt, settings)
    plan = build_plan(trt, log, PlanSource(graph, settings, library if settings.plugin == "embedded" else None))
    return _built(trt, plan, graph, settings, _opened(trt, log, settings, plan))


def refit(old: DeployedGraph, new: DeployedGraph, options: Mapping[str, Any], data: bytes) -> BuiltEngine:
    """Gives a plan that `build` made of `old` the weights of `new`; no tactic is chosen again.

    Raises:
        EngineError: The graphs differ in more than weights, or the plan cannot be refitted.
    """
    constants = exchanged_constants(old, new)
    trt, settings = _module(), _settings(options, new)
    log = new_log(trt)
    engine = _opened(trt, log, settings, data)
    refit_engine(trt, log, engine, constants)
    return _built(trt, bytes(engine.serialize()), new, settings, engine)


def load(graph: DeployedGraph, options: Mapping[str, Any], data: bytes) -> Engine:
    """Opens a plan that `build` made.

    Raises:
        EngineError: TensorRT refuses it, or its plugin cannot be had here.
    """
    trt, settings = _module(), _settings(options, graph)
    log = new_log(trt)
    engine = PlanEngine(trt, _opened(trt, log, settings, data), log, graph, device.Device())
    engine.versions[BACKEND] = trt.__version__
    return engine if settings.cuda_graph else engine.without_graphs()


def _settings(options: Mapping[str, Any], graph: DeployedGraph) -> TrtOptions:
    return options_from(options, "none" if graph.options.form == "standard" else "library")


def _opened(trt: ModuleType, log: Log, settings: TrtOptions, plan: bytes) -> Any:
    """Returns the engine of a plan; only one with plugins from a library needs anything else."""
    if settings.plugin == "library":
        _ready(trt, settings)
    return engine_from_plan(trt, log, plan, host_code=settings.plugin == "embedded")


def _built(trt: ModuleType, plan: bytes, graph: DeployedGraph, settings: TrtOptions, engine: Any) -> BuiltEngine:
    ways = ways_of(op_nodes(graph), engine_layers(trt, engine))
    kernel = kernel_words(settings.plugin, ways) if ways else "standard operators"
    return BuiltEngine(plan, {BACKEND: trt.__version__, "kernel": kernel}, ways or None)


def _ready(trt: ModuleType, settings: TrtOptions) -> Path | None:
    """Brings the plugins into TensorRT's registry; returns the library they come from, if it is one."""
    if settings.plugin == "none":
        return None
    architecture = device.architecture()
    target = AMPERE if settings.hardware == "ampere+" else architecture
    if settings.plugin == "aot":
        from linfdeploy.plugins_trt.aot import check_version, register

        check_version(trt)
        register(target)
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
