# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of the papers' repositories become ours: the same function, or one line that says why not."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import numpy as np
import papers_files as papers
import pytest
import torch
from papers_imports import NET, OPTIMIZER, RGB, V2_DENSE, bring, head_v2, random_heads, refused, save_v2

from linfdeploy.errors import CheckpointError, InputError
from linfdeploy.nets.checkpoint import load_checkpoint
from linfdeploy.training.data.dataset import STATISTICS
from linfdeploy.training.importers.inputs import DATASETS, InputOptions


def assert_same_function(path: Path, net: papers.Plain, taken: InputOptions) -> None:
    """Within one ulp a layer of the formulas in float64, on images of all kinds."""
    assert taken.mean is not None
    assert taken.std is not None
    assert taken.shape is not None
    rng = np.random.default_rng(1)
    levels = rng.integers(0, 256, (64, *taken.shape)).astype(np.float32)
    levels[0], levels[1] = 0, 255
    images = levels / np.float32(255)
    expected, allowed = net.logits(images, taken.mean, taken.std)
    found = load_checkpoint(path).net(torch.from_numpy(images)).numpy()
    assert np.abs(found - expected).max() <= allowed
    assert allowed < 1e-4


# --- nets that ours can be


@pytest.mark.parametrize("old", [False, True], ids=["zip", "before 1.6"])
@pytest.mark.parametrize("prefix", ["", "module."], ids=["alone", "DDP"])
def test_the_first_papers_net_with_modules_in_its_optimizer(old: bool, prefix: str, tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    state = {f"{prefix}{name}": value for name, value in papers.v1_state(NET).items()}
    papers.save_with_modules(path, state, _use_new_zipfile_serialization=not old)
    imported = bring(path, eps="8/255")
    assert_same_function(tmp_path / "ckpt.pt", NET, RGB)
    assert imported.words == "MLP of L_inf-dist-net, 3 l_inf-distance layers, input (3, 2, 2)"
    layout = "before torch 1.6" if old else "more than plain data"
    assert load_checkpoint(tmp_path / "ckpt.pt").provenance == {
        "imported": {
            "file": "model.pth",
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            "layout": layout,
            "repository": "L_inf-dist-net",
            "model": "MLP",
            "scale": None,
        },
        "dataset": None,
        "eps": "8/255",
        "log": None,
        "versions": imported.provenance["versions"],
    }


@pytest.mark.parametrize("scale", [3.5, None])
def test_the_second_papers_net(scale: float | None, tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    save_v2(path, papers.v2_state(NET, scale), optimizer=OPTIMIZER)
    imported = bring(path)
    assert_same_function(tmp_path / "ckpt.pt", NET, RGB)
    assert imported.words == "MLPModel of L_inf-dist-net-v2, 3 l_inf-distance layers, input (3, 2, 2)"
    assert imported.provenance["imported"]["scale"] == scale
    assert imported.provenance["imported"]["layout"] == "plain data"


def test_a_net_of_one_layer(tmp_path: Path) -> None:
    net = papers.make((12, 5))
    save_v2(tmp_path / "model.pth", papers.v2_state(net), optimizer=OPTIMIZER)
    bring(tmp_path / "model.pth")
    assert_same_function(tmp_path / "ckpt.pt", net, RGB)


def test_the_log_says_the_rest(tmp_path: Path) -> None:
    net = papers.make((784, 1024, 10))
    papers.save_with_modules(tmp_path / "model.pth", papers.v1_state(net))
    (tmp_path / "log.txt").write_text(papers.log_lines("MLP(depth=2,width=1)"))
    provenance = bring(tmp_path / "model.pth", input=InputOptions()).provenance
    assert_same_function(tmp_path / "ckpt.pt", net, InputOptions("mnist", (0.1307,), 0.3081, (1, 28, 28)))
    assert (provenance["dataset"], provenance["eps"]) == ("mnist", "0.3")
    arguments = {"dataset": "MNIST", "model": "MLP(depth=2,width=1)", "loss": "hinge", "eps_test": "0.3"}
    assert provenance["log"] == {
        "sha256": hashlib.sha256((tmp_path / "log.txt").read_bytes()).hexdigest(),
        "arguments": {**arguments, "filter_name": ""},
    }


def test_a_log_elsewhere_tells_that_a_file_without_optimizer_is_no_sortnet(tmp_path: Path) -> None:
    net = papers.make((3072, 20, 20, 10))
    save_v2(tmp_path / "model.pth", papers.v2_state(net))
    log = tmp_path / "cifar" / "log.txt"
    log.parent.mkdir()
    model = "MLPModel(depth=3,width=20,identity_val=10.0, scalar=True)"
    log.write_text(papers.log_lines(model, "CIFAR10", eps_test="None"))
    provenance = bring(tmp_path / "model.pth", input=InputOptions(), log=log).provenance
    taken = InputOptions("cifar10", (0.4914, 0.4822, 0.4465), 0.2009, (3, 32, 32))
    assert_same_function(tmp_path / "ckpt.pt", net, taken)
    assert provenance["eps"] is None


def test_the_user_tells_that_a_file_without_optimizer_is_no_sortnet(tmp_path: Path) -> None:
    save_v2(tmp_path / "model.pth", papers.v2_state(NET))
    bring(tmp_path / "model.pth", repository="L_inf-dist-net-v2")
    assert_same_function(tmp_path / "ckpt.pt", NET, RGB)


@pytest.mark.parametrize(("dataset", "size"), [*((name, None) for name in DATASETS), ("tiny-imagenet", 56)])
def test_data_sets(dataset: str, size: int | None, tmp_path: Path) -> None:
    statistics = DATASETS[dataset]
    shape = statistics.shape if size is None else (3, size, size)
    net = papers.make((int(np.prod(shape)), 4))
    save_v2(tmp_path / "model.pth", papers.v2_state(net), optimizer=OPTIMIZER)
    spec = bring(tmp_path / "model.pth", input=InputOptions(dataset)).net.spec
    assert (spec.input_shape, spec.mean, spec.std) == (shape, statistics.mean, statistics.std)
    if dataset in STATISTICS:
        assert STATISTICS[dataset] == (statistics.mean, statistics.std)


def test_options_go_before_the_data_sets_statistics(tmp_path: Path) -> None:
    save_v2(tmp_path / "model.pth", papers.v2_state(papers.make((12, 4))), optimizer=OPTIMIZER)
    options = InputOptions("cifar10", (0.5, 0.5, 0.5), 0.25, (3, 2, 2))
    spec = bring(tmp_path / "model.pth", input=options).net.spec
    assert (spec.input_shape, spec.mean, spec.std) == ((3, 2, 2), (0.5, 0.5, 0.5), 0.25)


# --- nets that ours cannot be

V1_DENSE = {name: value for name, value in papers.v1_state(NET).items() if "fc_last" not in name}
SCALAR = {"scalar": torch.ones(1)}


# --- heads


@pytest.mark.parametrize("paper", ["first", "second"])
def test_a_head_is_imported(paper: str, tmp_path: Path) -> None:
    """Against the formulas in float64."""
    head, dense = random_heads(16), papers.v1_state(NET) if paper == "first" else papers.v2_state(NET, None)
    kept = {name: value for name, value in dense.items() if "fc_last" not in name and ".2." not in name}
    names = list(head) if paper == "first" else list(head_v2(16))
    state = {**kept, **dict(zip(names, head.values(), strict=True))}
    save_v2(tmp_path / "model.pth", state, optimizer=OPTIMIZER)
    found = bring(tmp_path / "model.pth").net
    assert [type(layer).__name__ for layer in found.layers] == ["LinfDist", "LinfDist", "Linear", "Linear"]
    images = np.random.default_rng(1).random((6, 3, 2, 2)).astype(np.float32)
    mean = np.array([0.4, 0.5, 0.6], np.float32).reshape(-1, 1, 1)
    x = ((images - mean).astype(np.float64) / np.float32(0.2)).reshape(6, 12)
    for weight, shift in zip(NET.weights[:2], NET.means, strict=True):
        x = np.abs(x[:, None, :] - weight[None].astype(np.float64)).max(-1) - shift
    first, first_bias, last, last_bias = (value.double().numpy() for value in head.values())
    expected = np.tanh(x @ first.T / np.sqrt(16) + first_bias) @ last.T / np.sqrt(9) + last_bias
    logits = found(torch.from_numpy(images)).numpy()
    # Sums of 16 terms of order 10 in float32, through slopes of at most 1 and 9 weights of order 1.
    np.testing.assert_allclose(logits, expected, 0, 1e-4)


def test_nothing_tells_the_second_papers_head_from_sortnets(tmp_path: Path) -> None:
    save_v2(tmp_path / "model.pth", {**V2_DENSE, **head_v2(5)})
    assert refused(tmp_path / "model.pth") == (
        "its tensors are those of HybridModel of L_inf-dist-net-v2 and of SortHybridModel of SortNet, whose "
        "neurons differ; expected the run's log.txt beside it, or --repository"
    )


def test_a_head_whose_sizes_do_not_fit(tmp_path: Path) -> None:
    head = {**papers.head_v1(16, 7, 5), "predictor.fc1.bias": torch.ones(6)}
    save_v2(tmp_path / "model.pth", {**V1_DENSE, **head})
    assert refused(tmp_path / "model.pth") == (
        "predictor.fc1 has a weight of shape (7, 16) and a bias of shape (6,); expected (outputs, inputs) and "
        "(outputs,)"
    )


def test_the_log_of_a_head_counts_its_layers(tmp_path: Path) -> None:
    save_v2(tmp_path / "model.pth", {**V2_DENSE, **head_v2(5)}, optimizer=OPTIMIZER)
    (tmp_path / "log.txt").write_text(papers.log_lines("HybridModel(depth=4,width=16)"))
    assert refused(tmp_path / "model.pth") == (
        f"it holds HybridModel of depth 5 with hidden layers of [5, 16] units, but {tmp_path / 'log.txt'} tells "
        "of HybridModel of depth 4 and width 16; expected the log of the same run: name it with --log"
    )


# --- what is missing or contradictory


def test_nothing_tells_the_second_paper_from_sortnet(tmp_path: Path) -> None:
    save_v2(tmp_path / "model.pth", papers.v2_state(NET))
    assert refused(tmp_path / "model.pth") == (
        "its tensors are those of MLPModel of L_inf-dist-net-v2 and of SortMLPModel of SortNet, "
        "whose neurons differ; "
        "expected the run's log.txt beside it, or --repository"
    )


def test_signs_that_contradict_each_other(tmp_path: Path) -> None:
    save_v2(tmp_path / "model.pth", papers.v2_state(NET), optimizer=OPTIMIZER)
    (tmp_path / "log.txt").write_text(papers.log_lines("SortMLPModel(depth=3,width=16)"))
    assert refused(tmp_path / "model.pth") == (
        "its origin is contradictory: the optimizer's state in it for L_inf-dist-net-v2, the log's "
        "model SortMLPModel "
        "for SortNet; expected one: mend --repository or --log"
    )


def test_another_repository_than_the_option_says(tmp_path: Path) -> None:
    save_v2(tmp_path / "model.pth", papers.v1_state(NET))
    text = refused(tmp_path / "model.pth", repository="SortNet")
    assert text == "it is of L_inf-dist-net; expected SortNet, as --repository says"


@pytest.mark.parametrize(
    ("model", "told"),
    [
        ("MLPModel(depth=4,width=16)", "MLPModel of depth 4 and width 16"),
        ("MLPModel(depth=3,width=17)", "MLPModel of depth 3 and width 17"),
        ("MLPModel(width=16)", "MLPModel of depth None and width 16"),
        ("HybridModel(depth=3,width=16)", "HybridModel of depth 3 and width 16"),
    ],
)
def test_the_log_of_another_run(model: str, told: str, tmp_path: Path) -> None:
    save_v2(tmp_path / "model.pth", papers.v2_state(NET), optimizer=OPTIMIZER)
    (tmp_path / "log.txt").write_text(papers.log_lines(model))
    assert refused(tmp_path / "model.pth") == (
        f"it holds MLPModel of depth 3 with hidden layers of [16] units, but {tmp_path / 'log.txt'} "
        f"tells of {told}; "
        "expected the log of the same run: name it with --log"
    )


def test_a_log_that_is_not_there(tmp_path: Path) -> None:
    save_v2(tmp_path / "model.pth", papers.v2_state(NET))
    with pytest.raises(InputError, match=r"other.txt: no such file; expected the log.txt of a run"):
        bring(tmp_path / "model.pth", log=tmp_path / "other.txt")


@pytest.mark.parametrize(
    ("options", "missing"),
    [
        (InputOptions(), "mean and the std and the input shape"),
        (InputOptions(mean=(0.1,)), "std and the input shape"),
        (InputOptions(mean=(0.1,), std=0.2), "input shape"),
        (InputOptions(std=0.2, shape=(3, 2, 2)), "mean"),
    ],
)
def test_what_nothing_says_is_asked_for(options: InputOptions, missing: str, tmp_path: Path) -> None:
    save_v2(tmp_path / "model.pth", papers.v2_state(NET), optimizer=OPTIMIZER)
    assert refused(tmp_path / "model.pth", input=options) == (
        f"nothing says the {missing} of the net's input; expected the run's log.txt beside the "
        "checkpoint, --dataset, "
        "or --mean, --std and --input-shape"
    )


@pytest.mark.parametrize(
    ("options", "found"),
    [
        (InputOptions("mnist"), "the input shape is (1, 28, 28) with 1 means"),
        (InputOptions(mean=(0.1,), std=0.2, shape=(3, 2, 2)), "the input shape is (3, 2, 2) with 1 means"),
        (InputOptions("tiny-imagenet"), "the input shape is (3, 64, 64) with 3 means"),
    ],
)
def test_an_input_that_does_not_fit(options: InputOptions, found: str, tmp_path: Path) -> None:
    save_v2(tmp_path / "model.pth", papers.v2_state(NET), optimizer=OPTIMIZER)
    assert refused(tmp_path / "model.pth", input=options) == (
        f"{found}, but the first layer has 12 inputs; expected a shape of as many values and a mean "
        "for each channel: "
        "choose --dataset, --input-shape or --mean"
    )


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (InputOptions("cifar10"), "--dataset is cifar10 but the run's log says mnist"),
        (InputOptions(mean=(0.5,)), "--mean is (0.5,) but the run's log says (0.1307,)"),
        (InputOptions(std=0.3), "--std is 0.3 but the run's log says 0.3081"),
    ],
)
def test_options_that_contradict_the_log(options: InputOptions, said: str, tmp_path: Path) -> None:
    save_v2(tmp_path / "model.pth", papers.v2_state(papers.make((784, 8, 3))))
    (tmp_path / "log.txt").write_text(papers.log_lines("MLPModel(depth=2,width=8)"))
    expected = "expected the same: leave the option out, or name the right log with --log"
    assert refused(tmp_path / "model.pth", input=options) == f"{said}; {expected}"


def test_a_data_set_that_nobody_knows(tmp_path: Path) -> None:
    save_v2(tmp_path / "model.pth", papers.v2_state(papers.make((784, 8, 3))))
    (tmp_path / "log.txt").write_text(papers.log_lines("MLPModel(depth=2,width=8)", "SVHN"))
    assert refused(tmp_path / "model.pth") == (
        f"{tmp_path / 'log.txt'}: its dataset is 'SVHN'; expected one of MNIST, FashionMNIST, CIFAR10, CIFAR100, "
        "TinyImageNet, ImageNet64"
    )


@pytest.mark.parametrize(("scale", "shown"), [(-0.5, "[-0.5]"), (0.0, "[0.0]")])
def test_a_scale_that_turns_the_classes_round(scale: float, shown: str, tmp_path: Path) -> None:
    save_v2(tmp_path / "model.pth", papers.v2_state(NET, scale), optimizer=OPTIMIZER)
    assert refused(tmp_path / "model.pth") == (
        f"scalar is {shown} of shape (1,); expected one positive number, which leaves the order of "
        "the logits as it is"
    )


@pytest.mark.parametrize("std", [0.0, -1.0, float("nan"), float("inf")])
def test_a_std_that_cannot_be(std: float, tmp_path: Path) -> None:
    save_v2(tmp_path / "model.pth", papers.v2_state(NET), optimizer=OPTIMIZER)
    text = refused(tmp_path / "model.pth", input=InputOptions(mean=(0.1, 0.2, 0.3), std=std, shape=(3, 2, 2)))
    assert text == f"std is {std}; expected one finite positive float32 number"


# --- states that are nobody's


def test_tensors_of_somebody_else(tmp_path: Path) -> None:
    save_v2(tmp_path / "model.pth", {"conv1.weight": torch.ones(1), "fc.bias": torch.ones(1)})
    assert refused(tmp_path / "model.pth") == (
        "its tensors are ['conv1.weight', 'fc.bias']; expected those of L_inf-dist-net, "
        "L_inf-dist-net-v2 or SortNet"
    )


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("fc_dist.0.mean_shift.running_mean", "MLPModel of L_inf-dist-net-v2 or SortMLPModel of SortNet"),
        ("fc_dist.2.bias", "MLPModel of L_inf-dist-net-v2 or SortMLPModel of SortNet"),
        ("feature.fc.0.normalize.running_mean", "MLP of L_inf-dist-net"),
        ("feature.fc_last.bias", "MLP of L_inf-dist-net"),
    ],
)
def test_a_tensor_too_few_and_one_too_many(name: str, what: str, tmp_path: Path) -> None:
    state = papers.v1_state(NET) if name.startswith("feature") else papers.v2_state(NET)
    del state[name]
    state["surplus"] = torch.ones(1)
    save_v2(tmp_path / "model.pth", state, optimizer=OPTIMIZER)
    assert refused(tmp_path / "model.pth") == (
        f"its tensors look like {what}, but it lacks ['{name}'] and has the unknown ['surplus']; "
        "expected a file as "
        "that code saves it"
    )


def test_shapes_that_do_not_fit(tmp_path: Path) -> None:
    state = papers.v2_state(NET)
    state["fc_dist.1.weight"] = torch.ones(16, 15)
    save_v2(tmp_path / "model.pth", state, optimizer=OPTIMIZER)
    text = "layer 1 claims 15 inputs and 16 outputs; expected 16 inputs and between 1 and 16777216 outputs"
    assert refused(tmp_path / "model.pth") == text
    state["fc_dist.1.weight"] = torch.ones(17, 16)
    save_v2(tmp_path / "model.pth", state, optimizer=OPTIMIZER)
    assert refused(tmp_path / "model.pth") == (
        "fc_dist.1 has a weight of shape (17, 16) and a mean_shift.running_mean of shape (16,); "
        "expected (outputs, "
        "inputs) and (outputs,)"
    )
    state = papers.v1_state(NET)
    state["feature.fc.0.weight"] = torch.ones(16, 12, 3, 3)
    save_v2(tmp_path / "model.pth", state)
    assert refused(tmp_path / "model.pth") == (
        "feature.fc.0 has a weight of shape (16, 12, 3, 3) and a normalize.running_mean of shape (16,); expected "
        "(outputs, inputs, 1, 1) and (outputs,)"
    )


def test_two_runs_write_the_same_bytes(tmp_path: Path) -> None:
    papers.save_with_modules(tmp_path / "model.pth", papers.v1_state(NET))
    bring(tmp_path / "model.pth")
    first = load_checkpoint(tmp_path / "ckpt.pt")
    bring(tmp_path / "model.pth")
    again = load_checkpoint(tmp_path / "ckpt.pt")
    assert first.provenance == again.provenance
    for name, tensor in first.net.state_dict().items():
        assert torch.equal(tensor, again.net.state_dict()[name])


def test_errors_stay_in_their_tree(tmp_path: Path) -> None:
    save_v2(tmp_path / "model.pth", {})
    with pytest.raises(CheckpointError, match=re.escape("its state_dict has 0 entries; expected 1 to 4096 named")):
        bring(tmp_path / "model.pth")
