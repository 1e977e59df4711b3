# SPDX-License-Identifier: Apache-2.0
"""An answer that depends on anything but the image is found, whatever it depends on."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
from pixel_nets import FaultyEngine, random_images, random_net

from linfdeploy.engines.reference import ReferenceEngine
from linfdeploy.verify.determinism import BATCH, REPEATS, instabilities, rebuild_violation, run_batched

NET = random_net((4, 6, 3), "exact", 0)
IMAGES = random_images(NET, 300, 0)
WHOLE = ReferenceEngine(NET).run(IMAGES)
Fault = Callable[[npt.NDArray[np.float32], int], npt.NDArray[np.float32]]


def details(fault: Fault) -> list[str]:
    return [violation.detail for violation in instabilities(FaultyEngine(NET, fault), IMAGES, WHOLE)]


def once(call: int) -> Fault:
    return lambda logits, now: logits + np.float32(now == call)


def in_batches(of: Callable[[int], bool]) -> Fault:
    return lambda logits, _: logits + np.float32(of(len(logits)))


def test_an_engine_whose_answers_depend_on_the_image_alone_passes() -> None:
    assert details(lambda logits, _: logits) == []


def test_not_a_number_is_equal_to_itself_here() -> None:
    spoiled = np.where(np.arange(3) == 1, np.float32(np.nan), WHOLE)
    engine = FaultyEngine(NET, lambda logits, _: np.where(np.arange(3) == 1, np.float32(np.nan), logits))
    assert list(instabilities(engine, IMAGES, spoiled)) == []


@pytest.mark.parametrize(
    ("fault", "detail"),
    [
        (once(1), "two runs over the same images give different logits"),
        (once(2 + 5), f"1 of {REPEATS} more runs over one batch give other logits"),
        (in_batches(lambda size: size == 17), "batches of 17 give other logits than batches of 256"),
        (in_batches(lambda size: size > BATCH), "batches of 1023 give other logits than batches of 256"),
        (in_batches(lambda size: size == 1), "batches of 1 give other logits than batches of 256"),
    ],
)
def test_each_dependence_is_named(fault: Fault, detail: str) -> None:
    assert detail in details(fault)


def test_an_answer_that_depends_on_the_place_is_found_by_other_orders() -> None:
    # Right for the images in their order: what stands in row 5 gets the answer of image 5.
    known = WHOLE[5].copy()

    def sticky(logits: npt.NDArray[np.float32], _: int) -> npt.NDArray[np.float32]:
        if len(logits) == BATCH:
            logits[5] = known
        return logits

    found = details(sticky)
    assert "images in another order give other logits than the same images in their order" in found
    assert "batches of one image many times give other logits than the same images in their order" in found


def test_an_engine_that_is_built_otherwise_the_second_time_is_found() -> None:
    def rebuilt(fault: Fault) -> str | None:
        violation = rebuild_violation(lambda: FaultyEngine(NET, fault), IMAGES, WHOLE)
        return violation.detail if violation else None

    assert rebuilt(lambda logits, _: logits) is None
    assert rebuilt(lambda logits, _: np.nextafter(logits, np.float32(0))) == (
        "the engine, built again from its graph, gives other logits"
    )


def test_batches_are_put_together_in_order() -> None:
    assert np.array_equal(run_batched(ReferenceEngine(NET), IMAGES, 7), WHOLE)
