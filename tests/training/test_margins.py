# SPDX-License-Identifier: Apache-2.0
"""Worst margins against loops in float64, against points of the ball, and gradients against differences."""

from __future__ import annotations

import itertools

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from linfdeploy.nets.net import LinfNet
from linfdeploy.nets.spec import NetSpec
from linfdeploy.training.margins import worst_in_box, worst_logits

Array = npt.NDArray[np.float64]

HEADS = [None, (), (5,), (6, 4)]


def net_of(head: tuple[int, ...] | None, seed: int = 0, hidden: int = 3) -> LinfNet:
    net = LinfNet(NetSpec.mlp((1, 2, 2), (0.3,), 0.5, (hidden,), 4, head)).eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    for tensor in net.state_dict().values():
        tensor.copy_(torch.randn(tensor.shape, generator=generator))
    return net.double()


def logits_by_loop(net: LinfNet, features: Array) -> Array:
    x = features
    for index, layer in enumerate(net.head):
        x = x @ layer.weight.numpy().T / np.sqrt(x.shape[-1]) + layer.bias.numpy()
        x = np.tanh(x) if index < len(net.head) - 1 else x
    return x if net.head else -x


def worst_by_loop(net: LinfNet, low: Array, high: Array, label: int) -> Array:
    """One sample, one class, one hidden unit at a time."""
    for layer in net.head[:-1]:
        weight = layer.weight.numpy() / np.sqrt(len(low))
        ends = [(sum(min(w * a, w * b) for w, a, b in zip(row, low, high, strict=True))) for row in weight]
        tops = [(sum(max(w * a, w * b) for w, a, b in zip(row, low, high, strict=True))) for row in weight]
        low, high = np.tanh(ends + layer.bias.numpy()), np.tanh(tops + layer.bias.numpy())
    if net.head:
        weight, bias = net.head[-1].weight.numpy() / np.sqrt(len(low)), net.head[-1].bias.numpy()
    else:
        weight, bias = -np.eye(len(low)), np.zeros(len(low))
    worst = []
    for row, b in zip(weight, bias, strict=True):
        pairs = zip(row - weight[label], low, high, strict=True)
        worst.append(sum(max(d * x, d * y) for d, x, y in pairs) + b - bias[label])
    return np.array(worst)


def case(net: LinfNet, seed: int, samples: int = 7) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    width = net.spec.distances[-1].outputs
    features = torch.randn(samples, width, generator=generator, dtype=torch.float64)
    return features, torch.randint(4, (samples,), generator=generator)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("eps", [0.0, 0.05, 0.7])
def test_equals_the_loop(head: tuple[int, ...] | None, eps: float) -> None:
    net = net_of(head)
    features, labels = case(net, 1)
    found = worst_logits(net, features, labels, eps).numpy()
    pairs = zip(features.numpy(), labels.tolist(), strict=True)
    expected = [worst_by_loop(net, row - eps, row + eps, label) for row, label in pairs]
    np.testing.assert_allclose(found, expected, 1e-10, 1e-10)
    assert (found[np.arange(7), labels.numpy()] == 0).all()


def test_a_pure_net_moves_by_two_eps() -> None:
    net = net_of(None)
    features, labels = case(net, 2)
    logits = net.logits(features)
    expected = logits - logits.gather(1, labels[:, None]) + 2 * 0.3
    expected[torch.arange(7), labels] = 0
    torch.testing.assert_close(worst_logits(net, features, labels, 0.3), expected)


@pytest.mark.parametrize("head", HEADS)
def test_without_a_ball_margins_are_those_of_the_logits(head: tuple[int, ...] | None) -> None:
    net = net_of(head)
    images = torch.rand(5, 1, 2, 2, generator=torch.Generator().manual_seed(3))
    net, labels = net.float(), torch.arange(5) % 4
    logits = net(images)
    expected = logits - logits.gather(1, labels[:, None])
    for given_ in (images, net.features(images)):
        torch.testing.assert_close(worst_logits(net, given_, labels, 0.0), expected, atol=1e-5, rtol=1e-5)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.integers(0, 2**32 - 1), st.sampled_from(HEADS), st.floats(0, 3))
def test_no_point_of_the_box_is_worse(seed: int, head: tuple[int, ...] | None, eps: float) -> None:
    net = net_of(head, seed)
    features, labels = case(net, seed, 3)
    ends = features - eps, features + eps * torch.rand(features.shape, dtype=torch.float64)
    worst = worst_in_box(net, *ends, labels).numpy()
    rng = np.random.default_rng(seed)
    corners = itertools.islice(itertools.product([0.0, 1.0], repeat=features.shape[1]), 16)
    shares = [*map(np.array, corners), *rng.random((20, features.shape[1]))]
    for share in shares:
        points = ends[0] + torch.from_numpy(share) * (ends[1] - ends[0])
        logits = logits_by_loop(net, points.numpy())
        margins = logits - logits[np.arange(3), labels.numpy()][:, None]
        assert (margins <= worst + 1e-9 * (1 + np.abs(worst))).all()


@pytest.mark.parametrize("head", HEADS)
def test_the_last_layer_is_bounded_tightly(head: tuple[int, ...] | None) -> None:
    """Without hidden layers some corner of the box attains the bound."""
    net = net_of(head)
    if len(net.head) > 1:
        net = net_of(())
    features, labels = case(net, 4, 2)
    width = features.shape[1]
    corners = [
        features + 0.2 * torch.tensor(signs, dtype=torch.float64)
        for signs in itertools.product([-1.0, 1.0], repeat=width)
    ]
    logits = np.stack([logits_by_loop(net, corner.numpy()) for corner in corners])
    margins = logits - np.take_along_axis(logits, labels.numpy()[None, :, None], 2)
    np.testing.assert_allclose(worst_logits(net, features, labels, 0.2).numpy(), margins.max(0), 1e-10, 1e-10)


@pytest.mark.parametrize("head", HEADS)
def test_gradients(head: tuple[int, ...] | None) -> None:
    net = net_of(head).requires_grad_()
    features, labels = case(net, 5, 3)
    eps = torch.tensor(0.1, dtype=torch.float64, requires_grad=True)
    features.requires_grad_()

    def worst(x: torch.Tensor, e: torch.Tensor, *_: torch.Tensor) -> torch.Tensor:
        return worst_logits(net, x, labels, e)

    parameters = [parameter for layer in net.head for parameter in layer.parameters()]
    assert torch.autograd.gradcheck(worst, (features, eps, *parameters))
