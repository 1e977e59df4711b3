# SPDX-License-Identifier: Apache-2.0
"""Attacks stay inside the box, follow the deployed net's own bits, and find what is there."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from boundary_cases import Family, boundary_cases, net_of
from pixel_nets import random_images, random_net

from linfdeploy.engines.reference import ReferenceEngine
from linfdeploy.onnx.pixel_net import Precision
from linfdeploy.verify.attacks import ATTACKS, AttackPlan, Attempt, Twin, run_attack
from linfdeploy.verify.draws import Draws
from linfdeploy.verify.threat import box_of

PLAN = AttackPlan(10, 2, 15)


def attempts(precision: Precision, levels: int, seed: int = 0, classes: int = 5) -> list[Attempt]:
    net = random_net((12, 9, classes), precision, 1)
    images = random_images(net, 40, 1)
    labels = ReferenceEngine(net).run(images).argmax(1)
    return list(run_attack(net, images, labels, levels, PLAN, Draws(seed, np.arange(40))))


@pytest.mark.parametrize("precision", ["exact", "fp32", "fp16"])
@pytest.mark.parametrize("levels", [1, 3, 26, 255])
def test_images_stay_in_the_box_exactly(precision: Precision, levels: int) -> None:
    net = random_net((12, 9, 5), precision, 1)
    lower, upper = box_of(random_images(net, 40, 1), levels)
    found = attempts(precision, levels)
    assert [attempt.name for attempt in found] == [
        "PGD-10",
        "targeted PGD-15, class rank 2",
        "targeted PGD-15, class rank 3",
    ]
    for attempt in found:
        assert attempt.images.dtype == np.uint8
        assert ((attempt.images >= lower) & (attempt.images <= upper)).all()


@pytest.mark.parametrize("precision", ["exact", "fp32"])
def test_the_twin_computes_the_evaluators_bits(precision: Precision) -> None:
    for seed in range(5):
        net = random_net((12, 30, 20, 5), precision, seed)
        images = random_images(net, 100, seed)
        twin = Twin(net).logits(torch.from_numpy(images.reshape(100, -1).astype(np.float32)))
        assert np.array_equal(twin.numpy().view(np.uint32), ReferenceEngine(net).run(images).view(np.uint32))


def test_the_relaxation_approaches_the_net() -> None:
    net = random_net((12, 9, 5), "exact", 0)
    x = torch.from_numpy(random_images(net, 20, 0).reshape(20, -1).astype(np.float32))
    twin = Twin(net)
    gaps = [float((twin.logits(x, p) - twin.logits(x)).abs().max()) for p in (6.0, 50.0, 1000.0)]
    assert gaps[0] > gaps[1] > gaps[2]
    assert gaps[2] < 2


def test_the_same_seed_gives_the_same_images_and_another_seed_others() -> None:
    first, again, other = attempts("exact", 8), attempts("exact", 8), attempts("exact", 8, seed=1)
    for a, b in zip(first, again, strict=True):
        assert np.array_equal(a.images, b.images)
        assert (a.kept is None) == (b.kept is None)
        assert a.kept is None or b.kept is None or np.array_equal(a.kept, b.kept)
    assert any(not np.array_equal(a.images, b.images) for a, b in zip(first, other, strict=True))


def test_only_the_untargeted_attack_has_a_curve_and_its_end_is_the_last_image() -> None:
    found = attempts("exact", 1)
    net = random_net((12, 9, 5), "exact", 1)
    labels = ReferenceEngine(net).run(random_images(net, 40, 1)).argmax(1)
    assert found[0].kept is not None
    assert found[0].kept.shape == (40, PLAN.steps)
    assert np.array_equal(found[0].kept[:, -1], ReferenceEngine(net).run(found[0].images).argmax(1) == labels)
    assert all(attempt.kept is None for attempt in found[1:])


@pytest.mark.parametrize("rows", [slice(0, 1), slice(7, 30), np.array([3, 39, 11])])
def test_what_happens_to_an_image_depends_on_no_other(rows: slice) -> None:
    net = random_net((12, 9, 5), "fp32", 1)
    images = random_images(net, 40, 1)
    labels = ReferenceEngine(net).run(images).argmax(1)
    draws = Draws(0, np.arange(40))
    some = run_attack(net, images[rows], labels[rows], 8, PLAN, draws.of(rows))
    for part, whole in zip(some, attempts("fp32", 8), strict=True):
        assert np.array_equal(part.images, whole.images[rows])
        assert part.kept is None or whole.kept is None or np.array_equal(part.kept, whole.kept[rows])


def test_two_classes_leave_one_target() -> None:
    assert len(attempts("exact", 8, classes=2)) == 2


def test_the_whole_pixel_range_leaves_nothing_standing() -> None:
    net = random_net((12, 9, 5), "exact", 1)
    images = random_images(net, 40, 1)
    labels = ReferenceEngine(net).run(images).argmax(1)
    fallen = np.zeros(40, bool)
    for attempt in run_attack(net, images, labels, 255, ATTACKS["standard"], Draws(0, np.arange(40))):
        fallen |= ReferenceEngine(net).run(attempt.images).argmax(1) != labels
    assert fallen.mean() > 0.8


def test_the_targeted_attack_finds_planted_counterexamples() -> None:
    # One-layer nets whose margin is twice the radius: with half as much again, each has a counterexample.
    cases = boundary_cases(Family("exact, one layer", "exact", 1, 12, 0, 8, 60), np.random.default_rng(3), 60)
    found = 0
    for index in range(60):
        net, levels = net_of(cases, index), int(cases.levels[index] * 1.5) + 1
        image = cases.images[index].reshape(1, 1, 1, 12)
        label = ReferenceEngine(net).run(image).argmax(1)
        plan = AttackPlan(1, 2, 40)
        _, *targeted = run_attack(net, image, label, levels, plan, Draws(0, np.array([index])))
        found += any(ReferenceEngine(net).run(attempt.images).argmax(1) != label for attempt in targeted)
    assert found >= 45
