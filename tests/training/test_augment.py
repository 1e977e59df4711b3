# SPDX-License-Identifier: Apache-2.0
"""Shifts against padding and cropping one image at a time."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from linfdeploy.training.augment import random_shift


def images_of(count: int, channels: int, height: int, width: int) -> torch.Tensor:
    pixels = np.random.default_rng(0).integers(0, 256, (count, channels, height, width), dtype=np.uint8)
    return torch.from_numpy(pixels)


@pytest.mark.parametrize(("shape", "padding"), [((40, 1, 8, 8), 1), ((40, 3, 5, 9), 3), ((9, 2, 2, 3), 4)])
def test_every_image_is_one_crop_of_its_padded_self(shape: tuple[int, int, int, int], padding: int) -> None:
    images = images_of(*shape)
    shifted = random_shift(images, padding, torch.Generator().manual_seed(5))
    _, _, height, width = shape
    for image, found in zip(images.numpy(), shifted.numpy(), strict=True):
        padded = np.pad(image, ((0, 0), (padding, padding), (padding, padding)), mode="edge")
        crops = [
            padded[:, row : row + height, column : column + width]
            for row in range(2 * padding + 1)
            for column in range(2 * padding + 1)
        ]
        assert any(np.array_equal(crop, found) for crop in crops)


def test_all_offsets_occur_about_equally_often() -> None:
    # One bright pixel in the middle tells the offset.
    images = torch.zeros(18_000, 1, 5, 5)
    images[:, :, 2, 2] = 1
    shifted = random_shift(images, 1, torch.Generator().manual_seed(0))
    counts = shifted.sum((0, 1))[1:4, 1:4]
    assert counts.sum() == 18_000
    assert counts.min() > 1800
    assert counts.max() < 2200


def test_offsets_come_from_the_generator_alone() -> None:
    images = images_of(30, 1, 8, 8)
    first, second = (random_shift(images, 2, torch.Generator().manual_seed(7)) for _ in range(2))
    assert torch.equal(first, second)
    assert not torch.equal(first, random_shift(images, 2, torch.Generator().manual_seed(8)))


def test_no_padding_changes_nothing_and_keeps_the_dtype() -> None:
    images = images_of(3, 1, 8, 8)
    generator = torch.Generator().manual_seed(0)
    before = generator.get_state()
    assert torch.equal(random_shift(images, 0, generator), images)
    assert torch.equal(generator.get_state(), before)
    assert random_shift(images, 1, generator).dtype == torch.uint8
