# SPDX-License-Identifier: Apache-2.0
import numpy as np
import numpy.typing as npt
import pytest

from linfdeploy.engines.base import Answers, Engine, Images
from linfdeploy.errors import EngineError


class Fixed(Engine):
    """Answers with what it was made with, and remembers what it was asked."""

    def __init__(self, logits: npt.NDArray[np.float32]) -> None:
        self.input_shape = (1, 2, 2)
        self.classes = 3
        self.versions = {}
        self.logits = logits
        self.asked: Images | None = None

    def _answer(self, images: Images) -> Answers:
        self.asked = images
        return {"logits": self.logits}


def test_hands_over_contiguous_images() -> None:
    engine = Fixed(np.ones((2, 3), np.float32))
    images = np.zeros((4, 1, 2, 2), np.uint8)[::2]
    assert np.array_equal(engine.run(images), np.ones((2, 3)))
    assert engine.asked is not None
    assert engine.asked.flags.c_contiguous


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((0, 1, 2, 2), np.uint8),
        np.zeros((1, 1, 2, 3), np.uint8),
        np.zeros((1, 2, 2), np.uint8),
        np.zeros((1, 1, 2, 2), np.float32),
        np.zeros((1, 1, 2, 2), np.int8),
    ],
)
def test_refuses_images_that_do_not_fit(images: Images) -> None:
    with pytest.raises(EngineError, match=r"images are .*; expected uint8 \(N, 1, 2, 2\) with N >= 1"):
        Fixed(np.ones((1, 3), np.float32)).run(images)


@pytest.mark.parametrize(
    "logits", [np.ones((1, 2), np.float32), np.ones((2, 3), np.float32), np.ones((1, 3)), np.ones(3, np.float32)]
)
def test_refuses_answers_that_do_not_fit(logits: npt.NDArray[np.float32]) -> None:
    with pytest.raises(
        EngineError, match=r"the engine returned logits .*; expected float32 \(1, 3\): build it again"
    ):
        Fixed(logits).run(np.zeros((1, 1, 2, 2), np.uint8))
