# SPDX-License-Identifier: Apache-2.0
"""Layers against numpy: normalisation, the mean shift over several batches, and the distance layer."""

from __future__ import annotations

import math

import numpy as np
import oracles
import pytest
import torch

from linfdeploy.nets.layer_specs import LAYER_TYPES
from linfdeploy.nets.layers import Linear, LinfDist, MeanShift, Normalize
from linfdeploy.nets.net import MODULES, layer_of
from linfdeploy.nets.spec import LinearSpec, LinfDistSpec


def _normal(seed: int, *shape: int) -> oracles.Float32:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def test_normalize_is_one_subtraction_and_one_division() -> None:
    images = np.random.default_rng(0).random((4, 3, 2, 5)).astype(np.float32)
    mean, std = (0.1, 0.5, 0.9), 0.3
    expected = (images - oracles.float32(mean)[:, None, None]) / np.float32(std)
    found = Normalize(mean, std)(torch.from_numpy(images))
    np.testing.assert_array_equal(oracles.bits(found.numpy()), oracles.bits(expected.reshape(4, 30)))


def test_normalize_keeps_nothing_in_the_state() -> None:
    assert Normalize((0.5,), 0.25).state_dict() == {}


@pytest.mark.parametrize("batches", [1, 2, 10])
def test_mean_shift_follows_the_batches(batches: int) -> None:
    layer, running = MeanShift(6), np.zeros(6)
    layer.train()
    for seed in range(batches):
        y = _normal(seed, 8, 6) + 3
        np.testing.assert_allclose(layer(torch.from_numpy(y)).numpy(), y - y.mean(0), 1e-5, 1e-5)
        running = 0.9 * running + 0.1 * y.astype(np.float64).mean(0)
    np.testing.assert_allclose(layer.running_mean.numpy(), running, 1e-5)
    layer.eval()
    y = _normal(99, 8, 6)
    expected = y - layer.running_mean.numpy()
    np.testing.assert_array_equal(oracles.bits(layer(torch.from_numpy(y)).numpy()), oracles.bits(expected))
    np.testing.assert_allclose(layer.running_mean.numpy(), running, 1e-5)


def test_mean_shift_passes_the_gradient_of_the_mean() -> None:
    y, grad = torch.from_numpy(_normal(1, 5, 3)).requires_grad_(), _normal(2, 5, 3)
    (found,) = torch.autograd.grad(MeanShift(3).train()(y), y, torch.from_numpy(grad))
    np.testing.assert_allclose(found.numpy(), grad - grad.mean(0), 1e-5, 1e-6)


def test_mean_shift_state_has_no_gradient() -> None:
    layer = MeanShift(3).train()
    layer(torch.from_numpy(_normal(1, 5, 3)).requires_grad_())
    assert not layer.running_mean.requires_grad
    assert list(layer.state_dict()) == ["running_mean"]


@pytest.mark.parametrize("mean_shift", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_linf_dist_is_distance_then_mean_then_bias(mean_shift: bool, bias: bool) -> None:
    layer = LinfDist(LinfDistSpec(7, 4, mean_shift, bias)).eval()
    expected = oracles.linf_dist(_normal(1, 5, 7), layer.weight.detach().numpy())
    if layer.mean_shift is not None:
        layer.mean_shift.running_mean.copy_(torch.from_numpy(_normal(2, 4)))
        expected = expected - _normal(2, 4)
    if layer.bias is not None:
        layer.bias.data.copy_(torch.from_numpy(_normal(3, 4)))
        expected = expected + _normal(3, 4)
    found = layer(torch.from_numpy(_normal(1, 5, 7))).detach().numpy()
    np.testing.assert_array_equal(oracles.bits(found), oracles.bits(expected))


@pytest.mark.parametrize("p", [2.0, 8.0, 100.3])
def test_finite_p_is_the_lp_distance(p: float) -> None:
    layer = LinfDist(LinfDistSpec(7, 4, mean_shift=False, bias=False))
    layer.p = p
    x = _normal(4, 5, 7)
    expected = oracles.lp_dist_float64(x, layer.weight.detach().numpy(), p)
    np.testing.assert_allclose(layer(torch.from_numpy(x)).detach().numpy(), expected, 2e-6)


def test_state_follows_the_spec() -> None:
    assert set(LinfDist(LinfDistSpec(3, 2, True, True)).state_dict()) == {
        "weight",
        "bias",
        "mean_shift.running_mean",
    }
    assert set(LinfDist(LinfDistSpec(3, 2, False, False)).state_dict()) == {"weight"}
    assert math.isinf(LinfDist(LinfDistSpec(3, 2, False, False)).p)


def test_every_type_has_its_layer() -> None:
    assert set(MODULES) == set(LAYER_TYPES)
    assert isinstance(layer_of(LinfDistSpec(3, 2, True, True)), LinfDist)
    assert isinstance(layer_of(LinearSpec(3, 2, "none")), Linear)


@pytest.mark.parametrize("mean_shift", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_bounds_are_attained_at_points(mean_shift: bool, bias: bool) -> None:
    """A distance of one input attains both ends."""
    layer = LinfDist(LinfDistSpec(1, 4, mean_shift, bias)).eval().requires_grad_(False)
    for tensor in (layer.bias, layer.mean_shift and layer.mean_shift.running_mean):
        if isinstance(tensor, torch.Tensor):
            tensor.copy_(torch.from_numpy(_normal(5, 4)))
    low, high = torch.from_numpy(_normal(6, 7, 1)), torch.from_numpy(_normal(6, 7, 1) + 1)
    points = low + torch.linspace(0, 1, 50)[:, None, None] * (high - low)
    inside = torch.minimum(torch.maximum(layer.weight.T, low), high)
    found = torch.cat(
        [torch.stack([layer(x) for x in points]), torch.stack([layer(x[:, None]) for x in inside.T])]
    )
    lower, upper = layer.bounds(low, high)
    assert torch.equal(found.amin(0), lower)
    assert torch.equal(found.amax(0), upper)


@pytest.mark.parametrize("activation", ["none", "tanh"])
def test_linear_is_the_product_then_the_activation(activation: str) -> None:
    layer = Linear(LinearSpec(7, 4, activation)).requires_grad_(False)
    layer.bias.copy_(torch.from_numpy(_normal(3, 4)))
    expected = _normal(1, 5, 7).astype(np.float64) @ layer.weight.double().numpy().T / np.sqrt(7) + _normal(3, 4)
    expected = np.tanh(expected) if activation == "tanh" else expected
    np.testing.assert_allclose(layer(torch.from_numpy(_normal(1, 5, 7))).numpy(), expected, 1e-5, 1e-6)
    assert set(layer.state_dict()) == {"weight", "bias"}


@pytest.mark.parametrize("activation", ["none", "tanh"])
def test_linear_bounds_are_those_of_the_corners(activation: str) -> None:
    layer = Linear(LinearSpec(5, 3, activation)).double().requires_grad_(False)
    low = torch.from_numpy(_normal(1, 4, 5)).double()
    high = low + torch.from_numpy(_normal(2, 4, 5)).double().abs()
    choices = torch.cartesian_prod(*[torch.tensor([False, True])] * 5)
    corners = torch.stack([layer(torch.where(choice, low, high)) for choice in choices])
    lower, upper = layer.bounds(low, high)
    np.testing.assert_allclose(lower.numpy(), corners.amin(0).numpy(), 1e-12, 1e-12)
    np.testing.assert_allclose(upper.numpy(), corners.amax(0).numpy(), 1e-12, 1e-12)
