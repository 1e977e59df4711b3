# SPDX-License-Identifier: Apache-2.0
"""The train command, from outside: killed at any moment and resumed, it ends with the same bits."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from rank_processes import RankProcesses, start_ranks

from linfdeploy.cli import main
from linfdeploy.nets.checkpoint import load_checkpoint

RECIPE = """
dataset = "{folder}/{{split}}.npz"
eps_test = 0.05
eps_train = 0.1
hidden = [64, 64]
epochs = 60
batch_size = 32
lr = 0.03
p_start = 8.0
p_end = 1000.0
p_from_epoch = 5
p_until_epoch = 45
lambda_start = 0.1
lambda_end = 0.001
crop_padding = 1
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for split, count in (("train", 480), ("test", 50)):
        images = rng.integers(0, 256, (count, 8, 8), np.uint8)
        np.savez(tmp_path / f"{split}.npz", images=images, labels=np.arange(count) % 10)
    path = tmp_path / "recipe.toml"
    path.write_text(RECIPE.format(folder=tmp_path))
    return path


def command(recipe: Path, out: Path, *options: str) -> list[str]:
    # Exporting costs more than all of the training here.
    return ["train", str(recipe), "-o", str(out), "--no-certify", *options]


def finish(process: RankProcesses) -> str:
    (outcome,) = process.outcomes()
    assert outcome.code == 0, outcome.err
    return outcome.out


def kill_after_new_state(process: RankProcesses, state: Path, delay: float) -> bool:
    """Waits until the state is renewed, then `delay` seconds, and kills. Returns whether it still ran."""
    before = state.stat().st_mtime_ns if state.exists() else 0
    while process.running:
        if state.exists() and state.stat().st_mtime_ns != before:
            time.sleep(delay)
            break
        time.sleep(0.005)
    process.kill()
    return process.outcomes()[0].code == -signal.SIGKILL


def terminate(process: subprocess.Popen[str]) -> str:
    """Asks until the process ends: Python swallows what a signal raises within a destructor."""
    for _ in range(10):
        process.terminate()
        try:
            return process.communicate(timeout=60)[1]
        except subprocess.TimeoutExpired:
            continue
    raise AssertionError("the process does not end")


def test_killed_and_resumed_ends_with_the_same_bits(recipe: Path, tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole.pt", tmp_path / "broken.pt"
    assert "wrote" in finish(start_ranks(tmp_path, command(recipe, whole)))
    state = tmp_path / "broken.pt.state"
    rng = random.Random(4)
    kills = 0
    for _ in range(3):
        options = ["--resume"] if state.exists() else []
        process = start_ranks(tmp_path, command(recipe, broken, *options))
        kills += kill_after_new_state(process, state, rng.uniform(0, 0.3))
        assert not broken.exists()
    assert kills == 3
    finish(start_ranks(tmp_path, command(recipe, broken, "--resume")))
    first, second = (load_checkpoint(path).net.state_dict() for path in (whole, broken))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert whole.read_bytes() == broken.read_bytes()
    assert not state.exists()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (
            ["--resume"],
            "error: {out}.state: no such file; expected the state of an interrupted run: omit --resume",
        ),
        (["--device", "tpu"], "error: the device is 'tpu'; expected 'cpu', 'cuda' or 'cuda:N', where the kernels"),
        (["--set", "speed=1"], "error: recipe {recipe}: unknown field 'speed'; expected among "),
        (["--seed", "-1"], "error: recipe {recipe}: seed is -1; expected 0 to 2^63 - 1"),
        (["--set", "dataset=mnist", "--data-root", "/nowhere"], "in /nowhere/MNIST/raw, /nowhere/raw, /nowhere;"),
    ],
)
def test_wrong_use_is_one_line_and_status_2(
    recipe: Path,
    tmp_path: Path,
    options: list[str],
    expected: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "ckpt.pt"
    monkeypatch.setattr(sys, "argv", ["linfdeploy", "train", str(recipe), "-o", str(out), *options])
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    with pytest.raises(SystemExit) as caught:
        main()
    output, errors = capsys.readouterr()
    assert (caught.value.code, output, len(errors.splitlines())) == (2, "", 1)
    assert expected.format(out=out, recipe=recipe) in errors
    assert not out.exists()


def test_an_interrupted_run_can_be_resumed(recipe: Path, tmp_path: Path) -> None:
    out = tmp_path / "ckpt.pt"
    state = tmp_path / "ckpt.pt.state"
    process = subprocess.Popen(
        [sys.executable, "-m", "linfdeploy", *command(recipe, out, "--set", "epochs=20000")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # Several threads wait for each other at every layer, which takes long on a machine that does other things.
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    deadline = time.monotonic() + 600
    while process.poll() is None and not state.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    errors = terminate(process)
    # A shell shows both as 130.
    assert process.returncode in {130, -signal.SIGINT}
    assert "Traceback" not in errors
    left = {path.name for path in tmp_path.iterdir()} - {"ckpt.png", "ckpt.log.jsonl"}
    assert left == {"ckpt.pt.state", "recipe.toml", "train.npz", "test.npz"}
