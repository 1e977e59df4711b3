# SPDX-License-Identifier: Apache-2.0
"""Our interval bounds beside those that auto_LiRPA computes of the same net by rules of its own."""

from __future__ import annotations

import numpy as np
import pytest
from lirpa_net import MISSING, Lirpa
from pixel_nets import random_images, random_net

from linfdeploy.engines.reference import ReferenceEngine
from linfdeploy.onnx.pixel_net import Precision
from linfdeploy.verify.conformance import ulp_distance
from linfdeploy.verify.threat import box_of

# It rounds each operation once, as the evaluator does; that its order stays the same is not ours to say.
ULPS = 4

pytestmark = [
    pytest.mark.skipif(MISSING is not None, reason=MISSING or ""),
    pytest.mark.filterwarnings("ignore"),
]


@pytest.mark.parametrize("precision", ["exact", "fp32"])
@pytest.mark.parametrize("sizes", [(4, 3), (12, 9, 5), (20, 16, 11, 6)])
@pytest.mark.parametrize("levels", [0, 9, 255])
def test_bounds_agree(precision: Precision, sizes: tuple[int, ...], levels: int) -> None:
    net = random_net(sizes, precision, 1)
    box = box_of(random_images(net, 30, 1), levels)
    ours, theirs = ReferenceEngine(net).bounds(*box), Lirpa(net).bounds(*box)
    for end, other in zip(ours, theirs, strict=True):
        assert np.isfinite(end).all()
        assert int(ulp_distance(end, other).max()) <= (0 if precision == "exact" else ULPS)
    assert (ours[0] < ours[1]).any() == (levels > 0)
