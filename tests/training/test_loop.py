# SPDX-License-Identifier: Apache-2.0
"""Whole runs: what they leave behind, states to resume from, and what they refuse."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from training_runs import RECIPE, blobs, one_thread, write_blobs

from linfdeploy.errors import CheckpointError, DatasetError, InputError, RecipeError
from linfdeploy.nets.checkpoint import load_checkpoint, load_plain, save_plain
from linfdeploy.nets.net import LinfNet
from linfdeploy.ranks import Ranks
from linfdeploy.training.data import Dataset
from linfdeploy.training.evaluation import Evaluation, Exported
from linfdeploy.training.history import EpochRecord
from linfdeploy.training.loop import Progress, _provenance, train
from linfdeploy.training.place import Place
from linfdeploy.training.recipe import Recipe, recipe_defaults
from linfdeploy.training.state import load_state, save_state, state_path
from linfdeploy.training.times import PHASES
from linfdeploy.training.trainer import Trainer


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    with one_thread():
        yield


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    return replace(RECIPE, dataset=write_blobs(tmp_path))


class TestTrain:
    def test_a_run_learns_and_leaves_its_curves_beside_it(self, recipe: Recipe, tmp_path: Path) -> None:
        seen: list[Progress] = []
        out = tmp_path / "out" / "ckpt.pt"
        easy = replace(recipe, epochs=20, batch_size=10, identity_init=0.0, crop_padding=0)
        evaluation = train(easy, out, report=seen.append)
        assert evaluation.clean > 0.95
        assert evaluation.certified >= evaluation.certified_margin > 0.8
        assert [progress.epoch for progress in seen] == list(range(1, 21))
        assert (seen[0].dials.p, seen[-1].dials.p) == (8.0, math.inf)
        assert (seen[0].phase, seen[-1].phase) == ("p = 8", "p = inf")
        assert list(seen[-1].seconds) == list(PHASES)
        assert seen[0].evaluation is not None
        assert {path.name for path in out.parent.iterdir()} == {"ckpt.pt", "ckpt.png", "ckpt.log.jsonl"}

    def test_the_checkpoint_says_where_it_comes_from(self, recipe: Recipe, tmp_path: Path) -> None:
        evaluation = train(recipe, tmp_path / "ckpt.pt")
        checkpoint = load_checkpoint(tmp_path / "ckpt.pt")
        provenance = checkpoint.provenance
        assert provenance["recipe"] == recipe.to_json()
        assert provenance["seed"] == 11
        assert provenance["metrics"] == asdict(evaluation)
        assert set(provenance["versions"]) == {"linfdeploy", "torch", "numpy", "python"}
        assert checkpoint.net.spec.input_shape == (1, 5, 5)

    def test_on_cuda_it_says_how_long_an_epoch_took(self, monkeypatch: pytest.MonkeyPatch) -> None:
        # Not on the CPU, where the same recipe gives the same bytes.
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"card {device.index}")
        trainer = Trainer(RECIPE, blobs(230, 0))
        trainer.place = Place(torch.device("cuda", 1), Ranks(0, 4))
        trainer.times.add("p = inf", 2.5)
        evaluation = Evaluation(samples=1, eps=0.1, clean=1.0, certified=1.0, certified_margin=1.0)
        assert _provenance(trainer, evaluation)["metrics"] == {
            **asdict(evaluation),
            "seconds_per_epoch": {"p = inf": 2.5},
            "device": "card 1",
            "processes": 4,
        }

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


class TestCurves:
    def test_a_resumed_run_goes_on_with_the_same_curve(self, recipe: Recipe, tmp_path: Path) -> None:
        class StoppedError(Exception):
            pass

        def stop(progress: Progress) -> None:
            if progress.epoch == 4:
                raise StoppedError

        whole, broken = tmp_path / "whole.pt", tmp_path / "broken.pt"
        train(recipe, whole)
        with pytest.raises(StoppedError):
            train(recipe, broken, report=stop)
        done = load_plain(state_path(broken), "a state")["epoch"]
        assert 1 <= done <= 4
        train(recipe, broken, resume=True)
        first, second = (
            [json.loads(line) for line in path.with_suffix(".log.jsonl").read_text().splitlines()]
            for path in (whole, broken)
        )
        assert [row["epoch"] for row in second] == list(range(1, 7))
        same = ("epoch", "loss", "p", "eps", "lr", "spread")
        assert [[row[key] for key in same] for row in first] == [[row[key] for key in same] for row in second]
        assert second[0]["clean"] is not None
        assert [row["p"] for row in second[-2:]] == ["inf", "inf"]
        assert whole.read_bytes() == broken.read_bytes()

    def test_a_run_that_goes_wrong_says_so_once(self, recipe: Recipe, tmp_path: Path) -> None:
        lines: list[str] = []
        train(
            replace(recipe, lr=30.0, identity_init=0.0),
            tmp_path / "ckpt.pt",
            report=lambda progress: lines.extend(progress.warnings),
        )
        assert any("the weights of a layer spread" in line for line in lines)
        assert len(lines) == len({line.split(": ")[1][:12] for line in lines})

    def test_what_is_proved_after_export_is_recorded(self, recipe: Recipe, tmp_path: Path) -> None:
        exported = Exported(samples=90, grid=12, levels=12, clean=0.5, certified=0.25)
        found = train(recipe, tmp_path / "ckpt.pt", certify=lambda net, test: exported)
        assert found.exported == exported
        assert load_checkpoint(tmp_path / "ckpt.pt").provenance["metrics"]["exported"] == asdict(exported)

    def test_crops_are_tested_on_the_middle(self, recipe: Recipe, tmp_path: Path) -> None:
        seen: list[tuple[int, ...]] = []

        def certify(net: LinfNet, test: Dataset) -> None:
            seen.extend([net.spec.input_shape, test.images.shape])

        train(replace(recipe, crop_size=4, flip=True, epochs=4), tmp_path / "ckpt.pt", certify=certify)
        assert seen == [(1, 4, 4), (90, 1, 4, 4)]

    def test_a_folder_in_the_place_of_a_curve(self, recipe: Recipe, tmp_path: Path) -> None:
        (tmp_path / "ckpt.png").mkdir()
        with pytest.raises(InputError, match=r"ckpt\.png is a folder; expected the path of"):
            train(recipe, tmp_path / "ckpt.pt")


class TestRefusals:
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

    def test_an_older_recipe_has_the_defaults_of_fields_that_it_lacks(self, path: Path) -> None:
        data = load_plain(path, "a state")
        assert isinstance(data["recipe"], dict)
        for name in recipe_defaults():
            if data["recipe"][name] == recipe_defaults()[name]:
                del data["recipe"][name]
        save_plain(path, data)
        self.load(path)
        with pytest.raises(CheckpointError, match=r"trained with weight_decay = 0\.0 and the recipe has 0\.5; "):
            self.load(path, replace(RECIPE, weight_decay=0.5))

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
            ("history", [{"epoch": 1}]),
            ("history", [asdict(EpochRecord(2, 1.0, 8.0, 0.1, 0.1, 1.0, 1.0))]),
            ("history", [{**asdict(EpochRecord(1, 1.0, 8.0, 0.1, 0.1, 1.0, 1.0)), "loss": "1"}]),
            ("history", {}),
        ],
    )
    def test_a_damaged_field(self, path: Path, name: str, value: object) -> None:
        save_plain(path, {**load_plain(path, "a state"), name: value})
        with pytest.raises(CheckpointError, match=r"is damaged \(.*omit --resume|holds no recipe"):
            self.load(path)
