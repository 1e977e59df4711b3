# SPDX-License-Identifier: Apache-2.0
"""Single attacks against formulas, brute force, and a well-kept implementation of others."""

from __future__ import annotations

import importlib.util
import math
from typing import Any

import numpy as np
import pytest
import torch
from pixel_nets import random_images, random_net
from scipy.optimize import linprog

from linfdeploy.engines.base import Images
from linfdeploy.engines.reference import ReferenceEngine
from linfdeploy.onnx.pixel_net import PIXEL_MAX, PixelNet
from linfdeploy.verify.attacks.apgd import apgd, cross_entropy_of, targeted_dlr_of
from linfdeploy.verify.attacks.fab import fab, linf_projection
from linfdeploy.verify.attacks.noise import noise
from linfdeploy.verify.attacks.square import lead_of, square
from linfdeploy.verify.attacks.targeted import Seeds
from linfdeploy.verify.attacks.twin import Best, Boxes, Twin, margins, strongest_others
from linfdeploy.verify.paths import PathFinder
from linfdeploy.verify.threat import box_of

LEVELS = 14


def setting(count: int = 60, seed: int = 0) -> tuple[PixelNet, Images, Twin, Boxes]:
    net = random_net((16, 20, 6), "exact", seed)
    images = random_images(net, count, seed)
    return net, images, Twin(net), Boxes.of(images, ReferenceEngine(net).run(images).argmax(1), LEVELS)


def test_the_projection_is_the_smallest_change() -> None:
    rng = np.random.default_rng(0)
    for case in range(40):
        x, normal = rng.uniform(0, 255, 5), rng.normal(size=5) * (rng.random(5) < 0.8)
        # Reachable in some cases, out of reach in others.
        offset = float(normal @ x + rng.normal() * np.abs(normal).sum() * (60 if case % 2 else 250))
        point, plane, at = (
            torch.tensor(value, dtype=torch.float64) for value in (x[None], normal[None], [offset])
        )
        move = linf_projection(point, plane, at)[0].numpy()
        assert (x + move >= -1e-9).all()
        assert (x + move <= 255 + 1e-9).all()
        # Least t with  normal . (x + d) = offset,  -t <= d <= t  and the range of pixels.
        both = np.concatenate([np.c_[np.eye(5), -np.ones(5)], np.c_[-np.eye(5), -np.ones(5)]])
        best = linprog(
            [0, 0, 0, 0, 0, 1],
            A_ub=both,
            b_ub=np.zeros(10),
            A_eq=np.r_[normal, 0][None],
            b_eq=[offset - normal @ x],
            bounds=[*zip(-x, 255 - x, strict=True), (0, None)],
        )
        if best.status == 0:
            assert abs(normal @ (x + move) - offset) < 1e-6 * max(1, abs(offset))
            assert np.abs(move).max() <= best.fun + 1e-6
        else:
            ends = np.where(normal * np.sign(offset - normal @ x) > 0, 255 - x, -x) * (normal != 0)
            assert np.allclose(move, ends)


def test_the_targeted_dlr_is_its_formula() -> None:
    _, _, _, boxes = setting(5)
    logits = torch.randn(5, 6, dtype=torch.float64)
    targets = (boxes.labels + 1) % 6
    for row in range(5):
        z = logits[row].tolist()
        top = sorted(z, reverse=True)
        expected = (z[int(targets[row])] - z[int(boxes.labels[row])]) / (top[0] - (top[2] + top[3]) / 2 + 1e-12)
        assert math.isclose(float(targeted_dlr_of(boxes, targets)(logits)[row]), expected, rel_tol=1e-12)


def test_noise_reaches_both_ends_of_the_box() -> None:
    _, _, _, boxes = setting(400)
    generator = torch.Generator().manual_seed(0)
    uniform, corners = noise(boxes, 0, generator), noise(boxes, 1, generator)
    for x in (uniform, corners):
        assert ((x >= boxes.lower) & (x <= boxes.upper) & (x == x.round())).all()
        assert (x == boxes.lower).any()
        assert (x == boxes.upper).any()
    assert ((corners == boxes.lower) | (corners == boxes.upper)).all()
    width = boxes.upper - boxes.lower + 1
    assert abs(float((uniform == boxes.lower).float().mean()) - float((1 / width).mean())) < 0.01


def test_seeds_are_the_nearest_images_of_the_class() -> None:
    _, images, _, boxes = setting(60)
    targets = (boxes.labels + 1) % 6
    found = Seeds(boxes, 6).nearest(boxes, targets)
    flat = images.reshape(60, -1).astype(float)
    for row in range(60):
        pool = np.flatnonzero(boxes.labels.numpy() == int(targets[row]))
        if not len(pool):
            assert torch.equal(found[row], boxes.centre[row])
            continue
        nearest = flat[pool[((flat[pool] - flat[row]) ** 2).sum(1).argmin()]]
        assert np.array_equal(
            found[row].numpy(), np.clip(nearest, boxes.lower[row].numpy(), boxes.upper[row].numpy())
        )


def test_paths_end_at_the_pixel_that_moves_the_logit() -> None:
    net = random_net((12, 9, 7, 5), "exact", 2)
    engine, images = ReferenceEngine(net), random_images(net, 50, 2)
    paths, logits = PathFinder(net).find(images), engine.run(images)
    seen = 0
    for row in range(50):
        for logit in range(5):
            pixel, rising = paths.pixels[row, logit], paths.rising[row, logit]
            moved = images[row].astype(int)
            moved[0, 0, pixel] += rising
            if not 0 <= moved[0, 0, pixel] <= 255:
                continue
            change = engine.run(moved[None].astype(np.uint8))[0, logit] - logits[row, logit]
            # The logit rises by the whole level, unless another path takes over on the way.
            assert -1 <= change <= 1
            seen += change == 1
            # No other pixel can do as much, either way, where this one can.
            if change == 1:
                others = np.repeat(images[row : row + 1], 12, 0).astype(int)
                others[np.arange(12), 0, 0, np.arange(12)] += np.where(others[:, 0, 0].diagonal() < 255, 1, -1)
                answers = engine.run(np.delete(others, pixel, 0).astype(np.uint8))[:, logit] - logits[row, logit]
                assert (answers < 1).all()
    assert seen > 150


def test_square_finds_about_what_noise_of_as_many_queries_finds_and_lowers_margins() -> None:
    net, images, twin, boxes = setting(60)
    labels, engine, boxes_logits = boxes.labels.numpy(), ReferenceEngine(net), twin.logits(boxes.centre)
    ends = box_of(images, LEVELS)
    nearest = boxes.images(Seeds(boxes, 6).nearest(boxes, strongest_others(boxes_logits, boxes.labels)[:, 0]))
    found = square(lambda _, x: engine.run(x), ends, (nearest, images), labels, 200, np.random.default_rng(0))
    fell = int((engine.run(found).argmax(1) != labels).sum())
    generator, noisy = torch.Generator().manual_seed(0), np.zeros(60, bool)
    for turn in range(200):
        noisy |= engine.run(boxes.images(noise(boxes, turn, generator))).argmax(1) != labels
    assert fell >= 0.9 * noisy.sum()
    assert 0 < fell < 60
    assert (lead_of(engine.run(found), labels) <= lead_of(engine.run(images), labels)).mean() > 0.9


needs_torchattacks = pytest.mark.skipif(
    importlib.util.find_spec("torchattacks") is None,
    reason="needs torchattacks for comparison: pip install --no-deps torchattacks",
)


class InUnitRange(torch.nn.Module):
    """A twin for pixels in [0, 1], with logits in units of eps as our attacks take them."""

    def __init__(self, twin: Twin, shape: tuple[int, ...]) -> None:
        super().__init__()
        self._twin, self._shape = twin, shape
        self.device_of = torch.nn.Parameter(torch.zeros(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self._twin.logits((x * PIXEL_MAX).flatten(1)) / LEVELS


def peers(attack: Any, images: Images, boxes: Boxes, twin: Twin) -> int:
    """How many samples a peer's attack breaks, its images rounded to uint8 as ours are."""
    x = torch.from_numpy(images.astype(np.float32) / PIXEL_MAX)
    adversarial = attack(x, boxes.labels).detach().flatten(1) * PIXEL_MAX
    return int((margins(twin.logits(boxes.clip(adversarial.round())), boxes.labels) < 0).sum())


@needs_torchattacks
@pytest.mark.parametrize("part", ["APGD-CE", "APGD-T", "FAB-T", "Square"])
def test_parts_of_autoattack_are_as_strong_as_theirs(part: str) -> None:
    import torchattacks

    _, images, twin, boxes = setting(60)
    model = InUnitRange(twin, images.shape[1:]).eval()
    generator, eps, steps = torch.Generator().manual_seed(0), LEVELS / PIXEL_MAX, 50
    others = strongest_others(twin.logits(boxes.centre), boxes.labels)
    best = Best(twin, boxes)
    if part == "APGD-CE":
        theirs = torchattacks.APGD(model, eps=eps, steps=steps, seed=0)
        best.offer(apgd(twin, boxes, cross_entropy_of(boxes), math.inf, steps, generator))
    elif part == "APGD-T":
        theirs = torchattacks.APGDT(model, eps=eps, steps=steps, seed=0, n_classes=6)
        for rank in range(5):
            loss = targeted_dlr_of(boxes, others[:, rank])
            best.offer(apgd(twin, boxes, loss, math.inf, steps, generator))
    elif part == "FAB-T":
        theirs = torchattacks.FAB(model, eps=eps, steps=steps, seed=0, n_classes=6, multi_targeted=True)
        for rank in range(5):
            best.offer(fab(twin, boxes, others[:, rank], math.inf, steps))
    else:
        theirs = torchattacks.Square(model, eps=eps, n_queries=500, seed=0)
        engine = ReferenceEngine(setting(1)[0])
        rng, ends = np.random.default_rng(0), box_of(images, LEVELS)
        found = square(lambda _, x: engine.run(x), ends, (), boxes.labels.numpy(), 500, rng)
        best.offer(torch.from_numpy(found.reshape(60, -1).astype(np.float32)))
    ours = int((best.margin < 0).sum())
    assert ours > 0
    assert ours >= peers(theirs, images, boxes, twin) - 1
