# SPDX-License-Identifier: Apache-2.0
"""What `train` prints and refuses; tests/training has what it does."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from types import ModuleType
from typing import ClassVar

import numpy as np
import onnxruntime
import pytest
import torch
from command_line import assert_refused, call
from training_runs import RECIPE, toml_of, write_blobs

from linfdeploy.cli.voice import one_voice
from linfdeploy.errors import PeerError
from linfdeploy.nets.checkpoint import load_checkpoint
from linfdeploy.ranks import Ranks


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "blobs.toml"
    path.write_text(toml_of(replace(RECIPE, dataset=write_blobs(tmp_path))))
    return path


def test_progress_and_result(recipe: Path, tmp_path: Path) -> None:
    outcome = call("train", recipe, "-o", tmp_path / "ckpt.pt", "--no-certify")
    assert outcome.code == 0, outcome
    # Six epochs are few: there may be warnings.
    lines = [line for line in outcome.err.splitlines() if not line.startswith("warning: epoch ")]
    assert [line.split("  ")[0] for line in lines] == [f"epoch {epoch}/6" for epoch in range(1, 7)]
    assert [line.split(" s/epoch at ")[1].split("  ")[0] for line in lines] == [
        "p = 8",
        *["p below 40"] * 2,
        "p from 40",
        *["p = inf"] * 2,
    ]
    assert outcome.out.startswith(f"wrote {tmp_path / 'ckpt.pt'}: clean ")
    assert len(outcome.out.splitlines()) == 1
    assert all("  clean " in line and "  certified " in line for line in lines)
    assert {path.name for path in tmp_path.glob("ckpt.*")} == {"ckpt.pt", "ckpt.png", "ckpt.log.jsonl"}


def test_the_last_word_is_what_the_exported_net_proves(recipe: Path, tmp_path: Path) -> None:
    out = tmp_path / "ckpt.pt"
    # The float nearest to 8/255 is below it.
    outcome = call("train", recipe, "-o", out, "--set", f"eps_test={8 / 255!r}")
    assert outcome.code == 0, outcome
    assert call("export", out, tmp_path / "model.onnx", "--form", "standard").code == 0
    images, labels = (np.load(tmp_path / "test.npz")[name] for name in ("images", "labels"))
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    (logits,) = session.run(["logits"], {"image": images})
    certified = 0
    for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
        others = [Fraction(value) for other, value in enumerate(row) if other != label]
        certified += Fraction(row[label]) - max(others) > 16
    clean = float((logits.argmax(1) == labels).mean())
    assert 0 < certified < len(labels)
    assert load_checkpoint(out).provenance["metrics"]["exported"] == {
        "samples": 90,
        "grid": 12,
        "levels": 8,
        "clean": clean,
        "certified": certified / 90,
    }
    assert outcome.out.splitlines()[1] == (
        f"certified after export: {certified / 90:.2%} (E, 8 of 255 levels, 90 test images; clean {clean:.2%})"
    )


def test_what_cannot_be_proved_is_noted(recipe: Path, tmp_path: Path) -> None:
    outcome = call("train", recipe, "-o", tmp_path / "ckpt.pt", "--set", "eps_test=0.001", "--set", "epochs=4")
    assert (outcome.code, len(outcome.out.splitlines())) == (0, 1)
    assert outcome.err.splitlines()[-1].startswith(
        "note: not certified after export: eps 0.001 is 0.255 of 255 levels; expected at least 1 level"
    )


class Writer:
    """What the run logs, in the place of TensorBoard's writer."""

    made: ClassVar[list[Writer]] = []

    def __init__(self, folder: str, purge_step: int | None) -> None:
        self.folder, self.purge, self.closed = folder, purge_step, False
        self.scalars: dict[str, list[tuple[int, float]]] = {}
        self.made.append(self)

    def add_scalar(self, name: str, value: float, step: int) -> None:
        self.scalars.setdefault(name, []).append((step, value))

    def close(self) -> None:
        self.closed = True


def log_for_tensorboard(recipe: Path, folder: Path) -> None:
    out, events = folder / "ckpt.pt", folder / "events"
    assert call("train", recipe, "-o", out, "--no-certify", "--tensorboard", events).code == 0


def test_tensorboard_gets_the_curves(recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = Writer  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    log_for_tensorboard(recipe, tmp_path)
    (writer,) = Writer.made
    assert (writer.folder, writer.purge, writer.closed) == (str(tmp_path / "events"), None, True)
    lines = (tmp_path / "ckpt.log.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    assert writer.scalars["loss"] == [(row["epoch"], row["loss"]) for row in rows]
    assert writer.scalars["schedule/p"] == [(row["epoch"], row["p"]) for row in rows if row["p"] != "inf"]
    assert len(writer.scalars["schedule/p"]) == 4
    evaluated = [(row["epoch"], row["certified"]) for row in rows if row["certified"] is not None]
    assert writer.scalars["test/certified"] == evaluated


def test_tensorboards_own_files(recipe: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="TensorBoard is not installed: pip install tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log_for_tensorboard(recipe, tmp_path)
    found = EventAccumulator(str(tmp_path / "events"))
    found.Reload()
    assert [event.step for event in found.Scalars("loss")] == list(range(1, 7))


def test_tensorboard_is_not_installed(recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    assert_refused(
        call("train", recipe, "-o", tmp_path / "ckpt.pt", "--tensorboard", tmp_path / "events"),
        "error: --tensorboard needs the package tensorboard, which is not installed: pip install tensorboard",
    )
    assert not (tmp_path / "ckpt.pt").exists()


def test_what_has_no_address_is_not_downloaded(recipe: Path, tmp_path: Path) -> None:
    assert_refused(
        call("train", recipe, "-o", tmp_path / "ckpt.pt", "--download"),
        "which has no address; expected one of mnist",
    )


def test_a_download_goes_where_the_data_is_read(
    tmp_path: Path, recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, Path]] = []

    def download(name: str, root: Path, tell: Callable[[str], None]) -> None:
        asked.append((name, root))
        tell("downloading it")

    monkeypatch.setattr("linfdeploy.training.data.download.download", download)
    command: list[str | Path] = [
        "train",
        recipe,
        "-o",
        tmp_path / "ckpt.pt",
        "--download",
        "--set",
        "dataset=mnist",
        "--data-root",
    ]
    outcome = call(*command, tmp_path / "root")
    assert asked == [("mnist", tmp_path / "root")]
    assert outcome.err.splitlines()[0] == "note: downloading it"


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
