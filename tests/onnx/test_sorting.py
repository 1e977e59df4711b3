# SPDX-License-Identifier: Apache-2.0
"""Sorted distances in front of a head: exported with exact features, read to the bit, near what was trained."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
import torch
from onnx import ModelProto
from small_nets import FORMS, in_reference, in_runtime, random_images

from linfdeploy.engines.custom_ops.library import library
from linfdeploy.engines.reference import ReferenceEngine
from linfdeploy.errors import ExportError
from linfdeploy.nets.net import LinfNet
from linfdeploy.nets.spec import NetSpec
from linfdeploy.onnx.chain import Chain
from linfdeploy.onnx.export import pixel_net_from_chain
from linfdeploy.onnx.passes.ranges import exactness_gap
from linfdeploy.onnx.pixel_net import PixelNet
from linfdeploy.onnx.read import DeployedGraph, read_graph
from linfdeploy.onnx.sorting import real_net_from_chain
from linfdeploy.onnx.trace import chain_from_net
from linfdeploy.onnx.write import Form, GraphOptions, model_from_net
from linfdeploy.verify.differences import weight_differences
from linfdeploy.verify.head import ARITHMETICS, head_bounds

SHAPE, STD = (1, 4, 4), 0.31


@cache
def trained() -> tuple[LinfNet, Chain]:
    net = LinfNet(NetSpec.mlp(SHAPE, (0.13,), STD, (24, 20, 12), 5, (9,)).sorting(0.7, 10)).eval()
    net.requires_grad_(False)
    generator = torch.Generator().manual_seed(0)
    for tensor in net.state_dict().values():
        tensor.copy_(torch.randn(tensor.shape, generator=generator))
    return net, chain_from_net(net)


def deployed() -> PixelNet:
    return pixel_net_from_chain(trained()[1], "exact", None)


def written(form: Form = "function") -> ModelProto:
    net = deployed()
    return model_from_net(net, GraphOptions(form), {"grid": str(net.grid), "precision": "exact"})


def read(model: ModelProto, folder: Path) -> DeployedGraph:
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return read_graph(path)


def steepness(net: PixelNet) -> npt.NDArray[np.float64]:
    """How far each logit moves at most where no feature moves by more than 1: tanh is 1-Lipschitz."""
    assert net.head is not None
    reach: npt.NDArray[np.float64] = np.ones(net.features)
    for weight in net.head.weights:
        reach = np.abs(weight.astype(np.float64)) @ reach
    return reach


def test_features_are_exact_and_have_the_bits_of_the_net_without_a_head() -> None:
    net = deployed()
    assert net.grid is not None
    assert exactness_gap(net, net.grid) is None
    assert (net.precision, net.sorts, net.features, net.classes) == ("exact", True, 12, 5)
    headless = LinfNet(NetSpec(SHAPE, (0.13,), STD, trained()[0].spec.layers[:3])).eval()
    state = trained()[0].state_dict()
    headless.load_state_dict({name: value for name, value in state.items() if int(name.split(".")[1]) < 3})
    alone = pixel_net_from_chain(chain_from_net(headless), "exact", None)
    assert not weight_differences(net.distances, alone)
    assert alone.grid == net.grid


def test_an_export_computes_what_was_trained() -> None:
    images, net = random_images(40, SHAPE), deployed()
    with torch.no_grad():
        trained_logits = trained()[0](torch.from_numpy(images).float() / 255).double().numpy()
        features = trained()[0].features(torch.from_numpy(images).float() / 255).double().numpy()
    moved = np.abs(-ReferenceEngine(net.distances).run(images) - features * 255 * STD).max()
    # Two sorted layers, whose weights move by 2^-m of differences of up to some hundred pixels.
    assert moved < 4
    change = np.abs(ReferenceEngine(net).run(images) - trained_logits)
    # And what float32 loses of sums below 100.
    assert (change <= moved * steepness(net) + 1e-4).all()
    real = ReferenceEngine(real_net_from_chain(trained()[1])).run(images)
    np.testing.assert_allclose(real, trained_logits, atol=1e-4, rtol=0)


@pytest.mark.parametrize("form", ["function", "standard"])
def test_runtimes_stay_within_the_enclosure_of_the_head(form: Form) -> None:
    images, net = random_images(40, SHAPE), deployed()
    assert net.head is not None
    features = -ReferenceEngine(net.distances).run(images)
    low, high = head_bounds(net.head, (features, features), ARITHMETICS["fp32"])
    assert (high - low).max() < 1e-3
    for run in (in_runtime, in_reference):
        logits = run(written(form), images)["logits"]
        assert ((low <= logits) & (logits <= high)).all()


@pytest.mark.skipif(not library().is_file(), reason="no custom-op library: install with ONNXRUNTIME_ROOT set")
@pytest.mark.parametrize("form", ["function", "op"])
def test_the_custom_op_hands_the_head_the_same_features(form: Form) -> None:
    images = random_images(40, SHAPE)

    def features(model: ModelProto, *, custom: bool) -> Any:
        options = onnxruntime.SessionOptions()
        if custom:
            options.register_custom_ops_library(str(library()))
        model.graph.output.append(onnx.ValueInfoProto(name="features"))
        session = onnxruntime.InferenceSession(model.SerializeToString(), options)
        return session.run(["features"], {"image": images})[0]

    expected = -ReferenceEngine(deployed().distances).run(images)
    for found in (features(written(form), custom=True), features(written("standard"), custom=False)):
        np.testing.assert_array_equal(found.view(np.uint32), expected.view(np.uint32))


@pytest.mark.parametrize("form", FORMS)
def test_what_is_written_is_read_to_the_bit(form: Form, tmp_path: Path) -> None:
    model, net = written(form), deployed()
    onnx.checker.check_model(model, full_check=True)
    graph = read(model, tmp_path)
    assert graph.departures == ()
    assert graph.options.form == form
    assert (graph.net.grid, graph.net.classes, graph.net.features) == (net.grid, net.classes, net.features)
    assert not weight_differences(graph.net, net)


@pytest.mark.parametrize("form", FORMS)
def test_a_graph_without_its_tanh_departs(form: Form, tmp_path: Path) -> None:
    model = written(form)
    next(node for node in model.graph.node if node.op_type == "Tanh").op_type = "Identity"
    (departure,) = read(model, tmp_path).departures
    assert departure == "node 'head0.tanh' (Identity) is not what is written for these weights"


def test_a_head_beyond_float32_is_refused() -> None:
    net, _ = trained()
    state = {name: value.clone() for name, value in net.state_dict().items()}
    wild = LinfNet(net.spec).eval().requires_grad_(False)
    wild.load_state_dict(state | {"layers.4.weight": state["layers.4.weight"] * 7e37})
    with pytest.raises(
        ExportError, match=r"^values reach \S+ pixels where exact ends at 3\.40282e\+38: check the"
    ):
        pixel_net_from_chain(chain_from_net(wild), "exact", None)
