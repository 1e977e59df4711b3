# SPDX-License-Identifier: Apache-2.0
"""Convolutions of sorted distances: one function of the image in every way to run it, against exact rationals."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import oracles
import pytest
import torch
from conv_nets import box_and_images
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import ModelProto, numpy_helper

from linfdeploy.engines.custom_ops.library import library
from linfdeploy.engines.plain import PlainEngine
from linfdeploy.engines.reference import PER_OP, ReferenceEngine
from linfdeploy.engines.tensorrt import build as build_tensorrt
from linfdeploy.errors import EngineError, ExportError, GraphError
from linfdeploy.nets.net import LinfNet
from linfdeploy.nets.spec import LayerSpec, LinearSpec, LinfDistConvSpec, NetSpec, SortDistConvSpec
from linfdeploy.nets.windows import Window
from linfdeploy.onnx.chain import Chain
from linfdeploy.onnx.export import ExportOptions, model_from_checkpoint_net, pixel_net_from_chain
from linfdeploy.onnx.passes.sort_weights import dyadic_weights
from linfdeploy.onnx.pixel_net import PixelLayer, PixelNet
from linfdeploy.onnx.read import read_graph
from linfdeploy.onnx.trace import chain_from_net
from linfdeploy.onnx.write import GraphOptions, model_from_net
from linfdeploy.verify.attacks.twin import Twin
from linfdeploy.verify.certificates import Certifier
from linfdeploy.verify.differences import weight_differences
from linfdeploy.verify.vnnlib import verifier_model

SHAPE, STD = (2, 6, 6), 0.3


@cache
def traced() -> tuple[LinfNet, Chain]:
    """Crops at the four corners, sorted distances at each of them, windows of three over these, and a head."""
    layers: tuple[LayerSpec, ...] = (
        LinfDistConvSpec(2, 6, 6, 9, 4, 2, 0, mean_shift=True, bias=False),
        SortDistConvSpec(9, 2, 2, 8, 1, 1, 0, mean_shift=True, bias=False, keep=0.7, terms=6),
        SortDistConvSpec(8, 2, 2, 5, 3, 1, 1, mean_shift=True, bias=True, keep=0.6, terms=10),
        LinearSpec(20, 6, "tanh"),
        LinearSpec(6, 4, "none"),
    )
    generator = torch.Generator().manual_seed(0)
    net = LinfNet(NetSpec(SHAPE, (0.4, 0.6), STD, layers)).eval().requires_grad_(False)
    for tensor in net.state_dict().values():
        tensor.copy_(torch.randn(tensor.shape, generator=generator) / 2)
    return net, chain_from_net(net)


def deployed() -> PixelNet:
    return pixel_net_from_chain(traced()[1], "exact", None)


def written(form: Any = "function") -> ModelProto:
    net = deployed()
    return model_from_net(net, GraphOptions(form), {"grid": str(net.grid), "precision": "exact"})


def saved(model: ModelProto, folder: Path) -> Path:
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    return folder / "model.onnx"


def images(count: int = 9, shape: tuple[int, int, int] = SHAPE, seed: int = 0) -> Any:
    found = np.random.default_rng(seed).integers(0, 256, (count, *shape), np.uint8)
    found[0], found[1] = 0, 255
    return found


def run(model: ModelProto, batch: Any, *, custom: bool = False) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    if custom:
        options.register_custom_ops_library(str(library()))
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(["logits"], {"image": batch})[0]


def exact_features(net: PixelNet, image: Any) -> list[Fraction]:
    """The real-number outputs of the last convolution, whose windows are cut out one by one."""
    x = [[[Fraction(int(value)) for value in row] for row in plane] for plane in image]
    for layer in net.layers:
        assert layer.window is not None
        x = _convolved(x, layer, net.grid or 0)
    return [value for plane in x for row in plane for value in row]


def _convolved(x: Any, layer: PixelLayer, grid: int) -> Any:
    window = layer.window
    assert window is not None
    pad, step, reach = window.padding, window.stride, range(window.kernel)
    height, width = len(x[0]), len(x[0][0])
    rows = [[Fraction(float(value)) for value in row] for row in layer.weight]
    shares = None if layer.sort is None else [Fraction(float(c)) for c in layer.sort]

    def shown(top: int, left: int) -> list[Fraction]:
        places = [(top + k, left + m) for k in reach for m in reach]
        return [
            plane[r][c] if 0 <= r < height and 0 <= c < width else Fraction(0) for plane in x for r, c in places
        ]

    def distance(row: list[Fraction], values: list[Fraction]) -> Fraction:
        if shares is None:
            return oracles.exact_linf_dist(values, row)
        return oracles.exact_sort_dist(values, row, shares, grid)

    tops = range(-pad, height + pad - window.kernel + 1, step)
    lefts = range(-pad, width + pad - window.kernel + 1, step)
    return [
        [[distance(row, shown(top, left)) + Fraction(float(bias)) for left in lefts] for top in tops]
        for row, bias in zip(rows, layer.bias, strict=True)
    ]


def random_net(seed: int, window: Window, grid: int = 4) -> PixelNet:
    """A convolution of sorted distances and a dense layer of them, without a checkpoint before it."""
    rng = np.random.default_rng(seed)

    def values(*size: int) -> Any:
        return (np.rint(rng.uniform(-100, 250, size) * 2.0**grid) / 2.0**grid).astype(np.float32)

    terms = int(rng.integers(1, min(window.terms, 6) + 1))
    shares = dyadic_weights(rng.random(terms) + 0.01, 8)
    layer = PixelLayer(values(3, window.terms), values(3), shares, window)
    dense = PixelLayer(values(2, layer.outputs), values(2), dyadic_weights(np.array([0.7, 0.3]), 8))
    return PixelNet(window.shape, (layer, dense), grid)


@given(st.integers(0, 2**32 - 1), st.integers(1, 3), st.integers(1, 3), st.integers(0, 2), st.data())
@settings(max_examples=20)
def test_any_window_is_computed_exactly(
    seed: int, kernel: int, stride: int, padding: int, data: st.DataObject
) -> None:
    size = st.integers(max(kernel - 2 * padding, 2), 5)
    window = Window((data.draw(st.integers(1, 3)), data.draw(size), data.draw(size)), kernel, stride, padding)
    net, batch = random_net(seed, window), images(3, window.shape, seed)
    first = replace(net, layers=net.layers[:1])
    expected = -oracles.float32([[float(value) for value in exact_features(first, image)] for image in batch])
    np.testing.assert_array_equal(ReferenceEngine(first).run(batch), expected)
    logits = ReferenceEngine(net).run(batch)
    np.testing.assert_array_equal(PlainEngine(net).run(batch), logits)
    for form in ("function", "standard"):
        model = model_from_net(net, GraphOptions(form), {})
        np.testing.assert_array_equal(run(model, batch), logits)


def test_the_evaluator_computes_the_real_rounded_net() -> None:
    net = deployed()
    found = ReferenceEngine(net.distances).run(images())
    expected = [[-float(value) for value in exact_features(net, image)] for image in images()]
    np.testing.assert_array_equal(found, oracles.float32(expected))


def test_the_deployed_net_is_the_checkpoint_up_to_weights_and_grid() -> None:
    net, torch_net = deployed(), traced()[0]
    assert net.grid is not None
    features = -ReferenceEngine(net.distances).run(images())
    real = torch_net.features(torch.from_numpy(images()).float() / 255).numpy() * 255 * STD
    # Half a step for each constant and each sum of three layers; weights of sums off by a step of theirs, times
    # differences below 500 pixels.
    bits = 24 - net.grid - 9
    assert 0 < np.abs(features - real).max() <= 9 * 2.0 ** -(net.grid + 1) + 2 * 16 * 500 * 2.0**-bits


@pytest.mark.parametrize("form", ["function", "standard"])
@pytest.mark.parametrize("custom", [False, True])
def test_every_form_has_the_same_logits(form: str, custom: bool) -> None:
    if custom and not library().is_file():
        pytest.skip("no custom-op library: install with ONNXRUNTIME_ROOT set")
    net = deployed()
    found = run(written(form), images(), custom=custom)
    # The features are the same bits; the head sums in an order of the runtime's own.
    np.testing.assert_allclose(found, ReferenceEngine(net).run(images()), 0, 1e-5)


def test_the_form_op_has_no_kernel(tmp_path: Path) -> None:
    words = "the net has convolutions of sorted distances in the form op; no runtime has a kernel of SortDistConv"
    with pytest.raises(ExportError, match=f"{words}: use --form standard$"):
        model_from_checkpoint_net(traced()[0], ExportOptions(graph=GraphOptions("op")), "0" * 64)
    with pytest.raises(GraphError, match=words):
        read_graph(saved(written("op"), tmp_path))


@pytest.mark.parametrize("form", ["function", "standard"])
def test_a_graph_is_read_back(form: str, tmp_path: Path) -> None:
    net, graph = deployed(), read_graph(saved(written(form), tmp_path))
    assert graph.departures == ()
    assert weight_differences(graph.net, net) == ()
    assert graph.net.grid == net.grid
    assert [layer.window for layer in graph.net.layers] == [layer.window for layer in net.layers]


def test_another_grid_in_a_node_is_refused(tmp_path: Path) -> None:
    model = written()
    node = next(node for node in model.graph.node if node.op_type == "SortDistConv")
    next(attribute for attribute in node.attribute if attribute.name == "grid").i += 1
    with pytest.raises(
        GraphError, match=r"node 'layer1' rounds to the grids \[\d+\] and the file claims the grid"
    ):
        read_graph(saved(model, tmp_path))


def test_weights_that_are_not_convex_are_refused(tmp_path: Path) -> None:
    model = written("standard")
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == "layer2.sort")
    values = numpy_helper.to_array(tensor).copy()
    values[0] += np.float32(2**-8)
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    with pytest.raises(
        GraphError, match="layer 2 has 10 sort weights; expected 1 to 32, not negative, with the sum"
    ):
        read_graph(saved(model, tmp_path))


def test_a_changed_body_is_a_departure(tmp_path: Path) -> None:
    model = written()
    body = next(function for function in model.functions if function.name == "SortDistConv")
    next(node for node in body.node if node.op_type == "Floor").op_type = "Identity"
    assert read_graph(saved(model, tmp_path)).departures == (
        "the function body of linfdeploy::LinfDistConv or SortDistConv is not the one that is written",
    )


@given(st.integers(0, 2**32 - 1), st.integers(1, 2), st.integers(0, 1))
@settings(max_examples=25)
def test_bounds_hold_at_and_inside_the_corners(seed: int, stride: int, padding: int) -> None:
    net = random_net(seed, Window((2, 4, 4), 3, stride, padding))
    lower, upper, batch = box_and_images(net, seed)
    evaluator = ReferenceEngine(net)
    (low, high), found = evaluator.bounds(lower, upper), evaluator.run(batch)
    assert (low <= found).all()
    assert (found <= high).all()


def test_certificates_hold_on_every_moved_image() -> None:
    net, levels = random_net(7, Window((2, 4, 4), 3, 1, 1)), 3
    evaluator, batch = ReferenceEngine(net), images(40, (2, 4, 4))
    logits = evaluator.run(batch)
    flags = Certifier(net, PER_OP, batch, logits).at(levels)
    assert flags.exact is not None
    assert flags.exact.any()
    rng = np.random.default_rng(1)
    for _ in range(30):
        shift = rng.choice([-levels, levels], batch.shape)
        moved = evaluator.run(np.clip(batch.astype(int) + shift, 0, 255).astype(np.uint8))
        assert np.abs(moved - logits).max() <= levels
        assert (moved.argmax(1) == logits.argmax(1))[flags.any].all()


def test_the_twin_has_the_same_bits() -> None:
    net = random_net(3, Window((2, 4, 4), 3, 1, 1))
    x = torch.from_numpy(images(9, (2, 4, 4)).reshape(9, -1).astype(np.float32))
    np.testing.assert_array_equal(Twin(net).logits(x).numpy(), ReferenceEngine(net).run(images(9, (2, 4, 4))))


def test_what_cannot_be_built_or_said_is_refused(tmp_path: Path) -> None:
    graph = read_graph(saved(written(), tmp_path))
    with pytest.raises(EngineError, match="the graph has sorted distances"):
        build_tensorrt(graph, {})
    with pytest.raises(ExportError, match="the net has sorted distances"):
        verifier_model(graph.net)
