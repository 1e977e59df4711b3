# SPDX-License-Identifier: Apache-2.0
"""The op `linfdeploy::SortDistConv(X [N,C,H,W], W [O,C,kH,kW], C [K], B [O]) -> Y [N,O,H',W']`.

`SortDist` of every window of X, which is zero outside; its attributes are those of ONNX's Conv, and `grid`. It
stands in exact graphs alone, like `sort_dist`, and a graph may carry a function of the op's own name.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import onnx
from onnx import FunctionProto, NodeProto, helper

from linfdeploy.nets.windows import Window
from linfdeploy.onnx import sort_dist
from linfdeploy.onnx.linf_dist import DOMAIN, DOMAIN_VERSION
from linfdeploy.onnx.window_nodes import MOVES, held, moves_of, referred, window_nodes

__all__ = ["OP", "Names", "function", "node", "register_schema", "standard_nodes"]

OP = "SortDistConv"


class Names(NamedTuple):
    """What a node's operands, its output and the node itself are called."""

    x: str
    w: str
    c: str
    b: str
    y: str
    node: str


def node(names: Names, grid: int, window: Window) -> NodeProto:
    """Returns a SortDistConv node."""
    *operands, y, name = names
    attributes: dict[str, Any] = {**moves_of(window), "grid": grid}
    return helper.make_node(OP, operands, [y], name=name, domain=DOMAIN, **attributes)


def function(opset: int) -> FunctionProto:
    """Returns the op as a model-local function of standard ops.

    Args:
        opset: The version of the standard ops, at least 18.
    """

    def dense(rows: str, filters: str, distances: str) -> list[NodeProto]:
        return sort_dist.referred_nodes(rows, filters, "C", "B", distances, f"{OP}.dense")

    nodes = window_nodes("X", "W", "B", "Y", OP, referred, dense)
    opsets = [helper.make_opsetid("", opset)]
    return helper.make_function(DOMAIN, OP, ["X", "W", "C", "B"], ["Y"], nodes, opsets, ["grid", *MOVES])


def standard_nodes(names: Names, grid: int, window: Window) -> list[NodeProto]:
    """Returns the op as standard nodes: the function, inlined."""
    x, w, c, b, y, name = names

    def dense(rows: str, filters: str, distances: str) -> list[NodeProto]:
        return sort_dist.standard_nodes(rows, filters, c, b, distances, f"{name}.dense", grid)

    return window_nodes(x, w, b, y, name, held(window), dense)


def register_schema() -> None:
    """Tells the onnx package the op's schema, once; exporters and the checker then know it."""
    if onnx.defs.has(OP, DOMAIN):
        return
    parameter, schema = onnx.defs.OpSchema.FormalParameter, onnx.defs.OpSchema
    moves = [schema.Attribute(name, schema.AttrType.INTS, "As of Conv.", required=False) for name in MOVES]
    grid = schema.Attribute("grid", schema.AttrType.INT, "Distances are multiples of 2^-grid.", required=True)
    inputs = [("X", "(N, C, H, W)"), ("W", "(O, C, kH, kW)"), ("C", "(K,)"), ("B", "(O,)")]
    onnx.defs.register_schema(
        schema(
            OP,
            DOMAIN,
            DOMAIN_VERSION,
            doc="SortDist of every window of X, which is zero outside.",
            inputs=[parameter(name, "T", shape) for name, shape in inputs],
            outputs=[parameter("Y", "T", "(N, O, H', W')")],
            type_constraints=[("T", ["tensor(float)"], "")],
            attributes=[*moves, grid],
        )
    )
