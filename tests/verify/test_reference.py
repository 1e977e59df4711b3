# SPDX-License-Identifier: Apache-2.0
"""Certificates of the checkpoint hold for its real-number net, evaluated in exact rationals."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import oracles
import pytest
import torch
from boundary_cases import FAR, Family, boundary_cases, net_of

from linfdeploy.engines.base import Logits
from linfdeploy.engines.reference import ReferenceEngine
from linfdeploy.errors import CheckpointError
from linfdeploy.files import sha256_of
from linfdeploy.nets.checkpoint import save_checkpoint
from linfdeploy.nets.net import LinfNet
from linfdeploy.nets.spec import LinfDistSpec, NetSpec
from linfdeploy.onnx.passes.ranges import rounding_error, value_ranges
from linfdeploy.verify.certificates import Flags, certified_by_margin, separated
from linfdeploy.verify.reference import Reference, _weight_rounding, load_reference

Rows = list[list[Fraction]]

LAYERS = (LinfDistSpec(1, 5, True, False), LinfDistSpec(5, 3, True, True))
SPEC = NetSpec((1, 1, 1), (0.3053,), 0.3762, LAYERS)
GREYS = np.arange(256, dtype=np.uint8).reshape(256, 1, 1, 1)
LEVELS = (1, 3, 9)


def small_net(seed: int) -> LinfNet:
    torch.manual_seed(seed)
    net = LinfNet(SPEC).eval().requires_grad_(False)
    for name, value in net.state_dict().items():
        value.copy_(torch.randn(value.shape) * (0.3 if "mean" in name or "bias" in name else 1.0))
    return net


def exact_logits(net: LinfNet, grey: int) -> list[Fraction]:
    """The real net on one grey image, with the checkpoint's float32 numbers taken as they are."""
    state = {name: value.tolist() for name, value in net.state_dict().items()}
    mean = Fraction(float(net.normalize.mean))
    std = Fraction(float(net.normalize.std))
    layers: list[tuple[Rows, list[Fraction] | None, list[Fraction] | None]] = [
        (
            [[Fraction(value) for value in row] for row in state[f"layers.{index}.weight"]],
            [Fraction(value) for value in state[f"layers.{index}.mean_shift.running_mean"]],
            [Fraction(value) for value in state[f"layers.{index}.bias"]] if layer.bias else None,
        )
        for index, layer in enumerate(LAYERS)
    ]
    return oracles.exact_net([(Fraction(grey, 255) - mean) / std], layers)


def winner(logits: list[Fraction]) -> int | None:
    """The strict winner, or None at a tie."""
    best = max(logits)
    return logits.index(best) if logits.count(best) == 1 else None


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Reference:
    path = tmp_path_factory.mktemp("reference") / "ckpt.pt"
    save_checkpoint(path, small_net(16), {})
    found = load_reference(path)
    assert found.facts.path == str(path)
    assert found.facts.sha256 == sha256_of(path.read_bytes())
    return found


@pytest.fixture(scope="module")
def winners(reference: Reference) -> list[int | None]:
    return [winner(exact_logits(reference.net, grey)) for grey in range(256)]


@pytest.mark.parametrize("levels", LEVELS)
def test_certified_images_keep_their_label_in_the_real_net(
    reference: Reference, winners: list[int | None], levels: int
) -> None:
    assert len(set(winners)) > 1
    by_margin, by_interval = reference.certified(GREYS, levels)
    for grey in range(256):
        box = set(winners[max(grey - levels, 0) : min(grey + levels, 255) + 1])
        robust = len(box) == 1 and None not in box
        assert robust or not (by_margin[grey] or by_interval[grey])
    assert by_interval.sum() >= by_margin.sum() > 50


def test_predictions_are_those_of_the_real_net(reference: Reference, winners: list[int | None]) -> None:
    assert reference.predictions(GREYS).tolist() == winners


def test_predictions_do_not_depend_on_the_batch(reference: Reference, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = reference.predictions(GREYS)
    monkeypatch.setattr("linfdeploy.verify.reference.BATCH", 7)
    assert reference.predictions(GREYS).tolist() == whole.tolist()


def test_the_slack_covers_float32_evaluation_of_the_real_net(reference: Reference) -> None:
    net = reference.exported("fp32", None)
    unit = 255 * Fraction(float(reference.net.normalize.std))
    ranges = value_ranges(net)
    slack = rounding_error(net, ranges) + _weight_rounding(ranges)
    logits = ReferenceEngine(net).run(GREYS)
    gaps = [
        abs(Fraction(float(found)) - unit * real)
        for grey in range(0, 256, 5)
        for found, real in zip(logits[grey], exact_logits(reference.net, grey), strict=True)
    ]
    assert 0 < max(gaps) <= slack < Fraction(1, 1000)


def test_cases_within_rounding_of_the_boundary_are_left_uncertified(
    reference: Reference, monkeypatch: pytest.MonkeyPatch
) -> None:
    cases = boundary_cases(Family("fp32, one layer", "fp32", 1, 12, 0, 8, 240), np.random.default_rng(1), 240)
    given = 0
    for index in np.flatnonzero(cases.ulps != FAR).tolist():
        net = net_of(cases, index)
        monkeypatch.setattr(Reference, "exported", lambda *_, net=net: net)
        image = cases.images[index].reshape(1, 1, 1, 12)
        by_margin, by_interval = reference.certified(image, int(cases.levels[index]))
        assert not by_margin[0]
        given += int(by_interval[0])
    # Clipping to the pixel range makes some of them robust by far.
    assert given < 20


def test_the_slack_holds_evaluation_weights_and_folding(
    reference: Reference, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = reference.exported("fp32", None)
    monkeypatch.setattr(Reference, "exported", lambda *_: net)
    used: dict[str, Any] = {}

    def margin(margins: list[Fraction], levels: int, delta: Fraction) -> Flags:
        used["delta"] = delta
        return certified_by_margin(margins, levels, delta)

    def interval(lower: Logits, upper: Logits, labels: npt.NDArray[np.int64], slack: float) -> Flags:
        used["slack"] = Fraction(slack)
        return separated(lower, upper, labels, slack)

    monkeypatch.setattr("linfdeploy.verify.reference.certified_by_margin", margin)
    monkeypatch.setattr("linfdeploy.verify.reference.separated", interval)
    reference.certified(GREYS, 1)
    largest = [Fraction(float(np.abs(layer.weight).max() + np.abs(layer.bias).max())) for layer in net.layers]
    moved = sum(largest) * Fraction(1, 2**24)
    assert used["delta"] > rounding_error(net, value_ranges(net)) + moved
    assert used["slack"] > 2 * used["delta"]


def test_what_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "ckpt.pt"
    path.write_bytes(b"nothing")
    with pytest.raises(CheckpointError):
        load_reference(path)
