# SPDX-License-Identifier: Apache-2.0
"""Batches against the order and the shifts written down again, whole and in shares."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from training_runs import RECIPE, blobs

from linfdeploy.errors import RecipeError
from linfdeploy.ranks import Ranks
from linfdeploy.training.batches import Batches, generator_of
from linfdeploy.training.place import CPU, Place

DATA = blobs(230, 0)


def share(rank: int, world: int) -> Place:
    return Place(torch.device("cpu"), Ranks(rank, world))


def test_an_epoch_is_what_the_seed_says() -> None:
    generator = generator_of(RECIPE.seed, 1 + 3)
    order = torch.randperm(230, generator=generator).tolist()
    batches = list(Batches(RECIPE, DATA, CPU).of_epoch(3))
    assert len(batches) == 4
    for index, (images, labels) in enumerate(batches):
        chosen = order[index * 50 : (index + 1) * 50]
        moves = [torch.randint(-1, 2, (50, 1), generator=generator)[:, 0].tolist() for _ in range(2)]
        padded = np.pad(DATA.images, ((0, 0), (0, 0), (1, 1), (1, 1)), mode="edge")
        for row, image in enumerate(images):
            top, left = 1 + moves[0][row], 1 + moves[1][row]
            crop = padded[chosen[row], :, top : top + 5, left : left + 5]
            assert np.array_equal(image.numpy(), crop.astype(np.float32) / np.float32(255))
        assert labels.tolist() == DATA.labels[chosen].tolist()


def test_crops_and_mirror_images_are_what_the_seed_says() -> None:
    recipe = replace(RECIPE, crop_size=4, crop_padding=2, crop_fill="zero", flip=True)
    generator = generator_of(RECIPE.seed, 1 + 2)
    order = torch.randperm(230, generator=generator).tolist()
    padded = np.pad(DATA.images, ((0, 0), (0, 0), (2, 2), (2, 2)))
    for index, (images, _) in enumerate(Batches(recipe, DATA, CPU).of_epoch(2)):
        assert images.shape == (50, 1, 4, 4)
        # Crops of 4 in 5 + 2 * 2 pixels have 6 places; then half are mirrored.
        tops, lefts = (torch.randint(-2, 4, (50, 1), generator=generator)[:, 0].tolist() for _ in range(2))
        mirrored = torch.randint(0, 2, (50, 1), generator=generator)[:, 0].tolist()
        for row, image in enumerate(images):
            top, left = 2 + tops[row], 2 + lefts[row]
            crop = padded[order[index * 50 + row], :, top : top + 4, left : left + 4]
            crop = crop[:, :, ::-1] if mirrored[row] else crop
            assert np.array_equal(image.numpy(), crop.astype(np.float32) / np.float32(255))


def test_crops_larger_than_the_images() -> None:
    with pytest.raises(RecipeError) as caught:
        Batches(replace(RECIPE, crop_size=6), DATA, CPU)
    assert str(caught.value) == (
        "crop_size is 6; expected at most the 5 pixels of the images of blobs, or 0 for all of them"
    )


@pytest.mark.parametrize("change", [{"crop_padding": 0}, {"crop_padding": 2}, {"crop_size": 3, "flip": True}])
def test_shares_make_up_the_whole(change: dict[str, Any]) -> None:
    recipe = replace(RECIPE, **change)
    whole = list(Batches(recipe, DATA, CPU).of_epoch(1))
    shares = [list(Batches(recipe, DATA, share(rank, 5)).of_epoch(1)) for rank in range(5)]
    assert Batches(recipe, DATA, share(0, 5)).size(0) == 10
    for index, (images, labels) in enumerate(whole):
        assert torch.equal(images, torch.cat([each[index][0] for each in shares]))
        assert torch.equal(labels, torch.cat([each[index][1] for each in shares]))


def test_later_batches_are_larger() -> None:
    recipe = replace(RECIPE, late_batch_size=100, late_from_epoch=2)
    batches = Batches(recipe, DATA, share(1, 2))
    assert [(batches.size(epoch), batches.steps(epoch)) for epoch in range(4)] == [(25, 4)] * 2 + [(50, 2)] * 2
    late = Batches(replace(RECIPE, batch_size=100), DATA, share(1, 2))
    for epoch, expected in ((1, Batches(RECIPE, DATA, share(1, 2))), (2, late)):
        for found, wanted in zip(batches.of_epoch(epoch), expected.of_epoch(epoch), strict=True):
            assert all(torch.equal(*pair) for pair in zip(found, wanted, strict=True))


def test_later_batches_larger_than_the_data() -> None:
    with pytest.raises(RecipeError) as caught:
        Batches(replace(RECIPE, late_batch_size=231, late_from_epoch=2), DATA, CPU)
    assert str(caught.value) == (
        f"late_batch_size is 231; expected at most the 230 training images of {DATA.name}"
    )


@pytest.mark.parametrize(("batch", "world", "fitting"), [(50, 4, 48), (3, 4, 4)])
def test_a_batch_that_cannot_be_shared_out(batch: int, world: int, fitting: int) -> None:
    with pytest.raises(RecipeError) as caught:
        Batches(replace(RECIPE, batch_size=batch), DATA, share(0, world))
    assert str(caught.value) == (
        f"batch_size is {batch} for {world} processes; expected a multiple of {world}, so that each has as many "
        f"images: for example --set batch_size={fitting}"
    )
