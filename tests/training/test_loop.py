# SPDX-License-Identifier: Apache-2.0
"""The loop: same bits from the same seed, states to resume from, and what it refuses."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from linfdeploy.errors import CheckpointError, DatasetError, InputError, RecipeError
from linfdeploy.nets.checkpoint import load_checkpoint, load_plain, save_plain
from linfdeploy.training.data import Dataset
from linfdeploy.training.loop import Progress, train
from linfdeploy.training.recipe import Recipe
from linfdeploy.training.state import load_state, save_state, state_path
from linfdeploy.training.trainer import Trainer

RECIPE = Recipe(
    name="blobs",
    dataset="set by the fixture",
    eps_test=0.05,
    eps_train=0.1,
    hidden=(24, 20),
    epochs=6,
    batch_size=50,
    lr=0.03,
    p_start=8.0,
    p_end=100.0,
    p_from_epoch=1,
    p_until_epoch=4,
    lambda_start=0.1,
    lambda_end=0.01,
    crop_padding=1,
    seed=11,
)


def blobs(count: int, seed: int) -> Dataset:
    """Noisy 5x5 images of three classes, each with its own bright columns."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, count)
    images = rng.integers(0, 60, (count, 1, 5, 5)).astype(np.uint8)
    images[np.arange(count), :, :, labels + 1] += 150
    return Dataset("blobs", images, labels, 3, (0.2,), 0.25)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    # Several threads wait for each other at every layer, which takes long on a machine that does other things.
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    for split, dataset in (("train", blobs(230, 0)), ("test", blobs(90, 1))):
        np.savez(tmp_path / f"{split}.npz", images=dataset.images, labels=dataset.labels)
    return replace(RECIPE, dataset=str(tmp_path / "{split}.npz"))


def weights_after(recipe: Recipe, epochs: int, threads: int = 1) -> dict[str, torch.Tensor]:
    torch.set_num_threads(threads)
    trainer = Trainer(recipe, blobs(230, 0))
    for _ in range(epochs):
        trainer.run_epoch()
    return {**trainer.net.state_dict(), "scale": trainer.scale.detach()}


def same_bits(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


class TestBits:
    def test_the_seed_decides_all_of_them(self) -> None:
        torch.manual_seed(1)
        first = weights_after(RECIPE, 6)
        torch.manual_seed(2)
        assert same_bits(first, weights_after(RECIPE, 6))
        assert not same_bits(first, weights_after(replace(RECIPE, seed=12), 6))

    def test_the_number_of_threads_does_not_matter(self) -> None:
        wide = replace(RECIPE, hidden=(150, 130))
        assert same_bits(weights_after(wide, 6), weights_after(wide, 6, threads=2))

    def test_the_caller_keeps_its_random_numbers(self) -> None:
        before = torch.get_rng_state()
        weights_after(RECIPE, 1)
        assert torch.equal(torch.get_rng_state(), before)

    @pytest.mark.parametrize("epochs", [1, 3, 5])
    def test_a_state_goes_on_with_the_same_bits(self, tmp_path: Path, epochs: int) -> None:
        first = Trainer(RECIPE, blobs(230, 0))
        for _ in range(epochs):
            first.run_epoch()
        save_state(tmp_path / "state", first)
        second = Trainer(RECIPE, blobs(230, 0))
        load_state(tmp_path / "state", second)
        for _ in range(epochs, 6):
            second.run_epoch()
        assert same_bits({**second.net.state_dict(), "scale": second.scale.detach()}, weights_after(RECIPE, 6))


class TestStart:
    def test_identity_where_a_layer_does_not_narrow(self) -> None:
        net = Trainer(replace(RECIPE, hidden=(30, 30, 29)), blobs(9 * 50, 0)).net
        first, second, third, _ = (layer.weight for layer in net.layers)
        assert isinstance(first, torch.Tensor)
        assert isinstance(second, torch.Tensor)
        assert isinstance(third, torch.Tensor)
        assert [first[row, row % 25].item() for row in range(30)] == [-10.0] * 30
        assert (first == -10).sum() == (second == -10).sum() == 30
        assert (third == -10).sum() == 0

    def test_identity_can_be_left_out(self) -> None:
        net = Trainer(replace(RECIPE, hidden=(30,), identity_init=0.0), blobs(60, 0)).net
        assert all(parameter.abs().max() < 6 for parameter in net.parameters())

    def test_the_scale_is_learned_and_no_part_of_the_net(self) -> None:
        trainer = Trainer(RECIPE, blobs(230, 0))
        trainer.run_epoch()
        assert trainer.scale.item() != 1.0
        assert not any("scale" in name for name in trainer.net.state_dict())


class TestTrain:
    def test_a_run_learns_and_leaves_one_file(self, recipe: Recipe, tmp_path: Path) -> None:
        seen: list[Progress] = []
        out = tmp_path / "out" / "ckpt.pt"
        easy = replace(recipe, epochs=20, batch_size=10, identity_init=0.0, crop_padding=0)
        evaluation = train(easy, out, report=seen.append)
        assert evaluation.clean > 0.95
        assert evaluation.certified >= evaluation.certified_margin > 0.8
        assert [progress.epoch for progress in seen] == list(range(1, 21))
        assert (seen[0].dials.p, seen[-1].dials.p) == (8.0, math.inf)
        assert seen[0].evaluation is not None
        assert [path.name for path in out.parent.iterdir()] == ["ckpt.pt"]

    def test_the_checkpoint_says_where_it_comes_from(self, recipe: Recipe, tmp_path: Path) -> None:
        evaluation = train(recipe, tmp_path / "ckpt.pt")
        checkpoint = load_checkpoint(tmp_path / "ckpt.pt")
        provenance = checkpoint.provenance
        assert provenance["recipe"] == recipe.to_json()
        assert provenance["seed"] == 11
        assert provenance["metrics"] == asdict(evaluation)
        assert set(provenance["versions"]) == {"linfdeploy", "torch", "numpy", "python"}
        assert checkpoint.net.spec.input_shape == (1, 5, 5)

    @pytest.mark.parametrize(("limit", "expected"), [(2**23, 1), (0, 2)])
    def test_a_small_net_is_trained_on_one_thread(
        self, recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int, expected: int
    ) -> None:
        monkeypatch.setattr("linfdeploy.training.loop.SMALL_STEP", limit)
        torch.set_num_threads(2)
        seen: list[int] = []
        train(recipe, tmp_path / "ckpt.pt", report=lambda _: seen.append(torch.get_num_threads()))
        assert set(seen) == {expected}
        assert torch.get_num_threads() == 2

    def test_the_same_run_writes_the_same_bytes(self, recipe: Recipe, tmp_path: Path) -> None:
        for name in ("a", "b"):
            train(recipe, tmp_path / name / "ckpt.pt")
        assert (tmp_path / "a" / "ckpt.pt").read_bytes() == (tmp_path / "b" / "ckpt.pt").read_bytes()

    def test_a_failing_run_leaves_the_old_checkpoint(self, recipe: Recipe, tmp_path: Path) -> None:
        out = tmp_path / "ckpt.pt"
        train(recipe, out)
        before = out.read_bytes()
        with pytest.raises(RecipeError, match=r"training diverged in epoch \d+: the loss is (nan|inf) at p = "):
            train(replace(recipe, lambda_start=3e38), out)
        assert out.read_bytes() == before


class TestRefusals:
    def test_a_weight_that_is_not_a_number(self) -> None:
        trainer = Trainer(RECIPE, blobs(230, 0))
        with torch.no_grad():
            next(trainer.net.parameters())[0, 0] = math.nan
        with pytest.raises(
            RecipeError, match=r"diverged in epoch 1: (some weights are not finite|the loss is nan) at"
        ):
            trainer.run_epoch()

    def test_a_folder_in_the_place_of_the_checkpoint(self, recipe: Recipe, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="is a folder; expected the path of the checkpoint to write"):
            train(recipe, tmp_path)

    def test_more_in_a_batch_than_there_are_images(self, recipe: Recipe, tmp_path: Path) -> None:
        with pytest.raises(RecipeError, match="batch_size is 231; expected at most the 230 training images"):
            train(replace(recipe, batch_size=231), tmp_path / "ckpt.pt")

    def test_test_images_that_are_the_training_images(self, recipe: Recipe, tmp_path: Path) -> None:
        alone = replace(recipe, dataset=str(tmp_path / "train.npz"))
        with pytest.raises(RecipeError, match=r"both training and test images; .* name them with \{split\}"):
            train(alone, tmp_path / "ckpt.pt")

    def test_test_images_of_another_shape(self, recipe: Recipe, tmp_path: Path) -> None:
        images = np.arange(32, dtype=np.uint8).reshape(2, 4, 4)
        np.savez(tmp_path / "test.npz", images=images, labels=np.arange(2))
        with pytest.raises(DatasetError, match=r"are \(1, 4, 4\) in 2 classes; expected \(1, 5, 5\) in 3 classes"):
            train(recipe, tmp_path / "ckpt.pt")


class TestState:
    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        trainer = Trainer(RECIPE, blobs(230, 0))
        trainer.run_epoch()
        path = state_path(tmp_path / "ckpt.pt")
        save_state(path, trainer)
        return path

    def load(self, path: Path, recipe: Recipe = RECIPE) -> None:
        load_state(path, Trainer(recipe, blobs(230, 0)))

    def test_its_name_is_the_checkpoints(self, path: Path) -> None:
        assert path.name == "ckpt.pt.state"

    def test_another_recipe(self, path: Path) -> None:
        with pytest.raises(
            CheckpointError, match=r"trained with lr = 0\.03 and the recipe has 0\.5; .* omit --resume"
        ):
            self.load(path, replace(RECIPE, lr=0.5))
        with pytest.raises(CheckpointError, match="trained with seed = 11 and the recipe has 12"):
            self.load(path, replace(RECIPE, seed=12))

    def test_nothing_to_resume(self, tmp_path: Path) -> None:
        with pytest.raises(CheckpointError, match=r"no such file; expected the state of an interrupted run: omit"):
            self.load(tmp_path / "absent.state")

    def test_a_checkpoint_is_no_state(self, recipe: Recipe, tmp_path: Path) -> None:
        train(recipe, tmp_path / "ckpt.pt")
        with pytest.raises(
            CheckpointError, match=r"has format 'linfdeploy\.checkpoint/1'; expected 'linfdeploy\.train"
        ):
            self.load(tmp_path / "ckpt.pt")

    def test_truncated(self, path: Path) -> None:
        path.write_bytes(path.read_bytes()[:-100])
        with pytest.raises(CheckpointError, match="is damaged"):
            self.load(path)

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("epoch", -1),
            ("epoch", 7),
            ("epoch", "1"),
            ("net", {}),
            ("net", None),
            ("scale", torch.ones(3)),
            ("scale", None),
            ("optimizer", {}),
            ("optimizer", {"state": {}, "param_groups": []}),
            ("recipe", None),
        ],
    )
    def test_a_damaged_field(self, path: Path, name: str, value: object) -> None:
        save_plain(path, {**load_plain(path, "a state"), name: value})
        with pytest.raises(CheckpointError, match=r"is damaged \(.*omit --resume|holds no recipe"):
            self.load(path)
