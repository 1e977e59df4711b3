# SPDX-License-Identifier: Apache-2.0
"""Attacks stay inside the box, follow the deployed net's own bits, and find what brute force finds, no more."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from boundary_cases import Family, boundary_cases, net_of
from pixel_nets import random_images, random_net
from small_nets import all_images

from linfdeploy.engines.base import Images, Logits
from linfdeploy.engines.reference import ReferenceEngine
from linfdeploy.onnx.pixel_net import PixelNet, Precision
from linfdeploy.verify.attacks import ATTACKS, AttackPlan, AttackResult, Attempt, Twin, Victim, run_attack
from linfdeploy.verify.attacks.square import lead_of
from linfdeploy.verify.attacks.suite import BLACK_BOX, Traces, attack_samples, thorough_of
from linfdeploy.verify.attacks.targeted import POOL, pool_of
from linfdeploy.verify.threat import box_of

EVERYTHING = AttackPlan(
    pgd=(5, 10),
    restarts=ATTACKS["standard"].restarts,
    targets=3,
    target_steps=8,
    auto_steps=12,
    auto_norms=(float("inf"), 32.0),
    queries=60,
    rounds=5,
)
NAMES = [
    "PGD-5",
    "PGD-10",
    "random noise",
    "other-class images",
    "targeted PGD-8",
    "APGD-CE",
    "APGD-T",
    "APGD-CE (p = 32)",
    "APGD-T (p = 32)",
    "FAB-T",
    "Square on the engine",
    "rounding search",
]


class Recorder:
    """Runs attempts on the evaluator and keeps them."""

    def __init__(self, net: PixelNet) -> None:
        self.engine, self.attempts = ReferenceEngine(net), list[Attempt]()

    def __call__(self, attempt: Attempt) -> Logits:
        self.attempts.append(attempt)
        return self.engine.run(attempt.images)


def victim_of(
    net: PixelNet, images: Images, levels: int | npt.NDArray[np.int64], right: npt.NDArray[np.bool_] | None = None
) -> Victim:
    labels = ReferenceEngine(net).run(images).argmax(1)
    none = np.zeros(len(images), bool)
    return Victim(net, images, labels, ~none if right is None else right, levels, none)


def attacked(
    precision: Precision, levels: int | npt.NDArray[np.int64], seed: int = 0, classes: int = 5
) -> tuple[Victim, AttackResult, list[Attempt]]:
    net = random_net((12, 9, classes), precision, 1)
    victim = victim_of(net, random_images(net, 40, 1), levels)
    recorder = Recorder(net)
    return victim, run_attack(victim, EVERYTHING, seed, recorder), recorder.attempts


@pytest.mark.parametrize("precision", ["exact", "fp32", "fp16"])
@pytest.mark.parametrize("levels", [0, 1, 3, 26, 255])
def test_images_stay_in_the_box_exactly(precision: Precision, levels: int) -> None:
    victim, _, attempts = attacked(precision, levels)
    lower, upper = box_of(victim.images, levels)
    for attempt in attempts:
        assert attempt.images.dtype == np.uint8
        assert ((attempt.images >= lower[attempt.rows]) & (attempt.images <= upper[attempt.rows])).all()


def test_each_sample_has_its_own_box() -> None:
    levels = np.arange(40) % 7
    victim, result, attempts = attacked("exact", levels)
    for attempt in attempts:
        moved = np.abs(attempt.images.astype(int) - victim.images[attempt.rows]).max((1, 2, 3))
        assert (moved <= levels[attempt.rows]).all()
    assert not result.fallen[levels == 0].any()
    assert result.fallen.any()


def test_every_attack_runs_and_is_counted() -> None:
    victim, result, attempts = attacked("exact", 8)
    assert [run.name for run in result.runs] == NAMES
    for run in result.runs:
        of = [attempt for attempt in attempts if attempt.name == run.name]
        assert run.images == sum(len(attempt.images) for attempt in of)
        assert run.samples == len(np.unique(np.concatenate([attempt.rows for attempt in of])))
        assert run.robust_accuracy == (victim.right & ~result.fell[run.name]).mean()


def test_what_fell_is_what_the_engine_says() -> None:
    victim, result, attempts = attacked("exact", 8)
    engine, fell = ReferenceEngine(victim.net), {name: np.zeros(40, bool) for name in NAMES}
    for attempt in attempts:
        changed = engine.run(attempt.images).argmax(1) != victim.labels[attempt.rows]
        fell[attempt.name][attempt.rows[changed]] = True
    for name in NAMES:
        assert np.array_equal(fell[name], result.fell[name])
    assert np.array_equal(np.logical_or.reduce(list(fell.values())), result.fallen)
    assert 0 < result.fallen.sum() < 40


def test_certified_samples_get_the_cheap_attacks_and_the_nearest_all() -> None:
    net = random_net((12, 9, 5), "exact", 1)
    images = random_images(net, 40, 1)
    victim = replace(victim_of(net, images, 3), certified=np.ones(40, bool))
    recorder = Recorder(net)
    run_attack(victim, replace(EVERYTHING, nearest=4), 0, recorder)
    samples = dict.fromkeys(NAMES, frozenset[int]())
    for attempt in recorder.attempts:
        samples[attempt.name] |= set(attempt.rows.tolist())
    assert all(len(samples[name]) == 40 for name in NAMES[:5])
    top = np.sort(ReferenceEngine(net).run(images).astype(float), 1)
    nearest = np.argsort(top[:, -1] - top[:, -2], kind="stable")[:4]
    for name in NAMES[5:]:
        assert samples[name] <= set(nearest.tolist())
    assert samples["APGD-CE"] == set(nearest.tolist())


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
    first, again, other = (attacked("exact", 8, seed) for seed in (0, 0, 1))
    for a, b in zip(first[2], again[2], strict=True):
        assert np.array_equal(a.images, b.images)
    assert first[1].runs == again[1].runs
    assert any(
        a.images.shape != b.images.shape or (a.images != b.images).any()
        for a, b in zip(first[2], other[2], strict=False)
    )


def test_only_right_answers_count_as_robust() -> None:
    net = random_net((12, 9, 5), "exact", 1)
    images = random_images(net, 40, 1)
    labels = ReferenceEngine(net).run(images).argmax(1)
    right = labels != labels[0]
    result = run_attack(victim_of(net, images, 1, right), EVERYTHING, 0, Recorder(net))
    assert len(result.robust_by_step) == 10
    assert all(0 < share <= right.mean() < 1 for share in result.robust_by_step)
    assert all(run.robust_accuracy <= right.mean() for run in result.runs)


def test_two_classes_leave_one_target() -> None:
    _, result, _ = attacked("exact", 8, classes=2)
    assert [run.name for run in result.runs][:5] == NAMES[:5]


def test_the_whole_pixel_range_leaves_nothing_standing() -> None:
    assert attacked("exact", 255)[1].fallen.all()


def test_without_a_right_answer_nothing_goes_wrong() -> None:
    net = random_net((12, 9, 5), "exact", 1)
    images = random_images(net, 10, 1)
    result = run_attack(victim_of(net, images, 8, np.zeros(10, bool)), EVERYTHING, 0, Recorder(net))
    assert all(run.robust_accuracy == 0 for run in result.runs)


def broken_by_force(net: PixelNet, images: Images, levels: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Whether some image of two pixels in each box has another label: every one of them is run."""
    every = all_images().reshape(-1, 2).astype(int)
    answers = ReferenceEngine(net).run(all_images()).argmax(1)
    labels = ReferenceEngine(net).run(images).argmax(1)
    centre = images.reshape(len(images), 2).astype(int)
    return np.array(
        [
            bool((answers[(np.abs(every - at) <= reach).all(1)] != label).any())
            for at, label, reach in zip(centre, labels, levels, strict=True)
        ]
    )


@pytest.mark.parametrize("precision", ["exact", "fp32", "fp16"])
def test_falls_are_exactly_those_of_brute_force(precision: Precision) -> None:
    there = 0
    for seed in range(4):
        net = random_net((2, 6, 4), precision, seed)
        images = np.random.default_rng(seed).integers(0, 256, (60, 1, 1, 2), np.uint8)
        # Up to 41 x 41 images a box: those of at most 4096 are decided, not searched.
        levels = np.random.default_rng(seed).integers(0, 21, 60)
        truth = broken_by_force(net, images, levels)
        result = run_attack(victim_of(net, images, levels), EVERYTHING, 0, Recorder(net))
        assert np.array_equal(result.fallen, truth)
        there += int(truth.sum())
    assert 20 < there < 200


@pytest.mark.parametrize("name", ["targeted PGD-8", "APGD-T (p = 32)", "Square on the engine", "FAB-T"])
def test_each_strong_attack_alone_finds_most_of_what_there_is(name: str) -> None:
    truth, fell = [], []
    for seed in range(4):
        net = random_net((2, 6, 4), "exact", seed)
        images = np.random.default_rng(seed).integers(0, 256, (60, 1, 1, 2), np.uint8)
        levels = np.random.default_rng(seed).integers(0, 41, 60)
        truth.append(broken_by_force(net, images, levels))
        fell.append(run_attack(victim_of(net, images, levels), EVERYTHING, 0, Recorder(net)).fell[name])
    found, there = np.concatenate(fell), np.concatenate(truth)
    assert not (found & ~there).any()
    assert found.sum() >= 0.85 * there.sum()


def test_planted_counterexamples_are_found_at_the_boundary() -> None:
    # One-layer nets whose margin is twice the radius: a step beyond it, each has a counterexample.
    cases = boundary_cases(Family("exact, one layer", "exact", 1, 12, 0, 8, 60), np.random.default_rng(3), 60)
    found = 0
    for index in range(60):
        net, levels = net_of(cases, index), int(cases.levels[index]) + 1
        victim = victim_of(net, cases.images[index].reshape(1, 1, 1, 12), levels)
        found += bool(run_attack(victim, replace(EVERYTHING, rounds=20), index, Recorder(net)).fallen.all())
    assert found >= 54


def test_plans_are_ordered_by_strength() -> None:
    fast, standard = ATTACKS["fast"], ATTACKS["standard"]
    assert list(ATTACKS) == ["fast", "standard"]
    assert standard.pgd == (20, 100)
    assert fast.searches < standard.searches
    assert (fast.queries, fast.auto_steps) < (standard.queries, standard.auto_steps)
    assert {"random noise", "other-class images", "Square on the engine"} == set(BLACK_BOX)


def shared_out(victim: Victim, plan: AttackPlan, recorder: Recorder) -> Traces:
    """Attacks two parts of the samples, one after the other."""
    parts = np.array_split(np.arange(len(victim.images)), 2)
    found = [attack_samples(victim.take(rows), plan, seed, recorder).arrays() for seed, rows in enumerate(parts)]
    return Traces.of({name: np.concatenate([part[name] for part in found]) for name in found[0]})


def settled(net: PixelNet, images: Images, plan: AttackPlan) -> Victim:
    """All samples, with what looks across them; every third is certified."""
    victim = victim_of(net, images, 8)
    certified = np.arange(len(images)) % 3 == 0
    lead = lead_of(ReferenceEngine(net).run(images), victim.labels)
    thorough = thorough_of(victim.right, certified, lead, 8, plan.nearest)
    rows = pool_of(victim.labels, net.classes)
    return replace(victim, certified=certified, thorough=thorough, pool=(images[rows], victim.labels[rows]))


def test_parts_of_the_samples_join_to_figures_of_all() -> None:
    net, plan = random_net((12, 9, 5), "exact", 1), replace(EVERYTHING, nearest=2)
    victim, recorder = settled(net, random_images(net, 41, 1), plan), Recorder(net)
    result = shared_out(victim, plan, recorder).result(plan, victim.right)
    assert [run.name for run in result.runs] == NAMES
    for run in result.runs:
        of = [attempt for attempt in recorder.attempts if attempt.name == run.name]
        assert run.images == sum(len(attempt.images) for attempt in of)
    samples = {run.name: run.samples for run in result.runs}
    # 27 are not certified, and two of all that are: not two of each part.
    assert (samples["PGD-5"], samples["APGD-CE"]) == (41, 27 + 2)
    assert result.fallen.shape == (41,)
    assert 0 < result.fallen.sum() < 41
    assert len(result.robust_by_step) == 10


def test_parts_look_for_other_classes_among_all_samples() -> None:
    net, plan = random_net((12, 9, 5), "exact", 1), replace(EVERYTHING, nearest=2)
    images, name = random_images(net, 41, 1), "other-class images"

    def met(victim: Victim) -> list[bytes]:
        recorder = Recorder(net)
        shared_out(victim, plan, recorder)
        return sorted(
            image.tobytes() for attempt in recorder.attempts if attempt.name == name for image in attempt.images
        )

    victim, whole = settled(net, images, plan), Recorder(net)
    attack_samples(replace(victim, pool=None), plan, 0, whole)
    expected = sorted(
        image.tobytes() for attempt in whole.attempts if attempt.name == name for image in attempt.images
    )
    assert met(victim) == expected
    assert met(replace(victim, pool=None)) != expected


def test_the_pool_has_the_first_images_of_each_class() -> None:
    labels = np.repeat([2, 0, 2], [POOL - 1, 3, 5])
    assert pool_of(labels, 4).tolist() == list(range(POOL - 1 + 3 + 1))


def test_everything_is_for_the_right_and_uncertified_and_for_the_certified_near_their_limit() -> None:
    right = np.array([True, False, True, True, True, True])
    certified = np.array([False, False, True, True, True, True])
    lead = np.array([9.0, 9.0, 3.0, 2.0, np.nan, 2.0])
    chosen = thorough_of(right, certified, lead, np.array([1, 1, 1, 1, 1, 9]), 2)
    assert np.flatnonzero(chosen).tolist() == [0, 3, 5]
    assert np.flatnonzero(thorough_of(right, certified, lead, 1, 0)).tolist() == [0]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda arrays: arrays.pop("traces fell"),
        lambda arrays: arrays.update({"traces fell": arrays["traces fell"][:, 1:]}),
        lambda arrays: arrays.update({"traces kept": arrays["traces kept"][1:]}),
        lambda arrays: arrays.update({"traces images": arrays["traces images"].astype(np.int32)}),
    ],
)
def test_traces_of_another_plan_or_of_other_samples_do_not_fit(spoil: Callable[[Any], None]) -> None:
    net = random_net((12, 9, 5), "exact", 1)
    arrays = attack_samples(victim_of(net, random_images(net, 6, 1), 8), EVERYTHING, 0, Recorder(net)).arrays()
    assert Traces.fits(arrays, 6, EVERYTHING)
    assert not Traces.fits(arrays, 7, EVERYTHING)
    spoil(arrays)
    assert not Traces.fits(arrays, 6, EVERYTHING)
