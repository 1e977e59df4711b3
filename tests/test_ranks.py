# SPDX-License-Identifier: Apache-2.0
"""Several processes: the result of one, files and lines from the first alone, one line when something fails."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import Outcome, assert_refused
from rank_processes import start_ranks
from training_runs import RECIPE, one_thread, toml_of, write_blobs

from linfdeploy.errors import InputError, MissingExtraError, PeerError, RecipeError
from linfdeploy.nets.checkpoint import load_checkpoint
from linfdeploy.ranks import ALONE, Ranks, joined
from linfdeploy.training.data import load_dataset
from linfdeploy.training.loop import train
from linfdeploy.training.recipe import load_recipe
from linfdeploy.training.state import save_state, state_path
from linfdeploy.training.trainer import Trainer


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A recipe of 50 steps through all kinds of p. Adam does not hide a wrong size of gradients."""
    short = replace(RECIPE, dataset=write_blobs(tmp_path, 500), epochs=5, lr=0.003, adam_eps=1e-3)
    (tmp_path / "blobs.toml").write_text(toml_of(short))
    return tmp_path / "blobs.toml"


def alone(path: Path, out: Path) -> dict[str, torch.Tensor]:
    with one_thread():
        train(load_recipe(str(path)), out)
    return load_checkpoint(out).net.state_dict()


def assert_close(found: Path, expected: dict[str, torch.Tensor]) -> None:
    """Halves add up in another order: to another last bit of a gradient, which Adam hands on in its size."""
    state = load_checkpoint(found).net.state_dict()
    assert any(name.endswith("running_mean") and tensor.abs().max() > 1 for name, tensor in state.items())
    for name, tensor in expected.items():
        torch.testing.assert_close(state[name], tensor, rtol=0, atol=1e-6)


class TestRuns:
    def test_torchrun_gives_the_result_of_one_process(self, path: Path, tmp_path: Path) -> None:
        out = tmp_path / "two.pt"
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
        process = subprocess.Popen(
            [*torchrun, "-m", "linfdeploy", "train", str(path), "-o", str(out), "--no-certify"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        expected = alone(path, tmp_path / "one.pt")
        output, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
        assert_close(out, expected)
        assert len(output.splitlines()) == 1
        assert output.startswith(f"wrote {out}: ")
        epochs = [line.split()[1] for line in errors.splitlines() if line.startswith("epoch")]
        assert epochs == [f"{epoch}/5" for epoch in range(1, 6)]

    @pytest.mark.parametrize("head", [(), (6,)], ids=["pure", "head"])
    def test_two_train_on_the_subsets_of_one(self, head: tuple[int, ...], path: Path, tmp_path: Path) -> None:
        """Batches of 50: the second process begins within a sub-batch of 32."""
        change: dict[str, Any] = {"head": head, "loss": "ce_hinge", "eps_train": 0.02} if head else {}
        path.write_text(toml_of(replace(load_recipe(str(path)), neuron="sort_dist", keep=0.7, **change)))
        command = ["train", str(path), "-o", str(tmp_path / "two.pt"), "--no-certify"]
        processes = start_ranks(tmp_path, command, command)
        expected = alone(path, tmp_path / "one.pt")
        first, second = processes.outcomes()
        assert first.code == 0, first
        assert second == Outcome(0, "", "")
        assert_close(tmp_path / "two.pt", expected)

    def test_a_run_of_one_is_resumed_by_two(self, path: Path, tmp_path: Path) -> None:
        out = tmp_path / "two.pt"
        recipe = load_recipe(str(path))
        with one_thread():
            trainer = Trainer(recipe, load_dataset(recipe.dataset, "train"))
            trainer.run_epoch()
            trainer.run_epoch()
        save_state(state_path(out), trainer)
        command = ["train", str(path), "-o", str(out), "--resume", "--no-certify"]
        processes = start_ranks(tmp_path, command, command)
        expected = alone(path, tmp_path / "one.pt")
        first, second = processes.outcomes()
        assert first.code == 0, first
        assert first.err.startswith("epoch 3/5")
        assert second == Outcome(0, "", "")
        assert_close(out, expected)
        assert not state_path(out).exists()


class TestFailures:
    @pytest.mark.parametrize(
        ("options", "line"),
        [
            (
                ["--set", "batch_size=51"],
                "error: batch_size is 51 for 2 processes; expected a multiple of 2, so that each has as many "
                "images: for example --set batch_size=50",
            ),
            (["--set", "lambda_start=3e38"], "error: training diverged in epoch 1: the loss is inf at p = 8, "),
            (
                ["--device", "cuda:0"],
                "error: the device is 'cuda:0' for each of 2 processes; expected 'cuda': each ",
            ),
        ],
    )
    def test_all_end_and_the_first_tells(self, path: Path, tmp_path: Path, options: list[str], line: str) -> None:
        command = ["train", str(path), "-o", str(tmp_path / "out" / "ckpt.pt"), *options]
        first, second = start_ranks(tmp_path, command, command).outcomes()
        assert assert_refused(first).startswith(line)
        assert first.out == ""
        assert second == Outcome(2, "", "")
        assert not (tmp_path / "out").exists()

    def test_what_one_cannot_do_ends_all(self, path: Path, tmp_path: Path) -> None:
        # The second rank alone finds no data; the first one waits for it.
        command = ["train", str(path), "-o", str(tmp_path / "ckpt.pt")]
        elsewhere = [*command, "--set", "dataset=mnist", "--data-root", "/nowhere"]
        first, second = start_ranks(tmp_path, command, elsewhere).outcomes()
        assert first == Outcome(2, "", "")
        assert_refused(second, "in /nowhere/MNIST/raw, /nowhere/raw, /nowhere;")

    def test_the_others_end_with_the_one_that_writes(self, path: Path, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        command = ["train", str(path), "-o", str(tmp_path / "file" / "ckpt.pt")]
        first, second = start_ranks(tmp_path, command, command).outcomes()
        assert_refused(first, "cannot write", "ckpt.pt")
        assert second == Outcome(2, "", "")


class TestAlone:
    """What the commands of one process go through as well, without torch.distributed."""

    def test_one_process_needs_no_other(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "torch.distributed", None)
        with joined() as ranks:
            assert ranks is ALONE
        tensor = torch.arange(3)
        assert ALONE.sum(tensor) is tensor
        assert ALONE.first_says(True)
        assert not ALONE.first_says(False)
        assert ALONE.together(lambda: "done") == "done"

    def test_a_cluster_that_says_less_than_torchrun(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("WORLD_SIZE", "8")
        monkeypatch.setenv("RANK", "3")
        with joined() as ranks:
            assert ranks is ALONE

    def test_errors_pass(self) -> None:
        def fail() -> None:
            raise InputError("x")

        with pytest.raises(InputError, match="x"):
            ALONE.together(fail)
        with pytest.raises(RecipeError, match="y"), ALONE.alike():
            raise RecipeError("y")

    def test_what_all_meet_alike_the_first_tells(self) -> None:
        with pytest.raises(PeerError, match="y") as caught, Ranks(1, 2).alike():
            raise RecipeError("y")
        assert caught.value.said
        with pytest.raises(InputError, match="mine"), Ranks(1, 2).alike():
            raise InputError("mine")

    def test_torchrun_without_torch(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name, value in {
            "WORLD_SIZE": "2",
            "RANK": "0",
            "MASTER_ADDR": "localhost",
            "MASTER_PORT": "1",
        }.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setitem(sys.modules, "torch", None)
        with pytest.raises(MissingExtraError, match=r"pip install 'linfdeploy\[train\]'"), joined():
            pass

    def test_a_lost_connection_is_one_line(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(*_: object) -> None:
            raise RuntimeError("Connection closed by peer\nmore")

        monkeypatch.setattr("torch.distributed.all_reduce", fail)
        with pytest.raises(PeerError) as caught:
            Ranks(0, 2).sum(torch.zeros(2))
        assert not caught.value.said
        assert str(caught.value) == (
            "a process of this run is gone (Connection closed by peer); expected all of them until the end: "
            "see what it said"
        )
