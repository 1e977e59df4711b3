# SPDX-License-Identifier: Apache-2.0
"""Small convolutional nets, and what they must compute in rationals."""

from __future__ import annotations

from fractions import Fraction
from functools import cache
from typing import Any

import numpy as np
import oracles
import torch

from linfdeploy.nets.net import LinfNet
from linfdeploy.nets.spec import LayerSpec, LinearSpec, LinfDistConvSpec, LinfDistSpec, NetSpec
from linfdeploy.nets.windows import Window
from linfdeploy.onnx.chain import Chain
from linfdeploy.onnx.pixel_net import PixelLayer, PixelNet, Precision
from linfdeploy.onnx.trace import chain_from_net

__all__ = [
    "MEAN",
    "SHAPE",
    "STD",
    "box_and_images",
    "conv_net",
    "exact_conv_logits",
    "real_logits",
    "torch_conv_net",
    "traced_conv_net",
]

SHAPE = (2, 5, 4)
MEAN, STD = (0.3, 0.63), 0.4
# A stride that leaves a remainder, and windows that see zeros on every side.
CONVOLUTIONS = (
    LinfDistConvSpec(2, 5, 4, 3, 3, 1, 1, mean_shift=True, bias=False),
    LinfDistConvSpec(3, 5, 4, 4, 3, 2, 1, mean_shift=True, bias=False),
)


def torch_conv_net(seed: int = 0, head: bool = False, mean: tuple[float, ...] = MEAN) -> LinfNet:
    """Two convolutions and a dense layer, then another or a head; means, biases and weights all random."""
    behind: tuple[LayerSpec, ...] = (LinfDistSpec(24, 5, mean_shift=True, bias=False),)
    if head:
        behind += LinearSpec(5, 4, "tanh"), LinearSpec(4, 3, "none")
    else:
        behind += (LinfDistSpec(5, 3, mean_shift=False, bias=True),)
    generator = torch.Generator().manual_seed(seed)
    net = LinfNet(NetSpec(SHAPE, mean, STD, (*CONVOLUTIONS, *behind))).eval().requires_grad_(False)
    for tensor in net.state_dict().values():
        tensor.copy_(torch.randn(tensor.shape, generator=generator) / 2)
    return net


@cache
def traced_conv_net(head: bool = False) -> tuple[LinfNet, Chain]:
    """A net and its chain: tracing takes seconds."""
    net = torch_conv_net(head=head)
    return net, chain_from_net(net)


def conv_net(seed: int, precision: Precision = "exact", *, window: Window | None = None) -> PixelNet:
    """A net of one convolution and a dense layer of random weights, without a checkpoint before it."""
    rng = np.random.default_rng(seed)
    window = window or Window((2, 5, 4), 3, 2, 1)
    dtype = np.float16 if precision == "fp16" else np.float32

    def values(*size: int, low: float = -100.0, high: float = 250.0) -> Any:
        wild = rng.uniform(low, high, size)
        return (np.rint(wild * 2.0**12) / 2.0**12 if precision == "exact" else wild).astype(dtype)

    convolution = PixelLayer(values(3, window.terms), values(3), window=window)
    dense = PixelLayer(values(3, convolution.outputs, low=0.0, high=350.0), values(3))
    centre: Any = (np.rint(rng.uniform(60, 190, window.shape[0]) * 8) / 8).astype(dtype)
    return PixelNet(window.shape, (convolution, dense), 12 if precision == "exact" else None, centre=centre)


def box_and_images(net: PixelNet, seed: int) -> tuple[Any, Any, Any]:
    """A box of up to 39 levels, (1, C, H, W) each end; and its ends, 20 of its corners and 20 images inside."""
    rng = np.random.default_rng(seed)
    lower = rng.integers(0, 256, (1, *net.input_shape))
    upper = np.minimum(lower + rng.integers(0, 40, lower.shape), 255)
    corners = np.where(rng.random((20, *net.input_shape)) < 0.5, lower, upper)
    inside = rng.integers(lower, upper + 1, (20, *net.input_shape))
    box = lower.astype(np.uint8), upper.astype(np.uint8)
    return *box, np.concatenate([lower, upper, corners, inside]).astype(np.uint8)


def exact_conv_logits(net: PixelNet, image: Any) -> list[Fraction]:
    """The real-number logits of one image (C, H, W) of a net with convolutions."""
    centre = [Fraction(0)] * len(image) if net.centre is None else [Fraction(float(c)) for c in net.centre]
    x = [[[Fraction(int(v)) - c for v in row] for row in plane] for plane, c in zip(image, centre, strict=True)]
    return [-value for value in _forward(net, x)]


def _forward(net: PixelNet, x: list[list[list[Fraction]]]) -> list[Fraction]:
    flat = _flat(x)
    for layer in net.layers:
        rows = [[Fraction(float(w)) for w in row] for row in layer.weight]
        biases = [Fraction(float(b)) for b in layer.bias]
        if layer.window is None:
            flat = [oracles.exact_linf_dist(flat, row) + b for row, b in zip(rows, biases, strict=True)]
            continue
        filters = [_cube(row, layer.window.kernel) for row in rows]
        found = oracles.exact_linf_dist_conv(x, filters, layer.window.stride, layer.window.padding)
        x = [[[v + b for v in line] for line in plane] for plane, b in zip(found, biases, strict=True)]
        flat = _flat(x)
    return flat


def real_logits(net: LinfNet, image: Any) -> list[Fraction]:
    """The real-number logits of a torch net, in units of normalised pixels, from its float32 state."""
    mean, std = net.normalize.mean.view(-1).tolist(), Fraction(float(net.normalize.std))
    x = [
        [[(Fraction(int(v), 255) - Fraction(m)) / std for v in row] for row in plane]
        for plane, m in zip(image, mean, strict=True)
    ]
    layers = []
    for layer, spec in zip(net.distances, net.spec.distances, strict=True):
        shift = torch.zeros(len(layer.weight)) if layer.bias is None else layer.bias
        shift = shift.double() if layer.mean_shift is None else shift.double() - layer.mean_shift.running_mean
        window = getattr(spec, "window", None)
        layers.append(PixelLayer(layer.weight.numpy(), shift.numpy(), window=window))
    return [-value for value in _forward(PixelNet(net.spec.input_shape, tuple(layers), None), x)]


def _cube(row: list[Fraction], kernel: int) -> list[list[list[Fraction]]]:
    lines = [row[i : i + kernel] for i in range(0, len(row), kernel)]
    return [lines[i : i + kernel] for i in range(0, len(lines), kernel)]


def _flat(x: list[list[list[Fraction]]]) -> list[Fraction]:
    return [value for plane in x for row in plane for value in row]
