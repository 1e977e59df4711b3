# SPDX-License-Identifier: Apache-2.0
"""`linfdeploy::LinfDist` ahead of time: X (N, I), W (O, I), B (O) -> Y (N, O), all float32 or all float16.

Tactics are kernels: blocks of 1, 4 or 8 rows of X, and of three sizes of tiles. All give the same bits and are
right for every batch of a profile; TensorRT measures which is fastest at its optimum.
"""

from __future__ import annotations

from typing import Any

from linfdeploy.errors import EngineError
from linfdeploy.kernels.cuda.aot import KERNELS
from linfdeploy.plugins_trt.aot_launch import Launch, Target, declare, launch, least, most, plugin_id, refuse_large

__all__ = ["NAME", "TACTICS", "register"]

NAME = "LinfDist"
TACTICS = {1: "rows1", 2: "rows4", 3: "rows8", 4: "large", 5: "medium", 6: "small"}
"""TensorRT's number of each kind of kernel; not every type has all."""

# What TensorRT and its combinations call a type, and what our kernels do.
_TYPES = {"FLOAT": ("FP32", "f32"), "HALF": ("FP16", "f16")}


def register(target: Target) -> None:
    """Tells TensorRT of the plugin, whose kernels are compiled for what `target` holds by then."""
    import tensorrt.plugin as trtp

    def describe(x: Any, w: Any, b: Any, _: dict[str, Any]) -> Any:
        _refuse_types(x, w, b)
        return trtp.from_shape_expr((x.shape_expr[0], w.shape_expr[0]), dtype=x.dtype)

    # One combination, that of the network: an engine decides neither types nor rounding.
    def combinations(x: Any, w: Any, b: Any) -> Any:
        called, _ = _TYPES[x.dtype.name]
        tactics = [tactic for tactic in TACTICS if _kernel(x, tactic) in KERNELS]
        return [trtp.AutoTuneCombination(", ".join([called] * 4), "LINEAR", tactics)]

    def kernel(x: Any, w: Any, b: Any, _: dict[str, Any], tactic: int) -> Launch:
        _refuse_sizes(x, w, b)
        (batch, inputs), results = x.shape_expr, w.shape_expr[0]
        return launch(KERNELS[_kernel(x, tactic)], target, batch, results, [batch, inputs, results])

    declare(NAME, {}, describe, combinations, kernel)


def _kernel(x: Any, tactic: int) -> str:
    return f"linf_dist_aot_{_TYPES[x.dtype.name][1]}_{TACTICS[tactic]}"


def _refuse_types(x: Any, w: Any, b: Any) -> None:
    if (x.ndim, w.ndim, b.ndim) != (2, 2, 1):
        raise EngineError(
            f"{plugin_id(NAME)}: X, W and B have {x.ndim}, {w.ndim} and {b.ndim} dimensions; "
            "expected (N, I), (O, I) and (O)"
        )
    if x.dtype.name not in _TYPES or not x.dtype == w.dtype == b.dtype:
        raise EngineError(
            f"{plugin_id(NAME)}: X, W and B are of types {x.dtype.name}, {w.dtype.name} and {b.dtype.name}; "
            "expected all FLOAT or all HALF"
        )


def _refuse_sizes(x: Any, w: Any, b: Any) -> None:
    """Nothing looks at sizes at run time: only the batch may vary."""
    (batch, inputs), results = most(x), most(w)[0]
    fixed = least(x)[1:] == (inputs,) and least(w) == most(w) == (results, inputs) and least(b) == most(b)
    if not fixed or most(b) != (results,) or inputs < 1:
        raise EngineError(
            f"{plugin_id(NAME)}: X, W and B are of shapes {most(x)}, {most(w)} and {most(b)} at most; "
            "expected (N, I), (O, I) and (O), of which only N varies, and I >= 1"
        )
    refuse_large(NAME, inputs, most(x), most(w), (batch, results))
