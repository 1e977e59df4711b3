# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math

import pytest

from linfdeploy.training.times import PHASES, PhaseTimes, phase_of


@pytest.mark.parametrize(
    ("p", "phase"),
    [
        (8.0, "p = 8"),
        (8.5, "p below 40"),
        (39.9, "p below 40"),
        (40.0, "p from 40"),
        (1e5, "p from 40"),
        (math.inf, "p = inf"),
    ],
)
def test_each_phase_has_kernels_of_its_own(p: float, phase: str) -> None:
    assert phase_of(p) == phase


def test_medians_come_in_the_order_of_the_phases() -> None:
    times = PhaseTimes()
    for phase, seconds in (("p = inf", 2.0), ("p = 8", 9.0), ("p = 8", 1.0), ("p = 8", 1.5)):
        times.add(phase, seconds)
    assert list(times.medians().items()) == [("p = 8", 1.5), ("p = inf", 2.0)]
    assert set(times.medians()) <= set(PHASES)


@pytest.mark.parametrize(
    "data", [None, [], {"p = 9": [1.0]}, {"p = 8": 1.0}, {"p = 8": ["1"]}, {3: [1.0]}, {"p = 8": [True]}]
)
def test_a_file_may_hold_anything(data: object) -> None:
    with pytest.raises(ValueError, match="seconds are not those of epochs"):
        PhaseTimes().restore(data)
