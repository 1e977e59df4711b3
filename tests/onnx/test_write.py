# SPDX-License-Identifier: Apache-2.0
import itertools
from pathlib import Path

import numpy as np
import onnx
import pytest
from small_nets import FORMS, float_bits, in_reference, in_runtime, pixel_net, random_images

from linfdeploy.engines.reference import ReferenceEngine, roundings_of
from linfdeploy.onnx import linf_dist
from linfdeploy.onnx.pixel_net import PRECISIONS, Precision
from linfdeploy.onnx.read import read_graph
from linfdeploy.onnx.write import MAX_OPSET, MIN_OPSET, Form, GraphOptions, model_from_net

OPTIONS = [
    GraphOptions(form, radius, opset)
    for form, radius, opset in itertools.product(FORMS, (False, True), range(MIN_OPSET, MAX_OPSET + 1))
]


@pytest.fixture(autouse=True)
def schema() -> None:
    linf_dist.register_schema()


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("options", OPTIONS, ids=lambda o: f"{o.form}-{o.radius}-{o.opset}")
def test_round_trip(precision: Precision, options: GraphOptions, tmp_path: Path) -> None:
    net = pixel_net(1, precision)
    metadata = {"precision": precision, "grid": str(net.grid), "note": "ü"}
    model = model_from_net(net, options, metadata)
    onnx.checker.check_model(model, full_check=True)
    data = model.SerializeToString(deterministic=True)
    assert data == model_from_net(pixel_net(1, precision), options, metadata).SerializeToString(deterministic=True)
    path = tmp_path / "model.onnx"
    path.write_bytes(data)
    graph = read_graph(path)
    assert graph.departures == ()
    assert graph.options == options
    assert graph.metadata == metadata
    assert graph.claimed_precision == precision == graph.net.precision
    assert (graph.net.input_shape, graph.net.grid) == (net.input_shape, net.grid)
    for ours, theirs in zip(net.layers, graph.net.layers, strict=True):
        assert ours.weight.dtype == theirs.weight.dtype == ours.bias.dtype == theirs.bias.dtype
        assert ours.weight.tobytes() == theirs.weight.tobytes()
        assert ours.bias.tobytes() == theirs.bias.tobytes()


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("form", ["function", "standard"])
@pytest.mark.parametrize("opset", [MIN_OPSET, MAX_OPSET])
def test_runs_to_the_evaluators_bits(precision: Precision, form: Form, opset: int) -> None:
    net = pixel_net(2, precision)
    model = model_from_net(net, GraphOptions(form, opset=opset), {})
    images = random_images(7)
    ours = [float_bits(ReferenceEngine(net, rounding).run(images)).tolist() for rounding in roundings_of(net)]
    found = in_runtime(model, images)["logits"]
    assert found.dtype == np.float32
    assert float_bits(found).tolist() in ours
    assert float_bits(in_reference(model, images)["logits"]).tolist() == ours[0]


def test_graph_is_the_documented_one() -> None:
    model = model_from_net(pixel_net(0, sizes=(9, 4, 3)), GraphOptions(radius=True), {"b": "2", "a": "1"})
    assert [node.op_type for node in model.graph.node][:5] == ["Cast", "Flatten", "LinfDist", "LinfDist", "Neg"]
    for node in model.graph.node:
        if node.op_type == "LinfDist":
            attributes = {a.name: a.s for a in node.attribute}
            assert attributes == {"plugin_namespace": b"linfdeploy", "plugin_version": b"1"}
    (image,) = model.graph.input
    assert (image.name, image.type.tensor_type.elem_type) == ("image", onnx.TensorProto.UINT8)
    dims = image.type.tensor_type.shape.dim
    assert [dim.dim_param or dim.dim_value for dim in dims] == ["N", 1, 3, 3]
    outputs = {o.name: o.type.tensor_type for o in model.graph.output}
    assert list(outputs) == ["logits", "label", "radius"]
    types = [onnx.TensorProto.FLOAT, onnx.TensorProto.INT64, onnx.TensorProto.FLOAT]
    assert [t.elem_type for t in outputs.values()] == types
    assert [[d.dim_param or d.dim_value for d in t.shape.dim] for t in outputs.values()] == [
        ["N", 3],
        ["N"],
        ["N"],
    ]


def test_forms_differ_in_what_they_ask_of_a_runtime() -> None:
    models = {form: model_from_net(pixel_net(0), GraphOptions(form), {}) for form in FORMS}
    assert {form: len(model.functions) for form, model in models.items()} == {
        "function": 1,
        "op": 0,
        "standard": 0,
    }
    domains = {form: {entry.domain for entry in model.opset_import} for form, model in models.items()}
    assert domains == {"function": {"", "linfdeploy"}, "op": {"", "linfdeploy"}, "standard": {""}}
    assert all(not node.domain for node in models["standard"].graph.node)
