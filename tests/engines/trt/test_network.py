# SPDX-License-Identifier: Apache-2.0
from pathlib import Path
from typing import Any

import pytest
from cuda_double import CudaDouble
from onnx import helper
from small_nets import pixel_net
from trt_double import Registry, TrtDouble

from linfdeploy.engines.trt.log import new_log
from linfdeploy.engines.trt.network import check_attributes, op_nodes, parse_network, plugin_layers
from linfdeploy.errors import EngineError
from linfdeploy.onnx.read import DeployedGraph, read_graph
from linfdeploy.onnx.write import Form, GraphOptions, model_from_net


def graph_of(form: Form, folder: Path) -> DeployedGraph:
    path = folder / "model.onnx"
    path.write_bytes(model_from_net(pixel_net(0), GraphOptions(form), {}).SerializeToString())
    return read_graph(path)


@pytest.mark.parametrize(("form", "names"), [("function", 3), ("op", 3), ("standard", 0)])
def test_nodes_of_ours(form: Form, names: int, tmp_path: Path) -> None:
    assert op_nodes(graph_of(form, tmp_path)) == [f"layer{index}" for index in range(names)]


def test_where_functions_are_not_wanted_the_parser_sees_none(tmp_path: Path) -> None:
    trt: Any = TrtDouble.fresh(CudaDouble())
    trt.registry.load_library("")
    graph = graph_of("function", tmp_path)
    for functions in (True, False):
        network, _ = parse_network(trt, trt.Builder(log := new_log(trt)), log, graph, functions=functions)
        assert len(network.model.functions) == functions
        assert network.flags == 1 << trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED
        assert plugin_layers(trt, network) == {"layer0", "layer1", "layer2"}
    assert len(graph.model.functions) == 1


def test_attributes_that_a_plugin_does_not_know(tmp_path: Path) -> None:
    graph, registry = graph_of("op", tmp_path), Registry()
    registry.load_library("")
    check_attributes(registry, graph)
    graph.model.graph.node[3].attribute.append(helper.make_attribute("axis", 1))
    with pytest.raises(EngineError) as refused:
        check_attributes(registry, graph)
    assert str(refused.value) == (
        "the plugin LinfDist does not know the attribute axis of node layer1, and TensorRT would drop it: build "
        "the plugins' library of this version of linfdeploy"
    )
    registry.fields = ["axis"]
    check_attributes(registry, graph)
