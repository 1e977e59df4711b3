# SPDX-License-Identifier: Apache-2.0
"""Random heads, and the ways in which engines add up."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from fractions import Fraction
from itertools import pairwise
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from linfdeploy.verify.head import Activation, MlpHead

__all__ = ["ORDERS", "exact_logits", "logits_of", "random_head", "tf32"]

Singles: TypeAlias = npt.NDArray[np.float32]
Sum: TypeAlias = Callable[[Singles, Singles, Singles, np.random.Generator], Singles]


def random_head(sizes: tuple[int, ...], rng: np.random.Generator, dtype: Any, activation: Activation) -> MlpHead:
    """A head as the papers initialise it: normal weights over the root of the inputs."""
    pairs = list(pairwise(sizes))
    weights = [(rng.normal(size=(o, i)) / np.sqrt(i)).astype(dtype) for i, o in pairs]
    biases = [rng.normal(size=o).astype(dtype) * dtype(0.1) for _, o in pairs]
    return MlpHead(tuple(weights), tuple(biases), activation)


def _forward(w: Singles, z: Singles, b: Singles, rng: np.random.Generator) -> Singles:
    total = np.broadcast_to(b, (len(z), len(b))).copy()
    for i in range(w.shape[1]):
        total += z[:, i : i + 1] * w[:, i]
    return total


def _shuffled(w: Singles, z: Singles, b: Singles, rng: np.random.Generator) -> Singles:
    order = rng.permutation(w.shape[1])
    return _forward(w[:, order], z[:, order], np.zeros_like(b), rng) + b


def _largest_first(w: Singles, z: Singles, b: Singles, rng: np.random.Generator) -> Singles:
    order = np.argsort(-np.abs(w).sum(0))
    return _forward(w[:, order], z[:, order], b, rng)


def _fused(w: Singles, z: Singles, b: Singles, rng: np.random.Generator) -> Singles:
    total = np.broadcast_to(b, (len(z), len(b))).copy()
    for i in range(w.shape[1]):
        # The product of two float32 is exact in float64.
        wide = z[:, i : i + 1].astype(np.float64) * w[:, i] + total
        total = wide.astype(np.float32)
    return total


def _pairwise(w: Singles, z: Singles, b: Singles, rng: np.random.Generator) -> Singles:
    terms = z[:, None] * w
    while terms.shape[2] > 1:
        if terms.shape[2] % 2:
            terms = np.concatenate([terms, np.zeros_like(terms[..., :1])], 2)
        terms = terms[..., ::2] + terms[..., 1::2]
    return terms[..., 0] + b


def _matrix_unit(w: Singles, z: Singles, b: Singles, rng: np.random.Generator) -> Singles:
    """Four terms and the sum at once, cut to 24 bits of the largest of them."""
    total = np.broadcast_to(b, (len(z), len(b))).astype(np.float64)
    products = z[:, None].astype(np.float64) * w
    for i in range(0, w.shape[1], 4):
        terms = np.concatenate([total[..., None], products[..., i : i + 4]], 2)
        unit = 2.0 ** (np.frexp(np.abs(terms).max(2, keepdims=True))[1] - 24)
        total = (np.trunc(terms / unit) * unit).sum(2).astype(np.float32).astype(np.float64)
    return total.astype(np.float32)


def _product(w: Singles, z: Singles, b: Singles, rng: np.random.Generator) -> Singles:
    return z @ w.T + b


ORDERS: Mapping[str, Sum] = {
    "forward": _forward,
    "shuffled": _shuffled,
    "largest first": _largest_first,
    "fused": _fused,
    "pairwise": _pairwise,
    "product": _product,
}
"""Ways to add up in float32, to nearest."""

MATRIX_UNIT = _matrix_unit


def tf32(values: Singles) -> Singles:
    """Cuts to 10 fraction bits."""
    return (np.ascontiguousarray(values).view(np.uint32) & np.uint32(0xFFFFE000)).view(np.float32)


def logits_of(
    head: MlpHead, z: Singles, add_up: Sum, rng: np.random.Generator, kind: str = "fp32"
) -> npt.NDArray[np.float64]:
    """Computes a head in float32 sums, with a tanh that is off by up to 2 ulp at random."""
    half = kind == "fp16"

    def stored(values: Singles) -> Singles:
        return values.astype(np.float16).astype(np.float32) if half else values

    z = stored(z.astype(np.float32))
    for index, (weight, bias) in enumerate(zip(head.weights, head.biases, strict=True)):
        w, b = weight.astype(np.float32), bias.astype(np.float32)
        z = stored(add_up(*((tf32(w), tf32(z)) if kind == "tf32" else (w, z)), b, rng))
        if index < len(head.weights) - 1:
            z = stored(_activated(z, head.activation, rng))
    return z.astype(np.float64)


def _activated(z: Singles, activation: Activation, rng: np.random.Generator) -> Singles:
    if activation == "clamp":
        return np.clip(z, np.float32(-1), np.float32(1))
    right = np.tanh(z.astype(np.float64)).astype(np.float32)
    return right + rng.integers(-2, 3, right.shape).astype(np.float32) * np.spacing(right)


def exact_logits(head: MlpHead, z: list[Fraction]) -> list[Fraction]:
    """Computes a head with clamps in rationals."""
    assert head.activation == "clamp"
    for index, (weight, bias) in enumerate(zip(head.weights, head.biases, strict=True)):
        z = [
            sum((Fraction(w) * a for w, a in zip(row, z, strict=True)), Fraction(b))
            for row, b in zip(weight.tolist(), bias.tolist(), strict=True)
        ]
        if index < len(head.weights) - 1:
            z = [min(max(value, Fraction(-1)), Fraction(1)) for value in z]
    return z
