# SPDX-License-Identifier: Apache-2.0
"""Training on a GPU: against the CPU, captured against one by one, resumed, and in memory that does not grow."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from command_line import call
from training_runs import RECIPE, blobs, same_bits, state_of, toml_of, weights_after, write_blobs

from linfdeploy.errors import RecipeError
from linfdeploy.nets.checkpoint import load_checkpoint
from linfdeploy.training.batches import Batches
from linfdeploy.training.evaluation import evaluate
from linfdeploy.training.graphs import DeviceStep
from linfdeploy.training.place import CPU, Place, place_from
from linfdeploy.training.state import load_state, save_state
from linfdeploy.training.times import PHASES
from linfdeploy.training.trainer import Trainer

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device"),
]

# Enough steps in an epoch for a capture in each phase; smooth enough that rounding does not grow.
LONG = replace(RECIPE, batch_size=10, lr=0.003, adam_eps=1e-6)


@pytest.fixture(params=[False, True], ids=["one by one", "graphs"])
def place(request: pytest.FixtureRequest) -> Place:
    return place_from("cuda", graphs=request.param)


@pytest.fixture
def captured() -> Place:
    return place_from("cuda")


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_batches_have_the_bits_of_the_cpu(captured: Place) -> None:
    here, there = (Batches(LONG, blobs(230, 0), each).of_epoch(2) for each in (CPU, captured))
    for (images, labels), (same_images, same_labels) in zip(here, there, strict=True):
        assert same_images.is_cuda
        assert torch.equal(images, same_images.cpu())
        assert torch.equal(labels, same_labels.cpu())


def test_a_run_is_that_of_the_cpu_but_for_rounding(place: Place) -> None:
    # Where an input attains the maximum by less than the rounding of the kernels, gradients go elsewhere for a
    # step of at most lr, which later steps make up for.
    found, expected = weights_after(LONG, 6, place=place), weights_after(LONG, 6)
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=1e-3)


def test_graphs_do_not_change_a_bit() -> None:
    both = (place_from("cuda", graphs=graphs) for graphs in (False, True))
    assert same_bits(*(weights_after(LONG, 6, place=place) for place in both))


def test_the_seed_decides_all_bits(captured: Place) -> None:
    assert same_bits(*(weights_after(LONG, 6, place=captured) for _ in range(2)))


def test_a_graph_is_captured_once_a_phase(captured: Place) -> None:
    trainer = Trainer(LONG, blobs(230, 0), captured)
    for _ in range(6):
        trainer.run_epoch()
    assert trainer._device_step is not None
    assert trainer._device_step.captures == len(PHASES)
    assert list(trainer.times.medians()) == list(PHASES)


def test_a_resumed_run_ends_with_the_same_bits(place: Place, tmp_path: Path) -> None:
    first, second = (Trainer(LONG, blobs(230, 0), place) for _ in range(2))
    for _ in range(3):
        first.run_epoch()
    save_state(tmp_path / "state", first)
    second.run_epoch()
    load_state(tmp_path / "state", second)
    for _ in range(3):
        first.run_epoch()
        second.run_epoch()
    assert same_bits(state_of(first), state_of(second))


@pytest.mark.parametrize("towards", ["cpu", "cuda"])
def test_a_run_goes_on_elsewhere(towards: str, captured: Place, tmp_path: Path) -> None:
    before, after = (captured, CPU) if towards == "cpu" else (CPU, captured)
    first, second = Trainer(LONG, blobs(230, 0), before), Trainer(LONG, blobs(230, 0), after)
    first.run_epoch()
    save_state(tmp_path / "state", first)
    load_state(tmp_path / "state", second)
    for _ in range(5):
        second.run_epoch()
    expected = weights_after(LONG, 6)
    for name, tensor in state_of(second).items():
        torch.testing.assert_close(tensor, expected[name], rtol=0, atol=1e-3)


def test_captures_take_over_the_memory_of_those_before(captured: Place) -> None:
    trainer = Trainer(replace(LONG, epochs=12, p_from_epoch=12, p_until_epoch=12), blobs(230, 0), captured)
    allocated, reserved = [], []
    for _ in range(12):
        trainer.run_epoch()
        # As if a state had been restored, so that the next epoch captures anew.
        trainer.moved()
        allocated.append(torch.cuda.memory_allocated())
        reserved.append(torch.cuda.memory_reserved())
    assert trainer._device_step is not None
    assert trainer._device_step.captures == 12
    # The first two captures may find the caches of the allocator in another state.
    assert set(allocated[2:]) == {allocated[2]}
    assert max(reserved[2:]) == reserved[2]


def test_no_step_waits_for_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    run = DeviceStep.run

    def watched(self: DeviceStep, images: torch.Tensor, labels: torch.Tensor, p: float) -> None:
        torch.cuda.set_sync_debug_mode("error")
        try:
            run(self, images, labels, p)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    trainer = Trainer(LONG, blobs(230, 0), place_from("cuda", graphs=False))
    trainer.run_epoch()
    monkeypatch.setattr(DeviceStep, "run", watched)
    for _ in range(5):
        trainer.run_epoch()


def test_divergence(place: Place) -> None:
    trainer = Trainer(replace(LONG, lambda_start=3e38), blobs(230, 0), place)
    with pytest.raises(RecipeError, match=r"^training diverged in epoch 1: the loss is (nan|inf) at p = 8, lr = "):
        trainer.run_epoch()


def test_an_evaluation_is_that_of_the_cpu(captured: Place) -> None:
    trainer = Trainer(LONG, blobs(230, 0), captured)
    for _ in range(6):
        trainer.run_epoch()
    found = evaluate(trainer.net, blobs(700, 1), 0.05)
    assert found == evaluate(trainer.net.cpu(), blobs(700, 1), 0.05)


def test_the_command(tmp_path: Path) -> None:
    path, out = tmp_path / "blobs.toml", tmp_path / "ckpt.pt"
    path.write_text(toml_of(replace(LONG, dataset=write_blobs(tmp_path))))
    outcome = call("train", path, "-o", out, "--device", "cuda")
    assert outcome.code == 0, outcome
    metrics = load_checkpoint(out).provenance["metrics"]
    assert list(metrics["seconds_per_epoch"]) == list(PHASES)
    assert (metrics["device"], metrics["processes"]) == (torch.cuda.get_device_name(0), 1)
    assert " s/epoch at p = inf" in outcome.err


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="there are no two CUDA devices")
@pytest.mark.parametrize("graphs", ["--graphs", "--no-graphs"])
def test_two_devices_give_the_result_of_one(graphs: str, tmp_path: Path) -> None:
    path = tmp_path / "blobs.toml"
    path.write_text(toml_of(replace(LONG, dataset=write_blobs(tmp_path))))
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = ["-m", "linfdeploy", "train", str(path), "--device", "cuda", graphs]
    for name, start in (("one.pt", [sys.executable]), ("two.pt", torchrun)):
        done = subprocess.run(
            [*start, *command, "-o", str(tmp_path / name)],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("wrote") == 1
    found, expected = (load_checkpoint(tmp_path / name).net.state_dict() for name in ("two.pt", "one.pt"))
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=1e-4)
