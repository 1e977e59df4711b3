# SPDX-License-Identifier: Apache-2.0
"""The head of log.txt: read strictly, however long and strange the file is."""

from __future__ import annotations

from pathlib import Path

import papers_files as papers
import pytest

from linfdeploy.errors import InputError
from linfdeploy.training.importers.run_log import Call, RunLog, read_run_log

WHAT = "the log.txt of a run: lines such as 'dataset = MNIST', then the transforms"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "log.txt"


def read(path: Path, text: str) -> RunLog:
    path.write_text(text)
    return read_run_log(path)


def refused(path: Path, text: str) -> str:
    with pytest.raises(InputError) as error:
        read(path, text)
    assert "\n" not in str(error.value)
    return str(error.value).removeprefix(f"{path}: ")


def test_a_log(path: Path) -> None:
    log = read(path, papers.log_lines("MLPModel(depth=6,width=5120,identity_val=10.0, scalar=True)", "CIFAR10"))
    expected = {"depth": "6", "width": "5120", "identity_val": "10.0", "scalar": "True"}
    assert log.model == Call("MLPModel", expected)
    assert (log.mean, log.std) == ((0.4914, 0.4822, 0.4465), 0.2009)
    assert log.arguments["filter_name"] == ""
    assert log.arguments["eps_test"] == "0.3"


def test_what_follows_the_head_does_not_matter(path: Path) -> None:
    head = papers.log_lines("MLP(depth=5,width=5)")
    lines = head + "dataset = OTHER\n" + "Epoch 1: loss \x00\n" * 10**5
    log = read(path, lines)
    assert log.arguments["dataset"] == "MNIST"
    path.write_bytes(lines.encode() + b"\xff\xfe" * 1000)
    assert read_run_log(path).model == log.model


def test_a_log_without_transforms(path: Path) -> None:
    log = read(path, "dataset = MNIST\nmodel = MLPModel\n")
    assert (log.model, log.mean, log.std) == (Call("MLPModel", {}), None, None)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", "it names []"),
        ("dataset = MNIST\n", "it names ['dataset']"),
        ("no log\ndataset = MNIST\nmodel = MLP\n", "it names []"),
        ("\x00\x01", "it names []"),
        ("dataset=MNIST\nmodel=MLP\n", "it names []"),
    ],
)
def test_no_log(text: str, found: str, path: Path) -> None:
    assert refused(path, text) == f"{found}; expected {WHAT}"


def test_too_many_arguments(path: Path) -> None:
    text = refused(path, "dataset = a\nmodel = b\n" + "".join(f"x{index} = 1\n" for index in range(10**4)))
    assert text.startswith("it names ['dataset', 'model', 'x0'")
    assert text.endswith(f"; expected {WHAT}")


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("dataset = CIFAR10", "'dataset = CIFAR10'"),
        ("loss = " + "x" * 501, "'loss = " + "x" * 189 + "..."),
        ("loss = \x1b[31m", r"'loss = \x1b[31m'"),
    ],
)
def test_strange_arguments(line: str, shown: str, path: Path) -> None:
    text = refused(path, f"dataset = MNIST\n{line}\nmodel = MLP\n")
    assert text == f"it says {shown}; expected each argument once, in one short line"


@pytest.mark.parametrize(
    "model", ["MLP(depth=5", "MLP(depth)", "", "__import__('os').system('ls')", "MLP(f(x=1)=2)"]
)
def test_strange_models(model: str, path: Path) -> None:
    text = refused(path, f"dataset = MNIST\nmodel = {model}\n")
    assert text == f"its model is {model!r}; expected for example MLPModel(depth=5,width=5120)"


@pytest.mark.parametrize(
    "normalize",
    [
        "Normalize(mean=[0.1 0.2 0.3], std=[0.2, 0.2, 0.3])",
        "Normalize(mean=[0.1], std=[])",
        "Normalize(mean=[x], std=[0.2])",
        "Normalize(mean=[0.1], std=[nan])",
        "Normalize(mean=[-0.1], std=[0.2])",
    ],
)
def test_strange_transforms(normalize: str, path: Path) -> None:
    text = f"dataset = MNIST\nmodel = MLP\nCompose(\n    {normalize}\n)\n"
    if normalize.endswith("[])"):
        assert read(path, text).mean is None
        return
    assert refused(path, text) == (
        f"it says {normalize!r}; expected one Normalize, with the same std for all channels: "
        "otherwise an l_inf ball "
        "of images would be no ball"
    )
