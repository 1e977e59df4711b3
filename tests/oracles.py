# SPDX-License-Identifier: Apache-2.0
"""What the package must compute, written a second time: slowly, plainly, and without importing the package.

Nothing here shares a line with what it judges. Bits are compared as integers, so that 0.0 and -0.0 differ.
"""

from __future__ import annotations

from fractions import Fraction
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch

__all__ = [
    "Float32",
    "awkward_float32",
    "bits",
    "exact_linf_dist",
    "exact_linf_dist_conv",
    "exact_net",
    "exact_sort_dist",
    "float32",
    "linf_dist",
    "linf_dist_argmax",
    "linf_dist_conv",
    "linf_dist_grads",
    "lp_dist",
    "lp_dist_float64",
    "lp_dist_grads",
    "sort_dist",
]

Float32: TypeAlias = npt.NDArray[np.float32]
Float64: TypeAlias = npt.NDArray[np.float64]


def float32(values: npt.ArrayLike) -> Float32:
    """An array of float32."""
    return np.asarray(values, np.float32)


def bits(y: Float32) -> npt.NDArray[np.uint32]:
    """The bit patterns of float32 numbers."""
    assert y.dtype == np.float32
    return np.ascontiguousarray(y).view(np.uint32)


def linf_dist(x: Float32, w: Float32) -> Float32:
    """The definition, broadcast: one float32 rounding a difference, then exact steps."""
    return np.asarray(np.abs(x[:, None, :] - w[None, :, :]).max(-1), np.float32)


def linf_dist_argmax(x: Float32, w: Float32) -> npt.NDArray[np.int64]:
    """The lowest index of the maximum, by a plain scan."""
    index = np.zeros((len(x), len(w)), np.int64)
    for n, row in enumerate(x):
        for o, weights in enumerate(w):
            distances = [abs(a - b) for a, b in zip(row, weights, strict=True)]
            index[n, o] = distances.index(max(distances))
    return index


def linf_dist_conv(
    x: Float32, w: Float32, stride: tuple[int, int], pads: tuple[int, int, int, int], dilation: tuple[int, int]
) -> Float32:
    """One window after the other, cut out of an image with zeros around it."""
    above, left, below, right = pads
    padded = np.pad(x, ((0, 0), (0, 0), (above, below), (left, right)))
    spans = [step * (size - 1) + 1 for step, size in zip(dilation, w.shape[2:], strict=True)]
    starts = [
        range(0, size - span + 1, move) for size, span, move in zip(padded.shape[2:], spans, stride, strict=True)
    ]
    y = np.empty((len(x), len(w), len(starts[0]), len(starts[1])), np.float32)
    for row, top in enumerate(starts[0]):
        for column, start in enumerate(starts[1]):
            rows, columns = slice(top, top + spans[0], dilation[0]), slice(start, start + spans[1], dilation[1])
            window = padded[:, :, rows, columns]
            y[:, :, row, column] = linf_dist(window.reshape(len(x), w[0].size), w.reshape(len(w), w[0].size))
    return y


def linf_dist_grads(x: Float32, w: Float32, grad_y: Float32) -> tuple[Float64, Float64]:
    """Sends each output's gradient to the lowest maximal pair, with the sign of the difference, in float64."""
    index = linf_dist_argmax(x, w)
    grad_x, grad_w = np.zeros(x.shape), np.zeros(w.shape)
    for n in range(len(x)):
        for o in range(len(w)):
            i = index[n, o]
            signed = -float(grad_y[n, o]) if x[n, i] < w[o, i] else float(grad_y[n, o])
            grad_x[n, i] += signed
            grad_w[o, i] -= signed
    return grad_x, grad_w


def exact_linf_dist(x: list[Fraction], w: list[Fraction]) -> Fraction:
    """The real-number l_inf distance of two vectors."""
    return max(abs(a - b) for a, b in zip(x, w, strict=True))


def exact_linf_dist_conv(
    image: list[list[list[Fraction]]], filters: list[list[list[list[Fraction]]]], stride: int, padding: int
) -> list[list[list[Fraction]]]:
    """The real-number distances of every window of an image (C, H, W) to filters (O, C, k, k), (O, H', W')."""
    kernel, height, width = len(filters[0][0]), len(image[0]), len(image[0][0])

    def pixel(channel: int, row: int, column: int) -> Fraction:
        inside = 0 <= row < height and 0 <= column < width
        return image[channel][row][column] if inside else Fraction(0)

    def distance(weights: list[list[list[Fraction]]], top: int, left: int) -> Fraction:
        return max(
            abs(pixel(c, top + k, left + m) - weights[c][k][m])
            for c in range(len(image))
            for k in range(kernel)
            for m in range(kernel)
        )

    tops = range(-padding, height + padding - kernel + 1, stride)
    lefts = range(-padding, width + padding - kernel + 1, stride)
    return [[[distance(weights, top, left) for left in lefts] for top in tops] for weights in filters]


def sort_dist(x: Float32, w: Float32, c: Float32) -> Float32:
    """The definition, one term after the other: each product and each partial sum rounded to float32."""
    sorted_down = -np.sort(-np.abs(x[:, None, :] - w[None, :, :]), axis=-1)
    y = np.zeros(sorted_down.shape[:2], np.float32)
    for k, weight in enumerate(c):
        y = y + weight * sorted_down[:, :, k]
    return np.asarray(y, np.float32)


def exact_sort_dist(x: list[Fraction], w: list[Fraction], c: list[Fraction], grid: int) -> Fraction:
    """The real-number sorted distance of two vectors, rounded to a multiple of 2^-grid, halves upwards."""
    largest = sorted((abs(a - b) for a, b in zip(x, w, strict=True)), reverse=True)
    total = sum((weight * value for weight, value in zip(c, largest, strict=False)), Fraction(0))
    return Fraction((total * 2**grid + Fraction(1, 2)).__floor__(), 2**grid)


def exact_net(
    x: list[Fraction], layers: list[tuple[list[list[Fraction]], list[Fraction] | None, list[Fraction] | None]]
) -> list[Fraction]:
    """The real-number net: per layer distances to the rows of w, minus means, plus biases; logits are negated."""
    for weight, mean, bias in layers:
        x = [
            exact_linf_dist(x, row) - (mean[o] if mean else 0) + (bias[o] if bias else 0)
            for o, row in enumerate(weight)
        ]
    return [-value for value in x]


def lp_dist(x: torch.Tensor, w: torch.Tensor, p: float) -> torch.Tensor:
    """The textbook definition in plain torch, made safe for large p by dividing by the largest term."""
    d = (x.unsqueeze(1) - w.unsqueeze(0)).abs()
    largest = d.amax(-1, keepdim=True).detach().clamp_min(torch.finfo(d.dtype).tiny)
    return ((d / largest) ** p).sum(-1) ** (1 / p) * largest.squeeze(-1)


def lp_dist_float64(x: Float32, w: Float32, p: float) -> Float64:
    """`lp_dist` in float64, rows that coincide included."""
    y = lp_dist(torch.from_numpy(x.astype(np.float64)), torch.from_numpy(w.astype(np.float64)), p)
    return np.asarray(y.numpy(), np.float64)


def lp_dist_grads(x: Float32, w: Float32, p: float, grad_y: Float32) -> tuple[Float64, Float64]:
    """Autograd of the definition in float64; pairs of equal rows are left out, as their gradient is taken as 0."""
    x64 = torch.from_numpy(x.astype(np.float64)).requires_grad_()
    w64 = torch.from_numpy(w.astype(np.float64)).requires_grad_()
    apart = (x64.unsqueeze(1) != w64.unsqueeze(0)).any(-1)
    y = lp_dist(x64, w64, p)[apart]
    y.backward(torch.from_numpy(grad_y.astype(np.float64))[apart])  # type: ignore[no-untyped-call]
    assert x64.grad is not None
    assert w64.grad is not None
    return x64.grad.numpy(), w64.grad.numpy()


def awkward_float32(rng: np.random.Generator, shape: tuple[int, ...]) -> Float32:
    """Finite numbers that find shortcuts: all exponents, denormals, both zeros, small integers that tie."""
    random_bits = rng.integers(0, 2**32, shape, dtype=np.uint32)
    # Exponents up to 2^126, so that no difference overflows.
    exponent = rng.integers(0, 254, shape, dtype=np.uint32) << np.uint32(23)
    wild = ((random_bits & np.uint32(0x807FFFFF)) | exponent).view(np.float32)
    denormal = (random_bits & np.uint32(0x807FFFFF)).view(np.float32)
    zero = (random_bits & np.uint32(0x80000000)).view(np.float32)
    small = rng.integers(-3, 4, shape).astype(np.float32)
    normal = rng.standard_normal(shape).astype(np.float32)
    kind = rng.integers(0, 5, shape)
    return np.choose(kind, [wild, denormal, zero, small, normal]).astype(np.float32)
