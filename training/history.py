# SPDX-License-Identifier: Apache-2.0
"""What each epoch of a run came to: kept in the state, so that a resumed run goes on with the same curve."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from typing import Any

__all__ = ["EpochRecord", "History"]


@dataclass(frozen=True)
class EpochRecord:
    """One epoch.

    Attributes:
        epoch: Its number, from 1.
        loss: The mean over its steps.
        p: The norm of its last step, up to infinity.
        eps: The radius of the loss in its last step, a fraction of the pixel range.
        lr: Adam's step for weights and biases in its last step.
        seconds: What it took.
        spread: How many times as wide as at the start the weights of some layer spread, at the most.
        clean: The share of the test images that are classified correctly at p = inf; None: not evaluated.
        certified: The share that is certified by intervals in float32; None: not evaluated.
    """

    epoch: int
    loss: float
    p: float
    eps: float
    lr: float
    seconds: float
    spread: float
    clean: float | None = None
    certified: float | None = None


class History:
    """The epochs of a run so far.

    Attributes:
        epochs: In their order.
    """

    def __init__(self) -> None:
        self.epochs: list[EpochRecord] = []

    def add(self, record: EpochRecord) -> None:
        """Adds an epoch."""
        self.epochs.append(record)

    def plain(self) -> list[dict[str, Any]]:
        """Returns plain data, for a state."""
        return [asdict(record) for record in self.epochs]

    def restore(self, data: object, done: int) -> None:
        """Takes what `plain` returned.

        Args:
            data: From a file.
            done: Epochs that are done.

        Raises:
            ValueError: It is no such thing.
        """
        if not isinstance(data, list) or not all(map(_is_record, data)):
            raise ValueError("the history is not one of epochs")
        numbers = [record["epoch"] for record in data]
        # States of older versions have no history.
        if numbers and numbers != list(range(1, done + 1)):
            raise ValueError(f"the history is not one of {done} epochs")
        self.epochs = [EpochRecord(**record) for record in data]

    def lines(self) -> Iterator[str]:
        """Yields a line of JSON for each epoch; an infinite p is the text `inf`."""
        for record in self.epochs:
            values = asdict(record)
            yield json.dumps({key: "inf" if value == math.inf else value for key, value in values.items()})


def _is_record(data: object) -> bool:
    if not isinstance(data, dict) or set(data) != {field.name for field in fields(EpochRecord)}:
        return False
    optional = {"clean", "certified"}
    return type(data["epoch"]) is int and all(
        type(value) is float or (value is None and name in optional)
        for name, value in data.items()
        if name != "epoch"
    )
