# SPDX-License-Identifier: Apache-2.0
"""The checks of the attacks pass where attacks work, and each fails where one is spoiled."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from pixel_nets import FaultyEngine, random_images, random_net

from linfdeploy.engines.base import Engine
from linfdeploy.engines.reference import ReferenceEngine
from linfdeploy.report.model import SanityFlag
from linfdeploy.verify.attacks import ATTACKS, AttackResult, Attempt, Twin, Victim, run_attack
from linfdeploy.verify.attacks.sanity import sanity_flags
from linfdeploy.verify.attacks.twin import Boxes

NET = random_net((12, 9, 5), "exact", 1)
IMAGES = random_images(NET, 40, 1)
LABELS = ReferenceEngine(NET).run(IMAGES).argmax(1)
EVERY = np.ones(40, bool)
VICTIM = Victim(NET, IMAGES, LABELS, EVERY, 6, ~EVERY)
NAMES = [
    "eps = 0 breaks nothing",
    "eps = 1 breaks everything",
    "more eps breaks more",
    "more steps do not help",
    "gradients are at least as strong as a black box",
    "the surrogate's gradient does not vanish",
]


def flags_of(engine: Engine, victim: Victim = VICTIM) -> dict[str, SanityFlag]:
    def submit(attempt: Attempt) -> Any:
        return engine.run(attempt.images)

    plan = replace(ATTACKS["fast"], queries=40)
    result = run_attack(victim, plan, 0, submit)
    return {flag.name: flag for flag in sanity_flags(victim, plan, result, 0, engine.run)}


def test_all_pass_where_the_attacks_work() -> None:
    flags = flags_of(ReferenceEngine(NET))
    assert list(flags) == NAMES
    assert [flag for flag in flags.values() if not flag.passed] == []
    assert flags[NAMES[0]].found == "0 of 20 fall"
    assert flags[NAMES[1]].found == "0 stand"


def test_an_engine_that_changes_its_mind_breaks_at_eps_0() -> None:
    def noisy(logits: Any, call: int) -> Any:
        return np.roll(logits, call % 2, 1)

    assert not flags_of(FaultyEngine(NET, noisy))[NAMES[0]].passed


def test_an_engine_that_never_moves_stands_at_eps_1() -> None:
    constant = FaultyEngine(
        NET, lambda logits, _: np.broadcast_to(np.array([9, 0, 0, 0, 0], np.float32), logits.shape).copy()
    )
    # The labels are another engine's, so that several classes are answered.
    zeros = replace(VICTIM, right=LABELS == 0)
    some = replace(zeros, labels=np.where(LABELS == 0, 0, LABELS))
    flag = flags_of(constant, some)[NAMES[1]]
    assert not flag.passed
    assert flag.expected == "none stands"


def test_gradients_that_vanish_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(_: Twin, x: Any, p: float, loss: Any) -> Any:
        logits = Twin(NET).logits(x)
        return logits, loss(logits), 0 * x

    monkeypatch.setattr(Twin, "gradient", none)
    flags = flags_of(ReferenceEngine(NET))
    assert not flags[NAMES[5]].passed
    assert flags[NAMES[5]].found.startswith("zero for 100% of the samples and 100% of the pixels")


def test_a_white_box_that_is_weaker_than_a_black_box_is_seen() -> None:
    fell = {"PGD-20": ~EVERY, "random noise": EVERY}
    result = AttackResult(EVERY, fell, (), ())
    flags = sanity_flags(VICTIM, ATTACKS["fast"], result, 0, ReferenceEngine(NET).run)
    (flag,) = (flag for flag in flags if flag.name == NAMES[4])
    assert (flag.passed, flag.found) == (False, "0 fall to attacks with gradients, 40 to those without")


def test_steps_that_were_too_few_are_seen() -> None:
    plan = replace(ATTACKS["fast"], pgd=(1,), target_steps=1, noise=0, queries=0)
    net = random_net((60, 40, 5), "exact", 0)
    images = random_images(net, 40, 0)
    labels = ReferenceEngine(net).run(images).argmax(1)
    gaps = np.sort(ReferenceEngine(net).run(images), 1)
    # A little more than half the margin: within reach, but not at once.
    levels = (1.2 * (gaps[:, -1] - gaps[:, -2]) / 2).astype(np.int64) + 2
    victim = Victim(net, images, labels, EVERY, levels, ~EVERY)
    result = AttackResult(EVERY, {}, (), ())
    found = {
        steps: next(
            flag
            for flag in sanity_flags(
                victim, replace(plan, target_steps=steps), result, 0, ReferenceEngine(net).run
            )
            if flag.name == NAMES[3]
        )
        for steps in (1, 60)
    }
    assert found[60].passed
    assert not found[1].passed


def test_without_a_right_answer_there_is_nothing_to_check() -> None:
    result = AttackResult(EVERY, {}, (), ())
    assert sanity_flags(replace(VICTIM, right=~EVERY), ATTACKS["fast"], result, 0, ReferenceEngine(NET).run) == []


def test_boxes_of_no_width_hold_one_image() -> None:
    boxes = Boxes.of(IMAGES, LABELS, 0)
    assert np.array_equal(boxes.images(boxes.centre + 3), IMAGES)
