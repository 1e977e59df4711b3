# SPDX-License-Identifier: Apache-2.0
"""The torch layer of windows against windows cut out one by one, in float32 to the bit and in float64 for l_p."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import oracles
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from linfdeploy.errors import CheckpointError
from linfdeploy.nets.convolutions import LinfDistConv, SortDistConv
from linfdeploy.nets.net import LinfNet
from linfdeploy.nets.spec import LinearSpec, LinfDistConvSpec, LinfDistSpec, NetSpec, SortDistConvSpec


def layer(seed: int = 0, *, stride: int = 2, bias: bool = True) -> LinfDistConv:
    torch.manual_seed(seed)
    made = LinfDistConv(LinfDistConvSpec(2, 5, 4, 3, 3, stride, 1, mean_shift=True, bias=bias)).eval()
    assert made.mean_shift is not None
    made.mean_shift.running_mean.normal_(2, 1)
    if made.bias is not None:
        torch.nn.init.normal_(made.bias)
    return made


def expected(made: LinfDistConv, x: Any) -> oracles.Float32:
    assert made.mean_shift is not None
    stride = made.window.stride
    filters = made.weight.detach().numpy().reshape(-1, 2, 3, 3)
    y = oracles.linf_dist_conv(x, filters, (stride, stride), (1, 1, 1, 1), (1, 1))
    y = y - made.mean_shift.running_mean.numpy()[:, None, None]
    if made.bias is not None:
        y = y + made.bias.detach().numpy()[:, None, None]
    return oracles.float32(y.reshape(len(x), -1))


def images(seed: int, count: int = 6) -> oracles.Float32:
    return np.random.default_rng(seed).standard_normal((count, 2, 5, 4)).astype(np.float32)


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("bias", [False, True])
def test_with_gradients_and_without_it_has_the_same_bits(stride: int, bias: bool) -> None:
    made, x = layer(stride, stride=stride, bias=bias), images(1)
    flat = torch.from_numpy(x).flatten(1)
    with torch.no_grad():
        kernel = made(flat)
    for found in (kernel, made(flat).detach()):
        np.testing.assert_array_equal(oracles.bits(found.numpy()), oracles.bits(expected(made, x)))


@pytest.mark.parametrize("p", [8.0, 40.0])
def test_a_finite_norm_is_that_of_each_window(p: float) -> None:
    made, x = layer(), images(2)
    made.p = p
    with torch.no_grad():
        found = made(torch.from_numpy(x).flatten(1)).numpy().reshape(6, 3, -1)
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    places = [(top, left) for top in range(0, 5, 2) for left in range(0, 4, 2)]
    for index, (top, left) in enumerate(places):
        window = padded[:, :, top : top + 3, left : left + 3].reshape(6, -1)
        distance = oracles.lp_dist_float64(window, made.weight.detach().numpy(), p)
        shift = made.bias.detach().numpy() - made.mean_shift.running_mean.numpy()  # type: ignore[union-attr]
        np.testing.assert_allclose(found[:, :, index], distance + shift, 0, 2e-5)


def test_the_mean_shift_is_over_images_and_places() -> None:
    made, x = layer(bias=False).train(), images(3)
    assert made.mean_shift is not None
    before = made.mean_shift.running_mean.clone()
    distances = oracles.linf_dist_conv(
        x, made.weight.detach().numpy().reshape(-1, 2, 3, 3), (2, 2), (1, 1, 1, 1), (1, 1)
    )
    found = made(torch.from_numpy(x).flatten(1)).detach().numpy().reshape(distances.shape)
    mean = distances.mean((0, 2, 3), keepdims=True)
    np.testing.assert_allclose(found, distances - mean, 0, 2e-6)
    running = 0.9 * before.numpy() + 0.1 * mean.reshape(-1)
    np.testing.assert_allclose(made.mean_shift.running_mean.numpy(), running, 1e-5)


def test_what_several_processes_average_are_means_over_images_and_places() -> None:
    made, x = layer(bias=False).train(), torch.from_numpy(images(3)).flatten(1)
    assert made.mean_shift is not None
    halves: list[torch.Tensor] = []

    def remembered(y: torch.Tensor) -> torch.Tensor:
        halves.append(y.mean(0))
        return halves[-1]

    made.mean_shift.batch_mean = remembered
    for part in (x[:3], x[3:], x):
        made(part)
    torch.testing.assert_close((halves[0] + halves[1]) / 2, halves[2], rtol=1e-6, atol=0)


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=30)
def test_bounds_hold_at_and_inside_the_corners(seed: int) -> None:
    made, rng = layer(seed), np.random.default_rng(seed)
    lower = rng.standard_normal((1, 40)).astype(np.float32)
    upper = lower + rng.uniform(0, 1, lower.shape).astype(np.float32)
    corners = np.where(rng.random((20, 40)) < 0.5, lower, upper)
    inside = np.clip(lower + (upper - lower) * rng.random((20, 40)), lower, upper).astype(np.float32)
    with torch.no_grad():
        low, high = made.bounds(torch.from_numpy(lower), torch.from_numpy(upper))
        found = made(torch.from_numpy(np.concatenate([lower, upper, corners, inside])))
    assert (low <= found).all()
    assert (found <= high).all()


def test_gradients_are_those_of_the_windows() -> None:
    made, x = layer(), torch.from_numpy(images(4)).flatten(1).requires_grad_()
    made(x).sum().backward()
    padded = np.pad(x.detach().numpy().reshape(6, 2, 5, 4), ((0, 0), (0, 0), (1, 1), (1, 1)))
    expected_x, expected_w = np.zeros(padded.shape), np.zeros((3, 18))
    weight = made.weight.detach().numpy()
    for top in range(0, 5, 2):
        for left in range(0, 4, 2):
            place = (slice(None), slice(None), slice(top, top + 3), slice(left, left + 3))
            window = padded[place].reshape(6, 18)
            of_x, of_w = oracles.linf_dist_grads(window, weight, np.ones((6, 3), np.float32))
            expected_x[place] += of_x.reshape(6, 2, 3, 3)
            expected_w += of_w
    assert x.grad is not None
    assert made.weight.grad is not None
    # Sums of ones: float32 holds them.
    np.testing.assert_array_equal(made.weight.grad.numpy(), expected_w)
    np.testing.assert_array_equal(x.grad.numpy(), expected_x[:, :, 1:-1, 1:-1].reshape(6, -1))


def sorted_layer(seed: int) -> SortDistConv:
    torch.manual_seed(seed)
    spec = SortDistConvSpec(2, 5, 4, 3, 3, 2, 1, mean_shift=True, bias=True, keep=0.7, terms=5)
    made = SortDistConv(spec).eval()
    assert made.mean_shift is not None
    assert made.bias is not None
    made.mean_shift.running_mean.normal_(2, 1)
    torch.nn.init.normal_(made.bias)
    return made


def test_sorted_distances_of_windows_are_those_of_each_window() -> None:
    made, x = sorted_layer(0), images(2)
    flat = torch.from_numpy(x).flatten(1)
    with torch.no_grad():
        kernel = made(flat)
    assert torch.equal(kernel, made(flat).detach())
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1))).astype(np.float64)
    weight, shares = made.weight.detach().double().numpy(), made.sort_weights.double().numpy()
    shift = made.bias.detach().numpy() - made.mean_shift.running_mean.numpy()  # type: ignore[union-attr]
    for index, (top, left) in enumerate((top, left) for top in range(0, 5, 2) for left in range(0, 4, 2)):
        window = padded[:, :, top : top + 3, left : left + 3].reshape(6, 1, -1)
        falling = -np.sort(-np.abs(window - weight), axis=-1)[..., :5]
        found = kernel.numpy().reshape(6, 3, -1)[:, :, index]
        np.testing.assert_allclose(found, falling @ shares + shift, 0, 2e-6)


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=20)
def test_bounds_of_sorted_distances_hold_at_and_inside_the_corners(seed: int) -> None:
    made, rng = sorted_layer(seed), np.random.default_rng(seed)
    lower = rng.standard_normal((1, 40)).astype(np.float32)
    upper = lower + rng.uniform(0, 1, lower.shape).astype(np.float32)
    corners = np.where(rng.random((20, 40)) < 0.5, lower, upper)
    with torch.no_grad():
        low, high = made.bounds(torch.from_numpy(lower), torch.from_numpy(upper))
        found = made(torch.from_numpy(np.concatenate([lower, upper, corners])))
    assert (low <= found).all()
    assert (found <= high).all()


def test_the_papers_net_has_convolutions_in_front() -> None:
    spec = NetSpec.mlp((3, 32, 32), (0.5,) * 3, 0.2, (64,), 10, head=(16,), convolutions=((4, 1), (8, 2)))
    assert spec.convolves
    assert [layer.type for layer in spec.layers] == [
        "linf_dist_conv",
        "linf_dist_conv",
        "linf_dist",
        "linear",
        "linear",
    ]
    assert spec.layers[2].inputs == 8 * 16 * 16
    assert NetSpec.from_json(spec.to_json()) == spec
    assert LinfNet(spec).distances[1].weight.shape == (8, 4 * 9)


CONV = LinfDistConvSpec(1, 4, 4, 2, 3, 1, 1, mean_shift=True, bias=False)


@pytest.mark.parametrize(
    ("layers", "text"),
    [
        (
            (CONV,),
            "the layers are of the types ['linf_dist_conv']; expected convolutions in front of all other layers, "
            "and another layer behind them",
        ),
        (
            (LinfDistSpec(16, 16, True, False), CONV),
            "the layers are of the types ['linf_dist', 'linf_dist_conv']; expected convolutions in front of all "
            "other layers, and another layer behind them",
        ),
        (
            (LinfDistConvSpec(1, 2, 8, 2, 3, 1, 1, True, False), LinfDistSpec(32, 2, False, True)),
            "layer 0 takes images of (1, 2, 8); expected (1, 4, 4), which reach it",
        ),
        (
            (CONV, LinfDistConvSpec(2, 2, 8, 2, 3, 1, 1, True, False), LinfDistSpec(32, 2, False, True)),
            "layer 1 takes images of (2, 2, 8); expected (2, 4, 4), which reach it",
        ),
        (
            (CONV, LinearSpec(31, 2, "none")),
            "layer 1 claims 31 inputs and 2 outputs; expected 32 inputs and between 1 and 16777216 outputs",
        ),
    ],
)
def test_layers_that_do_not_chain(layers: Any, text: str) -> None:
    with pytest.raises(CheckpointError, match=f"^{re.escape(text)}$"):
        NetSpec((1, 4, 4), (0.5,), 0.2, layers)
