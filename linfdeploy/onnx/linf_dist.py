# SPDX-License-Identifier: Apache-2.0
"""The op `linfdeploy::LinfDist(X [N,I], W [O,I], B [O]) -> Y [N,O]`, `Y = max_i |X_i - W_oi| + B_o`.

Each graph may carry a function of the op's own name, made of standard ops: a runtime that has our kernel uses it,
any other inlines the function. Both round the same values in the same places.
"""

from __future__ import annotations

import onnx
from onnx import FunctionProto, NodeProto, TensorProto, helper

from linfdeploy.plugins_trt import PLUGIN_NAMESPACE, PLUGIN_VERSION

__all__ = ["DOMAIN", "DOMAIN_VERSION", "OP", "function", "node", "register_schema", "standard_nodes"]

DOMAIN = "linfdeploy"
DOMAIN_VERSION = 1
OP = "LinfDist"


def node(x: str, w: str, b: str, y: str, name: str) -> NodeProto:
    """Returns a LinfDist node with the attributes by which TensorRT finds the plugin."""
    return helper.make_node(
        OP,
        [x, w, b],
        [y],
        name=name,
        domain=DOMAIN,
        plugin_namespace=PLUGIN_NAMESPACE,
        plugin_version=PLUGIN_VERSION,
    )


def function(opset: int) -> FunctionProto:
    """Returns the op as a model-local function of standard ops.

    Args:
        opset: The version of the standard ops, at least 18.
    """
    return helper.make_function(
        DOMAIN,
        OP,
        ["X", "W", "B"],
        ["Y"],
        standard_nodes("X", "W", "B", "Y", OP),
        [helper.make_opsetid("", opset)],
        ["plugin_namespace", "plugin_version"],
    )


def standard_nodes(x: str, w: str, b: str, y: str, name: str) -> list[NodeProto]:
    """Returns the op as standard nodes: a Scan over W's rows, a Transpose and the bias.

    The Scan keeps memory at O(N I), where broadcasting X - W would need O(N O I). The bias rides along as its
    state, untouched: TensorRT's parser refuses a Scan without one, and a larger state would cost a copy a row.
    """
    rows, columns, bias = f"{name}.rows", f"{name}.distances", f"{name}.bias_after"
    body = _row_body(x, name)
    return [
        helper.make_node("Scan", [b, w], [bias, rows], name=f"{name}.scan", num_scan_inputs=1, body=body),
        helper.make_node("Transpose", [rows], [columns], name=f"{name}.transpose", perm=[1, 0]),
        helper.make_node("Add", [columns, bias], [y], name=f"{name}.add"),
    ]


def register_schema() -> None:
    """Tells the onnx package the op's schema, once; exporters and the checker then know it."""
    if onnx.defs.has(OP, DOMAIN):
        return
    parameter, schema = onnx.defs.OpSchema.FormalParameter, onnx.defs.OpSchema
    optional = [
        schema.Attribute(name, schema.AttrType.STRING, "By which TensorRT finds the plugin.", required=False)
        for name in ("plugin_namespace", "plugin_version")
    ]
    onnx.defs.register_schema(
        schema(
            OP,
            DOMAIN,
            DOMAIN_VERSION,
            doc="Y = max_i |X_i - W_oi| + B_o, rounded once after the subtraction and once after the sum.",
            inputs=[parameter("X", "T", "(N, I)"), parameter("W", "T", "(O, I)"), parameter("B", "T", "(O,)")],
            outputs=[parameter("Y", "T", "(N, O)")],
            type_constraints=[("T", ["tensor(float)", "tensor(float16)"], "")],
            attributes=optional,
        )
    )


def _row_body(x: str, name: str) -> onnx.GraphProto:
    """Returns the Scan's body: the distance of every X, taken from outside, to one row of W."""
    names = ("bias_in", "row", "bias_out", "difference", "magnitude", "distance")
    bias_in, row, bias_out, difference, magnitude, distance = (f"{name}.{part}" for part in names)
    axes = helper.make_tensor(f"{name}.axes", TensorProto.INT64, [1], [1])
    nodes = [
        helper.make_node("Identity", [bias_in], [bias_out], name=f"{name}.carry"),
        helper.make_node("Sub", [x, row], [difference], name=f"{name}.sub"),
        helper.make_node("Abs", [difference], [magnitude], name=f"{name}.abs"),
        helper.make_node("ReduceMax", [magnitude, axes.name], [distance], name=f"{name}.max", keepdims=0),
    ]
    # The element type is left open: a function serves float32 and float16.
    inputs, outputs = (
        [onnx.ValueInfoProto(name=n) for n in pair] for pair in ((bias_in, row), (bias_out, distance))
    )
    return helper.make_graph(nodes, f"{name}.row", inputs, outputs, [axes])
