# SPDX-License-Identifier: Apache-2.0
"""Boundary cases of other kinds: boxes of all floats within some ulp, and linear heads."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt
from boundary_tally import Tally, tally_of
from heads import ORDERS, logits_of, random_head

from linfdeploy.engines.reference import ReferenceEngine
from linfdeploy.onnx.pixel_net import PixelLayer, PixelNet
from linfdeploy.verify import certificates, joint
from linfdeploy.verify import head as head_module
from linfdeploy.verify.head import ARITHMETICS, MlpHead

__all__ = ["HEADS", "ULP_CASES", "head_tally", "ulp_tally"]

ULP_CASES = 10_000
HEADS = 40_000
STEPS = 4
# Of the order of what sums of these sizes lose.
LOST = {"fp32": 2.0**-23, "fp16": 2.0**-11}


def ulp_tally(seed: int, share: float = 1.0) -> list[Tally]:
    """Certifies last layers over boxes of two floats, 4 ulp to each side, and runs every point of the box."""
    return [
        tally_of(f"{name}, every float within {STEPS} ulp", _ulp_rows(dtype, rng, round(ULP_CASES * share / 2)))
        for name, dtype, rng in (
            ("fp32", np.float32, np.random.default_rng([seed, 100])),
            ("fp16", np.float16, np.random.default_rng([seed, 101])),
        )
    ]


def _ulp_rows(dtype: Any, rng: np.random.Generator, cases: int) -> dict[str, npt.NDArray[np.bool_]]:
    rows: dict[str, list[bool]] = {"broken": [], "naive": [], "I": [], "J": []}
    label = np.zeros(1, np.int64)
    for _ in range(cases):
        weight, bias, points, naive = _planted(dtype, rng)
        net = PixelNet((1, 1, 2), (PixelLayer(weight, bias),), None)
        box = points.min(0)[None].astype(np.float32), points.max(0)[None].astype(np.float32)
        logits = ReferenceEngine(net).last_bounds(*box)
        distance = np.abs(points[:, None] - weight).max(2) + bias
        rows["broken"].append(not (distance[:, 0] < distance[:, 1]).all())
        rows["naive"].append(naive)
        rows["I"].append(bool(certificates.gaps(*logits, label)[0] > 0))
        rows["J"].append(bool(joint.JointBound.of(net, exact=False).gaps(box, logits, label)[0] > 0))
    return {name: np.array(values, bool) for name, values in rows.items()}


def _planted(dtype: Any, rng: np.random.Generator) -> tuple[Any, Any, Any, bool]:
    """Returns weights, biases, every point of a box, and whether class 0 wins there in real arithmetic."""
    centre = rng.uniform(60, 70, 2).astype(dtype)
    weight = (centre + rng.choice([-1, 1], (2, 2)) * rng.uniform(100, 300, (2, 2))).astype(dtype)
    bias = rng.uniform(-8, 8, 2).astype(dtype)
    unit = np.spacing(centre)
    axes = [
        value + step * np.arange(-STEPS, STEPS + 1).astype(dtype) for value, step in zip(centre, unit, strict=True)
    ]
    points = np.array(list(product(*axes)), dtype)
    wide = np.abs(points[:, None].astype(np.float64) - weight).max(2)
    target = bias[0].astype(np.float64) + (wide[:, 0] - wide[:, 1]).max()
    bias[1] = dtype(target) + dtype(rng.integers(-2, 4)) * np.spacing(np.abs(dtype(target)))
    return weight, bias, points, bool(bias[1].astype(np.float64) > target)


def head_tally(seed: int, share: float = 1.0) -> list[Tally]:
    """Certifies heads whose real lead over a box is nearly 0, and runs them at its corners in several orders."""
    rng = np.random.default_rng([seed, 102])
    per_kind = round(HEADS * share / 2)
    return [tally_of(f"{kind} heads", _head_rows(kind, rng, per_kind)) for kind in ("fp32", "fp16")]


def _head_rows(kind: str, rng: np.random.Generator, cases: int) -> dict[str, npt.NDArray[np.bool_]]:
    rows: dict[str, list[bool]] = {"broken": [], "naive": [], "H": []}
    dtype: Any = np.float16 if kind == "fp16" else np.float32
    label = np.zeros(1, np.int64)
    orders = [ORDERS[name] for name in ("forward", "shuffled", "largest first", "fused", "product")]
    for index in range(cases):
        sizes = (8, 3) if index % 2 else (8, 6, 3)
        head = random_head(sizes, rng, dtype, "clamp" if index % 4 < 2 else "tanh")
        centre = rng.uniform(-1, 1, (1, 8)).astype(np.float16).astype(np.float32)
        radius = np.float32(rng.choice([0.0, 0.0, 2.0**-20, 2.0**-9]))
        box = centre - radius, centre + radius
        head = _on_the_edge(head, box, rng.uniform(-1, rng.choice([2, 40])) * LOST[kind])
        gap = head_module.head_gaps(head, box, label, ARITHMETICS[kind])
        points = np.where(rng.random((24, 8)) < 0.5, *box)
        points[-6:] = centre
        logits = np.concatenate([logits_of(head, points, order, rng, kind) for order in orders])
        rows["broken"].append(bool((logits[:, 0] <= logits[:, 1:].max(1)).any()))
        rows["naive"].append(bool(head_module.head_gaps(head, box, label, _REAL)[0] > 0))
        rows["H"].append(bool(gap[0] > 0))
    return {name: np.array(values, bool) for name, values in rows.items()}


_REAL = head_module.HeadArithmetic("real", 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1e300)


def _on_the_edge(head: MlpHead, box: tuple[Any, Any], wanted: float) -> MlpHead:
    """Moves class 0's last bias so that its real lead over the box is about what is wanted."""
    lead = float(head_module.head_gaps(head, box, np.zeros(1, np.int64), _REAL)[0])
    bias = head.biases[-1].copy()
    bias[0] = float(bias[0]) - lead + wanted
    return MlpHead(head.weights, (*head.biases[:-1], bias), head.activation)
