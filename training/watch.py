# SPDX-License-Identifier: Apache-2.0
"""Early warnings: what a run that goes wrong shows long before anything is infinite. Each kind is told once."""

from __future__ import annotations

import math

import torch
from torch import nn

from linfdeploy.training.history import EpochRecord
from linfdeploy.training.recipe import Recipe

__all__ = ["Spread", "Watch"]

WIDEST = 10.0
"""Those of the net that the recipe for the digits trains spread 1.5 times as wide as at the start."""


class Watch:
    """Looks at one epoch after another."""

    def __init__(self, recipe: Recipe, classes: int, samples: int) -> None:
        """Takes the number of classes and that of the test images."""
        self._recipe = recipe
        self._classes = classes
        self._chance = 1 / classes + 3 * math.sqrt((1 - 1 / classes) / classes / samples)
        self._first: EpochRecord | None = None
        self._best: EpochRecord | None = None
        self._told: set[str] = set()

    def look(self, record: EpochRecord) -> tuple[str, ...]:
        """Returns a line for each kind of trouble that this epoch is the first to show."""
        found = {
            "loss": self._loss(record),
            "chance": self._accuracy(record),
            "spread": self._spread(record),
        }
        lines = {kind: text for kind, text in found.items() if text and kind not in self._told}
        self._told |= set(lines)
        return tuple(f"epoch {record.epoch}: {text}" for text in lines.values())

    def _loss(self, record: EpochRecord) -> str:
        """The loss has come back half of the way that it had come down."""
        # While the radius of the loss still grows, the loss may grow with it.
        if record.eps < self._recipe.eps_train * (1 - 1e-9):
            return ""
        if self._first is None or self._best is None or record.loss < self._best.loss:
            self._first, self._best = self._first or record, record
            return ""
        best = self._best
        if record.loss - best.loss <= max(self._first.loss - best.loss, abs(best.loss)) / 2:
            return ""
        return (
            f"the loss is {record.loss:.3g} at p = {record.p:.3g} and was {best.loss:.3g} after epoch "
            f"{best.epoch}; expected it to fall: unless it comes down, try a smaller lr or a longer way to p_end"
        )

    def _accuracy(self, record: EpochRecord) -> str:
        # Before half of the way to p_end, a net of finite p may well be nothing at p = inf.
        started = record.p >= math.sqrt(self._recipe.p_start * self._recipe.p_end)
        if not started or record.clean is None or record.clean > self._chance:
            return ""
        return (
            f"{record.clean:.1%} of the test images are classified correctly at p = inf, which is chance for "
            f"{self._classes} classes; expected more at p = {record.p:.3g}: try a smaller lr or eps_train"
        )

    @staticmethod
    def _spread(record: EpochRecord) -> str:
        if record.spread <= WIDEST:
            return ""
        return (
            f"the weights of a layer spread {record.spread:.3g} times as wide as at the start; expected less than "
            f"{WIDEST:g}: try a smaller lr"
        )


class Spread:
    """Measures how wide the weights of a net spread, against those it had when this was made."""

    def __init__(self, net: nn.Module) -> None:
        self._weights = [parameter for parameter in net.parameters() if parameter.ndim > 1]
        self._start = self._deviations()

    def now(self) -> float:
        """Returns the largest ratio of all layers."""
        return float((self._deviations() / self._start).max())

    @torch.no_grad()
    def _deviations(self) -> torch.Tensor:
        return torch.stack([weight.std() for weight in self._weights])
