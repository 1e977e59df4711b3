# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import re

import numpy as np
import pytest
from small_nets import float_bits, pixel_net, random_images

from linfdeploy.engines.base import Logits
from linfdeploy.engines.plain import PlainEngine, check_evaluator
from linfdeploy.engines.reference import ReferenceEngine, roundings_of
from linfdeploy.errors import EngineError
from linfdeploy.onnx.pixel_net import PRECISIONS, Precision
from linfdeploy.verify.threat import box_of


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("seed", range(4))
def test_says_what_the_kernels_say(isa: str, precision: Precision, seed: int) -> None:
    net, images = pixel_net(seed, precision), random_images(40, seed=seed)
    lower, upper = box_of(images, 3)
    for rounding in roundings_of(net):
        plain, ours = PlainEngine(net, rounding), ReferenceEngine(net, rounding)
        assert np.array_equal(float_bits(plain.run(images)), float_bits(ours.run(images)))
        for a, b in zip(plain.bounds(lower, upper), ours.bounds(lower, upper), strict=True):
            assert np.array_equal(float_bits(a), float_bits(b))
        check_evaluator(ours, images, lower, upper)


class DropsALane(ReferenceEngine):
    """A kernel that never looks at one input."""

    def distance(self, x: Logits, w: Logits) -> Logits:
        return super().distance(x[:, 1:], w[:, 1:])


class WideBounds(ReferenceEngine):
    """A kernel whose upper ends are one ulp too low."""

    def distance_bounds(self, lower: Logits, upper: Logits, w: Logits) -> tuple[Logits, Logits]:
        low, high = super().distance_bounds(lower, upper, w)
        return low, np.nextafter(high, np.float32(0))


@pytest.mark.parametrize(("faulty", "what"), [(DropsALane, "logits"), (WideBounds, "lower bounds")])
def test_a_faulty_kernel_is_not_judged_with(faulty: type[ReferenceEngine], what: str) -> None:
    net, images = pixel_net(1), random_images(60, seed=1)
    text = rf"the evaluator's {what} differ from plain numpy's in \d+ of \d+ numbers; "
    with pytest.raises(
        EngineError, match=f"^{text}{re.escape('expected none: this build or machine computes wrongly')}"
    ):
        check_evaluator(faulty(net), images, *box_of(images, 3))
