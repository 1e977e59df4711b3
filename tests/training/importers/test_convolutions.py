# SPDX-License-Identifier: Apache-2.0
"""Convolutional nets of the first paper: their function to the bit, and the sizes that no file says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import oracles
import papers_files as papers
import pytest
import torch
from papers_imports import OPTIMIZER, bring, refused, save_v2

from linfdeploy.nets.checkpoint import load_checkpoint
from linfdeploy.training.importers.inputs import InputOptions

SHAPE = (3, 4, 6)
MEAN, STD = (0.4, 0.5, 0.6), 0.2
INPUT = InputOptions(None, MEAN, STD, SHAPE)
STRIDES = (1, 1, 2, 1, 1)
FILTERS, HIDDEN = (32, 32, 64, 64, 64), 7
HEAD = papers.head_v1(HIDDEN, 8, 3)


def state(*, head: bool, shape: tuple[int, int, int] = SHAPE, filters: Any = FILTERS) -> papers.State:
    generator = torch.Generator().manual_seed(3)

    def normal(*size: int, middle: float = 0.0) -> torch.Tensor:
        return torch.randn(size, generator=generator) + middle

    found: papers.State = {}
    for index, (inputs, outputs) in enumerate(zip((shape[0], *filters), filters, strict=False)):
        found[f"feature.conv.{index}.weight"] = normal(outputs, inputs, 3, 3)
        found[f"feature.conv.{index}.normalize.running_mean"] = normal(outputs, middle=3.0)
    found["feature.fc.weight"] = normal(HIDDEN, filters[-1] * shape[1] * shape[2] // 4, 1, 1)
    found["feature.fc.normalize.running_mean"] = normal(HIDDEN, middle=3.0)
    if head:
        return {**found, **HEAD}
    return {
        **found,
        "feature.fc_last.weight": normal(3, HIDDEN, 1, 1),
        "feature.fc_last.bias": normal(3),
    }


def expected_features(parts: papers.State, images: oracles.Float32) -> oracles.Float32:
    """The formulas in float32, operation by operation: window after window, each mean of a channel subtracted."""
    x: Any = (images - np.array(MEAN, np.float32)[:, None, None]) / np.float32(STD)
    for index, stride in enumerate(STRIDES):
        weight = parts[f"feature.conv.{index}.weight"].numpy()
        mean = parts[f"feature.conv.{index}.normalize.running_mean"].numpy()
        x = oracles.linf_dist_conv(x, weight, (stride, stride), (1, 1, 1, 1), (1, 1)) - mean[:, None, None]
    flat = x.reshape(len(x), -1)
    distance = oracles.linf_dist(flat, parts["feature.fc.weight"].numpy()[:, :, 0, 0])
    return oracles.float32(distance - parts["feature.fc.normalize.running_mean"].numpy())


@pytest.mark.parametrize("head", [False, True])
def test_a_convolutional_net_is_imported(head: bool, tmp_path: Path) -> None:
    parts = state(head=head)
    save_v2(tmp_path / "model.pth", parts, optimizer=OPTIMIZER)
    imported = bring(tmp_path / "model.pth", input=INPUT)
    rest = "a dense one and an MLP head of 8 hidden units" if head else "2 dense ones"
    assert imported.words == (
        f"{'ConvFeature' if head else 'Conv'} of L_inf-dist-net, 5 l_inf-distance convolutions, {rest}, "
        "input (3, 4, 6)"
    )
    net = load_checkpoint(tmp_path / "ckpt.pt").net
    images = np.random.default_rng(1).random((5, *SHAPE)).astype(np.float32)
    features, ours = expected_features(parts, images), net.features(torch.from_numpy(images))
    if not head:
        last = parts["feature.fc_last.weight"].numpy()[:, :, 0, 0]
        features = oracles.linf_dist(features, last) + parts["feature.fc_last.bias"].numpy()
    np.testing.assert_array_equal(oracles.bits(ours.numpy()), oracles.bits(features))


def test_the_log_says_the_rest(tmp_path: Path) -> None:
    parts = state(head=False, shape=(3, 32, 32))
    save_v2(tmp_path / "model.pth", parts, optimizer=OPTIMIZER)
    (tmp_path / "log.txt").write_text(papers.log_lines(f"Conv(width=1,hidden={HIDDEN})", "CIFAR10"))
    spec = bring(tmp_path / "model.pth", input=InputOptions()).net.spec
    assert spec.input_shape == (3, 32, 32)
    assert [layer.outputs for layer in spec.layers] == [32 * 1024, 32 * 1024, 64 * 256, 64 * 256, 64 * 256, 7, 3]


def test_the_log_of_another_run(tmp_path: Path) -> None:
    save_v2(tmp_path / "model.pth", state(head=True), optimizer=OPTIMIZER)
    (tmp_path / "log.txt").write_text(papers.log_lines("ConvFeature(width=3,hidden=1024)"))
    assert refused(tmp_path / "model.pth") == (
        f"it holds ConvFeature of 32 filters and 7 hidden units, but {tmp_path / 'log.txt'} tells of "
        "ConvFeature of width 3, each 32 filters, and 1024 hidden units; expected the log of the same run: name "
        "it with --log"
    )


def test_another_number_of_convolutions(tmp_path: Path) -> None:
    save_v2(tmp_path / "model.pth", state(head=True, filters=FILTERS[:4]), optimizer=OPTIMIZER)
    assert refused(tmp_path / "model.pth") == (
        "it holds ConvFeature of L_inf-dist-net with 4 l_inf-distance convolutions, a dense one and an MLP head "
        "of 8 hidden units; expected 5 convolutions"
    )


def test_another_window(tmp_path: Path) -> None:
    parts = {**state(head=False), "feature.conv.1.weight": torch.ones(32, 32, 5, 5)}
    save_v2(tmp_path / "model.pth", parts, optimizer=OPTIMIZER)
    assert refused(tmp_path / "model.pth") == (
        "feature.conv.1 has a weight of shape (32, 32, 5, 5) and a normalize.running_mean of shape (32,); "
        "expected (outputs, inputs, 3, 3) and (outputs,)"
    )


@pytest.mark.parametrize("shape", [(3, 6, 4), (3, 2, 12)])
def test_which_of_several_shapes_fits_nobody_can_tell(shape: tuple[int, int, int], tmp_path: Path) -> None:
    save_v2(tmp_path / "model.pth", state(head=False), optimizer=OPTIMIZER)
    given = InputOptions(None, INPUT.mean, INPUT.std, shape)
    assert bring(tmp_path / "model.pth", input=given).net.spec.input_shape == shape


def test_an_image_that_leaves_another_number_of_places(tmp_path: Path) -> None:
    save_v2(tmp_path / "model.pth", state(head=False), optimizer=OPTIMIZER)
    found = refused(tmp_path / "model.pth", input=InputOptions(None, INPUT.mean, INPUT.std, (3, 8, 3)))
    assert found == (
        "layer 5 claims 384 inputs and 7 outputs; expected 512 inputs and between 1 and 16777216 outputs"
    )
