# SPDX-License-Identifier: Apache-2.0
"""New weights for an engine that was built: no tactic is timed again, so nothing but the weights changes."""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import numpy_helper

from linfdeploy.engines.trt.log import Log, forget, why
from linfdeploy.errors import EngineError
from linfdeploy.onnx.read import DeployedGraph

__all__ = ["exchanged_constants", "refit_engine"]

Constants = Mapping[str, npt.NDArray[Any]]


def exchanged_constants(old: DeployedGraph, new: DeployedGraph) -> Constants:
    """Returns the constants of `new` that are others in `old`, by name.

    Not the weights alone: the slack of a graph's radius follows from them.

    Raises:
        EngineError: The graphs differ in more than the values of constants.
    """
    for what, before, after in zip(("input and layers", "precision", "form"), _kind(old), _kind(new), strict=True):
        if before != after:
            raise EngineError(
                f"the engine was built for {what} {before}, and the model has {after}; expected the same but for "
                "the weights: build a new engine"
            )
    before, after = _constants(old), _constants(new)
    return {name: value for name, value in after.items() if value.tobytes() != before[name].tobytes()}


def refit_engine(trt: ModuleType, log: Log, engine: Any, constants: Constants) -> None:
    """Gives an engine other constants.

    Args:
        trt: The module `tensorrt`, or one like it.
        log: A logger of it.
        engine: An `ICudaEngine` that was built to be refitted.
        constants: By the names of the ONNX graph.

    Raises:
        EngineError: The engine cannot be refitted, lacks one of the constants, or TensorRT fails.
    """
    if not engine.refittable:
        raise EngineError("the engine cannot be refitted; expected one built with --refit: build a new engine")
    forget(log)
    refitter = trt.Refitter(engine, log)
    if missing := sorted(set(constants) - set(refitter.get_all_weights())):
        raise EngineError(f"the engine has no constant {missing[0]} that can be exchanged: build a new engine")
    # The arrays belong to the dictionary, which outlives the refit.
    for name, value in constants.items():
        if not refitter.set_named_weights(name, trt.Weights(value)):
            raise EngineError(f"TensorRT does not take the constant {name}: {why(log)}")
    if not refitter.refit_cuda_engine():
        raise EngineError(f"TensorRT does not refit the engine: {why(log)}")


def _kind(graph: DeployedGraph) -> tuple[object, object, object]:
    sizes = [
        layer.weight.shape if layer.window is None else (layer.weight.shape, layer.window)
        for layer in graph.net.layers
    ]
    return (graph.net.input_shape, *sizes), graph.net.precision, graph.options


def _constants(graph: DeployedGraph) -> Constants:
    tensors = graph.model.graph.initializer
    return {tensor.name: np.ascontiguousarray(numpy_helper.to_array(tensor)) for tensor in tensors}
