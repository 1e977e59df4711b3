# SPDX-License-Identifier: Apache-2.0
"""Finds the custom-op library, hands it to ONNX Runtime, and says how LinfDist runs then.

The library is there if ONNX Runtime's header was there when the package was built. A graph of the form `function`
runs either way, with the same bits in float32: where the library is registered its kernel wins over the function.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, TypeAlias

from linfdeploy.errors import EngineError
from linfdeploy.kernels import _cpu
from linfdeploy.onnx.write import Form

__all__ = [
    "CUSTOM_OP",
    "FUNCTION_BODY",
    "STANDARD_OPS",
    "THREADS_ENTRY",
    "CustomOps",
    "kernel_note",
    "library",
    "register",
]

CustomOps: TypeAlias = Literal["auto", "on", "off"]

CUSTOM_OP = "custom op"
FUNCTION_BODY = "function body"
STANDARD_OPS = "standard operators"

NAME = "liblinfdeploy_onnxruntime.so"
TO_GET_IT = "install linfdeploy from source with ONNXRUNTIME_ROOT=<folder of ONNX Runtime's headers>"
THREADS_ENTRY = "linfdeploy.threads"
# 1024 inputs and outputs, a batch of 256, one thread; benchmarks/onnxruntime_op.py measures it.
TIMES_SLOWER = 10


def library() -> Path:
    """Returns where the library lies, if it was built.

    It is installed where the native module is, which an editable install keeps apart from the sources; in a folder
    of its own, or Python would take it for a module.
    """
    return Path(_cpu.__file__).parents[1] / "engines" / "custom_ops" / "lib" / NAME


def register(session_options: Any, form: Form, wanted: CustomOps, *, on_cuda: bool) -> str:
    """Registers the library with a session's options where it serves, and says how LinfDist will run.

    Args:
        session_options: ONNX Runtime's `SessionOptions`.
        form: Of the graph.
        wanted: `auto` registers the library where it is there and loads, but not for a GPU, where its CPU kernel
            would take each layer off the GPU; `on` insists; `off` does without.
        on_cuda: Whether the session tries a GPU first.

    Returns:
        CUSTOM_OP, STANDARD_OPS, or FUNCTION_BODY, followed by the reason in brackets where the library was wanted.

    Raises:
        EngineError: The library is missing or does not load, and there is no way around it.
    """
    if form == "standard" and wanted != "on":
        return STANDARD_OPS
    problem = _problem(session_options, form, wanted, on_cuda)
    if problem is None:
        return CUSTOM_OP
    if wanted == "on":
        raise EngineError(f"custom ops are on, and {problem}")
    if form == "op":
        raise EngineError(
            "ONNX Runtime has no kernel for linfdeploy::LinfDist and the graph carries no function body; "
            f"expected one of the two: export with --form function ({problem})"
        )
    return f"{FUNCTION_BODY} ({problem})"


def kernel_note(kernel: str) -> str:
    """Returns what a user should know of what `register` returned."""
    if not kernel.startswith(FUNCTION_BODY):
        return f"LinfDist runs as {'a ' * (kernel == CUSTOM_OP)}{kernel}"
    return f"LinfDist runs as its {kernel}, about {TIMES_SLOWER} times slower at large batches than as a custom op"


def _problem(session_options: Any, form: Form, wanted: CustomOps, on_cuda: bool) -> str | None:
    """Registers the library; returns None, or why it was not done."""
    if form == "standard":
        return "a graph of the form standard has no LinfDist: export with --form function"
    if wanted == "off":
        return "custom ops are off"
    if wanted == "auto" and on_cuda and form == "function":
        return "on a GPU"
    path = library()
    if not path.is_file():
        return f"there is no custom-op library: {TO_GET_IT}"
    # The library cannot ask how many threads a session has. 0 is ONNX Runtime's own choice.
    if threads := session_options.intra_op_num_threads:
        session_options.add_session_config_entry(THREADS_ENTRY, str(threads))
    try:
        session_options.register_custom_ops_library(str(path))
    # ONNX Runtime raises its own classes, which share no base but Exception.
    except Exception as error:
        words = " ".join(str(error).split()) or type(error).__name__
        return f"ONNX Runtime does not load the custom-op library: {words}: {TO_GET_IT}"
    return None
