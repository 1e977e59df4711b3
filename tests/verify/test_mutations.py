# SPDX-License-Identifier: Apache-2.0
"""Faults planted in the verifier itself: each must show as a false certificate or a broken promise, and only it.

`findings` runs the boundary cases and the oracles below; without a fault it finds nothing.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from fractions import Fraction
from typing import Any
from unittest import mock

import numpy as np
import numpy.typing as npt
import pytest
from boundary_cases import CASES, Boundary, blocks_of
from boundary_special import head_tally, ulp_tally
from boundary_tally import each, stacked

from linfdeploy.engines.base import Images
from linfdeploy.engines.reference import ReferenceEngine
from linfdeploy.verify import certificates, radii
from linfdeploy.verify.head import HeadArithmetic
from linfdeploy.verify.joint import JointBound
from linfdeploy.verify.threat import Threat, ThreatModel, box_of, parse_eps

SEED = 77
# The last two differ from 8/255 by less than a float64 can tell.
CLOSE = "31372549015.999999999999/999999999885", "31372549016.000000000001/999999999885"
EPSILONS = "8/255", "0.3", "0.1", "1.5px", "7/255", "0.02", "29/255", "0.004", *CLOSE
MODELS: tuple[ThreatModel, ...] = ("pixels", "real")
VERIFY = "linfdeploy.verify"


@functools.cache
def blocks() -> tuple[Boundary, ...]:
    """Four hundred cases of each kind."""
    return tuple(next(blocks_of(family, SEED, 400 / family.cases)) for family in CASES)


def of(name: str) -> Boundary:
    return next(block for block in blocks() if block.family.name == name)


def first(block: Boundary, count: int) -> Boundary:
    """The first cases of a block."""
    parts = {name: getattr(block, name)[:count] for name in ("images", "levels", "ulps", "naive", "broken")}
    weights, biases = (tuple(a[:count] for a in part) for part in (block.weights, block.biases))
    return Boundary(block.family, weights, biases, label=0, counterexamples=block.counterexamples[:count], **parts)


def findings() -> Iterator[str]:
    """Yields what is wrong with the verifier, one line a fault that shows; what is quick comes first."""
    yield from boxes_that_miss()
    yield from deltas_that_fall()
    for block in blocks():
        rows = stacked(block)
        for name in ("E", "I", "J", "D"):
            if false := int((rows[name] & rows["broken"]).sum()):
                yield f"{name}: {false} false, {block.family.name}"
    for name in ("exact, one layer", "fp16, one layer"):
        rows = each(first(of(name), 100))
        for check in ("E", "I", "J", "D", "radii"):
            if false := int((rows[check] & rows["broken"]).sum()):
                yield f"{check}: {false} false one by one, {name}"
    for tally in [*ulp_tally(SEED, 0.02), *head_tally(SEED, 0.02)]:
        for name in ("I", "J", "H"):
            if false := tally.false.get(name, 0):
                yield f"{name}: {false} false, {tally.family}"


def boxes_that_miss() -> Iterator[str]:
    """A box holds what the attacker can reach, and nothing else."""
    every = np.arange(256, dtype=np.uint8).reshape(256, 1, 1, 1)
    for text in EPSILONS:
        eps = parse_eps(text)
        for model in MODELS:
            lower, upper = box_of(every, Threat(model, text, eps).levels)
            for pixel in range(256):
                low, high = max(Fraction(0), pixel - 255 * eps), min(Fraction(255), pixel + 255 * eps)
                ends = math.floor(low), math.ceil(high)
                if model == "pixels":
                    ends = math.ceil(low), math.floor(high)
                if (int(lower[pixel, 0, 0, 0]), int(upper[pixel, 0, 0, 0])) != ends:
                    yield f"box: {model} {text}"
                    break


def deltas_that_fall() -> Iterator[str]:
    """An engine within its promise, each logit off by up to delta and each run differently, takes what it can.

    In real arithmetic both distances move by the whole radius; the engine errs in class 0's favour at the image
    and against it at the counterexample.
    """
    for delta, levels in ((Fraction(1, 8), 3), (Fraction(5, 16), 1)):
        for margin in (2 * levels + steps * delta / 4 for steps in range(24)):
            measured = margin + 2 * delta
            falls = margin - 2 * levels - 2 * delta <= 0
            by_flag = bool(certificates.certified_by_margin([measured], levels, delta)[0])
            by_radius = radii.above(radii.margin_radii([measured], delta)[0]) >= levels
            if falls and (by_flag or by_radius):
                yield f"D: falls at a measured margin of {measured}"


def test_the_verifier_as_it_is_has_no_finding() -> None:
    assert list(findings()) == []


@dataclass(frozen=True)
class Mutation:
    """A fault: what is replaced by what, and how the finding that shows it begins."""

    shown: str
    patches: Callable[[], list[AbstractContextManager[Any]]]


def replaced(*pairs: tuple[str, Any]) -> list[AbstractContextManager[Any]]:
    return [mock.patch(f"{VERIFY}.{name}", value) for name, value in pairs]


def normalised_box(images: Images, levels: Any) -> tuple[Images, Images]:
    """The box as training code builds it: around the normalised image, with a rounded radius."""
    mean, std, one = np.float32(0.1307), np.float32(0.3081), np.float32(255)
    table = (np.arange(256, dtype=np.float32) / one - mean) / std
    reach = (np.asarray(levels).reshape(-1, 1, 1, 1).astype(np.float32) / one) / std
    z = table[images]
    lower, upper = np.searchsorted(table, z - reach), np.searchsorted(table, z + reach, side="right") - 1
    return np.minimum(lower, images).astype(np.uint8), np.maximum(upper, images).astype(np.uint8)


def unclipped_box(images: Images, levels: Any) -> tuple[Images, Images]:
    reach = np.asarray(levels, np.int16).reshape(-1, 1, 1, 1)
    return (images.astype(np.int16) - reach).astype(np.uint8), (images.astype(np.int16) + reach).astype(np.uint8)


def lenient_gaps(*args: Any) -> npt.NDArray[np.float64]:
    found = GAPS(*args)
    return np.where(found == 0, 5e-324, found)


def float_levels(threat: Threat) -> int:
    return (math.floor if threat.model == "pixels" else math.ceil)(float(threat.eps) * 255.0)


def negated_bias(engine: ReferenceEngine, low: Any, high: Any, index: int) -> tuple[Any, Any]:
    low, high = engine.distance_bounds(low, high, engine._weights[index])
    bias = engine._biases[index]
    return engine._add(low, -bias, index), engine._add(high, -bias, index)


def unrounded_bounds(engine: ReferenceEngine, low: Any, high: Any, index: int) -> tuple[Any, Any]:
    low, high = engine.distance_bounds(low, high, engine._weights[index])
    bias = engine._biases[index]
    return low + bias, high + bias


def no_error(weight: Any, bias: Any, low: Any, high: Any, arithmetic: HeadArithmetic) -> npt.NDArray[np.float64]:
    return np.zeros((len(low), len(bias)))


GAPS = certificates.gaps
BOTH_BOXES = "certificates.box_of", "threat.box_of"

MUTATIONS = {
    "box in normalised space": Mutation("I:", lambda: replaced(*((name, normalised_box) for name in BOTH_BOXES))),
    "box not clipped to the pixel range": Mutation(
        "I:", lambda: replaced(*((name, unclipped_box) for name in BOTH_BOXES))
    ),
    "intervals that may touch": Mutation("I:", lambda: replaced(("certificates.gaps", lenient_gaps))),
    "radius that is reached": Mutation(
        "E:", lambda: replaced(("radii.above", math.floor), ("certificates.above", math.floor))
    ),
    "margin that may equal the threshold": Mutation(
        "E:",
        lambda: replaced(
            (
                "certificates.certified_by_margin",
                lambda margins, levels, delta: np.array([m >= 2 * levels + 4 * delta for m in margins], bool),
            )
        ),
    ),
    "bias with the wrong sign": Mutation(
        "I:", lambda: [mock.patch.object(ReferenceEngine, "_layer_bounds", negated_bias)]
    ),
    "bounds without the engine's roundings": Mutation(
        "I:", lambda: [mock.patch.object(ReferenceEngine, "_layer_bounds", unrounded_bounds)]
    ),
    "head without rounding errors": Mutation("H:", lambda: replaced(("head._error", no_error))),
    "joint bound without its guard": Mutation(
        "J:", lambda: [mock.patch.object(JointBound, "_guard", lambda self, low, *_: np.zeros(len(low)))]
    ),
    "one delta in place of four": Mutation(
        "D:",
        lambda: replaced(
            (
                "certificates.certified_by_margin",
                lambda margins, levels, delta: np.array([m > 2 * levels + delta for m in margins], bool),
            )
        ),
    ),
    "one delta in place of four, in radii": Mutation(
        "D:",
        lambda: replaced(("radii.margin_radii", lambda margins, delta: [(m - delta) / 2 for m in margins])),
    ),
    "eps as a float": Mutation("box: real", lambda: replaced(("threat.Threat.levels", property(float_levels)))),
    "eps rounded to nearest": Mutation(
        "box: real",
        lambda: replaced(("threat.Threat.levels", property(lambda threat: round(255 * threat.eps)))),
    ),
    "eps of 0.3 rounded up to 77 levels": Mutation(
        "box: pixels 0.3",
        lambda: replaced(("threat.Threat.levels", property(lambda threat: math.ceil(255 * threat.eps)))),
    ),
    "eps rounded down for the camera": Mutation(
        "box: real",
        lambda: replaced(("threat.Threat.levels", property(lambda threat: math.floor(255 * threat.eps)))),
    ),
}


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_fault_in_the_verifier_is_found(name: str) -> None:
    mutation = MUTATIONS[name]
    with ExitStack() as planted:
        for patch in mutation.patches():
            planted.enter_context(patch)
        # The first finding is enough, so that most of these are quick.
        assert any(finding.startswith(mutation.shown) for finding in findings())
