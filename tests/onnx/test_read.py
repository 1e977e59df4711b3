# SPDX-License-Identifier: Apache-2.0
"""A graph is what this package writes for its weights, or its departures are named, or it is refused."""

import copy
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from foreign_graphs import MODELS, NET, body, constant, node, read
from onnx import ModelProto, TensorProto, helper, numpy_helper
from small_nets import SHAPE, float_bits, in_runtime, pixel_net, random_images

from linfdeploy.engines.onnxruntime import OnnxRuntimeEngine
from linfdeploy.engines.reference import ReferenceEngine
from linfdeploy.errors import EngineError, GraphError, InputError
from linfdeploy.onnx.pixel_net import PixelLayer, PixelNet
from linfdeploy.onnx.read import read_graph
from linfdeploy.onnx.write import GraphOptions, model_from_net

# Each changes what the graph computes, or may let a runtime compute something else.


def drop_a_column(model: ModelProto) -> None:
    body(model).node[1].op_type = "Neg"


def reduce_another_axis(model: ModelProto) -> None:
    body(model).initializer[0].CopyFrom(helper.make_tensor(body(model).initializer[0].name, 7, [1], [0]))


def second_function(model: ModelProto) -> None:
    model.functions.append(copy.deepcopy(model.functions[0]))
    model.functions[1].name = "Other"


def overload(model: ModelProto) -> None:
    model.functions[0].overload = "fast"


def other_opset_in_function(model: ModelProto) -> None:
    model.functions[0].opset_import[0].version = 19


def swapped_weights(model: ModelProto) -> None:
    node(model, "layer1").input[2], node(model, "layer2").input[2] = (
        node(model, "layer2").input[1],
        node(model, "layer1").input[2],
    )


def skip_negation(model: ModelProto) -> None:
    node(model, "negate").op_type = "Abs"


def narrow_cast(model: ModelProto) -> None:
    node(model, "cast").attribute[0].i = TensorProto.FLOAT16


def plugin_of_another_version(model: ModelProto) -> None:
    node(model, "layer0").attribute[1].s = b"2"


def no_plugin_attributes(model: ModelProto) -> None:
    del node(model, "layer0").attribute[:]


def doc_string_on_a_node(model: ModelProto) -> None:
    node(model, "layer0").doc_string = "x"


def larger_radius(model: ModelProto) -> None:
    constant(model, "half").CopyFrom(numpy_helper.from_array(np.array(1.0, np.float32), "half"))


def negative_slack(model: ModelProto) -> None:
    constant(model, "slack").CopyFrom(numpy_helper.from_array(np.array(-9.0, np.float32), "slack"))


def missing_slack(model: ModelProto) -> None:
    model.graph.initializer.remove(constant(model, "slack"))


def extra_constant(model: ModelProto) -> None:
    model.graph.initializer.append(numpy_helper.from_array(np.zeros(1, np.float32), "layer9.weight"))


def constant_that_shadows_the_input(model: ModelProto) -> None:
    model.graph.initializer.append(numpy_helper.from_array(np.zeros((1, *SHAPE), np.uint8), "image"))


def constant_that_shadows_a_value(model: ModelProto) -> None:
    model.graph.initializer.append(numpy_helper.from_array(np.zeros((1, 9), np.float32), "layer0.x"))


def weight_with_a_second_set_of_data(model: ModelProto) -> None:
    constant(model, "layer0.weight").float_data.extend([1.0] * 63)


def weight_in_segments(model: ModelProto) -> None:
    constant(model, "layer0.weight").segment.begin = 1


def sparse_constant(model: ModelProto) -> None:
    sparse = model.graph.sparse_initializer.add()
    sparse.values.CopyFrom(numpy_helper.from_array(np.ones(1, np.float32), "layer0.bias"))
    sparse.indices.CopyFrom(numpy_helper.from_array(np.zeros(1, np.int64), "i"))
    sparse.dims.append(7)


def training_step(model: ModelProto) -> None:
    model.training_info.add().algorithm.name = "update"


def quantisation_note(model: ModelProto) -> None:
    model.graph.quantization_annotation.add().tensor_name = "layer0.x"


def claim_about_a_value(model: ModelProto) -> None:
    model.graph.value_info.append(helper.make_tensor_value_info("layer1.x", TensorProto.FLOAT16, ["N", 99]))


def doc_string(model: ModelProto) -> None:
    model.doc_string = "x" * 10**6


def fixed_batch(model: ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1


def float_input(model: ModelProto) -> None:
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.FLOAT


def fourth_output(model: ModelProto) -> None:
    model.graph.output.append(helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["N", *SHAPE]))


def extra_node(model: ModelProto) -> None:
    model.graph.node.append(helper.make_node("Abs", ["logits"], ["unused"]))


def other_domain_version(model: ModelProto) -> None:
    model.opset_import[1].version = 2


COMMON = [
    *(swapped_weights, skip_negation, narrow_cast, plugin_of_another_version, no_plugin_attributes),
    *(doc_string_on_a_node, larger_radius, negative_slack, missing_slack, extra_constant, fourth_output),
    *(constant_that_shadows_the_input, constant_that_shadows_a_value, weight_with_a_second_set_of_data),
    *(weight_in_segments, sparse_constant, training_step, quantisation_note, claim_about_a_value, doc_string),
    *(fixed_batch, float_input, extra_node, other_domain_version),
]
NO_NET_LEFT = [swapped_weights]
IN_FUNCTIONS = [drop_a_column, reduce_another_axis, second_function, overload, other_opset_in_function]


@pytest.mark.parametrize("form", MODELS)
def test_ours_has_no_departures(form: str, tmp_path: Path) -> None:
    graph = read(MODELS[form], tmp_path)
    assert graph.departures == ()
    assert graph.net.grid == 12


@pytest.mark.parametrize("tamper", [*COMMON, *IN_FUNCTIONS], ids=lambda tamper: tamper.__name__)
def test_tampering_is_seen(tamper: Callable[[ModelProto], None], tmp_path: Path) -> None:
    model = copy.deepcopy(MODELS["function"])
    tamper(model)
    if tamper in NO_NET_LEFT:
        with pytest.raises(GraphError, match="expected"):
            read(model, tmp_path)
        return
    graph = read(model, tmp_path)
    assert graph.departures
    assert all("written" in departure for departure in graph.departures)


def test_values_that_may_overflow_are_a_departure(tmp_path: Path) -> None:
    model = copy.deepcopy(MODELS["function"])
    constant(model, "layer0.weight").raw_data = np.full(63, 3e38, np.float32).tobytes()
    departures = [text for text in read(model, tmp_path).departures if text.startswith("values reach")]
    assert departures == ["values reach 6e+38 pixels where fp32 ends at 3.40282e+38: check the checkpoint"]


def test_weights_may_differ_for_that_is_another_net(tmp_path: Path) -> None:
    model = copy.deepcopy(MODELS["function"])
    weight = numpy_helper.to_array(constant(model, "layer0.weight")).copy()
    weight[0, 0] += np.float32(2**-12)
    constant(model, "layer0.weight").CopyFrom(numpy_helper.from_array(weight, "layer0.weight"))
    graph = read(model, tmp_path)
    assert graph.departures == ()
    assert graph.net.layers[0].weight[0, 0] == weight[0, 0]


@pytest.mark.parametrize(
    "claim", ["11", "24", "999", "00009999", "-1", "x", "", "1" * 10**5, "١٢", "²", "12 ", "1e1", "0x1"]
)
def test_claims_about_the_grid_prove_nothing(claim: str, tmp_path: Path) -> None:
    model = copy.deepcopy(MODELS["standard"])
    next(entry for entry in model.metadata_props if entry.key == "grid").value = claim
    graph = read(model, tmp_path)
    # Eastern digits are digits.
    assert graph.net.grid == (12 if claim == "١٢" else None)
    assert graph.claimed_precision == "exact"
    assert graph.net.precision == ("exact" if claim == "١٢" else "fp32")


def test_a_finer_grid_that_holds_too_is_believed(tmp_path: Path) -> None:
    model = copy.deepcopy(MODELS["standard"])
    next(entry for entry in model.metadata_props if entry.key == "grid").value = "13"
    assert read(model, tmp_path).net.grid == 13


def test_huge_metadata_is_read_and_not_believed(tmp_path: Path) -> None:
    model = copy.deepcopy(MODELS["op"])
    helper.set_model_props(model, {"precision": "best", "spec": "x" * 10**7, "grid": "12"})
    graph = read(model, tmp_path)
    assert graph.claimed_precision is None
    assert graph.net.grid == 12


def test_unknown_fields_do_not_stay(tmp_path: Path) -> None:
    # Field 99 of the model, a string: what a newer release might write.
    data = MODELS["op"].SerializeToString() + b"\x9a\x06\x03abc"
    graph = read(data, tmp_path)
    assert graph.departures == ()
    assert b"abc" not in graph.model.SerializeToString()


def test_one_class_is_no_classifier(tmp_path: Path) -> None:
    layer = PixelLayer(np.zeros((1, 9), np.float32), np.zeros(1, np.float32))
    with pytest.raises(GraphError, match="has 1 logit; expected at least 2 classes"):
        read(model_from_net(PixelNet(SHAPE, (layer,), None), GraphOptions(), {}), tmp_path)


@pytest.mark.parametrize("keep", [1, 100, -1])
def test_truncated(keep: int, tmp_path: Path) -> None:
    with pytest.raises(GraphError, match="expected a file written by linfdeploy export"):
        read(MODELS["function"].SerializeToString()[:keep], tmp_path)


@pytest.mark.parametrize("data", [b"", b"hello", bytes(1000), b"\x08" * 5000, b"PK\x03\x04"])
def test_no_model_at_all(data: bytes, tmp_path: Path) -> None:
    with pytest.raises(GraphError, match="expected a file written by linfdeploy export"):
        read(data, tmp_path)


@pytest.mark.parametrize("depth", [20, 5000])
def test_deep_nesting(depth: int, tmp_path: Path) -> None:
    def field(tag: int, data: bytes) -> bytes:
        length, encoded = len(data), b""
        while length > 127:
            encoded, length = encoded + bytes([length & 127 | 128]), length >> 7
        return bytes([tag]) + encoded + bytes([length]) + data

    data = b""
    for _ in range(depth):
        # A graph within an attribute within a node.
        data = field(0x0A, field(0x2A, field(0x32, data)))
    with pytest.raises(GraphError, match="expected"):
        read(field(0x3A, data), tmp_path)


@pytest.mark.parametrize(
    "text", [b"layer0.weight", b"negate", b"precision", b"LinfDist", b"image", b"linfdeploy", b"exact", b"Cast"]
)
def test_names_that_are_not_text(text: bytes, tmp_path: Path) -> None:
    data = MODELS["function"].SerializeToString().replace(text, b"\xff" * len(text))
    with pytest.raises(GraphError, match="is not UTF-8"):
        read(data, tmp_path)


def damaged(data: bytes, rng: random.Random) -> bytes:
    spoiled = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 4])):
        at, other = rng.randrange(len(spoiled)), rng.randrange(len(spoiled))
        match rng.randrange(4):
            case 0:
                spoiled[at] ^= 1 << rng.randrange(8)
            case 1:
                spoiled[at] = rng.choice([0, 1, 127, 128, 255])
            case 2:
                del spoiled[at : at + rng.randrange(1, 5)]
            case _:
                spoiled[at:at] = spoiled[other : other + rng.randrange(1, 60)]
    return bytes(spoiled)


@pytest.mark.parametrize("form", ["function", "standard"])
def test_random_damage_is_refused_seen_or_another_net(form: str, tmp_path: Path) -> None:
    """Whatever passes for ours computes what the evaluator computes with the weights that were read."""
    rng, images, sizes = random.Random(0), random_images(3), (9, 2, 2)
    options = GraphOptions("function" if form == "function" else "standard", radius=True)
    data = model_from_net(pixel_net(0, sizes=sizes), options, {"grid": "12"}).SerializeToString()
    passed = 0
    for _ in range(2000):
        try:
            graph = read(damaged(data, rng), tmp_path)
        except GraphError:
            continue
        if graph.departures or passed == 20 or graph.options != options:
            continue
        try:
            # A custom op would not run the function, and so not see its damage.
            engine = OnnxRuntimeEngine(graph, {"device": "cpu", "threads": 1, "custom_ops": "off"})
        # Damage to the file's version and the like: no part of what is compared.
        except EngineError:
            continue
        passed += 1
        found = engine.answer(images)
        ours = ReferenceEngine(graph.net, radius=True).answer(images)
        assert all(np.array_equal(found[name], ours[name]) for name in ours)
    assert passed


def test_folder_and_missing_file(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing.onnx"):
        with pytest.raises(InputError, match="no such file; expected an ONNX model"):
            read_graph(path)


def test_external_data_is_taken_into_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, elsewhere = tmp_path / "model", tmp_path / "elsewhere"
    folder.mkdir()
    elsewhere.mkdir()
    model = copy.deepcopy(MODELS["function"])
    path = folder / "model.onnx"
    onnx.save_model(model, path, save_as_external_data=True, location="model.data", size_threshold=0)
    # A file of the same name where the program runs must not be taken for it.
    (elsewhere / "model.data").write_bytes(bytes((folder / "model.data").stat().st_size))
    monkeypatch.chdir(elsewhere)
    graph = read_graph(path)
    assert not any(tensor.external_data for tensor in graph.model.graph.initializer if "layer" in tensor.name)
    assert [d for d in graph.departures if "layer" in d] == []
    images = random_images(3)
    ours = ReferenceEngine(graph.net).run(images)
    assert np.array_equal(float_bits(ours), float_bits(ReferenceEngine(NET).run(images)))


def test_external_weights_run_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = copy.deepcopy(MODELS["function"])
    onnx.save_model(model, tmp_path / "m.onnx", save_as_external_data=True, location="d", size_threshold=64)
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    graph = read_graph(tmp_path / "m.onnx")
    assert graph.departures == ()
    images = random_images(3)
    found = in_runtime(graph.model, images)["logits"]
    assert np.array_equal(float_bits(found), float_bits(ReferenceEngine(NET).run(images)))


@pytest.mark.parametrize("location", ["../../etc/passwd", "/etc/passwd", "link"])
def test_external_data_elsewhere_is_refused(location: str, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/etc/passwd")
    model = copy.deepcopy(MODELS["function"])
    weight = constant(model, "layer0.weight")
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    entry = weight.external_data.add()
    entry.key, entry.value = "location", location
    with pytest.raises(GraphError, match="outside the model's folder; expected a file beside the model"):
        read(model, tmp_path)
