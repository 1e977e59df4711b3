# SPDX-License-Identifier: Apache-2.0
"""Short runs on small images, which the tests of training share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

from linfdeploy.training.data import Dataset
from linfdeploy.training.place import CPU, Place
from linfdeploy.training.recipe import Recipe
from linfdeploy.training.trainer import Trainer

__all__ = [
    "RECIPE",
    "blobs",
    "one_thread",
    "same_bits",
    "state_of",
    "toml_of",
    "weights_after",
    "write_blobs",
]

RECIPE = Recipe(
    name="blobs",
    dataset="set by the test",
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


def write_blobs(folder: Path, train: int = 230) -> str:
    """Writes training and test images; returns the data set's name."""
    for split, dataset in (("train", blobs(train, 0)), ("test", blobs(90, 1))):
        np.savez(folder / f"{split}.npz", images=dataset.images, labels=dataset.labels)
    return str(folder / "{split}.npz")


def toml_of(recipe: Recipe) -> str:
    """A recipe as the text of a file."""
    values = {key: value for key, value in recipe.to_json().items() if key != "name"}
    texts = {key: str(value).lower() if isinstance(value, bool) else repr(value) for key, value in values.items()}
    return "".join(f"{key} = {text}\n" for key, text in texts.items())


def state_of(trainer: Trainer) -> dict[str, torch.Tensor]:
    """What a run has learned, on the CPU."""
    state = {**trainer.net.state_dict(), "scale": trainer.scale.detach()}
    return {name: tensor.cpu() for name, tensor in state.items()}


def weights_after(recipe: Recipe, epochs: int, threads: int = 1, place: Place = CPU) -> dict[str, torch.Tensor]:
    torch.set_num_threads(threads)
    trainer = Trainer(recipe, blobs(230, 0), place)
    for _ in range(epochs):
        trainer.run_epoch()
    return state_of(trainer)


def same_bits(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@contextmanager
def one_thread() -> Iterator[None]:
    """Several threads wait for each other at every layer, which takes long on a machine that does other things."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
