# SPDX-License-Identifier: Apache-2.0
"""Search over whole-numbered images around the best point: no rounding is left to chance.

Each logit hangs on one pixel. Every round moves three of them, the pixels of the label, of its strongest rival and
of one drawn at random, in all combinations of one level down, one level up, the end of the box and the weight that
the pixel is compared with. Boxes with few images are run whole: there the search is no search but a decision.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np
import numpy.typing as npt

from linfdeploy.engines.base import Images, Logits
from linfdeploy.verify.attacks.attempt import Rows
from linfdeploy.verify.attacks.square import Ask, lead_of
from linfdeploy.verify.paths import PathFinder

__all__ = ["WHOLE", "rounding_search"]

WHOLE = 4096
"""Boxes of at most this many images are run whole."""

MOVES = np.array(list(product(range(5), repeat=3))[1:])
# Of the third pixels that are drawn from all pixels, and not from another class's path.
ANYWHERE = 0.5


def rounding_search(
    ask: Ask,
    finder: PathFinder,
    box: tuple[Images, Images],
    start: Images,
    labels: npt.NDArray[np.int64],
    rounds: int,
    rng: np.random.Generator,
) -> Images:
    """Searches for images that the engine gives another label.

    Args:
        ask: The engine.
        finder: Of the pixels that logits hang on.
        box: Lower and upper ends, each (N, C, H, W) uint8.
        start: (N, C, H, W) uint8, inside the box.
        labels: (N,) to get away from.
        rounds: At most so many for each sample.
        rng: Of everything random.

    Returns:
        (N, C, H, W) uint8, the images with the lowest margins.
    """
    search = _Search(ask, finder, _flat(box[0]), _flat(box[1]), labels, start.shape[1:], rng)
    x = _flat(start)
    logits = ask(np.arange(len(x)), start)
    gone = logits.argmax(1) != labels
    for sample in np.flatnonzero(~gone & (search.sizes() <= WHOLE)):
        x[sample], gone[sample] = search.whole(int(sample))
    for _ in range(rounds):
        open_ = np.flatnonzero(~gone & (search.sizes() > WHOLE))
        if not len(open_):
            break
        x[open_], logits[open_] = search.round(open_, x[open_], logits[open_])
        gone[open_] = logits[open_].argmax(1) != labels[open_]
    return x.reshape(start.shape)


def _flat(images: Images) -> Images:
    return images.reshape(len(images), -1).copy()


@dataclass(frozen=True)
class _Search:
    ask: Ask
    finder: PathFinder
    lower: Images
    upper: Images
    labels: npt.NDArray[np.int64]
    shape: tuple[int, ...]
    rng: np.random.Generator

    def sizes(self) -> npt.NDArray[np.float64]:
        """How many images each box holds, (N,); infinity where that is beyond a float64."""
        with np.errstate(over="ignore"):
            sizes: npt.NDArray[np.float64] = (self.upper.astype(np.float64) - self.lower + 1).prod(1)
        return sizes

    def run(self, samples: Rows, x: Images) -> Logits:
        return self.ask(samples, x.reshape(-1, *self.shape))

    def whole(self, sample: int) -> tuple[Images, bool]:
        """Runs every image of one box; returns the one with the lowest margin, and whether its label is gone."""
        ranges = zip(self.lower[sample].tolist(), self.upper[sample].tolist(), strict=True)
        x = np.array(list(product(*(range(low, high + 1) for low, high in ranges))), np.uint8)
        labels = np.full(len(x), self.labels[sample])
        logits = self.run(np.full(len(x), sample), x)
        worst = _least(logits, labels)
        return x[worst], bool(logits[worst].argmax() != labels[0])

    def round(self, open_: Rows, x: Images, logits: Logits) -> tuple[Images, Logits]:
        """Tries all combinations of moves of three pixels; takes the best, or one that is no worse."""
        pixels, values = self._choices(open_, x, logits)
        count, rows = len(open_), np.arange(len(open_))
        tried = np.repeat(x[:, None], len(MOVES), 1)
        for place in range(3):
            chosen = values[:, place][:, MOVES[:, place]]
            tried[rows[:, None], np.arange(len(MOVES)), pixels[:, place, None]] = chosen
        tried = tried.reshape(count * len(MOVES), -1)
        labels = self.labels[open_]
        found = self.run(np.repeat(open_, len(MOVES)), tried)
        lead = _order(found, np.repeat(labels, len(MOVES))).reshape(count, -1)
        # Ties are frequent, since most moves change no logit: a random one of the best walks the plateau.
        best = np.where(lead == lead.min(1, keepdims=True), self.rng.random(lead.shape), 2.0).argmin(1)
        taken = lead[rows, best] <= _order(logits, labels)
        place = rows * len(MOVES) + best
        return np.where(taken[:, None], tried[place], x), np.where(taken[:, None], found[place], logits)

    def _choices(self, open_: Rows, x: Images, logits: Logits) -> tuple[Rows, Images]:
        """Returns three pixels of each image, (N, 3), and the values to try there, (N, 3, 5); the first stays."""
        paths, labels, rows = self.finder.find(x.reshape(-1, *self.shape)), self.labels[open_], np.arange(len(x))
        others = logits.copy()
        others[rows, labels] = -np.inf
        third = self.rng.integers(0, logits.shape[1], len(x))
        classes = np.stack([labels, others.argmax(1), third], 1)
        pixels = np.take_along_axis(paths.pixels, classes, 1)
        anywhere = self.rng.random(len(x)) < ANYWHERE
        pixels[anywhere, 2] = self.rng.integers(0, x.shape[1], int(anywhere.sum()))
        # The label is to fall and all others to rise.
        up = np.take_along_axis(paths.rising, classes, 1) * np.where(classes == labels[:, None], -1, 1) > 0
        low, high = (
            np.take_along_axis(end[open_], pixels, 1).astype(np.int64) for end in (self.lower, self.upper)
        )
        now = np.take_along_axis(x, pixels, 1).astype(np.int64)
        weight = np.rint(np.take_along_axis(paths.weights, classes, 1)).astype(np.int64)
        values = np.stack([now, now - 1, now + 1, np.where(up, high, low), weight], 2)
        return pixels, np.clip(values, low[..., None], high[..., None]).astype(np.uint8)


def _order(logits: Logits, labels: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Margins (N,), lowered to minus infinity where another class wins, by a tie as well."""
    return np.where(logits.argmax(1) != labels, -np.inf, lead_of(logits, labels))


def _least(logits: Logits, labels: npt.NDArray[np.int64]) -> int:
    return int(_order(logits, labels).argmin())
