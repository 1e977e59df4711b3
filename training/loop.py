# SPDX-License-Identifier: Apache-2.0
"""A whole run: data, epochs, states to resume from, evaluations, checkpoint.

On several ranks each does all of it, but for writing files and telling, which are the first one's.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch

from linfdeploy import __version__
from linfdeploy.errors import DatasetError, InputError, RecipeError
from linfdeploy.files import write_bytes
from linfdeploy.nets.checkpoint import save_checkpoint
from linfdeploy.nets.net import LinfNet
from linfdeploy.nets.spec import NetSpec
from linfdeploy.training.curves import curves_png
from linfdeploy.training.data import Dataset, load_dataset
from linfdeploy.training.data.dataset import centre_crop
from linfdeploy.training.evaluation import Evaluation, Exported, evaluate
from linfdeploy.training.history import EpochRecord
from linfdeploy.training.place import CPU, Place
from linfdeploy.training.recipe import Recipe
from linfdeploy.training.schedules import Dials
from linfdeploy.training.state import load_state, save_state, state_path
from linfdeploy.training.times import phase_of
from linfdeploy.training.trainer import Trainer
from linfdeploy.training.watch import Spread, Watch

__all__ = ["Certify", "Progress", "train"]

Certify: TypeAlias = Callable[[LinfNet, Dataset], Exported | None]
"""Says what is proved of a net after export on test images; None if it cannot be exported."""

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
        record: The epoch, as the run's history has it.
        warnings: A line for each kind of trouble that the run is the first time in.
        phase: One of `times.PHASES`, to which the epoch belongs.
        seconds: The median epoch of each phase so far, in seconds.
    """

    epoch: int
    epochs: int
    loss: float
    dials: Dials
    evaluation: Evaluation | None
    record: EpochRecord
    warnings: tuple[str, ...]
    phase: str
    seconds: Mapping[str, float]


def train(
    recipe: Recipe,
    out: Path,
    *,
    resume: bool = False,
    place: Place = CPU,
    data_root: Path | None = None,
    report: Callable[[Progress], None] = lambda _: None,
    certify: Certify | None = None,
) -> Evaluation:
    """Trains a net and writes its checkpoint.

    `<out>.state` holds what a resumed run needs; it is renewed on the way and removed at the end. With it are
    renewed, and stay, the curves of the run as a picture and as lines of JSON: `out` ending in `.png` and in
    `.log.jsonl`.

    Args:
        recipe: What to do.
        out: The checkpoint to write; of several ranks, the first one writes it.
        resume: Whether to go on from `<out>.state`, which every rank reads.
        place: Where to train; of several ranks, each calls this.
        data_root: Where the data set lies, for those that come as files.
        report: Called after every epoch, on every rank.
        certify: Called with the trained net and the test images, on the first rank.

    Returns:
        The trained net's evaluation on the test images, which the checkpoint's provenance holds as well.

    Raises:
        RecipeError: The recipe does not fit the data or the number of ranks, or training diverges.
        DatasetError: The data set cannot be used.
        CheckpointError: There is no state to resume from, or it is another recipe's.
        InputError: `out` cannot be written.
        PeerError: Another rank has failed.
    """
    trainer, test, spread = place.ranks.together(lambda: _prepared(recipe, out, resume, place, data_root))
    with _few_threads_if_small(trainer):
        with place.ranks.alike():
            _run(trainer, test, spread, out, report)
        trainer.renew_running_means()
        evaluation = evaluate(trainer.net, test, recipe.eps_test, place.ranks)
    if place.ranks.is_first:
        exported = certify(trainer.net, test) if certify else None
        evaluation = replace(evaluation, exported=exported)
        save_checkpoint(out, trainer.net, _provenance(trainer, evaluation))
        _write_curves(out, trainer, evaluation)
        state_path(out).unlink(missing_ok=True)
    return evaluation


def curve_paths(out: Path) -> tuple[Path, Path]:
    """Returns where the curves of a run lie that writes the checkpoint `out`: the picture and the lines."""
    return out.with_name(f"{out.stem}.png"), out.with_name(f"{out.stem}.log.jsonl")


def _write_curves(out: Path, trainer: Trainer, final: Evaluation | None = None) -> None:
    picture, lines = curve_paths(out)
    epochs = trainer.history.epochs
    if not epochs:
        return
    write_bytes(lines, "".join(f"{line}\n" for line in trainer.history.lines()).encode())
    if final is not None:
        # Where the run ended, which an evaluation on the way may have missed.
        epochs = [*epochs[:-1], replace(epochs[-1], clean=final.clean, certified=final.certified)]
    exported = final.exported.certified if final is not None and final.exported is not None else None
    write_bytes(picture, curves_png(trainer.recipe.name, epochs, trainer.recipe.epochs, exported))


def _prepared(
    recipe: Recipe, out: Path, resume: bool, place: Place, data_root: Path | None
) -> tuple[Trainer, Dataset, Spread]:
    for path in (out, *curve_paths(out)):
        if path.is_dir():
            raise InputError(f"{path} is a folder; expected the path of the checkpoint to write")
    test, images = (
        load_dataset(recipe.dataset, "test", data_root),
        load_dataset(recipe.dataset, "train", data_root),
    )
    if recipe.crop_size:
        test = centre_crop(test, recipe.crop_size)
    trainer = Trainer(recipe, images, place)
    spread = Spread(trainer.net)
    _check_test(trainer.net.spec, images, test)
    if resume:
        load_state(state_path(out), trainer)
    return trainer, test, spread


class _Seldom:
    """Says when something is due that may take `SHARE` of the time."""

    def __init__(self) -> None:
        self._due = 0.0

    def is_due(self) -> bool:
        """Returns whether it is."""
        return time.monotonic() >= self._due

    def run(self, action: Callable[[], None]) -> None:
        """Runs the action, and lets it be due again later."""
        begin = time.monotonic()
        action()
        end = time.monotonic()
        self._due = end + (end - begin) / SHARE


def _run(trainer: Trainer, test: Dataset, spread: Spread, out: Path, report: Callable[[Progress], None]) -> None:
    saving, evaluating = _Seldom(), _Seldom()
    recipe, ranks = trainer.recipe, trainer.place.ranks
    watch = Watch(recipe, test.classes, len(test.labels))
    for earlier in trainer.history.epochs:
        watch.look(earlier)
    latest: Evaluation | None = None

    def evaluate_now() -> None:
        nonlocal latest
        trainer.renew_running_means()
        latest = evaluate(trainer.net, test, recipe.eps_test, ranks)

    def save() -> None:
        save_state(state_path(out), trainer)
        _write_curves(out, trainer)

    while trainer.epoch < recipe.epochs:
        begin = time.monotonic()
        loss, dials = trainer.run_epoch()
        seconds = time.monotonic() - begin
        if due := ranks.first_says(evaluating.is_due()):
            evaluating.run(evaluate_now)
        record = EpochRecord(trainer.epoch, loss, dials.p, dials.eps, dials.lr, seconds, spread.now())
        if due and latest is not None:
            record = replace(record, clean=latest.clean, certified=latest.certified)
        trainer.history.add(record)
        warnings = watch.look(record)
        if ranks.is_first and saving.is_due():
            saving.run(save)
        phase, times = phase_of(dials.p), trainer.times.medians()
        report(Progress(trainer.epoch, recipe.epochs, loss, dials, latest, record, warnings, phase, times))


@contextmanager
def _few_threads_if_small(trainer: Trainer) -> Iterator[None]:
    before = torch.get_num_threads()
    weights = sum(parameter.numel() for parameter in trainer.net.parameters())
    if weights * trainer.batches.size(0) < SMALL_STEP:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


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


def _provenance(trainer: Trainer, evaluation: Evaluation) -> Mapping[str, Any]:
    versions = {
        "linfdeploy": __version__,
        "torch": str(torch.__version__),
        "numpy": np.__version__,
        "python": platform.python_version(),
    }
    return {
        "recipe": trainer.recipe.to_json(),
        "seed": trainer.recipe.seed,
        "versions": versions,
        "metrics": {**asdict(evaluation), **_seconds(trainer)},
    }


def _seconds(trainer: Trainer) -> Mapping[str, Any]:
    """The times of a CUDA run. On the CPU there are none: the same recipe gives a file of the same bytes there."""
    if trainer.place.device.type == "cpu":
        return {}
    return {
        "seconds_per_epoch": trainer.times.medians(),
        "device": torch.cuda.get_device_name(trainer.place.device),
        "processes": trainer.place.ranks.world,
    }
