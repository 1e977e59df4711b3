# SPDX-License-Identifier: Apache-2.0
"""Is it the engine that was built, in the precision that was promised?"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from onnx import ModelProto
from pixel_nets import random_net, with_layer

from linfdeploy.engines.manifest import Manifest
from linfdeploy.onnx.pixel_net import PixelNet, Precision
from linfdeploy.onnx.read import DeployedGraph
from linfdeploy.onnx.write import GraphOptions
from linfdeploy.verify.identity import identity_violations, promised_precision

SHA = "0" * 64


def graph_of(net: PixelNet, claimed: Precision | None = None, departures: tuple[str, ...] = ()) -> DeployedGraph:
    return DeployedGraph(net, GraphOptions(), departures, claimed, {}, SHA, ModelProto())


def manifest_of(precision: Precision) -> Manifest:
    return Manifest("onnxruntime", SHA, SHA, SHA, precision, None, "function", {}, {}, {})


def kinds(graph: DeployedGraph, manifest: Manifest | None, expected: PixelNet | None) -> list[str]:
    return [violation.kind for violation in identity_violations(graph, manifest, expected)]


@pytest.mark.parametrize("precision", ["exact", "fp32", "fp16"])
def test_what_was_built_passes(precision: Precision) -> None:
    net = random_net((4, 5, 3), precision, 0)
    assert kinds(graph_of(net, precision), manifest_of(precision), net) == []
    assert kinds(graph_of(net), None, None) == []


def test_another_file_is_named_with_both_hashes() -> None:
    net = random_net((4, 3), "exact", 0)
    manifest = replace(manifest_of("exact"), graph_sha256="1" * 64)
    (violation,) = identity_violations(graph_of(net), manifest, None)
    assert violation.kind == "engine file"
    assert SHA in violation.detail
    assert "1" * 64 in violation.detail


def test_each_departure_is_a_violation() -> None:
    net = random_net((4, 3), "exact", 0)
    assert kinds(graph_of(net, None, ("one", "two")), None, net) == ["graph", "graph"]


@pytest.mark.parametrize(("promised", "found"), [("exact", "fp32"), ("exact", "fp16"), ("fp32", "fp16")])
def test_a_weaker_precision_than_promised_is_named(promised: Precision, found: Precision) -> None:
    net = random_net((4, 3), found, 0)
    assert kinds(graph_of(net), manifest_of(promised), None) == ["precision"]
    assert kinds(graph_of(net, promised), None, None) == ["precision"]


def test_the_manifest_promises_before_the_metadata_and_the_metadata_before_the_weights() -> None:
    net = random_net((4, 3), "fp16", 0)
    assert promised_precision(graph_of(net, "fp32"), manifest_of("exact")) == "exact"
    assert promised_precision(graph_of(net, "fp32"), None) == "fp32"
    assert promised_precision(graph_of(net), None) == "fp16"
    assert promised_precision(graph_of(net, "fp32"), manifest_of("fp16"), "exact") == "exact"


def test_weights_are_compared_with_the_reference() -> None:
    net = random_net((4, 5, 3), "exact", 0)
    other = with_layer(net, 0, weight=net.layers[0].weight + np.float32(1))
    assert kinds(graph_of(other), None, net) == ["weights"]
