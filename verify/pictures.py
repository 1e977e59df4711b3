# SPDX-License-Identifier: Apache-2.0
"""Which samples the report shows as pictures: the worst ones."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt

from linfdeploy.engines.base import Engine, Images
from linfdeploy.report.model import AuditReport, Picture, Raster, SampleRow
from linfdeploy.report.shown import fate_of
from linfdeploy.report.words import strongest
from linfdeploy.verify.determinism import run_batched

__all__ = ["MAX_PICTURES", "pictures_of"]

MAX_PICTURES = 8
"""Of each fate; more would fill the page without telling more."""


def pictures_of(
    engine: Engine, images: Images, adversarial: Mapping[str, npt.NDArray[Any]], report: AuditReport
) -> tuple[Picture, ...]:
    """Returns the samples to show: certified ones that fell, others that fell, and the least certified right ones.

    Args:
        engine: Asked once more for its class of each adversarial image.
        images: (N, C, H, W) uint8.
        adversarial: `index` (M,) of the samples that fell, and `images` (M, C, H, W) uint8 that changed them.
        report: Without pictures; its rows are those of `images`, in their order.
    """
    best = strongest(report.certified)
    name = best[0] if best else None
    found = dict(zip(adversarial["index"].tolist(), adversarial["images"], strict=True))
    rows = sorted(report.rows, key=lambda row: (_radius(row, name), _finite(row.margin), row.index))
    fates = [(row, fate_of(row, name)) for row in rows]
    broken = [row for row, fate in fates if fate == "broken" and row.index in found][:MAX_PICTURES]
    fell = [row for row, fate in fates if fate == "fell" and row.index in found][:MAX_PICTURES]
    fragile = [row for row, fate in fates if fate in {"certified", "open"}][:MAX_PICTURES]
    changed = [*broken, *fell]
    answers = _answers(engine, [found[row.index] for row in changed])
    pairs = [
        Picture(
            *_facts(row, name),
            fate="broken" if place < len(broken) else "fell",
            changed_to=answer,
            image=_raster(images[row.index]),
            adversarial=_raster(found[row.index]),
        )
        for place, (row, answer) in enumerate(zip(changed, answers, strict=True))
    ]
    singles = [
        Picture(*_facts(row, name), fate="fragile", changed_to=None, image=_raster(images[row.index]))
        for row in fragile
    ]
    return (*pairs, *singles)


def _facts(row: SampleRow, certificate: str | None) -> tuple[int, int, int, float, str | None]:
    radius = None if certificate is None else getattr(row, f"radius_{certificate}")
    return row.index, row.label, row.prediction, row.margin, None if radius is None else str(radius)


def _radius(row: SampleRow, certificate: str | None) -> Fraction:
    radius = None if certificate is None else getattr(row, f"radius_{certificate}")
    return Fraction(0) if radius is None else Fraction(radius)


def _finite(margin: float) -> float:
    """Returns a margin that can be sorted; NaN is worse than any other."""
    return -math.inf if math.isnan(margin) else margin


def _answers(engine: Engine, images: Sequence[npt.NDArray[np.uint8]]) -> list[int]:
    if not images:
        return []
    answers: list[int] = run_batched(engine, np.stack(images)).argmax(1).tolist()
    return answers


def _raster(image: npt.NDArray[np.uint8]) -> Raster:
    channels, height, width = image.shape
    return Raster(channels, height, width, image.tobytes())
