# SPDX-License-Identifier: Apache-2.0
"""What a net takes: no checkpoint of the papers' code says it, so it comes from options or from the run's log."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from linfdeploy.errors import InputError, brief
from linfdeploy.training.importers.run_log import RunLog

__all__ = ["DATASETS", "Input", "InputOptions", "input_of"]

Shape = tuple[int, int, int]


@dataclass(frozen=True)
class Statistics:
    """What the papers' code does with a data set.

    Attributes:
        logged: Its name in a log.
        shape: (C, H, W).
        mean: Per channel, in [0, 1] pixel units.
        std: One for all channels, in the same units.
    """

    logged: str
    shape: Shape
    mean: tuple[float, ...]
    std: float


DATASETS: Mapping[str, Statistics] = {
    "mnist": Statistics("MNIST", (1, 28, 28), (0.1307,), 0.3081),
    "fashion-mnist": Statistics("FashionMNIST", (1, 28, 28), (0.2860,), 0.3520),
    "cifar10": Statistics("CIFAR10", (3, 32, 32), (0.4914, 0.4822, 0.4465), 0.2009),
    "cifar100": Statistics("CIFAR100", (3, 32, 32), (0.5071, 0.4867, 0.4408), 0.2667),
    "tiny-imagenet": Statistics("TinyImageNet", (3, 64, 64), (0.4802, 0.4481, 0.3975), 0.2276),
    "imagenet64": Statistics("ImageNet64", (3, 64, 64), (0.4815, 0.4578, 0.4082), 0.2128),
}
# The first paper's code crops these images, so their number of pixels alone tells.
CROPPED: Mapping[str, Shape] = {"tiny-imagenet": (3, 56, 56)}


@dataclass(frozen=True)
class InputOptions:
    """What the user says of the input; None where nothing.

    Attributes:
        dataset: A key of `DATASETS`.
        mean: Per channel, in [0, 1] pixel units.
        std: One for all channels, in the same units.
        shape: (C, H, W).
    """

    dataset: str | None = None
    mean: tuple[float, ...] | None = None
    std: float | None = None
    shape: Shape | None = None


@dataclass(frozen=True)
class Input:
    """The input of a net; `dataset` is None where nobody said it."""

    shape: Shape
    mean: tuple[float, ...]
    std: float
    dataset: str | None


def input_of(options: InputOptions, log: RunLog | None, values: int) -> Input:
    """Puts together what the options and the log say; where both speak, they must say the same.

    Mean and std come from an option, else from the log's transforms, else they are the papers' for the data set.

    Args:
        options: What the user says.
        log: What the run says, or None.
        values: The inputs of the first layer.

    Raises:
        InputError: Something is missing, contradictory, or does not fit the first layer.
    """
    dataset = _agreed("dataset", options.dataset, _logged_dataset(log))
    known = DATASETS.get(dataset) if dataset else None
    mean = _agreed("mean", options.mean, log.mean if log else None) or (known.mean if known else None)
    std = _agreed("std", options.std, log.std if log else None)
    std = known.std if std is None and known else std
    shape = options.shape or _shape(dataset, values)
    if mean is None or std is None or shape is None:
        missing = [name for name, part in (("mean", mean), ("std", std), ("input shape", shape)) if part is None]
        raise InputError(
            f"nothing says the {' and the '.join(missing)} of the net's input; expected the run's log.txt beside "
            "the checkpoint, --dataset, or --mean, --std and --input-shape"
        )
    if math.prod(shape) != values or len(mean) != shape[0]:
        raise InputError(
            f"the input shape is {shape} with {len(mean)} means, but the first layer has {values} inputs; "
            "expected a shape of as many values and a mean for each channel: choose --dataset, --input-shape or "
            "--mean"
        )
    return Input(shape, mean, std, dataset)


def _logged_dataset(log: RunLog | None) -> str | None:
    if log is None:
        return None
    logged = log.arguments["dataset"]
    names = [name for name, statistics in DATASETS.items() if statistics.logged == logged]
    if not names:
        known = ", ".join(statistics.logged for statistics in DATASETS.values())
        raise InputError(f"{log.path}: its dataset is {brief(logged)}; expected one of {known}")
    return names[0]


def _agreed(name: str, option: object, logged: object) -> Any:
    if option is not None and logged is not None and option != logged:
        raise InputError(
            f"--{name} is {option} but the run's log says {logged}; expected the same: leave the option out, or "
            "name the right log with --log"
        )
    return logged if option is None else option


def _shape(dataset: str | None, values: int) -> Shape | None:
    if dataset is None:
        return None
    cropped = CROPPED.get(dataset)
    return cropped if cropped and math.prod(cropped) == values else DATASETS[dataset].shape
