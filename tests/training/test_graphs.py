# SPDX-License-Identifier: Apache-2.0
"""Captured steps, with a graph that repeats Python instead of kernels: when they are captured, and what bits."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from training_runs import RECIPE, blobs, one_thread, same_bits, state_of, weights_after

from linfdeploy.errors import RecipeError
from linfdeploy.kernels.torch.lp_dist import lp_dist
from linfdeploy.nets import layers
from linfdeploy.training import graphs
from linfdeploy.training.graphs import WARM_UP, Graph, kind_of
from linfdeploy.training.place import CPU, Place
from linfdeploy.training.state import load_state, save_state
from linfdeploy.training.trainer import Trainer

PLACE = Place(torch.device("cpu"), graphs=True)
# Enough steps in an epoch for a capture in each phase.
LONG = replace(RECIPE, batch_size=10)


class FakeGraph:
    """Records work without doing it, and does it whenever it is replayed."""

    made: list[FakeGraph] = []  # noqa: RUF012

    def __init__(self, replaced: Graph | None) -> None:
        self.replaced = replaced
        self.replays = 0
        self.work: Callable[[], None] | None = None
        self.made.append(self)

    def capture(self, work: Callable[[], None]) -> None:
        assert self.work is None
        self.work = work

    def replay(self) -> None:
        assert self.work is not None
        assert self is self.made[-1], "a graph that was replaced runs again"
        self.replays += 1
        self.work()


def lp_dist_now(
    x: torch.Tensor, w: torch.Tensor, p: float, p_now: torch.Tensor | None, kept_bits: float
) -> torch.Tensor:
    """Takes p from `p_now` as the kernels on CUDA do, and sees that `p` has chosen those for it."""
    if p_now is None:
        return lp_dist(x, w, p, kept_bits=kept_bits)
    assert p_now.shape == (1,)
    assert p_now.dtype == torch.float32
    now = float(p_now)
    assert kind_of(now) == kind_of(p)
    return lp_dist(x, w, now, kept_bits=kept_bits)


@pytest.fixture(autouse=True)
def _fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(graphs, "CudaGraph", FakeGraph)
    monkeypatch.setattr(layers, "lp_dist", lp_dist_now)
    FakeGraph.made.clear()
    with one_thread():
        yield


def never_captured(monkeypatch: pytest.MonkeyPatch) -> dict[str, torch.Tensor]:
    with monkeypatch.context() as patch:
        patch.setattr(graphs, "WARM_UP", 10**9)
        return weights_after(LONG, 6, place=PLACE)


def test_replayed_steps_give_the_bits_of_steps_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = never_captured(monkeypatch)
    assert not FakeGraph.made
    assert same_bits(weights_after(LONG, 6, place=PLACE), expected)
    assert FakeGraph.made


def test_a_graph_is_captured_once_a_phase_and_every_step_runs_once(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[float] = []
    once = graphs.DeviceStep._once

    def counted(self: graphs.DeviceStep, p: float) -> None:
        ran.append(p)
        once(self, p)

    monkeypatch.setattr(graphs.DeviceStep, "_once", counted)
    weights_after(LONG, 6, place=PLACE)
    # 23 steps in an epoch. p is 8 in the first and at the first step of the second, passes 40 in the third, and is
    # infinite from the fifth on.
    assert len(ran) == 6 * 23
    steps = [24, 0, 0, 2 * 23]
    steps[1] = math.ceil(3 * 23 * math.log(40 / 8) / math.log(100 / 8)) - 1
    steps[2] = 6 * 23 - sum(steps)
    assert [graph.replays for graph in FakeGraph.made] == [count - WARM_UP for count in steps]


def test_larger_batches_are_captured_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = replace(LONG, p_from_epoch=5, p_until_epoch=6, late_batch_size=20, late_from_epoch=2)
    with monkeypatch.context() as patch:
        patch.setattr(graphs, "WARM_UP", 10**9)
        expected = weights_after(recipe, 4, place=PLACE)
    assert same_bits(weights_after(recipe, 4, place=PLACE), expected)
    assert [graph.replays for graph in FakeGraph.made] == [2 * 23 - WARM_UP, 2 * 11 - WARM_UP]


def test_each_graph_takes_over_the_memory_of_the_one_before() -> None:
    weights_after(LONG, 6, place=PLACE)
    assert [graph.replaced for graph in FakeGraph.made] == [None, *FakeGraph.made[:-1]]


def test_without_graphs_nothing_is_captured(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = never_captured(monkeypatch)
    trainer = Trainer(LONG, blobs(230, 0), PLACE)
    assert trainer._device_step is not None
    trainer._device_step._make_graph = None
    for _ in range(6):
        trainer.run_epoch()
    assert same_bits(state_of(trainer), expected)
    assert not FakeGraph.made


def test_the_steps_are_those_of_the_host_but_for_rounding() -> None:
    # p, eps and the steps are rounded to float32, and Adam divides in another order.
    smooth = replace(LONG, lr=0.003, adam_eps=1e-6)
    found, expected = weights_after(smooth, 6, place=PLACE), weights_after(smooth, 6)
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=1e-4)


@pytest.mark.parametrize("head", [(), (7,)])
def test_decays_read_p_and_the_steps_where_a_graph_does(
    monkeypatch: pytest.MonkeyPatch, head: tuple[int, ...]
) -> None:
    first = replace(LONG, loss="hinge", lambda_start=0.0, lambda_end=0.0, head=head, lr=0.003, adam_eps=1e-6)
    decaying = replace(first, weight_decay=0.2, head_weight_decay=0.2)
    expected = weights_after(decaying, 6)
    found = weights_after(decaying, 6, place=PLACE)
    assert FakeGraph.made
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=1e-3)
    assert (weights_after(first, 6)["layers.0.weight"] - expected["layers.0.weight"]).abs().max() > 0.01


def test_a_state_goes_on_with_the_same_bits(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    expected = never_captured(monkeypatch)
    first = Trainer(LONG, blobs(230, 0), PLACE)
    second = Trainer(LONG, blobs(230, 0), PLACE)
    for _ in range(3):
        first.run_epoch()
    second.run_epoch()
    path = tmp_path / "state"
    save_state(path, first)
    captures = len(FakeGraph.made)
    load_state(path, second)
    for _ in range(3):
        second.run_epoch()
    assert same_bits(state_of(second), expected)
    assert len(FakeGraph.made) == captures + 2


@pytest.mark.parametrize(("before", "after"), [(PLACE, CPU), (CPU, PLACE)])
def test_a_state_goes_on_elsewhere(tmp_path: Path, before: Place, after: Place) -> None:
    smooth = replace(LONG, lr=0.003, adam_eps=1e-6)
    first, second = Trainer(smooth, blobs(230, 0), before), Trainer(smooth, blobs(230, 0), after)
    for _ in range(3):
        first.run_epoch()
    path = tmp_path / "state"
    save_state(path, first)
    load_state(path, second)
    for _ in range(3):
        second.run_epoch()
    expected = weights_after(smooth, 6)
    for name, tensor in state_of(second).items():
        torch.testing.assert_close(tensor, expected[name], rtol=0, atol=1e-4)


def test_a_restored_state_is_captured_anew(tmp_path: Path) -> None:
    # Adam's tensors are others then, though p is of the same kind.
    constant = replace(LONG, p_from_epoch=6, p_until_epoch=6)
    trainer = Trainer(constant, blobs(230, 0), PLACE)
    trainer.run_epoch()
    trainer.run_epoch()
    assert len(FakeGraph.made) == 1
    save_state(tmp_path / "state", trainer)
    load_state(tmp_path / "state", trainer)
    trainer.run_epoch()
    assert len(FakeGraph.made) == 2


def test_the_dials_and_inputs_stay_where_they_are() -> None:
    trainer = Trainer(LONG, blobs(230, 0), PLACE)
    step = trainer._device_step
    assert step is not None
    trainer.run_epoch()
    assert step._inputs is not None
    tensors = [step.dials._now, step.total, *step._inputs]
    places = [tensor.data_ptr() for tensor in tensors]
    trainer.run_epoch()
    assert [tensor.data_ptr() for tensor in [step.dials._now, step.total, *step._inputs]] == places
    settings = step.dials.settings(8.0)
    assert settings.p_now is not None
    parts = [settings.p_now, settings.eps, settings.lr, settings.scale_lr, settings.weight]
    assert all(isinstance(part, torch.Tensor) for part in parts)
    assert [part.data_ptr() for part in parts] == [places[0] + 4 * index for index in range(5)]  # type: ignore[union-attr]


def test_capture_is_announced_to_the_optimizer_for_its_time_alone() -> None:
    seen: list[list[bool]] = []
    trainer = Trainer(LONG, blobs(230, 0), PLACE)

    class Watched(FakeGraph):
        def capture(self, work: Callable[[], None]) -> None:
            super().capture(work)
            seen.append([group["capturable"] for group in trainer.optimizer.param_groups])
            assert all(parameter.grad is None for parameter in trainer.net.parameters())

    assert trainer._device_step is not None
    trainer._device_step._make_graph = Watched
    trainer.run_epoch()
    assert seen == [[True, True]]
    assert [group["capturable"] for group in trainer.optimizer.param_groups] == [False, False]


def test_divergence_is_told_at_the_end_of_the_epoch() -> None:
    trainer = Trainer(replace(LONG, lambda_start=3e38), blobs(230, 0), PLACE)
    with pytest.raises(
        RecipeError, match=r"^training diverged in epoch 1: the loss is (nan|inf) at p = 8, lr = 0\.0"
    ):
        trainer.run_epoch()


def test_kinds() -> None:
    assert kind_of(8) not in {kind_of(p) for p in (7.9, 8.5, 39.9, 40.0, math.inf)}
    assert kind_of(8.5) == kind_of(39.9) != kind_of(40.0) == kind_of(1000.0) != kind_of(math.inf)
