# SPDX-License-Identifier: Apache-2.0
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from custom_op_models import WAYS
from small_nets import float_bits, pixel_net, random_images

from linfdeploy.engines import onnxruntime as backend
from linfdeploy.engines.custom_ops.library import CUSTOM_OP, library
from linfdeploy.engines.reference import ReferenceEngine, roundings_of
from linfdeploy.errors import EngineError
from linfdeploy.onnx.pixel_net import Precision
from linfdeploy.onnx.read import DeployedGraph, read_graph
from linfdeploy.onnx.write import Form, GraphOptions, model_from_net

CPU: dict[str, Any] = {"device": "cpu", "threads": 1}


def graph_of(
    folder: Path, precision: Precision = "exact", form: Form = "function", *, radius: bool = False, seed: int = 0
) -> DeployedGraph:
    net = pixel_net(seed, precision, sizes=(9, 33, 17, 10))
    metadata = {"precision": precision, "grid": str(net.grid)}
    path = folder / "model.onnx"
    path.write_bytes(model_from_net(net, GraphOptions(form, radius), metadata).SerializeToString())
    return read_graph(path)


@pytest.mark.parametrize("way", [*WAYS, "standard"])
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("seed", range(3))
def test_exact_nets_are_bit_identical(way: str, threads: int, seed: int, tmp_path: Path) -> None:
    form: Form = "standard" if way == "standard" else "function"
    graph = graph_of(tmp_path, form=form, seed=seed)
    assert graph.net.precision == "exact"
    custom_ops = "auto" if way == "standard" else way
    engine = backend.load(graph, {"device": "cpu", "threads": threads, "custom_ops": custom_ops})
    images = random_images(700, seed=seed)
    ours = float_bits(ReferenceEngine(graph.net).run(images))
    for size in (1, 3, 31, 700):
        found = [engine.run(images[i : i + size]) for i in range(0, min(700, 8 * size), size)]
        theirs = float_bits(np.concatenate(found))
        assert np.array_equal(theirs, ours[: len(theirs)])


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_floats_follow_one_of_the_roundings(precision: Precision, way: str, tmp_path: Path) -> None:
    graph = graph_of(tmp_path, precision)
    images = random_images(200)
    found = float_bits(backend.load(graph, {**CPU, "custom_ops": way}).run(images))
    ours = [float_bits(ReferenceEngine(graph.net, r).run(images)) for r in roundings_of(graph.net)]
    assert any(np.array_equal(found, bits) for bits in ours)


@pytest.mark.parametrize("way", WAYS)
def test_radius_comes_with_the_answer(way: str, tmp_path: Path) -> None:
    graph = graph_of(tmp_path, radius=True)
    images = random_images(40)
    found = backend.load(graph, {**CPU, "custom_ops": way}).answer(images)
    ours = ReferenceEngine(graph.net, radius=True).answer(images)
    assert set(found) == set(ours) == {"logits", "label", "radius"}
    assert np.array_equal(found["label"], ours["label"])
    assert found["radius"].tobytes() == ours["radius"].tobytes()


def test_facts(tmp_path: Path) -> None:
    assert backend.available() is None
    engine = backend.load(graph_of(tmp_path), CPU)
    kernel = engine.versions["kernel"]
    assert kernel == CUSTOM_OP if library().is_file() else kernel.startswith("function body (")
    assert engine.versions == {
        "onnxruntime": onnxruntime.__version__,
        "provider": "CPUExecutionProvider",
        "kernel": kernel,
    }
    assert (engine.input_shape, engine.classes) == ((1, 3, 3), 10)


def test_build_is_the_model_itself(tmp_path: Path) -> None:
    graph = graph_of(tmp_path)
    data = backend.build(graph, CPU).data
    (tmp_path / "model.onnx").write_bytes(data)
    assert read_graph(tmp_path / "model.onnx").departures == ()
    assert data == backend.build(graph, CPU).data


@pytest.mark.parametrize("call", [backend.load, backend.build])
def test_op_form_is_refused_without_the_library(call: Any, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"no kernel for linfdeploy::LinfDist .*export with --form function"):
        call(graph_of(tmp_path, form="op"), {**CPU, "custom_ops": "off"})


@pytest.mark.skipif(
    "CUDAExecutionProvider" in onnxruntime.get_available_providers(), reason="this ONNX Runtime has CUDA"
)
def test_cuda_without_a_provider_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"no CUDA provider; expected one .*pip install onnxruntime-gpu"):
        backend.load(graph_of(tmp_path), {"device": "cuda"})


@pytest.mark.parametrize("threads", ["two", -1, 10**9, 1.5, True, None, []])
def test_threads_from_a_foreign_manifest(threads: Any, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"threads is .*; expected 1 to 1024"):
        backend.load(graph_of(tmp_path), {**CPU, "threads": threads})


def test_what_onnx_runtime_refuses_is_one_line(tmp_path: Path) -> None:
    graph = graph_of(tmp_path)
    graph.model.graph.node[0].op_type = "Nonsense"
    with pytest.raises(EngineError, match=r"ONNX Runtime refuses the model: .*Nonsense") as caught:
        backend.load(graph, CPU)
    assert "\n" not in str(caught.value)
