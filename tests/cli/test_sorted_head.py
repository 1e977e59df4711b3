# SPDX-License-Identifier: Apache-2.0
"""A net of sorted distances with a head, from the checkpoint to the verdict; and that other weights fail."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from command_line import Outcome, call
from onnx import numpy_helper
from small_nets import random_images

from linfdeploy.nets.checkpoint import save_checkpoint
from linfdeploy.nets.net import LinfNet
from linfdeploy.nets.spec import NetSpec

SHAPE = (1, 4, 4)


def net_of_a_gentle_head() -> LinfNet:
    """Random weights; the head is centred, so that tanh is not at its ends."""
    net = LinfNet(NetSpec.mlp(SHAPE, (0.13,), 0.31, (24, 20, 12), 4, (9,)).sorting(0.7, 10)).eval()
    generator = torch.Generator().manual_seed(2)
    net.requires_grad_(False)
    for tensor in net.state_dict().values():
        tensor.copy_(torch.randn(tensor.shape, generator=generator))
    features = net.features(torch.from_numpy(random_images(60, SHAPE)).float() / 255)
    first = net.head[0]
    first.bias.copy_(-features.mean(0) @ first.scaled_weight.T)
    return net


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, net = tmp_path_factory.mktemp("sorted"), net_of_a_gentle_head()
    save_checkpoint(folder / "ckpt.pt", net, {"recipe": "none", "seed": 2})
    images = random_images(60, SHAPE)
    labels = net(torch.from_numpy(images).float() / 255).argmax(1).numpy()
    np.savez(folder / "data.npz", images=images, labels=labels)
    assert call("export", folder / "ckpt.pt", folder / "model.onnx").code == 0
    assert call("build", folder / "model.onnx", folder / "model.engine", "--backend", "onnxruntime").code == 0
    return folder


def verify(folder: Path, engine: str = "model.engine") -> tuple[Outcome, Any]:
    common = ("--data", folder / "data.npz", "--reference", folder / "ckpt.pt", "--report", folder / engine[:5])
    outcome = call("verify", folder / engine, *common, "--eps", "3px", "--attack", "fast")
    return outcome, json.loads((folder / engine[:5] / "report.json").read_text())


def test_it_passes(made: Path) -> None:
    outcome, report = verify(made)
    assert outcome.code == 0, outcome
    assert "head: within enclosure" in outcome.out
    assert (report["verdict"], report["violations"]) == ("pass", [])
    certified = report["certified"]
    assert certified["exact"] is None
    assert 0.3 < certified["delta"] <= certified["interval"] <= report["attack"]["robust_accuracy"] < 1
    assert certified["reference"] > 0.3


def test_inspect_shows_every_layer(made: Path) -> None:
    shown = call("inspect", made / "model.engine").out
    for line in (
        "LinfDist 16 -> 24, outputs within",
        "SortDist of 10 terms, 24 -> 20, outputs within",
        "SortDist of 10 terms, 20 -> 12, outputs within",
        "Gemm 12 -> 9, float32",
        "Gemm 9 -> 4, float32",
        "exact: proven from the weights, on a grid of 2^-",
    ):
        assert line in shown


@pytest.mark.parametrize(("name", "change"), [("head1.weight", 0.01), ("head1.bias", 0.01), ("layer2.bias", 1.0)])
def test_an_engine_of_other_weights_fails(name: str, change: float, made: Path) -> None:
    model = onnx.load(made / "model.onnx")
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == name)
    values = numpy_helper.to_array(tensor) + np.float32(change)
    tensor.CopyFrom(numpy_helper.from_array(values, name))
    (made / "other.onnx").write_bytes(model.SerializeToString())
    outcome, report = verify(made, "other.onnx")
    assert outcome.code == 1, outcome
    kinds = {violation["kind"] for violation in report["violations"]}
    assert {"weight": "weights", "bias": "bias"}[name.split(".")[1]] in kinds


def test_no_radius_is_exported(made: Path) -> None:
    outcome = call("export", made / "ckpt.pt", made / "radius.onnx", "--radius")
    assert outcome.code == 2
    assert "the net has a head, through which no radius follows" in outcome.err
