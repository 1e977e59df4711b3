# SPDX-License-Identifier: Apache-2.0
"""The training loop. The same recipe, data and versions give the same bits, resumed or not.

Nothing random outlives an epoch: the order and the shifts of epoch e come from the seed and e alone.
"""

from __future__ import annotations

import math
import platform
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from linfdeploy import __version__
from linfdeploy.errors import DatasetError, InputError, KernelError, RecipeError
from linfdeploy.nets.checkpoint import save_checkpoint
from linfdeploy.nets.layers import LinfDist
from linfdeploy.nets.net import LinfNet
from linfdeploy.nets.spec import NetSpec
from linfdeploy.training.augment import random_shift
from linfdeploy.training.data import Dataset, load_dataset
from linfdeploy.training.evaluation import Evaluation, evaluate
from linfdeploy.training.losses import mixture_loss
from linfdeploy.training.recipe import Recipe
from linfdeploy.training.schedules import Dials, dials_at
from linfdeploy.training.state import load_state, save_state, state_path

__all__ = ["Progress", "Trainer", "train"]

# The share of the time that may go into evaluations on the way, and as much again into states to resume from.
SHARE = 0.02

# Weights times images in a step, below which several threads mostly wait for each other, layer by layer: at
# 2 million, two took 1.4 times as long as one.
SMALL_STEP = 2**23


@dataclass(frozen=True)
class Progress:
    """Where a run stands after an epoch.

    Attributes:
        epoch: Epochs done.
        epochs: Epochs to do.
        loss: Mean loss of the epoch.
        dials: The settings of its last step.
        evaluation: On the test images, the latest there is.
    """

    epoch: int
    epochs: int
    loss: float
    dials: Dials
    evaluation: Evaluation | None


def train(
    recipe: Recipe,
    out: Path,
    *,
    resume: bool = False,
    device: str = "cpu",
    data_root: Path | None = None,
    report: Callable[[Progress], None] = lambda _: None,
) -> Evaluation:
    """Trains a net and writes its checkpoint.

    `<out>.state` holds what a resumed run needs; it is renewed on the way and removed at the end.

    Args:
        recipe: What to do.
        out: The checkpoint to write.
        resume: Whether to go on from `<out>.state`.
        device: Where to train; the kernels of training run on `cpu`.
        data_root: Where the data set lies, for those that come as files.
        report: Called after every epoch.

    Returns:
        The trained net's evaluation on the test images, which the checkpoint's provenance holds as well.

    Raises:
        RecipeError: The recipe does not fit the data, or training diverges.
        DatasetError: The data set cannot be used.
        CheckpointError: There is no state to resume from, or it is another recipe's.
        KernelError: A device that the kernels do not run on.
        InputError: `out` cannot be written.
    """
    if out.is_dir():
        raise InputError(f"{out} is a folder; expected the path of the checkpoint to write")
    if device != "cpu":
        raise KernelError(f"the device is {device!r}; expected 'cpu', where the kernels of training run")
    test, images = (
        load_dataset(recipe.dataset, "test", data_root),
        load_dataset(recipe.dataset, "train", data_root),
    )
    trainer = Trainer(recipe, images)
    _check_test(trainer.net.spec, images, test)
    if resume:
        load_state(state_path(out), trainer)
    with _few_threads_if_small(trainer):
        _run(trainer, test, out, report)
        evaluation = evaluate(trainer.net, test, recipe.eps_test)
    save_checkpoint(out, trainer.net, _provenance(recipe, evaluation))
    state_path(out).unlink(missing_ok=True)
    return evaluation


class Trainer:
    """A run that advances epoch by epoch.

    Attributes:
        recipe: What to do.
        net: The net in training.
        scale: (1,) float32, the papers' scalar s. The logits of the cross-entropy are multiplied by it; margins
            are not, so it is no part of the net.
        optimizer: Adam on both.
        epoch: Epochs done.
    """

    def __init__(self, recipe: Recipe, dataset: Dataset) -> None:
        self.recipe = recipe
        self.epoch = 0
        self.net = _initial_net(recipe, dataset)
        self.scale = torch.nn.Parameter(torch.ones(1))
        self.optimizer = torch.optim.Adam(
            [{"params": list(self.net.parameters())}, {"params": [self.scale]}],
            lr=recipe.lr,
            betas=(recipe.beta1, recipe.beta2),
            eps=recipe.adam_eps,
        )
        self._images = torch.from_numpy(dataset.images)
        self._labels = torch.from_numpy(dataset.labels)
        self._std = dataset.std
        self._steps = len(dataset.labels) // recipe.batch_size
        if self._steps == 0:
            raise RecipeError(
                f"batch_size is {recipe.batch_size}; expected at most the {len(dataset.labels)} training images "
                f"of {dataset.name}"
            )

    def run_epoch(self) -> tuple[float, Dials]:
        """Trains for one epoch.

        Returns:
            The mean loss and the settings of the last step.

        Raises:
            RecipeError: The loss or a weight is not finite.
        """
        self.net.train()
        total = 0.0
        for index, (images, labels) in enumerate(self._batches()):
            dials = dials_at(self.recipe, self.epoch * self._steps + index, self._steps)
            total += self._step(images, labels, dials)
        # The kernels' maxima may swallow a NaN, so the loss alone does not tell.
        if not all(bool(parameter.isfinite().all()) for parameter in self.net.parameters()):
            raise self._diverged("some weights are not finite", dials)
        self.epoch += 1
        return total / self._steps, dials

    def _batches(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        generator = _generator(self.recipe.seed, 1 + self.epoch)
        order = torch.randperm(len(self._labels), generator=generator)
        for chosen in order[: self._steps * self.recipe.batch_size].view(self._steps, -1):
            shifted = random_shift(self._images[chosen], self.recipe.crop_padding, generator)
            yield shifted.float() / 255, self._labels[chosen]

    def _step(self, images: torch.Tensor, labels: torch.Tensor, dials: Dials) -> float:
        self.net.set_p(dials.p)
        for group, lr in zip(self.optimizer.param_groups, (dials.lr, dials.scale_lr), strict=True):
            group["lr"] = lr
        loss = mixture_loss(self.net(images), labels, self.scale, dials.eps / self._std, dials.weight)
        value = loss.item()
        if not math.isfinite(value):
            raise self._diverged(f"the loss is {value}", dials)
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        return value

    def _diverged(self, found: str, dials: Dials) -> RecipeError:
        return RecipeError(
            f"training diverged in epoch {self.epoch + 1}: {found} at p = {dials.p:g}, lr = {dials.lr:g}; "
            "expected finite numbers: try a smaller lr, lambda_start or p_end"
        )


class _Seldom:
    """Says when something is due that may take `SHARE` of the time."""

    def __init__(self) -> None:
        self._due = 0.0

    def run(self, action: Callable[[], None]) -> None:
        """Runs the action if it is due."""
        if (begin := time.monotonic()) < self._due:
            return
        action()
        end = time.monotonic()
        self._due = end + (end - begin) / SHARE


def _run(trainer: Trainer, test: Dataset, out: Path, report: Callable[[Progress], None]) -> None:
    saving, evaluating = _Seldom(), _Seldom()
    latest: Evaluation | None = None

    def renew_evaluation() -> None:
        nonlocal latest
        latest = evaluate(trainer.net, test, trainer.recipe.eps_test)

    while trainer.epoch < trainer.recipe.epochs:
        loss, dials = trainer.run_epoch()
        saving.run(lambda: save_state(state_path(out), trainer))
        evaluating.run(renew_evaluation)
        report(Progress(trainer.epoch, trainer.recipe.epochs, loss, dials, latest))


@contextmanager
def _few_threads_if_small(trainer: Trainer) -> Iterator[None]:
    before = torch.get_num_threads()
    weights = sum(parameter.numel() for parameter in trainer.net.parameters())
    if weights * trainer.recipe.batch_size < SMALL_STEP:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _initial_net(recipe: Recipe, dataset: Dataset) -> LinfNet:
    _, channels, height, width = dataset.images.shape
    spec = NetSpec.mlp((channels, height, width), dataset.mean, dataset.std, recipe.hidden, dataset.classes)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.set_state(_generator(recipe.seed, 0).get_state())
        net = LinfNet(spec)
    if recipe.identity_init:
        _start_as_identity(net, recipe.identity_init)
    return net


@torch.no_grad()
def _start_as_identity(net: LinfNet, value: float) -> None:
    """Lets each output copy an input: `|x_i + value|` dominates as long as |x| stays small beside `value`."""
    for layer in net.layers:
        assert isinstance(layer, LinfDist)
        outputs, inputs = layer.weight.shape
        if inputs <= outputs:
            rows = torch.arange(outputs)
            layer.weight[rows, rows % inputs] = -value


def _generator(seed: int, stream: int) -> torch.Generator:
    entropy = np.random.SeedSequence([seed, stream]).generate_state(1, np.uint64)[0]
    # torch takes seeds up to 2^63 - 1 on every device.
    return torch.Generator().manual_seed(int(entropy) >> 1)


def _check_test(spec: NetSpec, images: Dataset, test: Dataset) -> None:
    if images.name == test.name and images.name.endswith(".npz"):
        raise RecipeError(
            f"dataset is {images.name}, which is both training and test images; expected two files: "
            "name them with {split} in the path, which stands for train and test"
        )
    if test.images.shape[1:] != spec.input_shape or test.classes > spec.classes:
        raise DatasetError(
            f"the test images of {test.name} are {test.images.shape[1:]} in {test.classes} classes; "
            f"expected {spec.input_shape} in {spec.classes} classes, like the training images"
        )


def _provenance(recipe: Recipe, evaluation: Evaluation) -> Mapping[str, Any]:
    versions = {
        "linfdeploy": __version__,
        "torch": str(torch.__version__),
        "numpy": np.__version__,
        "python": platform.python_version(),
    }
    return {
        "recipe": recipe.to_json(),
        "seed": recipe.seed,
        "versions": versions,
        "metrics": asdict(evaluation),
    }
