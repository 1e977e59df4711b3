# SPDX-License-Identifier: Apache-2.0
"""Accuracies against formulas in float64 and against attacks that stay inside the box."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch

from linfdeploy.nets.net import LinfNet
from linfdeploy.nets.spec import NetSpec
from linfdeploy.training.data import Dataset
from linfdeploy.training.evaluation import evaluate, interval_features

EPS = 0.1
MEAN, STD = 0.3, 0.4


def random_net() -> LinfNet:
    torch.manual_seed(3)
    net = LinfNet(NetSpec.mlp((1, 3, 3), (MEAN,), STD, (12, 11), 4))
    for layer in net.layers[:-1]:
        torch.nn.init.normal_(layer.mean_shift.running_mean)  # type: ignore[union-attr, arg-type]
    torch.nn.init.normal_(net.layers[-1].bias, std=0.1)  # type: ignore[arg-type]
    return net.eval()


def dataset_of(net: LinfNet, count: int) -> Dataset:
    """Images with the labels that the net gives them, but for every fifth."""
    images = np.random.default_rng(0).integers(0, 256, (count, 1, 3, 3), np.uint8)
    with torch.no_grad():
        labels = net(torch.from_numpy(images).float() / 255).argmax(1).numpy().copy()
    labels[::5] = (labels[::5] + 1) % 4
    return Dataset("random", images, labels, 4, (MEAN,), STD)


def bounds_by_formula(
    net: LinfNet, lower: npt.NDArray[np.float64], upper: npt.NDArray[np.float64]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    state = {name: tensor.double().numpy() for name, tensor in net.state_dict().items()}
    for index in range(3):
        w = state[f"layers.{index}.weight"][None]
        low, high = lower[:, None], upper[:, None]
        shift = state["layers.2.bias"] if index == 2 else -state[f"layers.{index}.mean_shift.running_mean"]
        inside = np.maximum(np.maximum(low - w, w - high), 0).max(2)
        outside = np.maximum(np.abs(low - w), np.abs(high - w)).max(2)
        lower, upper = inside + shift, outside + shift
    return -upper, -lower


def test_accuracies_are_those_of_the_formulas() -> None:
    net = random_net()
    dataset = dataset_of(net, 700)
    found = evaluate(net, dataset, EPS)
    pixels = dataset.images.reshape(700, -1) / 255
    point = (pixels - MEAN) / STD
    logits, _ = bounds_by_formula(net, point, point)
    low, high = bounds_by_formula(
        net, (np.maximum(pixels - EPS, 0) - MEAN) / STD, (np.minimum(pixels + EPS, 1) - MEAN) / STD
    )
    clean = by_margin = by_interval = 0
    for row, label in enumerate(dataset.labels):
        wrong = [j for j in range(4) if j != label]
        margin = logits[row, label] - max(logits[row, j] for j in wrong)
        clean += margin > 0
        by_margin += margin > 2 * EPS / STD
        by_interval += low[row, label] > max(high[row, j] for j in wrong)
    assert (found.samples, found.eps) == (700, EPS)
    assert found.clean == clean / 700 == 0.8
    assert found.certified_margin == by_margin / 700
    assert found.certified == by_interval / 700
    assert 0 < found.certified_margin < found.certified < found.clean


def test_no_image_in_the_box_leaves_the_bounds() -> None:
    net = random_net()
    net.set_p(math.inf)
    images = torch.from_numpy(dataset_of(net, 20).images).float() / 255
    with torch.no_grad():
        lower, upper = interval_features(net, images, EPS)
        for seed in range(50):
            torch.manual_seed(seed)
            moved = images + EPS * torch.empty_like(images).uniform_(-1, 1).mul(3).clamp(-1, 1)
            features = net.features(moved.clamp(0, 1))
            assert (lower <= features).all()
            assert (features <= upper).all()


def test_ties_certify_nothing() -> None:
    net = LinfNet(NetSpec.mlp((1, 1, 1), (0.0,), 1.0, (), 2))
    with torch.no_grad():
        net.layers[0].weight.zero_()  # type: ignore[operator]
    images = np.array([0, 255], np.uint8).reshape(2, 1, 1, 1)
    found = evaluate(net, Dataset("ties", images, np.array([0, 1]), 2, (0.0,), 1.0), 1e-9)
    assert (found.clean, found.certified, found.certified_margin) == (0, 0, 0)


def test_the_net_is_left_at_infinity_in_evaluation_mode() -> None:
    net = random_net().train()
    net.set_p(8.0)
    evaluate(net, dataset_of(random_net(), 5), EPS)
    assert not net.training
    assert all(layer.p == math.inf for layer in net.layers)


def test_a_head_is_certified_through_its_intervals() -> None:
    """Against the formula in float64; the sample is drawn so that no comparison is close."""
    generator = torch.Generator().manual_seed(4)
    net = LinfNet(NetSpec.mlp((1, 3, 3), (MEAN,), STD, (12,), 4, head=(6,))).eval().requires_grad_(False)
    for tensor in net.state_dict().values():
        tensor.copy_(torch.randn(tensor.shape, generator=generator))
    dataset, radius = dataset_of(net, 300), 0.15
    pixels, labels = dataset.images.reshape(300, -1) / 255.0, dataset.labels
    found = evaluate(net, dataset, radius)
    weights = [value.double().numpy() for value in net.state_dict().values()]
    first, shift, *head = weights

    def features(ends: list[np.ndarray]) -> list[np.ndarray]:
        low, high = ((end - MEAN) / STD for end in ends)
        outside = np.maximum(0, np.maximum(low[:, None] - first, first - high[:, None])).max(2)
        return [outside - shift, np.maximum(high[:, None] - first, first - low[:, None]).max(2) - shift]

    def certified(low: np.ndarray, high: np.ndarray) -> np.ndarray:
        w, b, last, last_bias = head[0] / np.sqrt(12), head[1], head[2] / np.sqrt(6), head[3]
        centre, radius = (low + high) / 2 @ w.T + b, (high - low) / 2 @ np.abs(w).T
        low, high = np.tanh(centre - radius), np.tanh(centre + radius)
        wins = np.ones(300, bool)
        for row, label in enumerate(labels):
            for j in set(range(4)) - {label}:
                d = last[j] - last[label]
                middle, spread = d @ (low + high)[row] / 2, np.abs(d) @ (high - low)[row] / 2
                wins[row] &= middle + spread + last_bias[j] - last_bias[label] < 0
        return wins

    exact = features([pixels, pixels])[0]
    ball = exact - radius / STD, exact + radius / STD
    boxes = features([np.maximum(pixels - radius, 0), np.minimum(pixels + radius, 1)])
    assert found.clean == certified(exact, exact).mean()
    assert found.certified_margin == certified(*ball).mean()
    assert found.certified == certified(*boxes).mean()
    assert 0 < found.certified_margin < found.certified < found.clean
