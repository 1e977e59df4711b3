# SPDX-License-Identifier: Apache-2.0
"""`linfdeploy import`: from a stranger's file to a model that can be deployed, or one line."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import papers_files as papers
import pytest
import torch
from command_line import assert_refused, call

from linfdeploy.cli import import_
from linfdeploy.training.importers.convert import REPOSITORIES
from linfdeploy.training.importers.inputs import DATASETS

NET = papers.make((27, 8, 8, 4))
RGB = ("--mean", "0.4,0.5,0.6", "--std", "0.2", "--input-shape", "3,3,3")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.pth"
    papers.save_with_modules(path, papers.v1_state(NET))
    return path


def test_what_was_imported_can_be_inspected_and_exported(model: Path) -> None:
    checkpoint = model.with_name("ckpt.pt")
    outcome = call("import", model, checkpoint, *RGB, "--eps", "8/255")
    assert (outcome.code, outcome.err) == (0, "")
    words = "MLP of L_inf-dist-net, 3 l_inf-distance layers, input (3, 3, 3)"
    assert outcome.out == f"wrote {checkpoint}: {words}\n"
    shown = call("inspect", checkpoint).out
    assert "layer 2      linf_dist 8 -> 4, bias" in shown
    assert "'repository': 'L_inf-dist-net'" in shown
    assert "8/255" in shown
    assert call("export", checkpoint, model.with_name("model.onnx")).code == 0


def test_the_log_beside_it(tmp_path: Path) -> None:
    torch.save({"state_dict": papers.v2_state(papers.make((784, 8, 10)))}, tmp_path / "model.pth")
    (tmp_path / "log.txt").write_text(papers.log_lines("MLPModel(depth=2,width=8,scalar=True)"))
    assert call("import", tmp_path / "model.pth", tmp_path / "ckpt.pt").code == 0
    (tmp_path / "log.txt").rename(tmp_path / "other.txt")
    assert_refused(call("import", tmp_path / "model.pth", tmp_path / "no.pt"), "or --repository")
    options = ("--log", tmp_path / "other.txt", "--dataset", "mnist", "--repository", "L_inf-dist-net-v2")
    assert call("import", tmp_path / "model.pth", tmp_path / "again.pt", *options).code == 0


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (
            (),
            "nothing says the mean and the std and the input shape of the net's input; expected the run's log.txt",
        ),
        ((*RGB, "--dataset", "svhn"), "'svhn' is not one of 'mnist'"),
        ((*RGB, "--repository", "v1"), "'v1' is not one of 'L_inf-dist-net'"),
        (
            (*RGB, "--std", "0.2,0.3"),
            "--std is '0.2,0.3'; expected one number: with several an l_inf ball would be",
        ),
        ((*RGB, "--std", "x"), "--std is 'x'; expected numbers such as 0.4914,0.4822,0.4465"),
        ((*RGB, "--mean", "0.1,"), "--mean is '0.1,'; expected numbers such as 0.4914,0.4822,0.4465"),
        (
            (*RGB, "--mean", "0.1,0.2"),
            "the input shape is (3, 3, 3) with 2 means, but the first layer has 27 inputs",
        ),
        (
            (*RGB, "--mean", "nan,0,0"),
            "mean is (nan, 0.0, 0.0); expected 3 finite float32 numbers, one per channel",
        ),
        ((*RGB, "--input-shape", "27"), "--input-shape is '27'; expected three sizes such as 3,32,32"),
        ((*RGB, "--input-shape", "3,3,-3"), "--input-shape is '3,3,-3'; expected three sizes such as 3,32,32"),
        ((*RGB, "--input-shape", "3,3,²"), "expected three sizes such as 3,32,32"),
        ((*RGB, "--eps", "x"), "eps is 'x'; expected a fraction of the pixel range such as 8/255 or 0.3, or 8px"),
        ((*RGB, "--log", "nowhere.txt"), "nowhere.txt: no such file; expected the log.txt of a run"),
    ],
)
def test_wrong_use(options: tuple[str, ...], text: str, model: Path) -> None:
    assert_refused(call("import", model, model.with_name("ckpt.pt"), *options), text)
    assert list(model.parent.iterdir()) == [model]


class Payload:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.marker}",)


def test_a_hostile_file_is_one_line(model: Path, tmp_path: Path) -> None:
    torch.save({"state_dict": Payload(tmp_path / "executed")}, model)
    outcome = call("import", model, tmp_path / "ckpt.pt", *RGB)
    assert_refused(
        outcome, "it holds the fields ['state_dict']; expected the field 'state_dict' of a checkpoint of"
    )
    assert list(tmp_path.iterdir()) == [model]


def test_an_output_that_cannot_be(model: Path, tmp_path: Path) -> None:
    assert_refused(call("import", model, tmp_path, *RGB), f"cannot write {tmp_path}: it is a folder; name a file")


def test_without_torch(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("linfdeploy.training.importers")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "torch", None)
    outcome = call("import", model, model.with_name("ckpt.pt"), *RGB)
    assert_refused(outcome, "import needs packages that are not installed: pip install 'linfdeploy[train]'")


def test_the_choices_are_those_of_the_importer() -> None:
    assert REPOSITORIES == import_.REPOSITORIES
    assert tuple(DATASETS) == import_.DATASETS
