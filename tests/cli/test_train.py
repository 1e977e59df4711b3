# SPDX-License-Identifier: Apache-2.0
"""What `train` prints and refuses; tests/training has what it does."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from command_line import assert_refused, call
from training_runs import RECIPE, toml_of, write_blobs

from linfdeploy.cli.voice import one_voice
from linfdeploy.errors import PeerError
from linfdeploy.ranks import Ranks


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "blobs.toml"
    path.write_text(toml_of(replace(RECIPE, dataset=write_blobs(tmp_path))))
    return path


def test_progress_and_result(recipe: Path, tmp_path: Path) -> None:
    outcome = call("train", recipe, "-o", tmp_path / "ckpt.pt")
    assert outcome.code == 0, outcome
    lines = outcome.err.splitlines()
    assert [line.split("  ")[0] for line in lines] == [f"epoch {epoch}/6" for epoch in range(1, 7)]
    assert [line.split(" s/epoch at ")[1].split("  ")[0] for line in lines] == [
        "p = 8",
        *["p below 40"] * 2,
        "p from 40",
        *["p = inf"] * 2,
    ]
    assert outcome.out.startswith(f"wrote {tmp_path / 'ckpt.pt'}: clean ")
    assert len(outcome.out.splitlines()) == 1


def test_a_device_that_is_not_there(recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    command = ("train", recipe, "-o", tmp_path / "ckpt.pt", "--device")
    assert_refused(
        call(*command, "cuda"),
        f"the device is 'cuda' and torch {torch.__version__} finds no CUDA device; expected one: install torch "
        "for CUDA and NVIDIA's driver, or train with --device cpu",
    )
    assert_refused(
        call(*command, "tpu"), "the device is 'tpu'; expected 'cpu', 'cuda' or 'cuda:N', where the kernels"
    )
    assert_refused(call(*command, "cpu", "--graphs"), "CUDA graphs were asked for on the device 'cpu'; expected")
    assert not (tmp_path / "ckpt.pt").exists()


@pytest.mark.parametrize(
    ("rank", "said", "silent"), [(0, True, True), (1, True, True), (1, False, True), (0, False, False)]
)
def test_one_rank_tells_what_happened(rank: int, said: bool, silent: bool) -> None:
    with pytest.raises(SystemExit if silent else PeerError) as caught, one_voice(Ranks(rank, 2)):
        raise PeerError("gone", said=said)
    if isinstance(caught.value, SystemExit):
        assert caught.value.code == 2


def test_one_rank_tells_of_an_interruption() -> None:
    with pytest.raises(SystemExit) as caught, one_voice(Ranks(1, 2)):
        raise KeyboardInterrupt
    assert caught.value.code == 130
    with pytest.raises(KeyboardInterrupt), one_voice(Ranks(0, 2)):
        raise KeyboardInterrupt
