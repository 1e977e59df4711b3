# SPDX-License-Identifier: Apache-2.0
"""What each step of an epoch sees: the same batches from the same seed, on every device and any number of ranks.

The small numbers (order, crops, mirror images) are drawn on the CPU for the whole batch and the whole epoch; each
rank moves its part of them to its device at once, where the images lie already, so that no step waits for a copy.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from linfdeploy.errors import RecipeError
from linfdeploy.training.augment import Augmentation, unit_range
from linfdeploy.training.data import Dataset
from linfdeploy.training.place import Place
from linfdeploy.training.recipe import Recipe

__all__ = ["Batches", "generator_of"]


class Batches:
    """The training images, on the device as bytes, and the batches of this rank."""

    def __init__(self, recipe: Recipe, dataset: Dataset, place: Place) -> None:
        self._recipe = recipe
        self._place = place
        _check_size("batch_size", recipe.batch_size, dataset, place.ranks.world)
        if recipe.late_batch_size:
            _check_size("late_batch_size", recipe.late_batch_size, dataset, place.ranks.world)
        _check_crops(recipe, dataset)
        self._augmentation = Augmentation.of(recipe)
        self._images = torch.from_numpy(dataset.images).to(place.device)
        self._labels = torch.from_numpy(dataset.labels).to(place.device)

    def size(self, epoch: int) -> int:
        """Returns how many images a step of an epoch has on this rank."""
        return self._recipe.batch_size_in(epoch) // self._place.ranks.world

    def steps(self, epoch: int) -> int:
        """Returns how many steps an epoch has."""
        return len(self._labels) // self._recipe.batch_size_in(epoch)

    def of_epoch(self, epoch: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yields images (size, C, H, W) float32 in [0, 1] and labels (size,) int64, on the device."""
        orders, draws = self._draw(epoch)
        for chosen, drawn in zip(orders, draws, strict=True):
            yield unit_range(self._augmentation.apply(self._images[chosen], drawn)), self._labels[chosen]

    def _draw(self, epoch: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns the numbers of images (steps, size) and what happens to them (steps, 3, size), on the device."""
        generator = generator_of(self._recipe.seed, 1 + epoch)
        batch, size = self._recipe.batch_size_in(epoch), self.size(epoch)
        order = torch.randperm(len(self._labels), generator=generator)
        orders = order[: self.steps(epoch) * batch].view(-1, batch)
        height, width = self._images.shape[2:]
        draws = [self._augmentation.draw(batch, height, width, generator) for _ in orders]
        mine = slice(self._place.ranks.rank * size, (self._place.ranks.rank + 1) * size)
        return orders[:, mine].to(self._place.device), torch.stack(draws)[:, :, mine].to(self._place.device)


def generator_of(seed: int, stream: int) -> torch.Generator:
    """Returns a generator on the CPU for stream 0, the initial net, or 1 + e, epoch e."""
    entropy = np.random.SeedSequence([seed, stream]).generate_state(1, np.uint64)[0]
    # torch takes seeds up to 2^63 - 1 on every device.
    return torch.Generator().manual_seed(int(entropy) >> 1)


def _check_crops(recipe: Recipe, dataset: Dataset) -> None:
    least = min(dataset.images.shape[2:])
    if recipe.crop_size > least:
        raise RecipeError(
            f"crop_size is {recipe.crop_size}; expected at most the {least} pixels of the images of "
            f"{dataset.name}, or 0 for all of them"
        )


def _check_size(name: str, size: int, dataset: Dataset, world: int) -> None:
    if size > len(dataset.labels):
        raise RecipeError(
            f"{name} is {size}; expected at most the {len(dataset.labels)} training images of {dataset.name}"
        )
    if size % world:
        fitting = size - size % world or world
        raise RecipeError(
            f"{name} is {size} for {world} processes; expected a multiple of {world}, so that each has "
            f"as many images: for example --set {name}={fitting}"
        )
