# SPDX-License-Identifier: Apache-2.0
"""Windows of images in standard nodes, for operators that are a dense layer on what each window shows.

Indices are computed from the attributes and gathered: no product ever touches a value.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import onnx
from onnx import AttributeProto, NodeProto, helper

from linfdeploy.nets.windows import Window
from linfdeploy.plugins_trt import PLUGIN_NAMESPACE, PLUGIN_VERSION

__all__ = [
    "ATTRIBUTES",
    "MOVES",
    "Dense",
    "Integers",
    "attributes_of",
    "held",
    "moves_of",
    "referred",
    "schema_attributes",
    "window_nodes",
]

MOVES = ("kernel_shape", "strides", "pads", "dilations")
"""The attributes that say how the window moves; every node that is written has them."""

ATTRIBUTES = ("plugin_namespace", "plugin_version", *MOVES, "group", "auto_pad")
"""All attributes of such a node: TensorRT's plugins that are compiled ahead of time want all of Conv's."""

# Where the places of one axis, and the steps of a window along it, are spread out to (H', W', kH, kW).
SPREADS = (("rows", [1, 2, 3], [0, 1, 3]), ("columns", [0, 2, 3], [0, 1, 2]))

# From an attribute's name to the one of a Constant that holds it.
Integers: TypeAlias = Callable[[str], AttributeProto]
# From the names of rows (N H' W', I), of a weight (O, I) and of what is to leave, to the nodes of a dense layer.
Dense: TypeAlias = Callable[[str, str, str], list[NodeProto]]


def moves_of(window: Window) -> dict[str, list[int]]:
    """Returns a window as the values of MOVES."""
    two = window.kernel, window.stride, window.padding, 1
    kernel, stride, padding, dilation = ([value, value] for value in two)
    return dict(zip(MOVES, (kernel, stride, padding * 2, dilation), strict=True))


def attributes_of(window: Window) -> dict[str, Any]:
    """Returns the values of ATTRIBUTES, by which TensorRT finds the plugin too."""
    attributes: dict[str, Any] = {**moves_of(window), "group": 1, "auto_pad": "NOTSET"}
    return attributes | {"plugin_namespace": PLUGIN_NAMESPACE, "plugin_version": PLUGIN_VERSION}


def referred(name: str) -> AttributeProto:
    """Returns the attribute of a Constant in a function's body that holds what the function is called with."""
    return AttributeProto(name="value_ints", ref_attr_name=name, type=AttributeProto.INTS)


def held(window: Window) -> Integers:
    """Returns the attributes of Constants that hold the moves of a window."""
    moves = moves_of(window)
    return lambda move: helper.make_attribute("value_ints", moves[move])


def schema_attributes() -> list[onnx.defs.OpSchema.Attribute]:
    """Returns ATTRIBUTES as a schema has them."""
    schema = onnx.defs.OpSchema
    moves = [schema.Attribute(name, schema.AttrType.INTS, "As of Conv.", required=False) for name in MOVES]
    plugin = [
        schema.Attribute(name, schema.AttrType.STRING, "By which TensorRT finds the plugin.", required=False)
        for name in ("plugin_namespace", "plugin_version")
    ]
    fixed = [
        schema.Attribute("group", schema.AttrType.INT, "1.", required=False),
        schema.Attribute("auto_pad", schema.AttrType.STRING, "NOTSET.", required=False),
    ]
    return moves + plugin + fixed


def window_nodes(x: str, w: str, b: str, y: str, name: str, integers: Integers, dense: Dense) -> list[NodeProto]:
    """Returns a dense layer on every window of images, as standard nodes.

    Args:
        x: Names images (N, C, H, W).
        w: Names the filters (O, C, kH, kW).
        b: Names the biases (O,).
        y: Is to name the images (N, O, H', W').
        name: With which all names within begin.
        integers: Where the moves come from.
        dense: The layer.
    """
    graph = _Nodes(name, integers)
    rows, places = _rows(graph, x)
    (filters,) = graph.add("Flatten", [w], "filters", axis=1)
    graph.nodes += dense(rows, filters, f"{name}.by_window")
    (batch,) = graph.add("Shape", [x], "batch", start=0, end=1)
    (outputs,) = graph.add("Shape", [b], "outputs")
    (shape,) = graph.add("Concat", [batch, places, outputs], "shape", axis=0)
    (by_place,) = graph.add("Reshape", [f"{name}.by_window", shape], "by_place")
    graph.nodes.append(
        helper.make_node("Transpose", [by_place], [y], name=f"{name}.by_channel", perm=[0, 3, 1, 2])
    )
    return graph.nodes


def _rows(graph: _Nodes, x: str) -> tuple[str, str]:
    """Returns the names of the windows, (N H' W', C kH kW), and of the places (H', W')."""
    axes = graph.constant("image_axes", [2, 3])
    (padded,) = graph.add("Pad", [x, graph.move("pads"), "", axes], "padded")
    (size,) = graph.add("Shape", [padded], "size", start=2)
    places, index = _index(graph, size)
    channels_only = graph.constant("channels_only", [0, 0, -1])
    (flat,) = graph.add("Reshape", [padded, channels_only], "flat")
    (shown,) = graph.add("Gather", [flat, index], "shown", axis=2)
    (by_place,) = graph.add("Transpose", [shown], "shown_by_place", perm=[0, 2, 1, 3])
    (rows,) = graph.add("Flatten", [by_place], "windows", axis=2)
    return rows, places


def _index(graph: _Nodes, size: str) -> tuple[str, str]:
    """Returns the names of the places (H', W') and of which pixel of a padded image each window shows.

    The latter is (H' W', kH kW): `(p s + k d) * width + q t + l e`.
    """
    one = graph.constant("one", [1])
    kernel, strides, dilations = (graph.move(move) for move in ("kernel_shape", "strides", "dilations"))
    (steps,) = graph.add("Sub", [kernel, one], "steps")
    (reach,) = graph.add("Mul", [steps, dilations], "reach")
    (room,) = graph.add("Sub", [size, reach], "room")
    (last,) = graph.add("Sub", [room, one], "last")
    (moved,) = graph.add("Div", [last, strides], "moved")
    (places,) = graph.add("Add", [moved, one], "places")
    parts = []
    for axis, (what, *spreads) in enumerate(SPREADS):
        starts = _multiples(graph, places, strides, axis, f"{what}.starts", spreads[0])
        within = _multiples(graph, kernel, dilations, axis, f"{what}.within", spreads[1])
        parts += graph.add("Add", [starts, within], what)
    (width,) = graph.add("Gather", [size, one], "width")
    (lines,) = graph.add("Mul", [parts[0], width], "lines")
    (places_by_taps,) = graph.add("Add", [lines, parts[1]], "pixels_shown")
    (index,) = graph.add("Flatten", [places_by_taps], "index", axis=2)
    return places, index


def _multiples(graph: _Nodes, counts: str, steps: str, axis: int, what: str, spread: list[int]) -> str:
    """Returns the name of `0, step, 2 step, ...`, as many as the count; both are entries of vectors of two.

    It has four axes, of which those in `spread` are of size 1.
    """
    zero, one = graph.scalar(f"{what}.zero", 0), graph.scalar(f"{what}.one", 1)
    place = graph.scalar(f"{what}.axis", axis)
    (count,) = graph.add("Gather", [counts, place], f"{what}.count")
    (step,) = graph.add("Gather", [steps, place], f"{what}.step")
    (numbers,) = graph.add("Range", [zero, count, one], f"{what}.numbers")
    (multiples,) = graph.add("Mul", [numbers, step], f"{what}.multiples")
    axes = graph.constant(f"{what}.axes", spread)
    return graph.add("Unsqueeze", [multiples, axes], f"{what}.spread")[0]


class _Nodes:
    """Collects nodes; each has the name of its output, which begins with that of the op."""

    def __init__(self, name: str, integers: Integers) -> None:
        self.nodes: list[NodeProto] = []
        self._name = name
        self._integers = integers

    def add(self, op: str, inputs: list[str], output: str, **attributes: Any) -> list[str]:
        """Adds a node and returns its output's name."""
        names = [f"{self._name}.{output}"]
        self.nodes.append(helper.make_node(op, inputs, names, name=names[0], **attributes))
        return names

    def constant(self, output: str, values: list[int]) -> str:
        """Adds a vector of int64 and returns its name."""
        return self.add("Constant", [], output, value_ints=values)[0]

    def scalar(self, output: str, value: int) -> str:
        """Adds a scalar of int64 and returns its name."""
        return self.add("Constant", [], output, value_int=value)[0]

    def move(self, move: str) -> str:
        """Returns the name of a vector of the values of one of MOVES; the node is added the first time."""
        name = f"{self._name}.{move}"
        if all(node.name != name for node in self.nodes):
            constant = helper.make_node("Constant", [], [name], name=name)
            constant.attribute.append(self._integers(move))
            self.nodes.append(constant)
        return name
