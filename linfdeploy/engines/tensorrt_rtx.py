# SPDX-License-Identifier: Apache-2.0
"""TensorRT for RTX: plans that are built without a GPU and finished for the card at hand when they are loaded.

It takes no plugins. LinfDist is built from the function that the graph carries, or from its standard form.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from importlib.util import find_spec
from types import ModuleType
from typing import Any

from linfdeploy.engines.base import BuiltEngine, Engine
from linfdeploy.engines.trt import device
from linfdeploy.engines.trt.builder import PlanSource, build_plan
from linfdeploy.engines.trt.log import new_log
from linfdeploy.engines.trt.network import check_layers
from linfdeploy.engines.trt.options import TrtOptions, options_from
from linfdeploy.engines.trt.runtime import PlanEngine, engine_from_plan
from linfdeploy.errors import EngineError
from linfdeploy.onnx.read import DeployedGraph

__all__ = ["BACKEND", "FILE_IS_GRAPH", "OPTIONS", "available", "build", "load", "runnable"]

BACKEND = "tensorrt-rtx"
OPTIONS = frozenset({"batch", "cuda_graph", "plugin", "workspace"})
FILE_IS_GRAPH = False

MODULES = ("tensorrt_rtx", "tensorrt_rtx_bindings")
KERNELS = {
    "function": "function body (TensorRT for RTX takes no plugins)",
    "standard": "standard operators",
}


def available() -> str | None:
    """Returns None when this machine can build, which needs no GPU, else what is missing."""
    if not any(find_spec(name) for name in MODULES):
        return (
            "TensorRT for RTX is not installed: pip install --no-deps tensorrt_rtx_cu13_libs "
            "tensorrt_rtx_cu13_bindings"
        )
    return None


def runnable() -> str | None:
    """Returns None when this machine can run engines, else what is missing."""
    return available() or device.missing()


def build(graph: DeployedGraph, options: Mapping[str, Any]) -> BuiltEngine:
    """Builds a plan for the cards that TensorRT for RTX serves by default; it lists 8.0, 8.6, 8.9 and 12.x.

    Raises:
        EngineError: The graph's form has LinfDist as an operator alone, or TensorRT refuses it.
    """
    check_layers(graph)
    trt, settings = _module(), _settings(options)
    if graph.options.form not in KERNELS:
        raise EngineError(
            f"the graph is of the form {graph.options.form!r} and TensorRT for RTX takes no plugins; expected the "
            "form 'function' or 'standard': export it again with --form function"
        )
    plan = build_plan(trt, new_log(trt), PlanSource(graph, settings))
    return BuiltEngine(plan, {BACKEND: trt.__version__, "kernel": KERNELS[graph.options.form]})


def load(graph: DeployedGraph, options: Mapping[str, Any], data: bytes) -> Engine:
    """Opens a plan that `build` made.

    Raises:
        EngineError: TensorRT for RTX refuses it.
    """
    trt, settings = _module(), _settings(options)
    log = new_log(trt)
    engine = PlanEngine(trt, engine_from_plan(trt, log, data, host_code=False), log, graph, device.Device())
    engine.versions.update({BACKEND: trt.__version__, "kernel": KERNELS[graph.options.form]})
    return engine if settings.cuda_graph else engine.without_graphs()


def _settings(options: Mapping[str, Any]) -> TrtOptions:
    settings = options_from(options, "none")
    if settings.plugin != "none":
        raise EngineError(f"plugin is {settings.plugin!r}; expected none: TensorRT for RTX takes no plugins")
    return settings


def _module() -> ModuleType:
    name = next(name for name in MODULES if find_spec(name))
    try:
        return importlib.import_module(name)
    # The bindings load TensorRT's library, which may be missing or of another release.
    except (ImportError, OSError) as error:
        raise EngineError(f"{name} does not load: {str(error).splitlines()[0]}: install it again") from None
