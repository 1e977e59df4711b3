# SPDX-License-Identifier: Apache-2.0
"""From an ONNX graph to a network of TensorRT, with the parser's own words where it refuses."""

from __future__ import annotations

from types import ModuleType
from typing import Any

from onnx import ModelProto

from linfdeploy.engines.trt.log import Log, forget, why
from linfdeploy.errors import EngineError
from linfdeploy.onnx import linf_dist
from linfdeploy.onnx.read import DeployedGraph

__all__ = ["check_attributes", "check_layers", "op_nodes", "parse_network", "plugin_layers"]


def op_nodes(graph: DeployedGraph) -> list[str]:
    """Returns the names of the graph's nodes that are operators of ours."""
    return [node.name for node in graph.model.graph.node if node.domain == linf_dist.DOMAIN]


def check_layers(graph: DeployedGraph) -> None:
    """Checks that there are kernels for every layer.

    Raises:
        EngineError: There are sorted distances: there is no plugin, and their function was never tried there.
    """
    if graph.net.sorts:
        raise EngineError(
            "the graph has sorted distances (SortDist), which TensorRT has no plugin for yet; expected LinfDist "
            "alone: build it with --backend onnxruntime"
        )


def parse_network(
    trt: ModuleType, builder: Any, log: Log, graph: DeployedGraph, *, functions: bool
) -> tuple[Any, Any]:
    """Parses a graph into a strongly typed network.

    Args:
        trt: The module `tensorrt`, or one like it.
        builder: A builder of it.
        log: The builder's logger.
        graph: The graph.
        functions: Whether nodes of ours may become their functions. Where they may not, the parser does not see
            these: releases before 10.7 prefer a function to the plugin, and later ones where no plugin is found.

    Returns:
        The network, and the parser, which owns its weights and must live as long.

    Raises:
        EngineError: The parser refuses the graph: which node, and why.
    """
    network = builder.create_network(_creation_flags(trt))
    parser = trt.OnnxParser(network, log)
    forget(log)
    if parser.parse(_parsed_bytes(graph.model, functions=functions)):
        return network, parser
    raise EngineError(f"TensorRT's parser refuses {_refusal(parser, log)}")


def plugin_layers(trt: ModuleType, network: Any) -> set[str]:
    """Returns the names of a network's layers that are plugins; the parser names them as the ONNX nodes are."""
    layers = (network.get_layer(index) for index in range(network.num_layers))
    return {layer.name for layer in layers if layer.type == trt.LayerType.PLUGIN_V3}


def check_attributes(registry: Any, graph: DeployedGraph) -> None:
    """Checks that the plugins take every attribute of the graph's nodes: parsers drop the others without a word.

    Args:
        registry: TensorRT's, with the plugins' creators in it.
        graph: The graph.

    Raises:
        EngineError: There is no plugin for a node, or it does not know one of its attributes.
    """
    for node in graph.model.graph.node:
        if node.domain != linf_dist.DOMAIN:
            continue
        by_parser = {"plugin_namespace": "", "plugin_version": ""}
        own = {entry.name: entry.s.decode() for entry in node.attribute if entry.name in by_parser}
        creator = registry.get_creator(node.op_type, own["plugin_version"], own["plugin_namespace"])
        if creator is None:
            raise EngineError(
                f"TensorRT has no plugin {node.op_type} of version {own['plugin_version']} in the namespace "
                f"{own['plugin_namespace']}, which node {node.name} needs: load the plugins' library"
            )
        known = {field.name for field in creator.field_names} | set(by_parser)
        if dropped := sorted(entry.name for entry in node.attribute if entry.name not in known):
            raise EngineError(
                f"the plugin {node.op_type} does not know the attribute {dropped[0]} of node {node.name}, and "
                "TensorRT would drop it: build the plugins' library of this version of linfdeploy"
            )


def _creation_flags(trt: ModuleType) -> int:
    # Their numbers differ between 10.x and 11.x, their names do not.
    return 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)


def _parsed_bytes(model: ModelProto, *, functions: bool) -> bytes:
    if not functions:
        bare = ModelProto()
        bare.CopyFrom(model)
        del bare.functions[:]
        model = bare
    data: bytes = model.SerializeToString()
    return data


def _refusal(parser: Any, log: Log) -> str:
    """Says which node the parser refuses, and its reason."""
    if not parser.num_errors:
        return f"the graph: {why(log)}"
    error = parser.get_error(0)
    reason = " ".join(error.desc().split())
    where = f"node {error.node_name()} ({error.node_operator()})" if error.node_name() else "the graph"
    return f"{where}: {reason}"
