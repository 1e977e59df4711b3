# SPDX-License-Identifier: Apache-2.0
"""Handwritten models of one node of ours, and ONNX Runtime with the custom-op library."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
from onnx import ModelProto, helper, numpy_helper

from linfdeploy.engines.custom_ops.library import library

__all__ = ["WAYS", "Arrays", "needs_library", "one_node", "op_types", "run", "session"]

Arrays = Mapping[str, npt.NDArray[Any]]

needs_library = pytest.mark.skipif(
    not library().is_file(), reason="the custom-op library was not built: there was no onnxruntime_c_api.h"
)
WAYS = ["off", pytest.param("on", marks=needs_library)]
"""What `custom_ops` may be here."""


def one_node(op: str, values: Arrays, constants: tuple[str, ...] = (), **attributes: Any) -> ModelProto:
    """A model of one node over the values; those named in `constants` are initializers, shapes are left open."""
    names = list(values)
    types = {name: helper.np_dtype_to_tensor_dtype(value.dtype) for name, value in values.items()}
    graph = helper.make_graph(
        [helper.make_node(op, names, ["Y"], name="one", domain="linfdeploy", **attributes)],
        "one",
        [helper.make_tensor_value_info(n, types[n], None) for n in names if n not in constants],
        [helper.make_tensor_value_info("Y", types[names[0]], None)],
        [numpy_helper.from_array(values[n], n) for n in constants],
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("linfdeploy", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def session(model: ModelProto, threads: int = 1, *, library_too: bool = True, plan: Path | None = None) -> Any:
    """A session of ONNX Runtime on the CPU; `plan` is where it writes what it runs."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    # Errors come as exceptions; the log repeats them on stderr.
    options.log_severity_level = 4
    if library_too:
        options.register_custom_ops_library(str(library()))
    if plan:
        options.optimized_model_filepath = str(plan)
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def run(model: ModelProto, values: Arrays, threads: int = 1) -> npt.NDArray[Any]:
    """The first output, with the library."""
    used = session(model, threads)
    given = {wanted.name: values[wanted.name] for wanted in used.get_inputs()}
    return np.asarray(used.run(None, given)[0])


def op_types(plan: Path) -> set[str]:
    """The operators that ONNX Runtime runs, by domain and name."""
    nodes = onnx.load(plan).graph.node
    return {f"{node.domain}.{node.op_type}".lstrip(".") for node in nodes}
