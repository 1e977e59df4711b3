# SPDX-License-Identifier: Apache-2.0
"""The net as a whole: against the definition in rational numbers, and 1-Lipschitz there."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import oracles
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from linfdeploy.nets.layers import LinfDist
from linfdeploy.nets.net import LinfNet
from linfdeploy.nets.spec import NetSpec

HIDDEN = [(), (5,), (9, 6)]


def _integer_net(seed: int, hidden: tuple[int, ...]) -> LinfNet:
    """A net whose every number is a small integer or dyadic, so that float32 computes it without rounding."""
    rng = np.random.default_rng(seed)
    net = LinfNet(NetSpec.mlp((1, 2, 3), (0.5,), 0.25, hidden, 3)).eval().requires_grad_(False)
    for tensor in net.state_dict().values():
        tensor.copy_(torch.from_numpy(rng.integers(-20, 21, tuple(tensor.shape)).astype(np.float32)))
    return net


def _fractions(values: torch.Tensor) -> list[Fraction]:
    return [Fraction(value) for value in values.flatten().tolist()]


def _exact(net: LinfNet, image: list[Fraction]) -> list[Fraction]:
    layers = []
    for layer in net.layers:
        assert isinstance(layer, LinfDist)
        mean = None if layer.mean_shift is None else _fractions(layer.mean_shift.running_mean)
        bias = None if layer.bias is None else _fractions(layer.bias)
        layers.append(([_fractions(row) for row in layer.weight], mean, bias))
    mean_of_images, std = Fraction(net.spec.mean[0]), Fraction(net.spec.std)
    return oracles.exact_net([(pixel - mean_of_images) / std for pixel in image], layers)


@pytest.mark.parametrize("hidden", HIDDEN)
@pytest.mark.parametrize("seed", range(5))
def test_equals_the_real_numbers(hidden: tuple[int, ...], seed: int) -> None:
    net = _integer_net(seed, hidden)
    images = torch.from_numpy(np.random.default_rng(seed).integers(0, 257, (8, 1, 2, 3)) / np.float32(256)).float()
    logits = net(images)
    for image, row in zip(images, logits, strict=True):
        assert _fractions(row) == _exact(net, _fractions(image))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from(HIDDEN),
    st.lists(st.tuples(st.fractions(0, 1), st.fractions(-1, 1)), min_size=6, max_size=6),
    st.fractions(0, Fraction(1, 3)),
)
def test_is_lipschitz_in_the_real_numbers(
    seed: int, hidden: tuple[int, ...], pixels: list[tuple[Fraction, Fraction]], eps: Fraction
) -> None:
    net = _integer_net(seed, hidden)
    image = [pixel for pixel, _ in pixels]
    other = [pixel + eps * step for pixel, step in pixels]
    moved = oracles.exact_linf_dist(image, other)
    assert oracles.exact_linf_dist(_exact(net, image), _exact(net, other)) <= moved / Fraction(net.spec.std)


@pytest.mark.parametrize("hidden", HIDDEN)
def test_the_float_net_is_lipschitz_on_the_grid(hidden: tuple[int, ...]) -> None:
    net, rng = _integer_net(7, hidden), np.random.default_rng(7)
    a = rng.integers(0, 257, (256, 1, 2, 3))
    b = np.clip(a + rng.integers(-9, 10, a.shape), 0, 256)
    images = [torch.from_numpy((levels / 256).astype(np.float32)) for levels in (a, b)]
    moved = (images[0] - images[1]).abs().flatten(1).amax(1) / net.spec.std
    assert ((net(images[0]) - net(images[1])).abs().amax(1) <= moved).all()


def test_logits_are_negated_distances() -> None:
    net = LinfNet(NetSpec.mlp((1, 1, 2), (0.0,), 1.0, (), 2)).eval().requires_grad_(False)
    layer = net.layers[0]
    assert isinstance(layer, LinfDist)
    layer.weight.copy_(torch.tensor([[0.0, 0.0], [1.0, 1.0]]))
    assert net(torch.tensor([[[[0.25, 0.5]]]])).tolist() == [[-0.5, -0.75]]


def test_set_p_reaches_every_layer() -> None:
    net = LinfNet(NetSpec.mlp((1, 2, 2), (0.0,), 1.0, (4, 4), 2))
    for p in (8.0, math.inf):
        net.set_p(p)
        assert [layer.p for layer in net.layers] == [p, p, p]


def test_large_p_approaches_the_certified_net() -> None:
    net = LinfNet(NetSpec.mlp((1, 4, 4), (0.5,), 0.5, (12,), 4)).eval().requires_grad_(False)
    images = torch.rand(5, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    certified, gaps = net(images), []
    for p in (8.0, 100.0, 1000.0):
        net.set_p(p)
        gaps.append(float((net(images) - certified).abs().max()))
    assert gaps == sorted(gaps, reverse=True)
    assert gaps[-1] < 0.02


def test_every_parameter_gets_a_gradient() -> None:
    net = LinfNet(NetSpec.mlp((1, 4, 4), (0.5,), 0.5, (12,), 4)).train()
    for p in (8.0, math.inf):
        net.set_p(p)
        net.zero_grad()
        net(torch.rand(6, 1, 4, 4)).square().sum().backward()
        assert all(parameter.grad is not None and parameter.grad.any() for parameter in net.parameters())


def _net_with_a_head(head: tuple[int, ...]) -> LinfNet:
    return LinfNet(NetSpec.mlp((1, 2, 2), (0.3,), 0.5, (6, 5), 3, head=head)).eval().requires_grad_(False)


@pytest.mark.parametrize("head", [(), (4,), (4, 7)])
def test_a_head_is_linear_layers_of_scaled_weights(head: tuple[int, ...]) -> None:
    net, images = _net_with_a_head(head), torch.rand(9, 1, 2, 2, generator=torch.Generator().manual_seed(1))
    for layer in net.head:
        torch.nn.init.normal_(layer.bias)
    x = net.features(images).double().numpy()
    for index, layer in enumerate(net.head):
        x = x @ layer.weight.double().numpy().T / np.sqrt(x.shape[1]) + layer.bias.double().numpy()
        x = np.tanh(x) if index < len(head) else x
    np.testing.assert_allclose(net(images).numpy(), x, 1e-4, 1e-5)
    assert len(net.head) == len(head) + 1


def test_features_of_a_net_with_a_head_are_its_distances() -> None:
    net, image = _net_with_a_head((4,)), [Fraction(k, 8) for k in range(4)]
    pure = LinfNet(NetSpec.mlp((1, 2, 2), (0.3,), 0.5, (6,), 5)).eval().requires_grad_(False)
    pure.layers[0], pure.layers[1] = net.layers[0], net.layers[1]
    images = torch.tensor([float(pixel) for pixel in image]).reshape(1, 1, 2, 2)
    assert torch.equal(net.features(images), -pure(images))
    assert torch.equal(pure.logits(pure.features(images)), pure(images))


def test_the_norm_reaches_the_distances_alone() -> None:
    net = _net_with_a_head((4,))
    net.set_p(8.0)
    assert [layer.p for layer in net.distances] == [8.0, 8.0]
    assert [type(layer).__name__ for layer in net.layers] == ["LinfDist", "LinfDist", "Linear", "Linear"]
    assert net.head == list(net.layers[2:])


def test_every_parameter_of_a_head_gets_a_gradient() -> None:
    net = _net_with_a_head((4,)).train().requires_grad_()
    net(torch.rand(6, 1, 2, 2)).square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in net.parameters())
