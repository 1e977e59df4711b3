# SPDX-License-Identifier: Apache-2.0
"""Where a foreign graph keeps its distance layers: the names of their constants, and how windows move.

Nothing here is believed: whoever reads a graph writes it again from what was found, and compares.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from onnx import GraphProto, NodeProto, helper

from linfdeploy.errors import CheckpointError, GraphError, brief
from linfdeploy.nets.windows import Window
from linfdeploy.onnx import linf_dist, linf_dist_conv, sort_dist, sort_dist_conv
from linfdeploy.onnx.window_nodes import MOVES, moves_of
from linfdeploy.onnx.write import Form

__all__ = ["INPUTS", "SORTED", "StoredLayer", "stored_layers", "window_of"]

INPUTS = {
    linf_dist.OP: (3, "X, W and B"),
    linf_dist_conv.OP: (3, "X, W and B"),
    sort_dist.OP: (4, "X, W, C and B"),
    sort_dist_conv.OP: (4, "X, W, C and B"),
}
"""The custom ops, and how many inputs their nodes have, also in words."""
SORTED = {sort_dist.OP, sort_dist_conv.OP}
"""Those of sorted distances."""
CONVOLUTIONS = {linf_dist_conv.OP, sort_dist_conv.OP}


@dataclass(frozen=True)
class StoredLayer:
    """The names of a layer's constants.

    Attributes:
        weight: Of the weight.
        sort: Of the weights of sorted distances, or None.
        bias: Of the bias.
        moves: Of a convolution the attributes `window_nodes.MOVES` as they were found; None of a dense layer.
    """

    weight: str
    sort: str | None
    bias: str
    moves: Mapping[str, object] | None = None


def stored_layers(graph: GraphProto, form: Form) -> list[StoredLayer]:
    """Finds the layers, in order.

    Raises:
        GraphError: There is none, or a node lacks an input.
    """
    layers = list(_in_scans(graph) if form == "standard" else _in_nodes(graph))
    if not layers:
        raise GraphError("has no distance layer; expected an l_inf-distance net")
    return layers


def window_of(index: int, shape: tuple[int, int, int] | None, kernel: Sequence[int], layer: StoredLayer) -> Window:
    """Returns how the window of a convolution moves.

    Args:
        index: The layer's place, for messages.
        shape: (C, H, W) of the image that reaches it; None: what reaches it is no image.
        kernel: The shape of the weight, behind (O,).
        layer: With moves.

    Raises:
        GraphError: It moves as no window of ours, or does not fit.
    """
    if shape is None or len(kernel) != 3 or kernel[0] != shape[0]:
        raise GraphError(
            f"layer {index} is a convolution with a weight (O, {', '.join(map(str, kernel))}), which {shape} "
            "reaches; expected an image (C, H, W), and a weight (O, C, kernel, kernel)"
        )
    moves = layer.moves or {}
    stride, pads = (_first(moves.get(name)) for name in ("strides", "pads"))
    try:
        window = Window(shape, int(kernel[1]), stride, pads)
    except CheckpointError as error:
        raise GraphError(f"layer {index} is a convolution of {error}") from None
    if moves_of(window) != moves or kernel[1] != kernel[2]:
        raise GraphError(
            f"layer {index} is a convolution that moves by {brief(moves)}; expected a square window with one "
            "stride, one padding and no dilation"
        )
    return window


def _first(values: object) -> int:
    """Returns the first of some integers; -1, which fits nowhere, of anything else."""
    return values[0] if isinstance(values, list) and values and isinstance(values[0], int) else -1


def _in_nodes(graph: GraphProto) -> Iterator[StoredLayer]:
    for node in graph.node:
        if node.domain != linf_dist.DOMAIN:
            continue
        count, words = INPUTS[node.op_type]
        if len(node.input) != count:
            raise GraphError(f"a {node.op_type} node lacks an input; expected {words}")
        sort = node.input[2] if node.op_type in SORTED else None
        moves = _attributes(node) if node.op_type in CONVOLUTIONS else None
        yield StoredLayer(node.input[1], sort, node.input[-1], moves)


def _in_scans(graph: GraphProto) -> Iterator[StoredLayer]:
    by_output = {name: node for node in graph.node for name in node.output}
    for node in graph.node:
        if node.op_type != "Scan":
            continue
        if len(node.input) != 2:
            raise GraphError("a Scan has not two inputs; expected a bias and W")
        bias, weight = node.input
        filters, sort = by_output.get(weight), sort_dist.weights_in_scan(node)
        if filters is None or filters.op_type != "Flatten" or len(filters.input) != 1:
            yield StoredLayer(weight, sort, bias)
            continue
        layer = weight.rpartition(".")[0]
        constants = {move: by_output.get(f"{layer}.{move}") for move in MOVES}
        moves = {move: _attributes(node).get("value_ints") for move, node in constants.items() if node is not None}
        yield StoredLayer(filters.input[0], sort, bias, moves)


def _attributes(node: NodeProto) -> Mapping[str, object]:
    """Returns the integer attributes that a node has among MOVES, or the values of a Constant."""
    known = {*MOVES, "value_ints"}
    return {
        attribute.name: list(helper.get_attribute_value(attribute))
        for attribute in node.attribute
        if attribute.name in known and attribute.type == attribute.INTS
    }
