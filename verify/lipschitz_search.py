# SPDX-License-Identifier: Apache-2.0
"""A search for two images on which an engine moves by more than the images do.

Pairs at random hardly ever come near the bound, since one pixel alone moves a logit. So the search moves that
pixel, by one level and as far as it goes; every pixel of a few images by one level; and it climbs the excess
itself. It needs the net only to know where to look: what is found holds for the engine, whatever that computes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from linfdeploy.engines.base import Engine, Images, Logits
from linfdeploy.onnx.pixel_net import PIXEL_MAX, PixelNet
from linfdeploy.verify.determinism import run_batched
from linfdeploy.verify.lipschitz import LipschitzAudit
from linfdeploy.verify.paths import PathFinder

__all__ = ["SearchPlan", "lipschitz_search"]


@dataclass(frozen=True)
class SearchPlan:
    """How long to search.

    Attributes:
        bases: Images that pairs start from: data, random ones, and black and white ones, in equal parts.
        random: Pairs of any two of them.
        neighbours: Images with one pixel changed by one level, in all.
        climbers: Pairs that climb.
        steps: Of each climb.
    """

    bases: int = 192
    random: int = 256
    neighbours: int = 4096
    climbers: int = 32
    steps: int = 24


def lipschitz_search(
    engine: Engine, net: PixelNet, data: Images, audit: LipschitzAudit, seed: int, plan: SearchPlan | None = None
) -> None:
    """Searches, and tells the audit of every pair.

    Args:
        engine: What is searched.
        net: Its graph's own net, for the pixels that its logits hang on.
        data: (N, C, H, W) uint8.
        audit: What collects the pairs.
        seed: Of everything random.
        plan: How long.

    Raises:
        EngineError: The engine fails on a batch.
    """
    plan = plan or SearchPlan()
    search = _Search(engine, PathFinder(net), audit, np.random.default_rng(seed))
    bases = search.bases(data, plan.bases)
    logits = run_batched(engine, bases)
    search.random_pairs(bases, logits, plan.random)
    search.along_paths(bases, logits)
    search.neighbours(bases, logits, plan.neighbours)
    search.climb(bases, logits, plan)


@dataclass(frozen=True)
class _Search:
    engine: Engine
    finder: PathFinder
    audit: LipschitzAudit
    rng: np.random.Generator

    def bases(self, data: Images, count: int) -> Images:
        third, shape = -(-count // 3), data.shape[1:]
        chosen = data[self.rng.permutation(len(data))[:third]]
        noise = self.rng.integers(0, PIXEL_MAX + 1, (third, *shape), np.uint8)
        extreme = self.rng.integers(0, 2, (third, *shape), np.uint8) * np.uint8(PIXEL_MAX)
        return np.concatenate([chosen, noise, extreme])

    def pairs(self, images: Images, logits: Logits, others: Images) -> tuple[npt.NDArray[np.float64], Logits]:
        """Runs the others, tells the audit, and returns each pair's excess and the others' logits."""
        found = run_batched(self.engine, others)
        return self.audit.add(images, logits, others, found), found

    def random_pairs(self, bases: Images, logits: Logits, count: int) -> None:
        first, second = self.rng.integers(0, len(bases), (2, count))
        self.audit.add(bases[first], logits[first], bases[second], logits[second])

    def along_paths(self, bases: Images, logits: Logits) -> None:
        """Moves the pixel that each logit hangs on: one level either way, and to either end of the range."""
        paths = self.finder.find(bases)
        rows = np.repeat(np.arange(len(bases)), paths.pixels.shape[1])
        for step in (-1, 1, -PIXEL_MAX, PIXEL_MAX):
            others = _moved(bases[rows], paths.pixels.reshape(-1), np.full(len(rows), step))
            self.pairs(bases[rows], logits[rows], others)

    def neighbours(self, bases: Images, logits: Logits, count: int) -> None:
        """Changes one pixel by one level: all pixels in turn, on one image after the other."""
        inputs = int(np.prod(bases.shape[1:]))
        pixels = np.resize(
            np.concatenate([self.rng.permutation(inputs) for _ in range(-(-count // inputs))]), count
        )
        rows, steps = np.arange(count) % len(bases), self.rng.choice([-1, 1], count)
        self.pairs(bases[rows], logits[rows], _moved(bases[rows], pixels, steps))

    def climb(self, bases: Images, logits: Logits, plan: SearchPlan) -> None:
        """Follows the gradient of the excess.

        Of a logit's change that is, at p = inf, one pixel of either image; the distance stays within its reach.
        """
        rows = self.rng.integers(0, len(bases), plan.climbers)
        reach = self.rng.choice([1, 2, 8, 32, 128], plan.climbers)
        x, at = bases[rows], logits[rows]
        others = _shifted(x, self.rng.integers(-1, 2, x.shape) * reach[:, None, None, None])
        excess, found = self.pairs(x, at, others)
        for _ in range(plan.steps):
            tried_x, tried = self._uphill(x, at, others, found, reach)
            tried_at = run_batched(self.engine, tried_x)
            now, tried_found = self.pairs(tried_x, tried_at, tried)
            # Most moves of a maximum change nothing: what is no worse is taken, so that plateaus are crossed.
            taken = ~(now < excess)
            x[taken], others[taken], at[taken], found[taken] = (
                tried_x[taken],
                tried[taken],
                tried_at[taken],
                tried_found[taken],
            )
            excess[taken] = now[taken]

    def _uphill(
        self, x: Images, at: Logits, others: Images, found: Logits, reach: npt.NDArray[np.int64]
    ) -> tuple[Images, Images]:
        rows = np.arange(len(x))
        with np.errstate(invalid="ignore"):
            change = found.astype(np.float64) - at
        # The logit that has moved most, or now and then any other.
        logit = np.where(
            self.rng.random(len(x)) < 0.5, np.abs(change).argmax(1), self.rng.integers(0, at.shape[1], len(x))
        )
        sign = np.where(change[rows, logit] >= 0, 1, -1)
        here, there = self.finder.find(x), self.finder.find(others)
        size = np.where(self.rng.random(len(x)) < 0.5, 1, reach)
        first = _moved(x, here.pixels[rows, logit], -sign * here.rising[rows, logit] * size)
        second = _moved(others, there.pixels[rows, logit], sign * there.rising[rows, logit] * size)
        # The second stays within reach of the first.
        low, high = _shifted(first, -reach[:, None, None, None]), _shifted(first, reach[:, None, None, None])
        return first, np.clip(second, low, high)


def _moved(images: Images, pixels: npt.NDArray[np.int64], steps: npt.NDArray[np.int64]) -> Images:
    """Returns images (M, C, H, W) with one pixel each moved, and clipped."""
    flat = images.reshape(len(images), -1).astype(np.int64)
    flat[np.arange(len(flat)), pixels] += steps
    moved: Images = np.clip(flat, 0, PIXEL_MAX).astype(np.uint8).reshape(images.shape)
    return moved


def _shifted(images: Images, steps: npt.NDArray[np.int64]) -> Images:
    shifted: Images = np.clip(images.astype(np.int64) + steps, 0, PIXEL_MAX).astype(np.uint8)
    return shifted
