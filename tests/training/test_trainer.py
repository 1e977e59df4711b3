# SPDX-License-Identifier: Apache-2.0
"""Epochs: same bits from the same seed, where they start, and what ends them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from training_runs import RECIPE, blobs, one_thread, same_bits, state_of, weights_after

from linfdeploy.errors import RecipeError
from linfdeploy.ranks import Ranks
from linfdeploy.training.place import Place
from linfdeploy.training.recipe import Recipe
from linfdeploy.training.state import load_state, save_state
from linfdeploy.training.trainer import Trainer


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    with one_thread():
        yield


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
        assert same_bits(state_of(second), weights_after(RECIPE, 6))


SORTED = replace(RECIPE, neuron="sort_dist", keep=0.7)
SORTED_WITH_HEAD = replace(SORTED, head=(7,), loss="ce_hinge", head_weight_decay=0.02)


class TestSortedDistances:
    @pytest.mark.parametrize("recipe", [SORTED, SORTED_WITH_HEAD], ids=["pure", "head"])
    def test_a_state_goes_on_with_the_same_bits(self, tmp_path: Path, recipe: Recipe) -> None:
        """Also where an evaluation on the way has renewed the running means of one of the runs."""
        data, runs = blobs(230, 0), []
        for stop in (None, 3):
            trainer = Trainer(recipe, data)
            while trainer.epoch < recipe.epochs:
                trainer.run_epoch()
                if trainer.epoch == stop:
                    trainer.renew_running_means()
                    save_state(tmp_path / "state", trainer)
                    trainer = Trainer(recipe, data)
                    load_state(tmp_path / "state", trainer)
            trainer.renew_running_means()
            runs.append(state_of(trainer))
        assert same_bits(*runs)
        assert not same_bits(runs[0], weights_after(replace(recipe, seed=12), 6))

    def test_each_epoch_has_subsets_of_its_own(self) -> None:
        trainer = Trainer(SORTED, blobs(230, 0))
        drawn = []
        for _ in range(2):
            trainer.run_epoch()
            assert trainer.net.generator is not None
            drawn.append(trainer.net.generator.initial_seed())
        assert drawn[0] != drawn[1]

    @pytest.mark.parametrize(
        ("place", "found"),
        [
            (Place(torch.device("cuda:1"), Ranks(), graphs=False), "cuda:1"),
            (Place(torch.device("cuda"), Ranks(3, 4), graphs=True), "cuda"),
        ],
    )
    def test_places_where_they_are_not_trained_yet(self, place: Place, found: str) -> None:
        with pytest.raises(RecipeError) as error:
            Trainer(SORTED, blobs(230, 0), place)
        assert str(error.value) == (
            f"neuron is 'sort_dist' on {found}; expected cpu, where sorted distances are trained so far: use "
            "--device cpu"
        )


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


class TestRefusals:
    def test_a_weight_that_is_not_a_number(self) -> None:
        trainer = Trainer(RECIPE, blobs(230, 0))
        with torch.no_grad():
            next(trainer.net.parameters())[0, 0] = math.nan
        with pytest.raises(
            RecipeError, match=r"diverged in epoch 1: (some weights are not finite|the loss is nan) at"
        ):
            trainer.run_epoch()


class TestTimes:
    def test_every_epoch_counts_for_its_phase(self) -> None:
        trainer = Trainer(RECIPE, blobs(230, 0))
        for _ in range(6):
            trainer.run_epoch()
        counts = {phase: len(seconds) for phase, seconds in trainer.times.seconds.items()}
        assert counts == {"p = 8": 1, "p below 40": 2, "p from 40": 1, "p = inf": 2}
        assert all(seconds > 0 for seconds in trainer.times.medians().values())

    def test_they_outlive_an_interruption(self, tmp_path: Path) -> None:
        first = Trainer(RECIPE, blobs(230, 0))
        first.run_epoch()
        save_state(tmp_path / "state", first)
        second = Trainer(RECIPE, blobs(230, 0))
        load_state(tmp_path / "state", second)
        assert second.times.seconds == first.times.seconds
