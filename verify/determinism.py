# SPDX-License-Identifier: Apache-2.0
"""Equal images must get equal bits: again, in other batches and places, and from an engine that is built again.

Behind a head only the same batch must get the same bits: an engine may sum in another order in another batch, and
what it may then answer is bounded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

import numpy as np
import numpy.typing as npt

from linfdeploy.engines.base import Engine, Images, Logits
from linfdeploy.report.model import Violation
from linfdeploy.verify.kept import Arrays
from linfdeploy.verify.shards import Rows, Shards, Step

__all__ = ["BATCH", "REPEATS", "Judge", "instabilities", "rebuild_violation", "run_batched"]

BATCH = 256
REPEATS = 8
"""How often one batch is run again; a fault that comes less often than that will mostly stay hidden."""
ODD_BATCHES = (1, 3, 7, 17, 129, 255, 1023)
REBUILD_IMAGES = 512


def run_batched(engine: Engine, images: Images, batch: int = BATCH) -> Logits:
    """Returns the logits of all images, (N, K) float32, computed `batch` at a time."""
    return np.concatenate([engine.run(images[i : i + batch]) for i in range(0, len(images), batch)])


class Judge(Protocol):
    """Says what an engine may answer where its bits are not determined."""

    def explains(self, images: Images, logits: Logits) -> npt.NDArray[np.bool_]:
        """Returns for which images (N,) the logits (N, K) are possible."""


def instabilities(
    engine: Engine, images: Images, whole: Logits, shards: Shards | None = None, judge: Judge | None = None
) -> list[Violation]:
    """Returns a violation for each way in which images (N, C, H, W) get other logits than `whole`, their first.

    Args:
        engine: The engine.
        images: (N, C, H, W) uint8.
        whole: (N, K) float32, their logits.
        shards: Shares out the second run over all images; the first process does the rest.
        judge: Of a net with a head, for what other batches answer; None: they answer the same bits.
    """
    shards = shards or Shards()

    def find(rows: Rows) -> Arrays:
        return {"same": np.asarray(_equal(whole[rows], run_batched(engine, images[rows])).all(1))}

    found = []
    if not shards.map(Step("determinism", find, unit=BATCH), len(images))["same"].all():
        found.append(Violation("determinism", "two runs over the same images give different logits"))
    return found + shards.from_first(lambda: list(_among_few(engine, images, whole, judge)))


def _among_few(engine: Engine, images: Images, whole: Logits, judge: Judge | None) -> Iterator[Violation]:
    def agree(rows: Rows, logits: Logits) -> bool:
        return _same(whole[rows], logits) or (
            judge is not None and bool(judge.explains(images[rows], logits).all())
        )

    if differ := sum(not _same(whole[:BATCH], engine.run(images[:BATCH])) for _ in range(REPEATS)):
        yield Violation("determinism", f"{differ} of {REPEATS} more runs over one batch give other logits")
    for batch in ODD_BATCHES:
        count = max(2 * batch + 1, 19) if batch < BATCH else batch
        # Repeated where there are too few: equal images are equal, wherever they stand.
        rows = np.arange(count if batch > BATCH else min(count, len(images))) % len(images)
        if not agree(rows, run_batched(engine, images[rows], batch)):
            yield Violation("determinism", f"batches of {batch} give other logits than batches of {BATCH}")
    for name, rows in _arrangements(len(images)).items():
        if not agree(rows, run_batched(engine, images[rows])):
            yield Violation("determinism", f"{name} give other logits than the same images in their order")


def rebuild_violation(
    rebuild: Callable[[], Engine], images: Images, whole: Logits, judge: Judge | None = None
) -> Violation | None:
    """Builds the engine again; returns a violation if images (N, C, H, W) then get other logits than `whole`.

    With a judge, other logits that are possible are none.
    """
    some = images[:REBUILD_IMAGES]
    found = run_batched(rebuild(), some)
    if _same(whole[: len(some)], found) or (judge is not None and judge.explains(some, found).all()):
        return None
    return Violation("determinism", "the engine, built again from its graph, gives other logits")


def _arrangements(count: int) -> dict[str, Rows]:
    """Returns indices of images in other orders."""
    few = min(count, 2 * BATCH)
    return {
        "images in another order": np.random.default_rng(0).permutation(few),
        "batches of one image many times": np.repeat(np.arange(min(count, 4)), BATCH),
    }


def _same(a: Logits, b: Logits) -> bool:
    return a.shape == b.shape and bool(_equal(a, b).all())


def _equal(a: Logits, b: Logits) -> npt.NDArray[np.bool_]:
    """Returns where two arrays are equal; two NaN are equal here, since another step finds them."""
    equal: npt.NDArray[np.bool_] = (a == b) | (np.isnan(a) & np.isnan(b))
    return equal
