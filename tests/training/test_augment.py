# SPDX-License-Identifier: Apache-2.0
"""Crops and mirror images against padding, cropping and mirroring one image at a time."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from linfdeploy.training.augment import Augmentation


def images_of(count: int, channels: int, height: int, width: int) -> torch.Tensor:
    pixels = np.random.default_rng(0).integers(0, 256, (count, channels, height, width), dtype=np.uint8)
    return torch.from_numpy(pixels)


def augmented(how: Augmentation, images: torch.Tensor, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    height, width = images.shape[2:]
    drawn = how.draw(len(images), height, width, torch.Generator().manual_seed(seed))
    return how.apply(images, drawn), drawn


@pytest.mark.parametrize(
    ("shape", "how"),
    [
        ((40, 1, 8, 8), Augmentation(1)),
        ((40, 3, 5, 9), Augmentation(3)),
        ((9, 2, 2, 3), Augmentation(4)),
        ((40, 3, 8, 8), Augmentation(2, zeros=True, flip=True)),
        ((40, 3, 8, 7), Augmentation(0, side=6)),
        ((40, 1, 8, 7), Augmentation(2, zeros=True, side=5, flip=True)),
        ((9, 1, 4, 4), Augmentation(0, flip=True)),
    ],
)
def test_every_image_is_the_crop_that_was_drawn(shape: tuple[int, int, int, int], how: Augmentation) -> None:
    images = images_of(*shape)
    found, drawn = augmented(how, images, 5)
    height, width = how.side or shape[2], how.side or shape[3]
    pads = ((0, 0), (how.padding, how.padding), (how.padding, how.padding))
    for image, top, left, mirror, crop in zip(images.numpy(), *drawn.tolist(), found.numpy(), strict=True):
        padded = np.pad(image, pads) if how.zeros else np.pad(image, pads, mode="edge")
        row, column = top + how.padding, left + how.padding
        assert 0 <= row <= padded.shape[1] - height
        assert 0 <= column <= padded.shape[2] - width
        expected = padded[:, row : row + height, column : column + width]
        assert np.array_equal(crop, expected[:, :, ::-1] if mirror else expected)


def test_all_crops_and_mirror_images_occur_about_equally_often() -> None:
    _, drawn = augmented(Augmentation(1, side=4, flip=True), torch.zeros(32_000, 1, 5, 5), 0)
    kinds, counts = torch.unique(drawn, dim=1, return_counts=True)
    # 4 places either way, mirrored or not: a thousand of each, with a deviation of 31.
    assert kinds.shape == (3, 32)
    assert counts.min() > 800
    assert counts.max() < 1200


@pytest.mark.parametrize("how", [Augmentation(2, share=0.3), Augmentation(1, side=5, flip=True, share=0.3)])
def test_the_other_images_are_cropped_from_the_middle(how: Augmentation) -> None:
    _, drawn = augmented(how, torch.zeros(4000, 1, 8, 7), 0)
    middle = torch.tensor([(8 - how.side) // 2, (7 - how.side) // 2] if how.side else [0, 0])
    stays = (drawn[:2] == middle[:, None]).all(0).double().mean()
    places = (9 - how.side + 2 * how.padding) * (8 - how.side + 2 * how.padding) if how.side else 25
    # 0.7, and of the others those that meet the middle by chance; of 4000 within five standard errors.
    assert abs(stays - 0.7 - 0.3 / places) < 5 * (0.21 / 4000) ** 0.5
    assert bool((drawn[2] == 1).any()) == how.flip


def test_a_share_of_all_draws_what_no_share_draws() -> None:
    """So that the recipes without one have the batches that they had."""
    images = images_of(30, 1, 8, 8)
    first, second = (augmented(how, images, 7)[1] for how in (Augmentation(2), Augmentation(2, share=1.0)))
    assert torch.equal(first, second)


def test_offsets_come_from_the_generator_alone() -> None:
    images = images_of(30, 1, 8, 8)
    first, second = (augmented(Augmentation(2), images, 7)[0] for _ in range(2))
    assert torch.equal(first, second)
    assert not torch.equal(first, augmented(Augmentation(2), images, 8)[0])


def test_nothing_is_drawn_that_is_not_needed() -> None:
    """So that the batches of a recipe stay what they were when another augmentation is added."""
    images = images_of(3, 1, 8, 8)
    generator = torch.Generator().manual_seed(0)
    before = generator.get_state()
    assert torch.equal(Augmentation().apply(images, Augmentation().draw(3, 8, 8, generator)), images)
    assert torch.equal(generator.get_state(), before)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_the_dtype_stays(dtype: torch.dtype) -> None:
    found, _ = augmented(Augmentation(1, zeros=True, flip=True), images_of(3, 1, 8, 8).to(dtype), 0)
    assert found.dtype == dtype
