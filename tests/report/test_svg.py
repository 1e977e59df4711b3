# SPDX-License-Identifier: Apache-2.0
import math

from hypothesis import given
from hypothesis import strategies as st

from linfdeploy.report.svg import Axis, nice_step, number

SIZES = st.floats(1e-6, 1e9)


@given(SIZES)
def test_nice_step_is_round_and_close(size: float) -> None:
    step = nice_step(size)
    assert size * (1 - 1e-8) <= step <= 2.5 * size * (1 + 1e-8)
    mantissa = step / 10 ** math.floor(math.log10(step) + 1e-9)
    assert min(abs(mantissa - round_one) for round_one in (1, 2, 5, 10)) < 1e-6


@given(st.floats(-1e6, 1e6), SIZES, st.integers(5, 9))
def test_ticks_are_few_and_inside(low: float, size: float, most: int) -> None:
    high = low + max(size, abs(low) * 1e-5)
    ticks = Axis(low, high, 0, 1).ticks(most)
    slack = 1e-6 * (high - low) + 1e-9 * abs(low)
    assert 1 <= len(ticks) <= most
    assert all(low - slack <= tick <= high + slack for tick in ticks)


@given(st.floats(-1e6, 1e6), SIZES, st.floats(0, 1))
def test_axis_is_linear_and_holds_values_inside(low: float, size: float, share: float) -> None:
    axis = Axis(low, low + max(size, 1e-3), 400, 100)
    assert math.isclose(axis.at(low + share * (axis.high - low)), 400 - 300 * share, abs_tol=1e-3)
    assert axis.at(axis.high + 1e12) == 100
    assert axis.at(low - 1e12) == 400


@given(st.floats(-1e6, 1e6))
def test_number_keeps_two_decimals(value: float) -> None:
    text = number(value)
    assert abs(float(text) - value) <= 0.0051
    assert not text.endswith(".")
    assert "e" not in text
