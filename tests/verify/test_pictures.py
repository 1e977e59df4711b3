# SPDX-License-Identifier: Apache-2.0
"""Which samples are shown, on reports whose worst samples are known."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from pixel_nets import random_images, random_net
from report.samples import passing

from linfdeploy.engines.reference import ReferenceEngine
from linfdeploy.report.model import AuditReport, Certified, Picture, SampleRow
from linfdeploy.verify.pictures import MAX_PICTURES, pictures_of

NET = random_net((6, 9, 5), "exact", 3)
ENGINE = ReferenceEngine(NET)
IMAGES = random_images(NET, 40, 5)
OTHERS = random_images(NET, 40, 6)


def row(index: int, radius: int, *, certified: bool = False, fell: bool = False, right: bool = True) -> SampleRow:
    flags = (certified, None, None, fell)
    return SampleRow(index, 0, 0 if right else 1, 2.0 * radius, *flags, radius_exact=str(radius))


def report_of(rows: list[SampleRow]) -> AuditReport:
    return replace(passing(), rows=tuple(rows), certified=Certified(0.5, None, None, None, None), pictures=())


def shown(rows: list[SampleRow]) -> tuple[Picture, ...]:
    fallen = np.array([item.index for item in rows if item.attacked], np.int64)
    adversarial: Mapping[str, npt.NDArray[Any]] = {"index": fallen, "images": OTHERS[fallen]}
    return pictures_of(ENGINE, IMAGES, adversarial, report_of(rows))


def test_the_worst_of_each_fate_come_first() -> None:
    rows = [
        row(0, 30, certified=True),
        row(1, 28, certified=True, fell=True),
        row(2, 9, fell=True),
        row(3, 4, fell=True),
        row(4, 12),
        row(5, 1, right=False),
    ]
    found = [(item.fate, item.index, item.radius) for item in shown(rows)]
    assert found == [
        ("broken", 1, "28"),
        ("fell", 3, "4"),
        ("fell", 2, "9"),
        ("fragile", 4, "12"),
        ("fragile", 0, "30"),
    ]


def test_pixels_and_the_changed_class_are_those_of_the_engine() -> None:
    (pair, single) = shown([row(7, 3, fell=True), row(8, 2)])
    assert pair.image.pixels == IMAGES[7].tobytes()
    assert pair.adversarial is not None
    assert pair.adversarial.pixels == OTHERS[7].tobytes()
    assert pair.changed_to == int(ENGINE.run(OTHERS[7:8]).argmax())
    assert (single.image.channels, single.image.height, single.image.width) == IMAGES.shape[1:]
    assert single.adversarial is None
    assert single.changed_to is None


def test_no_more_than_a_few_of_each() -> None:
    rows = [row(i, i + 1, fell=i < 20) for i in range(40)]
    fates = [item.fate for item in shown(rows)]
    assert fates == ["fell"] * MAX_PICTURES + ["fragile"] * MAX_PICTURES
    assert [item.index for item in shown(rows)][:MAX_PICTURES] == list(range(MAX_PICTURES))


def test_without_a_certificate_the_smallest_margins_are_shown() -> None:
    rows = [replace(row(i, 5), margin=margin) for i, margin in enumerate((3.0, 1.0, float("nan"), 2.0))]
    report = replace(report_of(rows), certified=Certified(None, None, None, None, None))
    nothing: Mapping[str, npt.NDArray[Any]] = {"index": np.empty(0, np.int64), "images": IMAGES[:0]}
    found = pictures_of(ENGINE, IMAGES, nothing, report)
    assert [item.index for item in found] == [2, 1, 3, 0]
    assert {item.radius for item in found} == {None}


@pytest.mark.parametrize("rows", [[], [row(0, 1, right=False)]])
def test_nothing_to_show(rows: list[SampleRow]) -> None:
    assert shown(rows) == ()
