# SPDX-License-Identifier: Apache-2.0
"""The op `linfdeploy::SortDist(X [N,I], W [O,I], C [K], B [O]) -> Y [N,O]` with the attribute `grid`.

    Y = floor(2^grid sum_k C_k |X - W_o|_(k) + 1/2) / 2^grid + B_o

with the K largest of `|X_i - W_oi|`, falling. It stands in exact graphs alone, where C sums to 1 and only the
rounding to a multiple of `2^-grid` rounds: `linfdeploy.onnx.passes.ranges.exactness_gap` proves it. As with
`linf_dist`, a graph may carry a function of the op's own name.
"""

from __future__ import annotations

from typing import Any

import onnx
from onnx import FunctionProto, NodeProto, TensorProto, helper

from linfdeploy.onnx.linf_dist import DOMAIN, DOMAIN_VERSION

__all__ = ["OP", "function", "node", "referred_nodes", "register_schema", "standard_nodes", "weights_in_scan"]

OP = "SortDist"


def node(x: str, w: str, c: str, b: str, y: str, name: str, grid: int) -> NodeProto:
    """Returns a SortDist node."""
    return helper.make_node(OP, [x, w, c, b], [y], name=name, domain=DOMAIN, grid=grid)


def function(opset: int) -> FunctionProto:
    """Returns the op as a model-local function of standard ops.

    Args:
        opset: The version of the standard ops, at least 18.
    """
    nodes = referred_nodes("X", "W", "C", "B", "Y", OP)
    opsets = [helper.make_opsetid("", opset)]
    return helper.make_function(DOMAIN, OP, ["X", "W", "C", "B"], ["Y"], nodes, opsets, ["grid"])


def referred_nodes(x: str, w: str, c: str, b: str, y: str, name: str) -> list[NodeProto]:
    """Returns the nodes of a function's body, which takes `grid` from what the function is called with."""
    grid = helper.make_node("Constant", [], [f"{name}.grid"], name=f"{name}.grid")
    reference = onnx.AttributeProto(name="value_int", ref_attr_name="grid", type=onnx.AttributeProto.INT)
    grid.attribute.append(reference)
    one = helper.make_tensor(f"{name}.unit", TensorProto.UINT64, [], [1])
    # 2^grid without a power that a runtime could round.
    steps = [
        grid,
        helper.make_node(
            "Cast", [f"{name}.grid"], [f"{name}.shift"], name=f"{name}.unsigned", to=TensorProto.UINT64
        ),
        helper.make_node("Constant", [], [f"{name}.unit"], name=f"{name}.unit", value=one),
        helper.make_node(
            "BitShift", [f"{name}.unit", f"{name}.shift"], [f"{name}.whole"], name=f"{name}.bits", direction="LEFT"
        ),
        helper.make_node("Cast", [f"{name}.whole"], [f"{name}.steps"], name=f"{name}.steps", to=TensorProto.FLOAT),
    ]
    return steps + _distance_nodes(x, w, c, b, y, name)


def standard_nodes(x: str, w: str, c: str, b: str, y: str, name: str, grid: int) -> list[NodeProto]:
    """Returns the op as standard nodes, much as `linf_dist.standard_nodes` does."""
    steps = helper.make_node("Constant", [], [f"{name}.steps"], name=f"{name}.steps", value_float=2.0**grid)
    return [steps, *_distance_nodes(x, w, c, b, y, name)]


def weights_in_scan(scan: NodeProto) -> str | None:
    """Returns the name of C in the Scan of `standard_nodes`; None for the Scan of another op."""
    bodies = [attribute.g for attribute in scan.attribute if attribute.name == "body"]
    nodes = [node for body in bodies for node in body.node]
    if not any(node.op_type == "TopK" for node in nodes):
        return None
    return next((node.input[1] for node in nodes if node.op_type == "Mul" and len(node.input) == 2), None)


def register_schema() -> None:
    """Tells the onnx package the op's schema, once; exporters and the checker then know it."""
    if onnx.defs.has(OP, DOMAIN):
        return
    parameter, schema = onnx.defs.OpSchema.FormalParameter, onnx.defs.OpSchema
    grid = schema.Attribute("grid", schema.AttrType.INT, "Distances are multiples of 2^-grid.", required=True)
    inputs = [("X", "(N, I)"), ("W", "(O, I)"), ("C", "(K,)"), ("B", "(O,)")]
    onnx.defs.register_schema(
        schema(
            OP,
            DOMAIN,
            DOMAIN_VERSION,
            doc="Y = floor(2^grid sum_k C_k |X - W_o|_(k) + 1/2) / 2^grid + B_o, of the K largest, falling.",
            inputs=[parameter(name, "T", shape) for name, shape in inputs],
            outputs=[parameter("Y", "T", "(N, O)")],
            type_constraints=[("T", ["tensor(float)"], "")],
            attributes=[grid],
        )
    )


def _distance_nodes(x: str, w: str, c: str, b: str, y: str, name: str) -> list[NodeProto]:
    """Returns the op's nodes behind the one that yields `<name>.steps`, which is 2^grid."""

    def step(op: str, inputs: list[str], output: str, **attributes: Any) -> NodeProto:
        return helper.make_node(op, inputs, [output], name=f"{name}.{op.lower()}", **attributes)

    rows, bias = f"{name}.rows", f"{name}.bias_after"
    body = _row_body(x, c, name)
    return [
        step("Shape", [c], f"{name}.terms"),
        helper.make_node("Scan", [b, w], [bias, rows], name=f"{name}.scan", num_scan_inputs=1, body=body),
        step("Transpose", [rows], f"{name}.distances", perm=[1, 0]),
        step("Mul", [f"{name}.distances", f"{name}.steps"], f"{name}.in_steps"),
        helper.make_node("Constant", [], [f"{name}.half"], name=f"{name}.half", value_float=0.5),
        helper.make_node("Add", [f"{name}.in_steps", f"{name}.half"], [f"{name}.above"], name=f"{name}.raise"),
        step("Floor", [f"{name}.above"], f"{name}.whole_steps"),
        step("Div", [f"{name}.whole_steps", f"{name}.steps"], f"{name}.rounded"),
        step("Add", [f"{name}.rounded", bias], y),
    ]


def _row_body(x: str, c: str, name: str) -> onnx.GraphProto:
    """Returns the Scan's body: the weighted distances of every X, taken from outside like C, to one row of W."""

    def step(op: str, inputs: list[str], outputs: list[str], **attributes: Any) -> NodeProto:
        names = [f"{name}.{part}" for part in outputs]
        return helper.make_node(op, inputs, names, name=f"{name}.row.{op.lower()}", **attributes)

    axes = helper.make_tensor(f"{name}.axes", TensorProto.INT64, [1], [1])
    nodes = [
        step("Identity", [f"{name}.bias_in"], ["bias_out"]),
        step("Sub", [x, f"{name}.row"], ["difference"]),
        step("Abs", [f"{name}.difference"], ["magnitude"]),
        step("TopK", [f"{name}.magnitude", f"{name}.terms"], ["largest", "index"], axis=1),
        step("Mul", [f"{name}.largest", c], ["weighted"]),
        step("ReduceSum", [f"{name}.weighted", axes.name], ["distance"], keepdims=0),
    ]
    inputs, outputs = (
        [onnx.ValueInfoProto(name=f"{name}.{part}") for part in pair]
        for pair in (("bias_in", "row"), ("bias_out", "distance"))
    )
    return helper.make_graph(nodes, f"{name}.row_body", inputs, outputs, [axes])
