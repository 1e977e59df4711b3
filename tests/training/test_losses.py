# SPDX-License-Identifier: Apache-2.0
"""The loss against a loop in float64, gradients against finite differences."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
import torch

from linfdeploy.training.losses import clipped_hinge, mixture_loss

Array = npt.NDArray[np.float64]


def hinge_by_loop(logits: Array, labels: npt.NDArray[np.int64], eps: float) -> float:
    total = 0.0
    for row, label in zip(logits, labels, strict=True):
        worst = [1 + (value - row[label]) / (2 * eps) for j, value in enumerate(row) if j != label]
        total += max(min(max(value, 0.0), 1.0) for value in worst)
    return total / len(labels)


def cross_entropy_by_loop(logits: Array, labels: npt.NDArray[np.int64]) -> float:
    rows = zip(logits, labels, strict=True)
    return sum(math.log(sum(math.exp(value - row[label]) for value in row)) for row, label in rows) / len(labels)


def random_case(seed: int, classes: int = 10) -> tuple[Array, npt.NDArray[np.int64]]:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(17, classes)), rng.integers(0, classes, 17)


@pytest.mark.parametrize("eps", [0.05, 0.5, 3.0])
@pytest.mark.parametrize("classes", [2, 10])
def test_mixture_is_the_formula(eps: float, classes: int) -> None:
    logits, labels = random_case(1, classes)
    scale, weight = 2.5, 0.07
    found = mixture_loss(
        torch.from_numpy(logits), torch.from_numpy(labels), torch.tensor([scale], dtype=torch.float64), eps, weight
    )
    expected = weight * cross_entropy_by_loop(scale * logits, labels) + hinge_by_loop(logits, labels, eps)
    assert found.item() == pytest.approx(expected, rel=1e-12)


def test_hinge_is_zero_from_the_full_margin_on_and_one_at_a_tie() -> None:
    logits = torch.tensor([[1.0, 0.0], [0.5, 0.0], [0.0, 0.0], [0.0, 9.0]])
    each = [clipped_hinge(row[None], torch.tensor([0]), 0.5).item() for row in logits]
    assert each == [0.0, 0.5, 1.0, 1.0]


def test_a_misclassified_image_has_no_hinge_gradient() -> None:
    logits = torch.tensor([[0.0, 9.0, -1.0], [0.3, 0.0, -1.0]], requires_grad=True)
    clipped_hinge(logits, torch.tensor([0, 0]), 0.5).backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None
    assert logits.grad.tolist() == [[0.0, 0.0, 0.0], [-0.5, 0.5, 0.0]]


def test_gradient_is_that_of_finite_differences() -> None:
    logits, labels = random_case(2)
    tensors = (
        torch.tensor(logits, requires_grad=True),
        torch.tensor([1.7], dtype=torch.float64, requires_grad=True),
    )
    assert torch.autograd.gradcheck(lambda x, s: mixture_loss(x, torch.from_numpy(labels), s, 0.4, 0.1), tensors)


def test_the_scale_learns_through_the_cross_entropy_alone() -> None:
    logits, labels = random_case(3)
    scale = torch.ones(1, dtype=torch.float64, requires_grad=True)
    mixture_loss(torch.from_numpy(logits), torch.from_numpy(labels), scale, 0.4, 0.2).backward()  # type: ignore[no-untyped-call]
    step = 1e-6
    ends = [cross_entropy_by_loop((1 + sign * step) * logits, labels) for sign in (-1, 1)]
    assert scale.grad is not None
    assert scale.grad.item() == pytest.approx(0.2 * (ends[1] - ends[0]) / (2 * step), rel=1e-6)
