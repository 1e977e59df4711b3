# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of SortNet: what tells them apart, and the weights of their neurons, which no file holds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import papers_files as papers
import pytest
import torch
from papers_imports import NET, V2_DENSE, bring, head_v2, refused, save_v2


@pytest.mark.parametrize("by", ["log", "option"])
def test_hybrid_sort_neurons_are_known_by_the_log_or_the_option(by: str, tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    save_v2(path, {**V2_DENSE, **head_v2(5)})
    if by == "log":
        (tmp_path / "log.txt").write_text(papers.log_lines("SortHybridModel(depth=5,width=16)"))
    text = refused(path, repository="SortNet" if by == "option" else None)
    assert text.startswith("it holds SortHybridModel of SortNet, an l_inf-distance layer")
    assert "sort-neuron layers" in text
    assert "not supported yet" in text


@pytest.mark.parametrize("by", ["log", "default of the log", "option"])
def test_sort_neurons_have_the_weights_that_the_log_or_the_option_says(by: str, tmp_path: Path) -> None:
    path, keep = tmp_path / "model.pth", 0.7 if by == "default of the log" else 0.75
    save_v2(path, papers.v2_state(NET))
    if by != "option":
        said = "" if by == "default of the log" else ",dropout=0.75"
        (tmp_path / "log.txt").write_text(papers.log_lines(f"SortMLPModel(depth=3,width=16{said})", "CIFAR100"))
    imported = bring(path, **({"repository": "SortNet", "keep": keep} if by == "option" else {}))
    images = np.random.default_rng(0).random((5, 3, 2, 2), np.float32)
    found = imported.net(torch.from_numpy(images)).numpy()
    # Three layers of sums of ten products of numbers below 32, each rounded by 2^-19 or less.
    np.testing.assert_allclose(found, sorted_logits(NET, images, keep), atol=1e-4, rtol=0)
    assert imported.provenance["imported"]["keep"] == keep


def sorted_logits(net: papers.Plain, images: npt.NDArray[np.float32], keep: float) -> npt.NDArray[np.float64]:
    """The third paper's formulas in float64: the first layer is an ordinary one."""
    x: npt.NDArray[np.float64] = (images - np.reshape((0.4, 0.5, 0.6), (-1, 1, 1))) / 0.2
    x = x.reshape(len(images), -1)
    for index, weight in enumerate(net.weights):
        falling = -np.sort(-np.abs(x[:, None, :] - weight[None].astype(np.float64)), axis=-1)
        series = keep * (1 - keep) ** np.arange(10)
        x = falling[..., :10] @ (series / (1 - (1 - keep) ** 10)) if index else falling[..., 0]
        x = x + net.bias if index == len(net.means) else x - net.means[index]
    return -x


def test_sort_neurons_without_weights_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    save_v2(path, papers.v2_state(NET))
    assert refused(path, repository="SortNet") == (
        "nothing says with which chance its sort neurons keep an input; expected the dropout of the model in the "
        "run's log.txt beside it, or --keep"
    )


@pytest.mark.parametrize("said", ["1.5", "nan", "much"])
def test_a_log_of_no_chance_is_refused(said: str, tmp_path: Path) -> None:
    path, log = tmp_path / "model.pth", tmp_path / "log.txt"
    save_v2(path, papers.v2_state(NET))
    log.write_text(papers.log_lines(f"SortMLPModel(depth=3,width=16,dropout={said})"))
    assert refused(path) == f"{log}: its dropout is {said!r}; expected a chance above 0 and at most 1"


def test_a_log_and_an_option_that_differ_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    save_v2(path, papers.v2_state(NET))
    (tmp_path / "log.txt").write_text(papers.log_lines("SortMLPModel(depth=3,width=16,dropout=0.75)"))
    assert refused(path, keep=0.7) == (
        "--keep is 0.7 but the run's log says dropout=0.75, which is the chance to be kept; expected the same: "
        "leave the option out, or name the right log with --log"
    )
