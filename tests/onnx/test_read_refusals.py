# SPDX-License-Identifier: Apache-2.0
"""What is no graph of ours at all, and the one line that says why."""

import copy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from foreign_graphs import MODELS, constant, node, read
from onnx import AttributeProto, ModelProto, TensorProto, helper, numpy_helper

from linfdeploy.errors import GraphError


def unknown_op(model: ModelProto) -> None:
    node(model, "negate").op_type = "Conv"


def unknown_domain(model: ModelProto) -> None:
    node(model, "negate").domain = "com.evil"


def imported_domain(model: ModelProto) -> None:
    model.opset_import.append(helper.make_opsetid("com.evil", 1))


def alias_of_the_standard_domain(model: ModelProto) -> None:
    model.opset_import.append(helper.make_opsetid("ai.onnx", 18))


def operator_set_twice(model: ModelProto) -> None:
    model.opset_import.append(helper.make_opsetid("", 13))


def old_opset(model: ModelProto) -> None:
    model.opset_import[0].version = 17


def no_opset(model: ModelProto) -> None:
    del model.opset_import[:]


def loop(model: ModelProto) -> None:
    graph = helper.make_graph([helper.make_node("Identity", ["a"], ["b"])], "g", [], [])
    model.graph.node.append(helper.make_node("Loop", ["", ""], ["z"], body=graph))


def hidden_if(model: ModelProto) -> None:
    graph = helper.make_graph([helper.make_node("If", ["a"], ["b"])], "g", [], [])
    attribute = node(model, "negate").attribute.add()
    attribute.name, attribute.type = "graphs", AttributeProto.GRAPHS
    attribute.graphs.append(graph)


def if_without_a_type(model: ModelProto) -> None:
    attribute = node(model, "negate").attribute.add()
    attribute.name = "g"
    attribute.g.node.append(helper.make_node("If", ["a"], ["b"]))


def if_in_a_function(model: ModelProto) -> None:
    model.functions[0].node.append(helper.make_node("If", ["a"], ["b"]))


def duplicate_constant(model: ModelProto) -> None:
    twin = copy.deepcopy(constant(model, "layer0.weight"))
    twin.raw_data = np.zeros(63, np.float32).tobytes()
    model.graph.initializer.insert(0, twin)


def second_input(model: ModelProto) -> None:
    model.graph.input.append(helper.make_tensor_value_info("layer0.weight", TensorProto.FLOAT, [7, 9]))


def renamed_input(model: ModelProto) -> None:
    model.graph.input[0].name = "x"


def shape_of_three(model: ModelProto) -> None:
    del model.graph.input[0].type.tensor_type.shape.dim[3]


def negative_shape(model: ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[3].dim_value = -3


def wrong_shape(model: ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[3].dim_value = 4


def computed_weight(model: ModelProto) -> None:
    node(model, "layer0").input[1] = "pixels"


def too_few_inputs(model: ModelProto) -> None:
    del node(model, "layer0").input[2]


def infinite_weight(model: ModelProto) -> None:
    constant(model, "layer0.weight").raw_data = np.full(63, np.inf, np.float32).tobytes()


def integer_weight(model: ModelProto) -> None:
    constant(model, "layer0.weight").data_type = TensorProto.INT32


def half_bias(model: ModelProto) -> None:
    constant(model, "layer0.bias").CopyFrom(numpy_helper.from_array(np.zeros(7, np.float16), "layer0.bias"))


def scalar_weight(model: ModelProto) -> None:
    constant(model, "layer0.weight").CopyFrom(numpy_helper.from_array(np.array(1, np.float32), "layer0.weight"))


def missing_weight(model: ModelProto) -> None:
    model.graph.initializer.remove(constant(model, "layer1.weight"))


def no_layers(model: ModelProto) -> None:
    for name in ("layer0", "layer1", "layer2"):
        model.graph.node.remove(node(model, name))


def no_nodes(model: ModelProto) -> None:
    del model.graph.node[:]


REFUSALS: list[tuple[Callable[[ModelProto], None], str]] = [
    (unknown_op, r"node 'negate' is the unknown op ai.onnx::Conv; expected an l_inf-distance net"),
    (unknown_domain, "is the unknown op com.evil::Neg"),
    (imported_domain, r"uses the operator sets \['com.evil'\]; expected ai.onnx and linfdeploy only"),
    (alias_of_the_standard_domain, "uses the operator sets"),
    (operator_set_twice, "imports an operator set twice"),
    (old_opset, "uses opset 17; expected 18 to 22: export again with --opset"),
    (no_opset, "uses opset 0; expected"),
    (loop, "unknown op ai.onnx::Loop"),
    (hidden_if, "unknown op ai.onnx::If"),
    (if_without_a_type, "unknown op ai.onnx::If"),
    (if_in_a_function, "unknown op ai.onnx::If"),
    (duplicate_constant, "several constants of the name 'layer0.weight'; expected one"),
    (second_input, r"inputs \['image', 'layer0.weight'\]; expected one, 'image'"),
    (renamed_input, r"inputs \['x'\]; expected one, 'image'"),
    (shape_of_three, r"input 'image' has shape \[0, 1, 3\]; expected \(N, C, H, W\)"),
    (negative_shape, r"has shape \[0, 1, 3, -3\]; expected"),
    (wrong_shape, r"layer 0 has weight \(7, 9\) and bias \(7,\); expected weight \(O, 12\)"),
    (computed_weight, "the graph computes 'pixels'; expected constant weights"),
    (too_few_inputs, "a LinfDist node lacks an input; expected X, W and B"),
    (infinite_weight, "tensor 'layer0.weight' holds infinite or NaN values; expected finite"),
    (integer_weight, "has dtype INT32; expected FLOAT or FLOAT16"),
    (half_bias, "mixes float32, float16 and float32; expected one format"),
    (scalar_weight, r"layer 0 has weight \(\) and bias"),
    (missing_weight, "the graph computes 'layer1.weight'"),
    (no_layers, "has no distance layer; expected"),
    (no_nodes, "an ONNX model without nodes; expected"),
]


@pytest.mark.parametrize(("spoil", "text"), REFUSALS, ids=[spoil.__name__ for spoil, _ in REFUSALS])
def test_refusals(spoil: Callable[[ModelProto], None], text: str, tmp_path: Path) -> None:
    model = copy.deepcopy(MODELS["function"])
    spoil(model)
    with pytest.raises(GraphError, match=text) as caught:
        read(model, tmp_path)
    assert str(caught.value).startswith(f"{tmp_path / 'model.onnx'}: ")
