# SPDX-License-Identifier: Apache-2.0
"""Early warnings: each kind of trouble once, and none for a run that goes well."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from training_runs import RECIPE

from linfdeploy.training.history import EpochRecord
from linfdeploy.training.watch import Spread, Watch

# RECIPE has eps_train 0.1 and p from 8 to 100.
GOOD = EpochRecord(1, 1.0, 8.0, 0.1, 0.03, 1.0, 1.0)


def lines(*records: EpochRecord) -> list[str]:
    watch = Watch(RECIPE, 10, 1000)
    return [line for number, record in enumerate(records, 1) for line in watch.look(replace(record, epoch=number))]


def losses(*values: float, eps: float = 0.1) -> list[EpochRecord]:
    return [replace(GOOD, loss=value, eps=eps) for value in values]


def test_a_loss_that_comes_back() -> None:
    assert lines(*losses(1.0, 0.5, 0.2, 0.55, 0.7, 0.9)) == [
        "epoch 5: the loss is 0.7 at p = 8 and was 0.2 after epoch 3; expected it to fall: unless it comes down, "
        "try a smaller lr or a longer way to p_end"
    ]


@pytest.mark.parametrize("values", [(1.3, 0.08, 0.07, 0.1, 0.05), (1.0, 1.2, 1.4, 0.9), (0.01, 0.014, 0.01)])
def test_a_loss_that_wavers(values: tuple[float, ...]) -> None:
    assert lines(*losses(*values)) == []


def test_a_loss_that_never_fell_and_rises() -> None:
    assert [line.split(" at p")[0] for line in lines(*losses(1.0, 1.6))] == ["epoch 2: the loss is 1.6"]


def test_while_the_radius_grows_the_loss_may() -> None:
    assert lines(*losses(0.1, 0.5, 0.9, eps=0.05), *losses(1.0, 0.8)) == []


@pytest.mark.parametrize(
    ("p", "clean", "told"),
    [(8.0, 0.1, 0), (28.0, 0.1, 0), (29.0, 0.1, 1), (math.inf, 0.128, 1), (math.inf, 0.13, 0), (100.0, None, 0)],
)
def test_accuracy_at_chance_late_on(p: float, clean: float | None, told: int) -> None:
    # Chance is 0.1, its deviation over a thousand images 0.0095.
    assert len(lines(*[replace(GOOD, p=p, clean=clean)] * 3)) == told


def test_what_is_said_of_chance() -> None:
    assert lines(replace(GOOD, p=math.inf, clean=0.1)) == [
        "epoch 1: 10.0% of the test images are classified correctly at p = inf, which is chance for 10 classes; "
        "expected more at p = inf: try a smaller lr or eps_train"
    ]


def test_weights_that_explode() -> None:
    assert lines(replace(GOOD, spread=10.0), replace(GOOD, spread=12.5), replace(GOOD, spread=99.0)) == [
        "epoch 2: the weights of a layer spread 12.5 times as wide as at the start; expected less than 10: try a "
        "smaller lr"
    ]


def test_spread_is_the_largest_ratio() -> None:
    last = torch.nn.Linear(8, 7)
    net = torch.nn.Sequential(torch.nn.Linear(9, 8), last)
    spread = Spread(net)
    assert spread.now() == 1
    with torch.no_grad():
        last.weight.mul_(3)
        last.bias.mul_(100)
    assert spread.now() == pytest.approx(3, rel=1e-6)
