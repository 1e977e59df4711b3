# SPDX-License-Identifier: Apache-2.0
"""The op SortDist: every way to run it gives the same bits, and nothing is taken on trust when it is read back."""

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
from onnx import ModelProto, numpy_helper

from linfdeploy.engines.custom_ops.library import library
from linfdeploy.engines.plain import PlainEngine
from linfdeploy.engines.reference import ReferenceEngine
from linfdeploy.engines.tensorrt import build as build_tensorrt
from linfdeploy.errors import EngineError, ExportError, GraphError
from linfdeploy.nets.net import LinfNet
from linfdeploy.nets.spec import NetSpec
from linfdeploy.onnx.chain import Chain
from linfdeploy.onnx.export import pixel_net_from_chain
from linfdeploy.onnx.passes.ranges import exactness_gap, never_rounds
from linfdeploy.onnx.passes.sort_weights import bits_of_weights, dyadic_weights
from linfdeploy.onnx.pixel_net import PixelNet
from linfdeploy.onnx.read import read_graph
from linfdeploy.onnx.trace import chain_from_net
from linfdeploy.onnx.write import GraphOptions, model_from_net
from linfdeploy.verify.attacks.twin import Twin
from linfdeploy.verify.certificates import Certifier, certified_by_interval
from linfdeploy.verify.differences import weight_differences
from linfdeploy.verify.vnnlib import verifier_model

STD = 0.31


@cache
def traced() -> tuple[LinfNet, Chain]:
    spec = NetSpec.mlp((1, 4, 4), (0.13,), STD, (24, 20), 5).sorting(keep=0.7, terms=10)
    torch.manual_seed(0)
    net = LinfNet(spec).eval()
    for layer in net.distances:
        if layer.mean_shift is not None:
            layer.mean_shift.running_mean.uniform_(1, 3)
    return net, chain_from_net(net)


def deployed(grid: int | None = None) -> PixelNet:
    return pixel_net_from_chain(traced()[1], "exact", grid)


def images(count: int = 37) -> Any:
    return np.random.default_rng(0).integers(0, 256, (count, 1, 4, 4), np.uint8)


def written(form: str = "function") -> ModelProto:
    net = deployed()
    return model_from_net(net, GraphOptions(form, radius=True), {"grid": str(net.grid), "precision": "exact"})  # type: ignore[arg-type]


def run(model: ModelProto, *, custom: bool) -> Any:
    options = onnxruntime.SessionOptions()
    if custom:
        options.register_custom_ops_library(str(library()))
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    return session.run(["logits"], {"image": images()})[0]


def exact_logits(net: PixelNet, image: Any) -> list[Fraction]:
    x = [Fraction(int(value)) for value in image.reshape(-1)]
    for layer in net.layers:
        rows = [[Fraction(float(v)) for v in row] for row in layer.weight]
        if layer.sort is None:
            distances = [oracles.exact_linf_dist(x, row) for row in rows]
        else:
            weights = [Fraction(float(c)) for c in layer.sort]
            distances = [oracles.exact_sort_dist(x, row, weights, net.grid or 0) for row in rows]
        x = [d + Fraction(float(b)) for d, b in zip(distances, layer.bias, strict=True)]
    return [-value for value in x]


def test_the_evaluator_computes_the_real_rounded_net() -> None:
    net = deployed()
    found = ReferenceEngine(net).run(images(4))
    for row, image in zip(found, images(4), strict=True):
        assert [Fraction(float(value)) for value in row] == exact_logits(net, image)


@pytest.mark.parametrize("form", ["function", "standard"])
def test_plain_numpy_and_the_standard_ops_have_the_same_bits(form: str) -> None:
    net = deployed()
    expected = ReferenceEngine(net).run(images())
    np.testing.assert_array_equal(PlainEngine(net).run(images()).view(np.uint32), expected.view(np.uint32))
    np.testing.assert_array_equal(run(written(form), custom=False).view(np.uint32), expected.view(np.uint32))


@pytest.mark.skipif(not library().is_file(), reason="no custom-op library: install with ONNXRUNTIME_ROOT set")
@pytest.mark.parametrize("form", ["function", "op"])
def test_the_custom_op_has_the_same_bits(form: str) -> None:
    expected = ReferenceEngine(deployed()).run(images())
    np.testing.assert_array_equal(run(written(form), custom=True).view(np.uint32), expected.view(np.uint32))


def test_the_twin_has_the_same_bits_and_a_gradient() -> None:
    net = deployed()
    twin, x = Twin(net), torch.from_numpy(images().reshape(-1, 16).astype(np.float32))
    np.testing.assert_array_equal(twin.logits(x).numpy(), ReferenceEngine(net).run(images()))
    _, _, gradient = twin.gradient(x, float("inf"), lambda logits: logits[:, 0])
    # Convex weights in every layer: the gradient's l1 norm is at most the Lipschitz constant.
    assert (gradient.abs().sum(1) <= 1 + 1e-5).all()
    assert (gradient != 0).any()


def test_the_deployed_net_stays_near_the_checkpoint() -> None:
    net, _ = traced()
    with torch.no_grad():
        before = net(torch.from_numpy(images()).float() / 255).numpy() * 255 * STD
    # Two sorted layers, whose weights move by 2^-m of differences of up to some hundred pixels.
    assert np.abs(ReferenceEngine(deployed()).run(images()) - before).max() < 4


def test_weights_and_grid_take_all_bits_and_no_more() -> None:
    net = deployed()
    assert net.grid is not None
    assert exactness_gap(net, net.grid) is None
    assert never_rounds(net)
    assert deployed(2).grid == 2
    (coarse, fine) = (bits_of_weights(deployed(k).layers[1]) for k in (net.grid, 2))
    assert fine == coarse + net.grid - 2
    with pytest.raises(
        ExportError,
        match=r"^differences reach \d+\.?\d* pixels, which leaves \d+ of 24 bits to the "
        r"grid and the weights of sorted distances; expected at least 4 for the weights: use --grid \d+$",
    ):
        deployed(20)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_other_precisions_are_refused(precision: Any) -> None:
    with pytest.raises(ExportError) as error:
        pixel_net_from_chain(traced()[1], precision, None)
    assert str(error.value) == (
        f"the net has sorted distances, whose sums would depend on their order in {precision}; expected "
        "--precision exact (of exact, fp32, fp16), where nothing rounds but what is said"
    )


@pytest.mark.parametrize("bits", [4, 8, 12])
@pytest.mark.parametrize("keep", [0.05, 0.6, 0.85, 1.0])
def test_dyadic_weights_are_convex_and_near(bits: int, keep: float) -> None:
    weights = keep * (1 - keep) ** np.arange(10, dtype=np.float64)
    weights /= weights.sum()
    found = [Fraction(float(value)) for value in dyadic_weights(weights, bits)]
    assert sum(found) == 1
    assert min(found) >= 0
    for c, exact in zip(found, weights, strict=True):
        assert (c * 2**bits).denominator == 1
        assert abs(float(c) - exact) < 2.0**-bits


@pytest.mark.parametrize("form", ["function", "op", "standard"])
def test_a_graph_is_read_back(form: str, tmp_path: Path) -> None:
    graph = read_graph(saved(written(form), tmp_path))
    net = deployed()
    assert graph.net.grid == net.grid
    assert not graph.departures
    assert not weight_differences(graph.net, net)


def saved(model: ModelProto, folder: Path) -> Path:
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def reweighted(model: ModelProto, change: Any) -> ModelProto:
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == "layer1.sort")
    values = numpy_helper.to_array(tensor).copy()
    tensor.CopyFrom(numpy_helper.from_array(change(values), tensor.name))
    return model


def more(values: Any) -> Any:
    values[0] += np.float32(2**-8)
    return values


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (more, "layer 1 has 10 sort weights; expected 1 to 24, not negative, with the sum 1"),
        (
            lambda c: np.array([2, -1], np.float32),
            "layer 1 has 2 sort weights; expected 1 to 24, not negative, with the sum 1",
        ),
        (lambda c: np.array([1 - 2**-20, 2**-20], np.float32), "differences reach"),
        (lambda c: np.ones(25, np.float32) / 25, "layer 1 has sort weights float32 (25,) and a weight float32;"),
    ],
    ids=["sum", "negative", "fine", "many"],
)
def test_weights_that_are_not_convex_or_round_are_refused(change: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(GraphError) as error:
        read_graph(saved(reweighted(written(), change), tmp_path))
    assert message in str(error.value)


def test_another_grid_in_a_node_is_refused(tmp_path: Path) -> None:
    model = written()
    node = next(node for node in model.graph.node if node.op_type == "SortDist")
    node.attribute[0].i += 1
    with pytest.raises(
        GraphError, match=r"node 'layer1' rounds to the grids \[\d+\] and the file claims the grid"
    ):
        read_graph(saved(model, tmp_path))


def test_a_changed_body_is_a_departure(tmp_path: Path) -> None:
    model = written()
    body = next(function for function in model.functions if function.name == "SortDist")
    floor = next(node for node in body.node if node.op_type == "Floor")
    floor.op_type = "Identity"
    departures = read_graph(saved(model, tmp_path)).departures
    assert departures == ("the function body of linfdeploy::LinfDist or SortDist is not the one that is written",)


def test_certificates_hold_on_every_moved_image() -> None:
    net, levels = deployed(), 3
    engine = ReferenceEngine(net)
    logits = engine.run(images())
    flags = Certifier(net, engine.rounding, images(), logits).at(levels)
    assert flags.exact is not None
    assert flags.interval is not None
    # T8 (b): intervals are never weaker than margins.
    assert (flags.interval >= flags.exact).all()
    assert flags.exact.any()
    np.testing.assert_array_equal(
        flags.joint, certified_by_interval(engine, images(), logits.argmax(1), levels), strict=True
    )
    rng = np.random.default_rng(1)
    for _ in range(20):
        shift = rng.integers(-levels, levels + 1, images().shape) if _ else np.full(images().shape, levels)
        moved = np.clip(images().astype(int) + shift, 0, 255).astype(np.uint8)
        found = engine.run(moved)
        assert np.abs(found - logits).max() <= levels
        assert (found.argmax(1) == logits.argmax(1))[flags.any].all()
        lower, upper = engine.bounds(np.minimum(images(), moved), np.maximum(images(), moved))
        assert (lower <= found).all()
        assert (found <= upper).all()


def test_what_cannot_be_built_or_said_is_refused(tmp_path: Path) -> None:
    graph = read_graph(saved(written(), tmp_path))
    with pytest.raises(
        EngineError, match=r"^the graph has sorted distances \(SortDist\), which TensorRT has no plugin"
    ):
        build_tensorrt(graph, {})
    with pytest.raises(ExportError, match=r"^the net has sorted distances, which other verifiers' layers"):
        verifier_model(graph.net)


def test_a_changed_weight_of_a_sum_is_a_difference() -> None:
    net = deployed()
    sort = net.layers[1].sort
    assert sort is not None
    changed = replace(net.layers[1], sort=sort[::-1].copy())
    other = replace(net, layers=(net.layers[0], changed, *net.layers[2:]))
    (found,) = weight_differences(other, net)
    assert (found.kind, found.detail) == ("weights", "layer 1's weights of sorted distances differ")
