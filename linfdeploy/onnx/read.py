# SPDX-License-Identifier: Apache-2.0
"""Reading a deployed graph back, trusting nothing.

The weights are read, every claim checked; then the graph is written again from them and compared with what was
found, part by part. So a graph is either exactly what this package writes for its weights, or its departures are
listed: a function body that drops a column does not pass for ours.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias, cast

import numpy as np
import numpy.typing as npt
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError, Message
from onnx import FunctionProto, GraphProto, ModelProto, NodeProto, TensorProto, numpy_helper

from linfdeploy.errors import GraphError, InputError
from linfdeploy.files import read_bytes, sha256_of
from linfdeploy.nets.spec import MAX_UNITS
from linfdeploy.onnx import linf_dist
from linfdeploy.onnx.mlp_head import MlpHead
from linfdeploy.onnx.passes.ranges import centre_gap, exactness_gap, overflow_gap
from linfdeploy.onnx.passes.sort_weights import MOST_TERMS
from linfdeploy.onnx.pixel_net import MAX_GRID, PRECISIONS, Floats, PixelLayer, PixelNet, Precision
from linfdeploy.onnx.stored_layers import INPUTS, SORTED, StoredLayer, stored_layers, window_of
from linfdeploy.onnx.tensors import array_from_tensor
from linfdeploy.onnx.write import MAX_OPSET, MIN_OPSET, Form, GraphOptions, form_gap, model_from_net

__all__ = ["MAX_BYTES", "DeployedGraph", "read_graph"]

Singles: TypeAlias = npt.NDArray[np.float32]

MAX_BYTES = 2**31
"""ONNX's own limit for one protobuf file."""

BODY_OPS = {
    *("Clip", "Concat", "Constant", "Div", "Gather", "Max", "Min", "Mul", "Pad", "ReduceMin", "Shape", "Slice"),
    *("Squeeze", "Unsqueeze"),
}
"""Harmless ops that we never write: a function body that has them is read, so that its fault can be named."""

HEAD_OPS = {"Gemm", "Tanh"}
NET_OPS = {"Abs", "Add", "Cast", "Flatten", "Identity", "Neg", "ReduceMax", "Scan", "Sub", "Transpose"}
SORT_OPS = {"BitShift", "Constant", "Div", "Floor", "Mul", "ReduceSum", "Shape", "TopK"}
CONV_OPS = {"Concat", "Constant", "Div", "Gather", "Mul", "Pad", "Range", "Reshape", "Shape", "Unsqueeze"}
RADIUS_OPS = {"ArgMax", "Mul", "Relu", "Reshape", "Split", "Sub", "TopK"}
WRITTEN_MODEL_FIELDS = {
    *("ir_version", "producer_name", "producer_version", "opset_import", "functions", "graph", "metadata_props")
}
WRITTEN_GRAPH_FIELDS = {"name", "node", "initializer", "input", "output"}


@dataclass(frozen=True)
class DeployedGraph:
    """What an ONNX file holds.

    Attributes:
        net: The weights; `net.grid` is set when the net was proven exact on the grid that the metadata claims.
        options: The form the graph was recognised to have.
        departures: Parts that are not what this package writes for these weights; empty for our own files.
        claimed_precision: What the metadata says, untrusted; None when it says nothing.
        metadata: The file's metadata, untrusted.
        sha256: Of the file.
        model: The parsed file; data that lay in other files is inside.
    """

    net: PixelNet
    options: GraphOptions
    departures: tuple[str, ...]
    claimed_precision: Precision | None
    metadata: Mapping[str, str]
    sha256: str
    model: ModelProto


def read_graph(path: Path) -> DeployedGraph:
    """Reads and checks an ONNX file that holds an l_inf-distance net.

    Raises:
        GraphError: The file is unreadable, malformed, hostile, or holds something else.
        InputError: There is no such file, or it is too large.
    """
    data = read_bytes(path, MAX_BYTES, "an ONNX model")
    try:
        return _deployed_graph(data, path.parent)
    except GraphError as error:
        raise GraphError(f"{path}: {error}") from None


def _deployed_graph(data: bytes, folder: Path) -> DeployedGraph:
    model = _parse(data)
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    options = GraphOptions(_form(model), _has_radius(model.graph), _opset(model))
    _check_ops(model, options)
    net = _net(model.graph, options.form, folder, metadata.get("grid"))
    if options.radius and net.head is not None:
        raise GraphError(
            "computes a radius from the logits of a head, from which none follows; expected no radius"
        )
    if reason := form_gap(net, options.form):
        raise GraphError(f"{reason}; expected the form standard, as linfdeploy export writes it")
    claimed = next((name for name in PRECISIONS if name == metadata.get("precision")), None)
    return DeployedGraph(net, options, _departures(model, net, options), claimed, metadata, sha256_of(data), model)


def _parse(data: bytes) -> ModelProto:
    try:
        model: ModelProto = ModelProto.FromString(data)
    except DecodeError:
        raise GraphError("damaged or no ONNX model; expected a file written by linfdeploy export") from None
    if not model.graph.node:
        raise GraphError("an ONNX model without nodes; expected a file written by linfdeploy export")
    # A newer runtime may know what we do not: nothing that we cannot judge stays.
    model.DiscardUnknownFields()
    _check_text(model)
    return model


def _check_text(model: ModelProto) -> None:
    """Refuses names and texts that are not UTF-8, which protobuf hands over as bytes."""
    pending: list[Message] = [model]
    while pending:
        for field, value in pending.pop().ListFields():
            if field.type not in {FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_MESSAGE}:
                continue
            values = [value] if isinstance(value, str | bytes | Message) else list(value)
            if any(isinstance(item, bytes) for item in values):
                raise GraphError(f"its {field.name} is not UTF-8; expected a file written by linfdeploy export")
            pending.extend(item for item in values if isinstance(item, Message))


def _form(model: ModelProto) -> Form:
    if not any(node.domain == linf_dist.DOMAIN for node in model.graph.node):
        return "standard"
    return "function" if model.functions else "op"


def _has_radius(graph: GraphProto) -> bool:
    return any(output.name == "radius" for output in graph.output)


def _opset(model: ModelProto) -> int:
    versions = {entry.domain: entry.version for entry in model.opset_import}
    if len(versions) < len(model.opset_import):
        raise GraphError("imports an operator set twice; expected each once")
    if extra := set(versions) - {"", linf_dist.DOMAIN}:
        raise GraphError(f"uses the operator sets {sorted(extra)}; expected ai.onnx and {linf_dist.DOMAIN} only")
    opset: int = versions.get("", 0)
    if not MIN_OPSET <= opset <= MAX_OPSET:
        raise GraphError(f"uses opset {opset}; expected {MIN_OPSET} to {MAX_OPSET}: export again with --opset")
    return opset


def _check_ops(model: ModelProto, options: GraphOptions) -> None:
    allowed = {("", op) for op in NET_OPS | HEAD_OPS | (RADIUS_OPS if options.radius else set())}
    allowed |= {("", op) for op in (SORT_OPS | CONV_OPS if options.form == "standard" else set())}
    allowed |= {(linf_dist.DOMAIN, op) for op in INPUTS}
    in_bodies = {("", op) for op in NET_OPS | BODY_OPS | SORT_OPS | CONV_OPS}
    known = [(node, allowed) for node in _all_nodes([model.graph])]
    known += [(node, in_bodies) for node in _all_nodes(model.functions)]
    for node, ops in known:
        if (node.domain, node.op_type) not in ops:
            name = f"{node.domain or 'ai.onnx'}::{node.op_type}"
            raise GraphError(f"node {node.name!r} is the unknown op {name}; expected an l_inf-distance net")


def _all_nodes(parts: Iterable[GraphProto | FunctionProto]) -> Iterator[NodeProto]:
    pending = list(parts)
    while pending:
        for node in pending.pop().node:
            yield node
            for attribute in node.attribute:
                # Whatever type the attribute claims: some runtimes do not ask.
                if attribute.HasField("g"):
                    pending.append(attribute.g)
                pending.extend(attribute.graphs)


def _net(graph: GraphProto, form: Form, folder: Path, claimed_grid: str | None) -> PixelNet:
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    counts = Counter(tensor.name for tensor in graph.initializer)
    if twice := [name for name, count in counts.items() if count > 1]:
        raise GraphError(f"holds several constants of the name {twice[0]!r}; expected one")

    def array(name: str) -> Floats:
        if name not in tensors:
            raise GraphError(f"the graph computes {name!r}; expected constant weights and biases")
        values = array_from_tensor(tensors[name], folder)
        _embed(tensors[name], values)
        return values

    shape = _input_shape(graph)
    layers = tuple(_layers(stored_layers(graph, form), shape, array))
    centre = array("centre") if "centre" in tensors else None
    _check_centre(centre, shape)
    net = PixelNet(shape, layers, None, _head(graph, array), None if centre is None else centre.reshape(-1))
    _check_layers(net)
    proven = replace(net, grid=_proven_grid(net, claimed_grid))
    _check_grids(graph, proven)
    return proven


def _layers(
    stored: Iterable[StoredLayer], shape: tuple[int, int, int] | None, array: Callable[[str], Floats]
) -> Iterator[PixelLayer]:
    for index, layer in enumerate(stored):
        weight, bias, window = array(layer.weight), array(layer.bias), None
        if layer.moves is not None:
            window = window_of(index, shape, weight.shape[1:], layer)
            weight = weight.reshape(len(weight), -1)
        shape = None if window is None else (len(weight), *window.places)
        # Of another format they are refused below.
        yield PixelLayer(weight, bias, None if layer.sort is None else cast(Singles, array(layer.sort)), window)


def _check_centre(centre: Floats | None, shape: tuple[int, int, int]) -> None:
    if centre is not None and centre.shape != (shape[0], 1, 1):
        raise GraphError(f"the centre has shape {centre.shape}; expected ({shape[0]}, 1, 1), one of each channel")


def _head(graph: GraphProto, array: Callable[[str], Floats]) -> MlpHead | None:
    """Returns the linear layers behind the features; None: there are none."""
    nodes = [node for node in graph.node if node.op_type == "Gemm"]
    if any(len(node.input) != 3 for node in nodes):
        raise GraphError("a Gemm has not three inputs; expected features, weight and bias")
    if not nodes:
        return None
    weights, biases = zip(*((array(node.input[1]), array(node.input[2])) for node in nodes), strict=True)
    try:
        return MlpHead(tuple(weights), tuple(biases), "tanh")
    except InputError as error:
        raise GraphError(str(error)) from None


def _embed(tensor: TensorProto, values: Floats) -> None:
    """Moves external data into the model: what was judged is what runs, wherever the model is written or run."""
    if tensor.external_data:
        tensor.CopyFrom(numpy_helper.from_array(np.asarray(values), tensor.name))


def _input_shape(graph: GraphProto) -> tuple[int, int, int]:
    if len(graph.input) != 1 or graph.input[0].name != "image":
        raise GraphError(f"has the inputs {[value.name for value in graph.input]}; expected one, 'image'")
    sizes = [dim.dim_value for dim in graph.input[0].type.tensor_type.shape.dim]
    if len(sizes) != 4 or min(sizes[1:]) < 1:
        raise GraphError(f"input 'image' has shape {sizes}; expected (N, C, H, W) with fixed C, H, W")
    return sizes[1], sizes[2], sizes[3]


def _check_layers(net: PixelNet) -> None:
    inputs = net.inputs
    if net.centre is not None and net.centre.dtype != net.format:
        raise GraphError(f"the centre is {net.centre.dtype} before layers of {net.format}; expected one format")
    if reason := centre_gap(net):
        raise GraphError(f"{reason}; expected a graph that linfdeploy export wrote")
    for index, layer in enumerate(net.layers):
        shape, dtype = layer.weight.shape, layer.weight.dtype
        fits = len(shape) == 2 and layer.inputs == inputs
        if not fits or layer.bias.shape != (shape[0],) or layer.outputs > MAX_UNITS:
            raise GraphError(
                f"layer {index} has weight {shape} and bias {layer.bias.shape}; "
                f"expected weight (O, {inputs}) and bias (O,)"
            )
        if dtype != net.format or layer.bias.dtype != net.format:
            raise GraphError(
                f"layer {index} mixes {dtype}, {layer.bias.dtype} and {net.format}; expected one format"
            )
        if layer.sort is not None:
            _check_sort(index, layer)
        inputs = layer.outputs
    if net.head is not None:
        _check_head(net.head, inputs, net.format)
    elif net.layers[-1].window is not None:
        raise GraphError("ends with a convolution; expected a dense layer or a head behind it")
    if net.classes < 2:
        raise GraphError(f"has {net.classes} logit; expected at least 2 classes")


def _check_head(head: MlpHead, features: int, dtype: npt.DTypeLike) -> None:
    if head.features != features:
        raise GraphError(
            f"the head takes {head.features} features; expected {features}, of the last distance layer"
        )
    if other := {str(array.dtype) for array in (*head.weights, *head.biases)} - {str(dtype)}:
        raise GraphError(f"the head is {', '.join(sorted(other))} behind layers of {dtype}; expected one format")


def _check_sort(index: int, layer: PixelLayer) -> None:
    assert layer.sort is not None
    most = min(layer.weight.shape[1], MOST_TERMS)
    sizes, dtypes = layer.sort.shape, {layer.sort.dtype, layer.weight.dtype}
    if len(sizes) != 1 or not 1 <= sizes[0] <= most or dtypes != {np.dtype(np.float32)}:
        raise GraphError(
            f"layer {index} has sort weights {layer.sort.dtype} {sizes} and a weight {layer.weight.dtype}; "
            f"expected float32, (K,) with K from 1 to {most}"
        )


def _check_grids(graph: GraphProto, net: PixelNet) -> None:
    """Compares the grids that nodes of sorted distances round to with that of the net."""
    for node in graph.node:
        found = [attribute.i for attribute in node.attribute if attribute.name == "grid"]
        if node.domain == linf_dist.DOMAIN and node.op_type in SORTED and found != [net.grid]:
            raise GraphError(
                f"node {node.name!r} rounds to the grids {found} and the file claims the grid {net.grid}; "
                "expected one: export again"
            )


def _proven_grid(net: PixelNet, claimed: str | None) -> int | None:
    """Returns the claimed grid if the net is exact on it, by proof from its own weights."""
    reason: str | None = "the file names no grid"
    if claimed is not None and claimed.isdecimal() and len(claimed) <= 2 and int(claimed) <= MAX_GRID:
        reason = exactness_gap(net, int(claimed))
    if reason is None and claimed is not None:
        return int(claimed)
    if net.sorts:
        raise GraphError(
            f"has sorted distances and is not exact: {reason}; expected a graph that linfdeploy export wrote"
        )
    return None


def _departures(model: ModelProto, net: PixelNet, options: GraphOptions) -> tuple[str, ...]:
    """Compares the graph with the one that is written for its own weights."""
    expected = model_from_net(net, options, {})
    found_nodes, nodes = list(model.graph.node), list(expected.graph.node)
    departures = [
        f"node {found.name!r} ({found.op_type}) is not what is written for these weights"
        for found, ours in zip(found_nodes, nodes, strict=False)
        if found != ours
    ]
    if len(found_nodes) != len(nodes):
        departures.append(f"there are {len(found_nodes)} nodes where {len(nodes)} are written")
    if list(model.functions) != list(expected.functions):
        kinds = " or ".join(function.name for function in expected.functions) or linf_dist.OP
        departures.append(f"the function body of linfdeploy::{kinds} is not the one that is written")
    for part in ("input", "output"):
        if list(getattr(model.graph, part)) != list(getattr(expected.graph, part)):
            departures.append(f"the graph's {part}s are not what is written for these weights")
    if {entry.domain: entry.version for entry in model.opset_import} != {
        entry.domain: entry.version for entry in expected.opset_import
    }:
        departures.append("the imported operator sets are not what is written for this form")
    departures += _constant_departures(model.graph, expected.graph)
    # No export writes such a net; a flipped bit of an exponent makes one.
    if overflow := overflow_gap(net):
        departures.append(overflow)
    departures += _unwritten_fields(model, WRITTEN_MODEL_FIELDS)
    departures += _unwritten_fields(model.graph, WRITTEN_GRAPH_FIELDS)
    return tuple(departures)


def _unwritten_fields(message: Message, written: set[str]) -> Iterator[str]:
    """Names what is never written: sparse constants, training steps, quantisation notes, claims about values."""
    for field, _ in message.ListFields():
        if field.name not in written:
            yield f"the file has a {field.name}, which is not written for these weights"


def _constant_departures(found: GraphProto, ours: GraphProto) -> list[str]:
    """Compares the constants: the weights, which hold nothing but what was read, and those of the radius."""
    expected, tensors = ({tensor.name: tensor for tensor in graph.initializer} for graph in (ours, found))
    return [
        f"constant {name!r} is not what is written for these weights"
        for name in sorted(expected.keys() | tensors.keys())
        if expected.get(name) != tensors.get(name)
    ]
