# SPDX-License-Identifier: Apache-2.0
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
from onnx import ModelProto, TensorProto, helper
from onnx.reference import ReferenceEvaluator

from linfdeploy.onnx import linf_dist
from linfdeploy.onnx.write import MAX_OPSET, MIN_OPSET

SIZES = [(1, 1, 1), (1, 17, 3), (5, 3, 1), (7, 33, 9), (31, 1, 5)]
TYPES = [np.float32, np.float16]


def one_op(form: str, element: int, opset: int = MIN_OPSET) -> ModelProto:
    def value(name: str, *shape: str) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, element, shape)

    nodes = [linf_dist.node("X", "W", "B", "Y", "one")]
    if form == "standard":
        nodes = linf_dist.standard_nodes("X", "W", "B", "Y", "one")
    inputs = [value("X", "N", "I"), value("W", "O", "I"), value("B", "O")]
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid(linf_dist.DOMAIN, linf_dist.DOMAIN_VERSION)]
    model = helper.make_model(
        helper.make_graph(nodes, "one", inputs, [value("Y", "N", "O")]),
        opset_imports=opsets,
        functions=[linf_dist.function(opset)] if form == "function" else [],
        ir_version=10,
    )
    onnx.checker.check_model(model, full_check=True)
    return model


def operands(size: tuple[int, int, int], dtype: Any) -> dict[str, npt.NDArray[Any]]:
    n, i, o = size
    rng = np.random.default_rng(n * i * o)
    shapes = {"X": (n, i), "W": (o, i), "B": (o,)}
    return {name: rng.normal(0, 100, shape).astype(dtype) for name, shape in shapes.items()}


def by_definition(x: npt.NDArray[Any], w: npt.NDArray[Any], b: npt.NDArray[Any]) -> npt.NDArray[Any]:
    result: npt.NDArray[Any] = np.abs(x[:, None] - w[None]).max(-1) + b
    assert result.dtype == x.dtype
    return result


def same(a: npt.NDArray[Any], b: npt.NDArray[Any]) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


@pytest.fixture(autouse=True)
def schema() -> None:
    linf_dist.register_schema()


def test_schema() -> None:
    linf_dist.register_schema()
    found = onnx.defs.get_schema(linf_dist.OP, linf_dist.DOMAIN)
    assert [value.name for value in found.inputs] == ["X", "W", "B"]
    assert [value.name for value in found.outputs] == ["Y"]
    assert set(found.type_constraints[0].allowed_type_strs) == {"tensor(float)", "tensor(float16)"}
    assert set(found.attributes) == {"plugin_namespace", "plugin_version"}


def test_node_carries_what_tensorrt_looks_for() -> None:
    node = linf_dist.node("x", "w", "b", "y", "n")
    assert (node.domain, node.op_type) == ("linfdeploy", "LinfDist")
    assert {a.name: a.s for a in node.attribute} == {"plugin_namespace": b"linfdeploy", "plugin_version": b"1"}


@pytest.mark.parametrize("opset", range(MIN_OPSET, MAX_OPSET + 1))
def test_function_has_the_name_of_the_op(opset: int) -> None:
    function = linf_dist.function(opset)
    assert (function.domain, function.name) == (linf_dist.DOMAIN, linf_dist.OP)
    assert list(function.attribute) == ["plugin_namespace", "plugin_version"]
    assert [(entry.domain, entry.version) for entry in function.opset_import] == [("", opset)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("form", ["function", "standard"])
def test_body_in_the_reference_evaluator(form: str, dtype: Any, size: tuple[int, int, int]) -> None:
    values = operands(size, dtype)
    model = one_op(form, helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))
    (y,) = ReferenceEvaluator(model).run(None, values)
    assert same(np.asarray(y), by_definition(*values.values()))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("form", ["function", "standard"])
@pytest.mark.parametrize("opset", [MIN_OPSET, MAX_OPSET])
def test_body_in_onnx_runtime(form: str, opset: int, size: tuple[int, int, int]) -> None:
    values = operands(size, np.float32)
    session = onnxruntime.InferenceSession(one_op(form, TensorProto.FLOAT, opset).SerializeToString())
    assert same(session.run(None, values)[0], by_definition(*values.values()))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("form", ["function", "standard"])
def test_half_body_in_onnx_runtime_rounds_somewhere_allowed(form: str, size: tuple[int, int, int]) -> None:
    values = operands(size, np.float16)
    session = onnxruntime.InferenceSession(one_op(form, TensorProto.FLOAT16).SerializeToString())
    (y,) = session.run(None, values)
    # A runtime may hold float32 between the distance and the sum.
    wide = by_definition(*(value.astype(np.float32) for value in values.values())).astype(np.float16)
    assert same(y, by_definition(*values.values())) or same(y, wide)


def test_op_without_a_body_has_no_kernel() -> None:
    with pytest.raises(Exception, match="LinfDist"):
        onnxruntime.InferenceSession(one_op("op", TensorProto.FLOAT).SerializeToString())
