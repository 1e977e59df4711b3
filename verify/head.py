# SPDX-License-Identifier: Apache-2.0
"""Bounds for linear layers behind distance features, as an engine may compute them, in whatever order it sums.

Guarantees, for every vector of computed features `z` with `lower <= z <= upper`:

    computed logit of y at z  >  computed logit of j at z   for every other class j,   where  head_gaps(...) > 0

for every order and parenthesisation of the sums, with or without FMA, within the errors that `HeadArithmetic`
names, and with `low, high = head_bounds(...)` that every computed logit lies in `[low, high]`. Bounds are real
intervals, evaluated in float64 and widened by its own errors; computed values are real ones and an error bound:
section 11 of docs/theory.md. Intervals are never continued through products as the engine rounds them: sums in an
unknown order are not monotone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from linfdeploy.engines.base import Logits
from linfdeploy.errors import InputError
from linfdeploy.onnx.mlp_head import Activation, MlpHead

__all__ = [
    "ARITHMETICS",
    "REAL",
    "Activation",
    "HeadArithmetic",
    "MlpHead",
    "arithmetic_of",
    "head_bounds",
    "head_gaps",
]

Reals: TypeAlias = npt.NDArray[np.float64]
Indices: TypeAlias = npt.NDArray[np.int64]
Flags: TypeAlias = npt.NDArray[np.bool_]

# Of float64; an entry of a product of matrices errs by less than this and 8 more for every term.
UNIT: float = 2.0**-52
MORE = 8
# numpy's tanh in float64 is good to a few ulp.
TANH = 2.0**-48
CELLS = 2**20


@dataclass(frozen=True)
class HeadArithmetic:
    """How far an engine's operations may be from exact.

    Attributes:
        name: `fp32`, `tf32` or `fp16`.
        unit: Error of each addition of two, relative to the sum of its operands' moduli, and of each product; an
            addition of k at once may err k - 1 times as much.
        operand: Relative error of each weight and each input as it enters a product.
        store: Relative error of a layer's result, and of the features, as they are stored.
        activation: Relative error of tanh. A clamp has none.
        flush: Absolute error of an operation that underflows or flushes to zero.
        store_flush: Absolute error of storing a result that underflows or is flushed.
        largest: Values from half of this on are taken to overflow.
    """

    name: str
    unit: float
    operand: float
    store: float
    activation: float
    flush: float
    store_flush: float
    largest: float


_TINY, _LARGEST = float(np.finfo(np.float32).smallest_normal), float(np.finfo(np.float32).max)
_HALF_TINY, _HALF_LARGEST = float(np.finfo(np.float16).smallest_normal), float(np.finfo(np.float16).max)

ARITHMETICS: Mapping[str, HeadArithmetic] = {
    # Round to nearest; tanh to 4 ulp, twice what CUDA's manual and common libraries grant.
    "fp32": HeadArithmetic("fp32", 2.0**-24, 0.0, 0.0, 2.0**-21, _TINY, 0.0, _LARGEST),
    # Operands are cut to 10 fraction bits. Matrix units add several terms at once and cut: two units of 2^-23.
    "tf32": HeadArithmetic("tf32", 2.0**-22, 2.0**-10, 0.0, 2.0**-21, _TINY, 0.0, _LARGEST),
    # Products of float16 are exact in float32, in which they are added up; results are stored in float16.
    "fp16": HeadArithmetic("fp16", 2.0**-22, 0.0, 2.0**-11, 2.0**-10, _TINY, _HALF_TINY, _HALF_LARGEST),
}
"""What is known to be bounded, by name."""


REAL = HeadArithmetic("real", 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, float("inf"))
"""Of no engine: the bounds are then those of the real head, widened by their own roundings alone."""


def arithmetic_of(name: str) -> HeadArithmetic:
    """Returns the arithmetic of a head by its name.

    Raises:
        InputError: It is none of `ARITHMETICS`; accumulation in float16 is not bounded usefully by any.
    """
    if name not in ARITHMETICS:
        raise InputError(
            f"the head's arithmetic is {name!r}; expected {', '.join(ARITHMETICS)}, whose sums are float32: "
            "build the engine so that it adds up in float32"
        )
    return ARITHMETICS[name]


def head_gaps(head: MlpHead, box: tuple[Logits, Logits], labels: Indices, arithmetic: HeadArithmetic) -> Reals:
    """Bounds from below by how much the label's computed logit exceeds every other, over boxes of features.

    Args:
        head: The layers.
        box: Lower and upper ends of the computed features, each (N, F).
        labels: (N,) the classes that should win.
        arithmetic: What the engine's operations may lose.

    Returns:
        (N,) float64; above 0 the label wins strictly. `-inf` where a value may overflow or an end is not finite.

    Raises:
        InputError: An engine of this arithmetic would have to round the weights first.
    """
    _check_weights(head, arithmetic)
    step = max(CELLS // head.weights[-1].size, 1)
    parts = [slice(i, i + step) for i in range(0, len(labels), step)]
    found = [_gaps(head, (box[0][part], box[1][part]), labels[part], arithmetic) for part in parts]
    return np.concatenate([*found, np.empty(0)])


def head_bounds(head: MlpHead, box: tuple[Logits, Logits], arithmetic: HeadArithmetic) -> tuple[Reals, Reals]:
    """Bounds every computed logit over boxes of features.

    Args:
        head: The layers.
        box: Lower and upper ends of the computed features, each (N, F).
        arithmetic: What the engine's operations may lose.

    Returns:
        Lower and upper ends, (N, K) float64 each; infinite where a value may overflow or an end is not finite.

    Raises:
        InputError: An engine of this arithmetic would have to round the weights first.
    """
    _check_weights(head, arithmetic)
    low, high, finite = _last_inputs(head, box, arithmetic)
    *_, (weight, bias) = _layers(head)
    finite &= (_magnitude(weight, bias, low, high) < arithmetic.largest / 2).all(1)
    error = _error(weight, bias, low, high, arithmetic)
    low, high = _linear(weight, bias, low, high)
    low, high = np.nextafter(low - error, -np.inf), np.nextafter(high + error, np.inf)
    low[~finite], high[~finite] = -np.inf, np.inf
    return low, high


def _check_weights(head: MlpHead, arithmetic: HeadArithmetic) -> None:
    if arithmetic.store and any(weight.dtype != np.float16 for weight in head.weights):
        raise InputError(
            f"the head's weights are {head.weights[0].dtype} and its arithmetic is {arithmetic.name}; expected "
            "float16 weights: bound the head with the weights that the engine holds"
        )


def _gaps(head: MlpHead, box: tuple[Logits, Logits], labels: Indices, arithmetic: HeadArithmetic) -> Reals:
    low, high, finite = _last_inputs(head, box, arithmetic)
    *_, (weight, bias) = _layers(head)
    finite &= (_magnitude(weight, bias, low, high) < arithmetic.largest / 2).all(1)
    gap = _joint(weight, bias, (low, high), labels, arithmetic)
    gap[~finite] = -np.inf
    return gap


def _last_inputs(
    head: MlpHead, box: tuple[Logits, Logits], arithmetic: HeadArithmetic
) -> tuple[Reals, Reals, Flags]:
    """Bounds what enters the last layer, (N, I), and says, (N,), where that is finite so far."""
    low, high = (ends.astype(np.float64) for ends in box)
    finite = np.asarray(np.isfinite(np.stack([low, high])).all((0, 2)))
    low, high = (np.where(finite[:, None], ends, 0.0) for ends in (low, high))
    low, high = _stored(low, high, arithmetic)
    *hidden, _ = _layers(head)
    for w, b in hidden:
        error = _error(w, b, low, high, arithmetic)
        finite &= (_magnitude(w, b, low, high) < arithmetic.largest / 2).all(1)
        low, high = _linear(w, b, low, high)
        low, high = _stored(*_activated(low - error, high + error, head.activation, arithmetic), arithmetic)
    return low, high, finite


def _layers(head: MlpHead) -> Iterator[tuple[Reals, Reals]]:
    for weight, bias in zip(head.weights, head.biases, strict=True):
        yield weight.astype(np.float64), bias.astype(np.float64)


def _linear(weight: Reals, bias: Reals, low: Reals, high: Reals) -> tuple[Reals, Reals]:
    """Bounds the real `W z + b` over the box, each end rounded outward."""
    centre, radius = (low + high) / 2, (high - low) / 2
    middle, spread = centre @ weight.T + bias, radius @ np.abs(weight).T
    slack = _slack(weight) * 2 * _magnitude(weight, bias, low, high)
    return middle - spread - slack, middle + spread + slack


def _joint(
    weight: Reals, bias: Reals, box: tuple[Reals, Reals], labels: Indices, arithmetic: HeadArithmetic
) -> Reals:
    """Bounds the difference of two computed logits through the difference of their rows."""
    (low, high), rows = box, np.arange(len(labels))
    difference = weight[labels][:, None] - weight
    centre, radius = (low + high) / 2, (high - low) / 2
    middle = np.einsum("nkf,nf->nk", difference, centre) + (bias[labels][:, None] - bias)
    least = middle - np.einsum("nkf,nf->nk", np.abs(difference), radius)
    size = _magnitude(weight, bias, low, high)
    error = _error(weight, bias, low, high, arithmetic) + 4 * _slack(weight) * size
    least -= (error + error[rows, labels][:, None]) * (1 + UNIT * MORE)
    least[rows, labels] = np.inf
    gap: Reals = least.min(1)
    return gap


def _error(weight: Reals, bias: Reals, low: Reals, high: Reals, arithmetic: HeadArithmetic) -> Reals:
    """Bounds how far a computed sum is from the real one, (N, O): gamma_(n+1) of the sum of moduli, rounded up."""
    terms = weight.shape[1] + 1
    size = _magnitude(weight, bias, low, high)
    growth = _gamma(terms, arithmetic.unit) + 2 * arithmetic.operand + arithmetic.operand**2
    growth += 2 * arithmetic.operand * _gamma(terms, arithmetic.unit) * 2
    # Operands that are flushed cost up to the other operand times the smallest normal.
    others = np.maximum(np.abs(low), np.abs(high)).sum(1)[:, None] + np.abs(weight).sum(1) + 2 * terms + 1
    error: Reals = (growth * size + 2 * arithmetic.flush * others) * (1 + _slack(weight))
    if arithmetic.store:
        # The sum is stored before what comes next; equal stored logits tie.
        error = error + (arithmetic.store * (size + error) + arithmetic.store_flush) * (1 + MORE * UNIT)
    return error


def _gamma(terms: int, unit: float) -> float:
    """Returns `n u / (1 - n u)`, rounded up; infinite where that says nothing."""
    product = terms * unit
    return float("inf") if product >= 0.5 else float(product / (1 - product) * (1 + MORE * UNIT))


def _magnitude(weight: Reals, bias: Reals, low: Reals, high: Reals) -> Reals:
    """Returns at least `sum |w| |z| + |b|` over the box, (N, O)."""
    size: Reals = np.maximum(np.abs(low), np.abs(high)) @ np.abs(weight).T + np.abs(bias)
    return size * (1 + _slack(weight))


def _slack(weight: Reals) -> float:
    """Bounds float64's relative error of a sum over a row, with a few operations before and after."""
    terms: int = weight.shape[1]
    return (terms + MORE) * UNIT


def _activated(low: Reals, high: Reals, activation: Activation, arithmetic: HeadArithmetic) -> tuple[Reals, Reals]:
    """Bounds the computed activation; a computed tanh need not be monotone, the real one is."""
    if activation == "clamp":
        return np.clip(low, -1, 1), np.clip(high, -1, 1)
    return _widened(np.tanh(low), np.tanh(high), arithmetic.activation + TANH, arithmetic.flush)


def _stored(low: Reals, high: Reals, arithmetic: HeadArithmetic) -> tuple[Reals, Reals]:
    if not arithmetic.store:
        return low, high
    return _widened(low, high, arithmetic.store, arithmetic.store_flush)


def _widened(low: Reals, high: Reals, relative: float, absolute: float) -> tuple[Reals, Reals]:
    """Widens ends by `relative |v| + absolute`, rounded outward; `v + relative |v|` rises with v."""
    more = relative * (1 + MORE * UNIT)
    lower, upper = low - (more * np.abs(low) + 2 * absolute), high + (more * np.abs(high) + 2 * absolute)
    return np.nextafter(lower, -np.inf), np.nextafter(upper, np.inf)
