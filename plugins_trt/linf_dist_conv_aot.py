# SPDX-License-Identifier: Apache-2.0
"""`linfdeploy::LinfDistConv` ahead of time: X (N, C, H, W), W (O, C, kH, kW), B (O) -> Y (N, O, H', W'), float32.

Attributes are those of ONNX's Conv. A node carries all six: TensorRT has no defaults for them, and would drop one
that is not declared here without a word.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from linfdeploy.errors import EngineError, brief
from linfdeploy.kernels.cuda.aot import KERNELS
from linfdeploy.plugins_trt.aot_launch import (
    LARGEST_INDEX,
    Launch,
    Target,
    declare,
    launch,
    least,
    most,
    plugin_id,
    refuse_large,
)

__all__ = ["NAME", "register"]

NAME = "LinfDistConv"
_INTEGERS = NDArray[np.int32]
# Of one number too: TensorRT 10.9 makes no int of what the parser gives it.
_ATTRIBUTES = {
    **dict.fromkeys(("kernel_shape", "strides", "pads", "dilations", "group"), _INTEGERS),
    "auto_pad": str,
}
# As in C++: no arithmetic on sizes overflows.
_MOST_WINDOW = 1 << 16


@dataclass(frozen=True)
class _Window:
    """A node's window; pairs are vertical, horizontal."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    pads: tuple[int, ...]
    dilations: tuple[int, ...]

    def places(self, axis: int, image: Any) -> Any:
        """The places along an axis, of a size or an expression of one; below 1 where the window does not fit."""
        padding, stride = self.pads[axis] + self.pads[axis + 2], self.strides[axis]
        return (image + (padding - self.dilations[axis] * (self.kernel[axis] - 1) - 1 + stride)) // stride


def register(target: Target) -> None:
    """Tells TensorRT of the plugin, whose kernel is compiled for what `target` holds by then."""
    import tensorrt.plugin as trtp

    def describe(x: Any, w: Any, b: Any, attributes: dict[str, Any]) -> Any:
        _refuse_types(x, w, b)
        window = _window_of(attributes)
        places = (window.places(axis, x.shape_expr[2 + axis]) for axis in range(2))
        return trtp.from_shape_expr((x.shape_expr[0], w.shape_expr[0], *places), dtype=x.dtype)

    def combinations(x: Any, w: Any, b: Any) -> Any:
        return [trtp.AutoTuneCombination("FP32, FP32, FP32, FP32", "LINEAR", [1])]

    def kernel(x: Any, w: Any, b: Any, attributes: dict[str, Any], tactic: int) -> Launch:
        window = _window_of(attributes)
        _refuse_sizes(window, x, w, b)
        return _launch(target, window, x.shape_expr, w.shape_expr)

    declare(NAME, _ATTRIBUTES, describe, combinations, kernel)


def _launch(target: Target, window: _Window, x: Any, w: Any) -> Launch:
    images, channels, *size = x
    places = [window.places(axis, size[axis]) for axis in range(2)]
    numbers = [images, channels, *size, w[0], *window.kernel, *window.strides, *window.dilations, *window.pads[:2]]
    kernel = KERNELS["linf_dist_conv_aot_medium"]
    return launch(kernel, target, images * places[0] * places[1], w[0], [*numbers, *places])


def _window_of(attributes: dict[str, Any]) -> _Window:
    if missing := [name for name in _ATTRIBUTES if name not in attributes]:
        raise EngineError(
            f"{plugin_id(NAME)}: a node has no attribute {', '.join(missing)}; expected all of "
            f"{', '.join(_ATTRIBUTES)}: ahead-of-time plugins have no defaults"
        )
    # TensorRT 10.9 hands over a text's first letter for all of its letters; no other value begins with this one.
    if (group := attributes["group"].tolist()) != [1] or attributes["auto_pad"][:1] != "N":
        raise EngineError(
            f"{plugin_id(NAME)}: group and auto_pad are {brief(group)} and {brief(attributes['auto_pad'])}; "
            "expected [1] and 'NOTSET', the only values that there is a kernel for"
        )
    return _Window(
        _integers(attributes, "kernel_shape", 2, 1),
        _integers(attributes, "strides", 2, 1),
        _integers(attributes, "pads", 4, 0),
        _integers(attributes, "dilations", 2, 1),
    )


def _integers(attributes: dict[str, Any], name: str, count: int, lowest: int) -> tuple[int, ...]:
    found = tuple(map(int, attributes[name]))
    if len(found) != count or not all(lowest <= value <= _MOST_WINDOW for value in found):
        raise EngineError(
            f"{plugin_id(NAME)}: {name} is {brief(list(found))}; expected {count} integers of {lowest} to "
            f"{_MOST_WINDOW}"
        )
    return found


def _refuse_types(x: Any, w: Any, b: Any) -> None:
    if (x.ndim, w.ndim, b.ndim) != (4, 4, 1):
        raise EngineError(
            f"{plugin_id(NAME)}: X, W and B have {x.ndim}, {w.ndim} and {b.ndim} dimensions; "
            "expected (N, C, H, W), (O, C, kH, kW) and (O)"
        )
    if {tensor.dtype.name for tensor in (x, w, b)} != {"FLOAT"}:
        raise EngineError(
            f"{plugin_id(NAME)}: X, W and B are of types {x.dtype.name}, {w.dtype.name} and {b.dtype.name}; "
            "expected all FLOAT"
        )


def _refuse_sizes(window: _Window, x: Any, w: Any, b: Any) -> None:
    """Nothing looks at sizes at run time: only the images' number and size may vary."""
    filters, channels, *kernel = most(w)
    fixed = least(x)[1] == most(x)[1] == channels and least(w) == most(w) and least(b) == most(b) == (filters,)
    fits = all(window.places(axis, least(x)[2 + axis]) >= 1 for axis in range(2))
    fits = fits and max(most(x)[2:]) <= LARGEST_INDEX - 2 * _MOST_WINDOW
    if not fixed or channels < 1 or tuple(kernel) != window.kernel or not fits:
        raise EngineError(
            f"{plugin_id(NAME)}: X, W and B are of shapes {least(x)} to {most(x)}, {most(w)} and {most(b)} for a "
            f"window of {window.kernel}; expected (N, C, H, W), (O, C, kH, kW) and (O), of which only N, H and W "
            "vary, and a window that fits into every padded image"
        )
    results = most(x)[0], filters, *(window.places(axis, most(x)[2 + axis]) for axis in range(2))
    refuse_large(NAME, channels * prod(kernel), most(x), most(w), results)
