# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of SortNet: what tells them apart, and the weights of their neurons, which no file holds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import papers_files as papers
import pytest
import torch
from papers_imports import NET, OPTIMIZER, RGB, bring, head_v2, random_heads, refused, save_v2

from linfdeploy.training.importers.inputs import InputOptions


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
    x = sorted_features(net, images, keep, len(net.means))
    return -(sorted_distances(x, net.weights[-1], keep) + net.bias)


def sorted_features(
    net: papers.Plain, images: npt.NDArray[np.float32], keep: float, layers: int
) -> npt.NDArray[np.float64]:
    mean = np.array((0.4, 0.5, 0.6), np.float32).reshape(-1, 1, 1)
    x: npt.NDArray[np.float64] = ((images - mean).astype(np.float64) / np.float32(0.2)).reshape(len(images), -1)
    for index in range(layers):
        x = sorted_distances(x, net.weights[index], keep if index else 1.0) - net.means[index]
    return x


def sorted_distances(
    x: npt.NDArray[np.float64], weight: npt.NDArray[np.float32], keep: float
) -> npt.NDArray[np.float64]:
    falling = -np.sort(-np.abs(x[:, None, :] - weight[None].astype(np.float64)), axis=-1)
    series = keep * (1 - keep) ** np.arange(10)
    distances: npt.NDArray[np.float64] = falling[..., :10] @ (series / (1 - (1 - keep) ** 10))
    return distances


def headed_state(scale: float | None) -> papers.State:
    """Two layers of `NET` and a head of nine hidden units."""
    state = papers.v2_state(NET, scale)
    return {name: value for name, value in state.items() if ".2." not in name} | dict(
        zip(head_v2(16), random_heads(16).values(), strict=True)
    )


@pytest.mark.parametrize("scale", [None, 2.5])
@pytest.mark.parametrize("by", ["log", "option"])
def test_a_head_behind_sort_neurons_is_imported(by: str, scale: float | None, tmp_path: Path) -> None:
    path, keep = tmp_path / "model.pth", 0.6
    save_v2(path, {f"module.{name}": value for name, value in headed_state(scale).items()})
    if by == "log":
        said = f"SortHybridModel(depth=4,width=16,hidden=9,dropout={keep})"
        (tmp_path / "log.txt").write_text(papers.log_lines(said, "CIFAR100"))
    imported = bring(path, **({} if by == "log" else {"repository": "SortNet", "keep": keep}))
    types = [layer.type for layer in imported.net.spec.layers]
    assert types == ["linf_dist", "sort_dist", "linear", "linear"]
    images = np.random.default_rng(1).random((7, 3, 2, 2), np.float32)
    first, first_bias, last, last_bias = (value.double().numpy() for value in random_heads(16).values())
    x = sorted_features(NET, images, keep, 2)
    # The scalar multiplies them in the loss, and is no part of ours.
    expected = np.tanh(x @ first.T / np.sqrt(16) + first_bias) @ last.T / np.sqrt(9) + last_bias
    logits = imported.net(torch.from_numpy(images)).numpy()
    # Sums of 16 terms of order 10 in float32, through slopes of at most 1 and 9 weights of order 1.
    np.testing.assert_allclose(logits, expected, 0, 1e-4)
    origin = imported.provenance["imported"]
    assert (origin["model"], origin["keep"], origin["scale"]) == ("SortHybridModel", keep, scale)
    assert imported.words == (
        "SortHybridModel of SortNet, an l_inf-distance layer, 1 sort-neuron layer and an MLP head of 9 hidden "
        "units, input (3, 2, 2)"
    )


def test_a_head_with_a_scalar_needs_no_log_but_the_weights(tmp_path: Path) -> None:
    """Only SortNet's nets with a head have a scalar."""
    path = tmp_path / "model.pth"
    save_v2(path, headed_state(1.5))
    assert refused(path).startswith("nothing says with which chance its sort neurons keep an input; expected")
    assert bring(path, keep=0.7).provenance["imported"]["repository"] == "SortNet"


def test_a_head_with_a_scalar_and_an_optimizer_is_contradictory(tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    save_v2(path, headed_state(1.5), optimizer=OPTIMIZER)
    assert refused(path, keep=0.7) == (
        "its origin is contradictory: its scalar for SortNet, the optimizer's state in it for L_inf-dist-net-v2; "
        "expected one: mend --repository or --log"
    )


def test_a_scalar_that_turns_the_classes_round_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    save_v2(path, headed_state(-1.0))
    assert refused(path, keep=0.7).startswith("scalar is [-1.0] of shape (1,); expected one positive number")


def test_the_log_of_a_head_counts_its_layers(tmp_path: Path) -> None:
    path, log = tmp_path / "model.pth", tmp_path / "log.txt"
    save_v2(path, headed_state(None))
    log.write_text(papers.log_lines("SortHybridModel(depth=2,width=16)"))
    assert refused(path) == (
        f"it holds SortHybridModel of depth 4 with hidden layers of [16] units, but {log} tells of "
        "SortHybridModel of depth 2 and width 16; expected the log of the same run: name it with --log"
    )


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


CROPS = papers.make((27, 16, 16, 5))
"""Of squares of 3 x 3 pixels with three channels, and of what leaves the first layer."""


def crops_state(scale: float | None = None) -> papers.State:
    """Two layers of `CROPS`, at four places each, and a head of nine hidden units."""
    state = papers.v2_state(CROPS, scale)
    return {name: value for name, value in state.items() if ".2." not in name} | dict(
        zip(head_v2(64), random_heads(64).values(), strict=True)
    )


def larger(stride: int) -> InputOptions:
    return InputOptions(mean=RGB.mean, std=RGB.std, shape=(3, 3 + stride, 3 + stride))


@pytest.mark.parametrize(("by", "stride"), [("log", 1), ("default of the log", 2), ("option", 4)])
def test_crops_at_the_corners_are_imported(by: str, stride: int, tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    save_v2(path, {f"module.{name}": value for name, value in crops_state(2.5).items()})
    if by != "option":
        said = "" if by == "default of the log" else f",stride={stride}"
        log = f"SortHybridModel2(depth=4,width=16,hidden=9,dropout=0.6{said})"
        (tmp_path / "log.txt").write_text(papers.log_lines(log, "CIFAR100"))
    imported = bring(path, input=larger(stride), **({"keep": 0.6} if by == "option" else {}))
    types = [layer.type for layer in imported.net.spec.layers]
    assert types == ["linf_dist_conv", "sort_dist_conv", "linear", "linear"]
    images = np.random.default_rng(2).random((7, 3, 3 + stride, 3 + stride), np.float32)
    corners = [images[:, :, top : top + 3, left : left + 3] for top in (0, stride) for left in (0, stride)]
    # Unit by unit, each at all places, as that code flattens them.
    x = np.stack([sorted_features(CROPS, corner, 0.6, 2) for corner in corners], axis=2).reshape(7, -1)
    first, first_bias, last, last_bias = (value.double().numpy() for value in random_heads(64).values())
    expected = np.tanh(x @ first.T / np.sqrt(64) + first_bias) @ last.T / np.sqrt(9) + last_bias
    logits = imported.net(torch.from_numpy(images)).numpy()
    # Sums of 64 terms of order 10 in float32, through slopes of at most 1 and 9 weights of order 1.
    np.testing.assert_allclose(logits, expected, 0, 2e-4)
    origin = imported.provenance["imported"]
    assert (origin["model"], origin["keep"], origin["scale"]) == ("SortHybridModel2", 0.6, 2.5)
    assert imported.words == (
        "SortHybridModel2 of SortNet, an l_inf-distance convolution, 1 sort-neuron layer at 4 places and an MLP "
        f"head of 9 hidden units, input (3, {3 + stride}, {3 + stride})"
    )


def test_a_gray_image_has_crops_of_one_channel(tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    gray = papers.make((25, 16, 16, 5))
    state = {name: value for name, value in papers.v2_state(gray, 1.5).items() if ".2." not in name}
    save_v2(path, state | dict(zip(head_v2(64), random_heads(64).values(), strict=True)))
    (tmp_path / "log.txt").write_text(
        papers.log_lines("SortHybridModel2(depth=4,width=16,dropout=0.7,stride=23)", "MNIST")
    )
    assert bring(path, input=InputOptions()).net.spec.input_shape == (1, 28, 28)


def test_crops_whose_places_nothing_says_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    save_v2(path, crops_state(2.5))
    said = (
        "nothing says how far apart its crops of 3 x 3 pixels are; expected the stride of the model in the run's "
        "log.txt beside it, or --input-shape of a larger image"
    )
    assert refused(path, keep=0.6, input=InputOptions("cifar10")) == said
    assert refused(path, keep=0.6, input=larger(0)) == said


def test_crops_that_are_no_squares_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    save_v2(path, crops_state(2.5) | {"fc_dist.0.weight": torch.ones(16, 26)})
    expected = "fc_dist.0 has 26 inputs; expected a square crop of"
    assert refused(path, keep=0.6, input=InputOptions("cifar10")) == f"{expected} 3 or 1 channels"
    assert refused(path, keep=0.6, input=larger(1)) == f"{expected} 3 channels"


@pytest.mark.parametrize("said", ["0", "two", "1.5"])
def test_a_log_of_no_stride_is_refused(said: str, tmp_path: Path) -> None:
    path, log = tmp_path / "model.pth", tmp_path / "log.txt"
    save_v2(path, crops_state())
    log.write_text(papers.log_lines(f"SortHybridModel2(depth=4,width=16,stride={said})", "CIFAR100"))
    assert refused(path) == f"{log}: its stride is {said!r}; expected a whole number of pixels from 1 on"


def test_an_image_of_another_size_than_the_crops_and_their_stride_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    save_v2(path, crops_state())
    log = papers.log_lines("SortHybridModel2(depth=4,width=16,dropout=0.6,stride=2)", "CIFAR100")
    (tmp_path / "log.txt").write_text(log)
    assert refused(path, input=larger(3)).startswith("the input shape is (3, 6, 6) with 3 means, but the first")


@pytest.mark.parametrize(
    ("said", "scale"), [("2.5", 2.5), (".5", 0.5), ("2e1", 20.0), ("True", None), ("1", None), (".", None)]
)
def test_a_scale_that_was_not_learned_stands_in_the_log(said: str, scale: float | None, tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    save_v2(path, papers.v2_state(NET, None))
    log = papers.log_lines(f"SortMLPModel(depth=3,width=16,dropout=0.7,scalar={said})", "CIFAR100")
    (tmp_path / "log.txt").write_text(log)
    assert bring(path).provenance["imported"]["scale"] == scale


@pytest.mark.parametrize("said", ["0.0", "-1.5"])
def test_a_scale_that_turns_the_classes_round_is_refused(said: str, tmp_path: Path) -> None:
    path, log = tmp_path / "model.pth", tmp_path / "log.txt"
    save_v2(path, papers.v2_state(NET, None))
    log.write_text(papers.log_lines(f"SortMLPModel(depth=3,width=16,dropout=0.7,scalar={said})", "CIFAR100"))
    assert refused(path) == f"{log}: its scalar is {said!r}; expected a positive number"
