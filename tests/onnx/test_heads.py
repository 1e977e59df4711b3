# SPDX-License-Identifier: Apache-2.0
"""Nets with heads as graphs: what is exported computes what was trained, and is read back to the bit."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from heads import random_head
from onnx import ModelProto
from small_nets import FORMS, in_reference, in_runtime, pixel_net, random_images

from linfdeploy.errors import ExportError, GraphError
from linfdeploy.nets.net import LinfNet
from linfdeploy.nets.spec import NetSpec
from linfdeploy.onnx.chain import Chain, Linear, Tanh
from linfdeploy.onnx.export import ExportOptions, model_from_checkpoint_net
from linfdeploy.onnx.passes.fold import fold_head
from linfdeploy.onnx.passes.ranges import overflow_gap
from linfdeploy.onnx.pixel_net import PixelNet, Precision
from linfdeploy.onnx.read import DeployedGraph, read_graph
from linfdeploy.onnx.trace import chain_from_net
from linfdeploy.onnx.write import Form, GraphOptions, model_from_net

PRECISIONS: tuple[Precision, ...] = ("exact", "fp32", "fp16")


def headed(seed: int, precision: Precision = "exact") -> PixelNet:
    dtype = np.float16 if precision == "fp16" else np.float32
    head = random_head((5, 4, 3), np.random.default_rng(seed), dtype, "tanh")
    return replace(pixel_net(seed, precision, sizes=(9, 7, 5)), head=head)


def trained(head: tuple[int, ...], width: int = 6) -> LinfNet:
    net = LinfNet(NetSpec.mlp((1, 3, 3), (0.3,), 0.4, (7, width), 3, head)).eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(3)
    for tensor in net.state_dict().values():
        tensor.copy_(torch.randn(tensor.shape, generator=generator))
    return net


def read(model: ModelProto, folder: Path) -> DeployedGraph:
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return read_graph(path)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_what_is_written_is_read_to_the_bit(form: Form, precision: Precision, tmp_path: Path) -> None:
    net = headed(1, precision)
    model = model_from_net(net, GraphOptions(form), {"grid": "12"} if precision == "exact" else {})
    onnx.checker.check_model(model, full_check=True)
    graph = read(model, tmp_path)
    assert graph.departures == ()
    assert graph.net.head is not None
    assert net.head is not None
    assert (graph.net.grid, graph.net.classes, graph.net.features) == (net.grid, 3, 5)
    for ours, theirs in zip(
        net.head.weights + net.head.biases, graph.net.head.weights + graph.net.head.biases, strict=True
    ):
        assert ours.tobytes() == theirs.tobytes()
        assert ours.dtype == theirs.dtype


@pytest.mark.parametrize("form", ["function", "standard"])
def test_runtimes_compute_the_formula(form: Form) -> None:
    net, images = headed(2), random_images(12)
    assert net.head is not None
    model = model_from_net(net, GraphOptions(form), {})
    x = images.reshape(12, -1).astype(np.float64)
    for layer in net.layers:
        x = np.abs(x[:, None] - layer.weight).max(2) + layer.bias
    for index, (weight, bias) in enumerate(zip(net.head.weights, net.head.biases, strict=True)):
        x = (np.tanh(x) if index else x) @ weight.astype(np.float64).T + bias
    for run in (in_runtime, in_reference):
        # Sums of 6 numbers below 1000 in float32, through a tanh of slope 1.
        np.testing.assert_allclose(run(model, images)["logits"], x, 0, 2e-3)


@pytest.mark.parametrize("head", [(), (4,), (8, 5)])
def test_an_export_computes_what_was_trained(head: tuple[int, ...], tmp_path: Path) -> None:
    net, images = trained(head), random_images(20)
    with torch.no_grad():
        expected = net(torch.from_numpy(images).float() / 255).numpy()
    for precision, allowed in (("exact", 1e-3), ("fp32", 1e-4), ("fp16", 0.1)):
        model = model_from_checkpoint_net(net, ExportOptions(precision), "0" * 64)  # type: ignore[arg-type]
        assert read(model, tmp_path).departures == ()
        np.testing.assert_allclose(in_runtime(model, images)["logits"], expected, 0, allowed)


def test_a_trace_keeps_the_roots_that_the_exporter_leaves() -> None:
    """The exporter divides small weights itself, and leaves large ones to the graph."""
    net = trained((600,), width=500)
    first, between, last = chain_from_net(net).head
    assert isinstance(first, Linear)
    assert isinstance(last, Linear)
    assert between == Tanh()
    for step, layer in ((first, net.head[0]), (last, net.head[1])):
        assert step.weight.tobytes() == layer.scaled_weight.double().numpy().tobytes()
        assert step.bias.tobytes() == layer.bias.double().numpy().tobytes()


def test_no_radius_behind_a_head(tmp_path: Path) -> None:
    options = ExportOptions(graph=GraphOptions(radius=True))
    with pytest.raises(ExportError) as refused:
        model_from_checkpoint_net(trained((4,)), options, "0" * 64)
    assert str(refused.value) == (
        "the net has a head, through which no radius follows from the logits; expected a net of distance layers "
        "alone: leave out --radius, and have verify find each sample's"
    )
    with pytest.raises(GraphError, match=r"computes a radius from the logits of a head, from which none follows"):
        read(model_from_net(headed(1), GraphOptions(radius=True), {}), tmp_path)


def test_a_clamp_is_not_written() -> None:
    net = headed(1)
    assert net.head is not None
    with pytest.raises(ExportError) as refused:
        model_from_net(replace(net, head=replace(net.head, activation="clamp")), GraphOptions(), {})
    assert str(refused.value) == "the head's activation is 'clamp'; expected 'tanh', of which graphs are made"


def test_steps_that_are_no_head() -> None:
    linear = Linear(np.ones((2, 2)), np.ones(2))
    for steps in ((linear, linear), (linear, Tanh()), (linear, Tanh(), Tanh(), linear)):
        found = ", ".join(type(step).__name__ for step in steps)
        text = f"the head is {found}; expected Linear layers with Tanh between them"
        with pytest.raises(ExportError, match=f"^{re.escape(text)}$"):
            fold_head(Chain((1, 1, 2), steps))


def test_a_head_that_may_overflow_is_a_departure(tmp_path: Path) -> None:
    net = headed(1, "fp16")
    assert net.head is not None
    assert overflow_gap(net) is None
    weights = (net.head.weights[0] * np.float16(1000), net.head.weights[1])
    wild = replace(net, head=replace(net.head, weights=weights))
    assert overflow_gap(wild) is not None
    assert read(model_from_net(wild, GraphOptions(), {}), tmp_path).departures


def _node(model: ModelProto, op: str) -> Any:
    return next(node for node in model.graph.node if node.op_type == op)


@pytest.mark.parametrize("change", ["alpha", "no tanh", "transposed"])
def test_another_head_departs(change: str, tmp_path: Path) -> None:
    model = model_from_net(headed(1), GraphOptions("standard"), {})
    gemm = _node(model, "Gemm")
    if change == "alpha":
        gemm.attribute.append(onnx.helper.make_attribute("alpha", 2.0))
    elif change == "transposed":
        del gemm.attribute[:]
    else:
        _node(model, "Tanh").op_type = "Identity"
    assert read(model, tmp_path).departures


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ("bias", "a Gemm has not three inputs; expected features, weight and bias"),
        ("order", "the head takes 4 features; expected 5, of the last distance layer"),
        ("half", "the head is float16 behind layers of float32; expected one format"),
    ],
)
def test_a_head_that_does_not_fit(change: str, text: str, tmp_path: Path) -> None:
    net = headed(1)
    assert net.head is not None
    if change == "order":
        head = random_head((4, 3), np.random.default_rng(0), np.float32, "tanh")
    else:
        head = random_head(
            (5, 3), np.random.default_rng(0), np.float16 if change == "half" else np.float32, "tanh"
        )
    model = model_from_net(replace(net, head=head), GraphOptions(), {})
    if change == "bias":
        _node(model, "Gemm").input.pop()
    with pytest.raises(GraphError, match=f": {re.escape(text)}$"):
        read(model, tmp_path)
