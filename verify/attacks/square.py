# SPDX-License-Identifier: Apache-2.0
"""Square search of Andriushchenko et al. 2020, on the engine itself: it needs logits and nothing else.

Besides the box's ends, a square may take noise, the pixels of another class's image, or go back to the image: a
net of l_inf distances lowers a distance by meeting a weight, which need not be at an end.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from linfdeploy.engines.base import Images, Logits
from linfdeploy.verify.attacks.attempt import Rows

__all__ = ["Ask", "square"]

Ask: TypeAlias = Callable[[Rows, Images], Logits]
"""Takes samples (M,) and images (M, C, H, W) and returns the engine's logits (M, K)."""

# The paper's share of pixels that the first squares cover, and after how many of 10,000 queries it is halved.
INITIAL_SHARE = 0.8
HALVED_AT = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
# Of the squares that take another source than the box's ends.
OTHER_SHARE = 0.25


def square(
    ask: Ask,
    box: tuple[Images, Images],
    sources: tuple[Images, ...],
    labels: npt.NDArray[np.int64],
    queries: int,
    rng: np.random.Generator,
) -> Images:
    """Searches for images that the engine gives another label; those that have one are left alone.

    Args:
        ask: The engine.
        box: Lower and upper ends, each (N, C, H, W) uint8.
        sources: Images inside the box whose pixels a square may take, each (N, C, H, W).
        labels: (N,) to get away from.
        queries: For each sample.
        rng: Of everything random.

    Returns:
        (N, C, H, W) uint8, the images with the lowest margins.
    """
    lower, upper = box
    stripes = rng.integers(0, 2, (len(lower), lower.shape[1], 1, lower.shape[3]))
    x = np.where(stripes == 1, upper, lower)
    lead = lead_of(ask(np.arange(len(x)), x), labels)
    for query in range(1, queries):
        # A tie may still keep the label, so only a margin below 0 is sure.
        open_ = np.flatnonzero(~(lead < 0))
        if not len(open_):
            break
        size = _size(lower.shape[1:], query / queries)
        ends = [array[open_] for array in (lower, upper, *sources)]
        ends.append(rng.integers(ends[0], ends[1].astype(np.int64) + 1, dtype=np.int64).astype(np.uint8))
        tried = _with_squares(x[open_], ends, size, rng)
        found = lead_of(ask(open_, tried), labels[open_])
        better = ~(found >= lead[open_])
        x[open_[better]], lead[open_[better]] = tried[better], found[better]
    return x


def lead_of(logits: Logits, labels: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Returns the label's logit less the best other, (N,)."""
    rows, others = np.arange(len(labels)), logits.astype(np.float64)
    own = others[rows, labels]
    others[rows, labels] = -np.inf
    with np.errstate(invalid="ignore"):
        lead: npt.NDArray[np.float64] = own - others.max(1)
    return lead


def _size(shape: tuple[int, ...], progress: float) -> tuple[int, int]:
    """Returns height and width of a square, or of as large a rectangle where the image is too flat for it."""
    halvings = sum(progress * 10_000 > at for at in HALVED_AT)
    pixels = INITIAL_SHARE / 2**halvings * shape[1] * shape[2]
    tall = min(max(round(pixels**0.5), 1), shape[1])
    return tall, min(max(round(pixels / tall), 1), shape[2])


def _with_squares(x: Images, ends: list[Images], size: tuple[int, int], rng: np.random.Generator) -> Images:
    """Fills one square of each image, each channel from one of the sources; the first two are the box's ends."""
    count, channels, height, width = x.shape
    tall, wide = size
    top = rng.integers(0, height - tall + 1, (count, 1, 1, 1))
    left = rng.integers(0, width - wide + 1, (count, 1, 1, 1))
    down, across = np.arange(height)[:, None], np.arange(width)
    inside = (down >= top) & (down < top + tall) & (across >= left) & (across < left + wide)
    chosen = rng.integers(0, 2, (count, channels, 1, 1))
    other = rng.random((count, 1, 1, 1)) < OTHER_SHARE
    chosen = np.where(other, rng.integers(2, len(ends), (count, 1, 1, 1)), chosen)
    images: Images = np.where(inside, np.choose(chosen, ends), x)
    return images
