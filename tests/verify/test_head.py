# SPDX-License-Identifier: Apache-2.0
"""Bounds of heads against exact rationals, and against float32 sums in many orders."""

from __future__ import annotations

import re
from dataclasses import replace
from fractions import Fraction
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from heads import MATRIX_UNIT, ORDERS, exact_logits, logits_of, random_head

from linfdeploy.errors import InputError
from linfdeploy.verify import head as head_module
from linfdeploy.verify.head import ARITHMETICS, Activation, HeadArithmetic, MlpHead, arithmetic_of, head_gaps

REAL = HeadArithmetic("real", 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1e300)
SIZES = (24, 12, 4)


def single(values: Any) -> npt.NDArray[np.float32]:
    return np.array(values, np.float32)


def leads(logits: npt.NDArray[np.float64], labels: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    rows = np.arange(len(labels))
    others = logits.copy()
    others[rows, labels] = -np.inf
    lead: npt.NDArray[np.float64] = logits[rows, labels] - others.max(1)
    return lead


@pytest.mark.parametrize("activation", ["tanh", "clamp"])
@pytest.mark.parametrize("kind", ARITHMETICS)
@pytest.mark.parametrize("radius", [0.0, 1e-7, 1e-3, 0.3])
def test_no_order_of_summation_falls_below_the_bound(kind: str, radius: float, activation: Activation) -> None:
    rng, arithmetic = np.random.default_rng(5), ARITHMETICS[kind]
    dtype = np.float16 if kind == "fp16" else np.float32
    orders = [MATRIX_UNIT] if kind == "tf32" else [*ORDERS.values(), *([MATRIX_UNIT] if kind == "fp16" else [])]
    for _ in range(12):
        head = random_head(SIZES, rng, dtype, activation)
        centre = rng.uniform(-3, 3, (30, SIZES[0])).astype(np.float32)
        box = centre - np.float32(radius), centre + np.float32(radius)
        labels = logits_of(head, centre, ORDERS["product"], rng, kind).argmax(1)
        bound = head_gaps(head, box, labels, arithmetic)
        for add_up, corner in product(orders, range(3)):
            ends = box[0], box[1], np.where(rng.random(centre.shape) < 0.5, *box)
            found = leads(logits_of(head, ends[corner], add_up, rng, kind), labels)
            assert (found >= bound).all()


@pytest.mark.parametrize("radius", [0.0, 0.25, 1.0])
def test_real_bounds_hold_in_rationals_and_are_tight_for_one_layer(radius: float) -> None:
    rng = np.random.default_rng(2)
    for sizes in ((6, 3), (6, 5, 3)):
        head = random_head(sizes, rng, np.float32, "clamp")
        centre = single(np.round(rng.uniform(-2, 2, (20, 6)) * 8) / 8)
        box = centre - np.float32(radius), centre + np.float32(radius)
        labels = rng.integers(0, 3, 20)
        bound = head_gaps(head, box, labels, REAL)
        for low, high, label, least in zip(*box, labels.tolist(), bound.tolist(), strict=True):
            corners = list(product(*zip(low.tolist(), high.tolist(), strict=True)))[:: 1 if len(sizes) == 2 else 7]
            found = [exact_logits(head, list(map(Fraction, corner))) for corner in corners]
            worst = min(logits[label] - max(logits[:label] + logits[label + 1 :]) for logits in found)
            assert worst >= Fraction(least)
            if len(sizes) == 2:
                # The difference from each class alone is attained at a corner.
                assert float(worst) - least < 1e-12


def test_a_point_has_a_bound_that_is_not_idle() -> None:
    rng = np.random.default_rng(1)
    head = random_head((512, 512, 10), rng, np.float32, "tanh")
    z = rng.uniform(-1, 1, (20, 512)).astype(np.float32)
    logits = logits_of(head, z, ORDERS["product"], rng)
    labels = logits.argmax(1)
    for kind, width in (("fp32", 1e-2), ("tf32", 2.0)):
        assert (leads(logits, labels) - head_gaps(head, (z, z), labels, ARITHMETICS[kind]) < width).all()


def test_the_rounding_of_long_sums_is_needed() -> None:
    # 1 + 2^-24 + 2^-24 + ...: each addition to 1 is lost; added up first they count. The other class has 1 alone.
    terms = 257
    weight = np.zeros((2, terms), np.float32)
    weight[0, :], weight[0, 0], weight[1, 0] = 2.0**-24, 1, 1
    head = MlpHead((weight,), (np.zeros(2, np.float32),), "tanh")
    z = np.ones((1, terms), np.float32)
    rng, label = np.random.default_rng(0), np.zeros(1, np.int64)
    lost = logits_of(head, z, ORDERS["forward"], rng)
    assert lost[0, 0] == lost[0, 1]
    assert head_gaps(head, (z, z), label, REAL)[0] > 0
    assert head_gaps(head, (z, z), label, ARITHMETICS["fp32"])[0] <= 0


@pytest.mark.parametrize("kind", ARITHMETICS)
def test_ties_and_constant_heads_have_no_gap(kind: str) -> None:
    rng = np.random.default_rng(4)
    dtype: Any = np.float16 if kind == "fp16" else np.float32
    row = rng.normal(size=(1, 5)).astype(dtype)
    z = rng.normal(size=(7, 5)).astype(np.float32)
    tied = MlpHead((np.repeat(row, 3, 0),), (np.full(3, 1, dtype),), "tanh")
    assert (head_gaps(tied, (z, z), np.zeros(7, np.int64), ARITHMETICS[kind]) <= 0).all()
    # A bias of 2^14 and more absorbs a difference of a thousandth.
    bias: Any = np.array([2.0**14, 2.0**14, 0], dtype)
    weight: Any = np.array([[0.001] * 5, [0] * 5, [0] * 5], dtype)
    absorbed = MlpHead((weight,), (bias,), "tanh")
    one = np.full((1, 5), 0.01, np.float32)
    assert head_gaps(absorbed, (one, one), np.zeros(1, np.int64), ARITHMETICS[kind])[0] <= 0


def test_what_may_overflow_or_is_not_finite_has_no_gap() -> None:
    head = MlpHead((np.full((2, 1), 200, np.float16),), (np.array([9, 0], np.float16),), "tanh")
    z, label = single([[100], [400], [np.inf], [np.nan]]), np.zeros(4, np.int64)
    for kind in ARITHMETICS:
        found = head_gaps(head, (z, z), label, ARITHMETICS[kind])
        assert np.isneginf(found[2:]).all()
        assert np.isneginf(found[1]) == (kind == "fp16")
    huge = MlpHead((np.full((2, 2), 3e38, np.float32),), (np.array([9, 0], np.float32),), "tanh")
    assert np.isneginf(head_gaps(huge, (single([[9, 9]]),) * 2, label[:1], ARITHMETICS["fp32"])).all()


def test_too_many_terms_have_an_infinite_error() -> None:
    assert head_module._gamma(2**23, 2.0**-24) == float("inf")
    assert Fraction(head_module._gamma(3, 2.0**-24)) >= Fraction(3, 2**24) / (1 - Fraction(3, 2**24))


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    head = random_head(SIZES, rng, np.float32, "tanh")
    z = rng.normal(size=(23, SIZES[0])).astype(np.float32)
    labels = rng.integers(0, SIZES[-1], 23)
    whole = head_gaps(head, (z, z), labels, ARITHMETICS["fp32"])
    monkeypatch.setattr("linfdeploy.verify.head.CELLS", 1)
    assert head_gaps(head, (z, z), labels, ARITHMETICS["fp32"]) == pytest.approx(whole, abs=1e-12)
    assert head_gaps(head, (z[:0], z[:0]), labels[:0], ARITHMETICS["fp32"]).shape == (0,)


@pytest.mark.parametrize("name", ["fp16-accumulate", "bf16", ""])
def test_an_arithmetic_that_is_not_bounded_is_refused(name: str) -> None:
    message = (
        f"the head's arithmetic is {name!r}; expected fp32, tf32, fp16, whose sums are float32: "
        "build the engine so that it adds up in float32"
    )
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        arithmetic_of(name)
    assert arithmetic_of("tf32").name == "tf32"


def test_weights_that_the_engine_would_round_are_refused() -> None:
    head = random_head(SIZES, np.random.default_rng(0), np.float32, "tanh")
    z, message = (
        np.zeros((1, SIZES[0]), np.float32),
        (
            "the head's weights are float32 and its arithmetic is fp16; expected float16 weights: "
            "bound the head with the weights that the engine holds"
        ),
    )
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        head_gaps(head, (z, z), np.zeros(1, np.int64), ARITHMETICS["fp16"])


@pytest.mark.parametrize(
    ("weights", "biases", "message"),
    [
        (
            (),
            (),
            "the head has 0 weights and 0 biases; expected as many of each, at least one: give every layer both",
        ),
        (
            (np.zeros((3, 2)), np.zeros((2, 4))),
            (np.zeros(3), np.zeros(2)),
            "layer 1 of the head has weights (2, 4) and biases (2,); expected (O, 3) and (O,): "
            "check the order of the layers",
        ),
        ((np.full((1, 2), np.nan),), (np.zeros(1),), "layer 0 of the head is not finite: check the checkpoint"),
    ],
)
def test_layers_that_do_not_fit_are_refused(weights: Any, biases: Any, message: str) -> None:
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        MlpHead(weights, biases, "tanh")


def test_every_error_term_counts() -> None:
    rng = np.random.default_rng(9)
    head = random_head(SIZES, rng, np.float16, "tanh")
    z = rng.normal(size=(5, SIZES[0])).astype(np.float32)
    labels = rng.integers(0, SIZES[-1], 5)
    bare = head_gaps(head, (z, z), labels, REAL)
    for part in ("unit", "operand", "store", "activation", "flush", "store_flush"):
        parts: dict[str, Any] = {part: 1e-3, **({"store": 1e-3} if part == "store_flush" else {})}
        more = replace(REAL, **parts)
        assert (head_gaps(head, (z, z), labels, more) < bare).all(), part
