# SPDX-License-Identifier: Apache-2.0
"""Our own graphs, to be tampered with, and how to read them back from a file."""

from pathlib import Path

from onnx import GraphProto, ModelProto, NodeProto, TensorProto
from small_nets import pixel_net

from linfdeploy.onnx.read import DeployedGraph, read_graph
from linfdeploy.onnx.write import GraphOptions, model_from_net

NET = pixel_net(3)
MODELS = {
    "function": model_from_net(NET, GraphOptions("function", radius=True), {"precision": "exact", "grid": "12"}),
    "standard": model_from_net(NET, GraphOptions("standard", radius=True), {"precision": "exact", "grid": "12"}),
    "op": model_from_net(NET, GraphOptions("op", radius=True), {"precision": "exact", "grid": "12"}),
}


def read(model: ModelProto | bytes, folder: Path) -> DeployedGraph:
    path = folder / "model.onnx"
    path.write_bytes(model if isinstance(model, bytes) else model.SerializeToString())
    return read_graph(path)


def node(model: ModelProto, name: str) -> NodeProto:
    found: NodeProto = next(node for node in model.graph.node if node.name == name)
    return found


def constant(model: ModelProto, name: str) -> TensorProto:
    found: TensorProto = next(tensor for tensor in model.graph.initializer if tensor.name == name)
    return found


def body(model: ModelProto) -> GraphProto:
    found: GraphProto = next(a.g for a in model.functions[0].node[0].attribute if a.name == "body")
    return found
