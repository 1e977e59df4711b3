# SPDX-License-Identifier: Apache-2.0
"""The op `linfdeploy::LinfDistConv(X [N,C,H,W], W [O,C,kH,kW], B [O]) -> Y [N,O,H',W']`.

Its attributes are those of ONNX's Conv: strides (s, t), dilations (d, e), pads (a, b, ...).

    Y[n,o,p,q] = max_{c,k,l} |X'[n,c,p s + k d - a,q t + l e - b] - W[o,c,k,l]| + B[o],   X' = X, zero outside

As with `linf_dist`, a graph may carry a function of the op's own name: `LinfDist` on the windows' rows.
"""

from __future__ import annotations

import onnx
from onnx import FunctionProto, NodeProto, helper

from linfdeploy.nets.windows import Window
from linfdeploy.onnx import linf_dist
from linfdeploy.onnx.linf_dist import DOMAIN, DOMAIN_VERSION
from linfdeploy.onnx.window_nodes import (
    ATTRIBUTES,
    Integers,
    attributes_of,
    held,
    referred,
    schema_attributes,
    window_nodes,
)

__all__ = ["OP", "function", "node", "register_schema", "standard_nodes"]

OP = "LinfDistConv"


def node(x: str, w: str, b: str, y: str, name: str, window: Window) -> NodeProto:
    """Returns a LinfDistConv node with the attributes by which TensorRT finds the plugin."""
    return helper.make_node(OP, [x, w, b], [y], name=name, domain=DOMAIN, **attributes_of(window))


def function(opset: int) -> FunctionProto:
    """Returns the op as a model-local function of standard ops.

    Args:
        opset: The version of the standard ops, at least 18.
    """
    nodes = _nodes("X", "W", "B", "Y", OP, referred)
    opsets = [helper.make_opsetid("", opset)]
    return helper.make_function(DOMAIN, OP, ["X", "W", "B"], ["Y"], nodes, opsets, ATTRIBUTES)


def standard_nodes(x: str, w: str, b: str, y: str, name: str, window: Window) -> list[NodeProto]:
    """Returns the op as standard nodes: the function, inlined."""
    return _nodes(x, w, b, y, name, held(window))


def register_schema() -> None:
    """Tells the onnx package the op's schema, once; exporters and the checker then know it."""
    if onnx.defs.has(OP, DOMAIN):
        return
    parameter, schema = onnx.defs.OpSchema.FormalParameter, onnx.defs.OpSchema
    inputs = [("X", "(N, C, H, W)"), ("W", "(O, C, kH, kW)"), ("B", "(O,)")]
    onnx.defs.register_schema(
        schema(
            OP,
            DOMAIN,
            DOMAIN_VERSION,
            doc="LinfDist of every window of X, which is zero outside.",
            inputs=[parameter(name, "T", shape) for name, shape in inputs],
            outputs=[parameter("Y", "T", "(N, O, H', W')")],
            type_constraints=[("T", ["tensor(float)"], "")],
            attributes=schema_attributes(),
        )
    )


def _nodes(x: str, w: str, b: str, y: str, name: str, integers: Integers) -> list[NodeProto]:
    def dense(rows: str, filters: str, distances: str) -> list[NodeProto]:
        return linf_dist.standard_nodes(rows, filters, b, distances, f"{name}.dense")

    return window_nodes(x, w, b, y, name, integers, dense)
