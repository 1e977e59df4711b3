# SPDX-License-Identifier: Apache-2.0
"""eps is read exactly, and boxes hold exactly the images within it."""

from __future__ import annotations

import math
import re
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from linfdeploy.errors import InputError
from linfdeploy.verify.threat import Threat, ThreatModel, box_of, parse_eps

NO_NUMBER = "eps is {!r}; expected a fraction of the pixel range such as 8/255 or 0.3, or 8px"
OUTSIDE = "eps is {!r}; expected more than 0 and at most the whole pixel range, 1 or 255px"
LEVELS = np.arange(256, dtype=np.uint8).reshape(256, 1, 1, 1)


@pytest.mark.parametrize(
    ("text", "eps"),
    [
        ("8/255", Fraction(8, 255)),
        ("0.3", Fraction(3, 10)),
        (".5", Fraction(1, 2)),
        ("8px", Fraction(8, 255)),
        ("0.5px", Fraction(1, 510)),
        ("0.3/3", Fraction(1, 10)),
        ("1", Fraction(1)),
        ("255px", Fraction(1)),
        (" 1/255 ", Fraction(1, 255)),
        ("0.000000000001", Fraction(1, 10**12)),
    ],
)
def test_eps_is_an_exact_rational(text: str, eps: Fraction) -> None:
    assert parse_eps(text) == eps


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            "-1",
            "abc",
            "1e9999",
            "1e-3",
            "nan",
            "inf",
            "1/0",
            "8/0px",
            "8/255px",
            "8 px",
            "1/-2",
            "0x1",
            "1_0",
        ),
        *("0." + "3" * 13, "1" * 13, "8/255\n8", "+0.3", "1."),
        # Digits of other scripts, which Python's numbers take.
        *("\u0663/\u0664", "\uff18/255", "8/\uff12\uff15\uff15", "\u00b2"),
    ],
)
def test_what_is_no_number_is_refused(text: str) -> None:
    with pytest.raises(InputError, match=f"^{re.escape(NO_NUMBER.format(text))}$"):
        parse_eps(text)


@pytest.mark.parametrize("text", ["0", "0.0", "0/7", "0px", "2", "1.000000000001", "256px", "256/255"])
def test_what_is_no_radius_is_refused(text: str) -> None:
    with pytest.raises(InputError, match=f"^{re.escape(OUTSIDE.format(text))}$"):
        parse_eps(text)


def test_pixels_below_one_level_are_refused() -> None:
    text = (
        "eps 0.003 is 0.765 of 255 levels; expected at least 1 level in the threat model 'pixels': "
        "use a larger eps or --threat-model real"
    )
    with pytest.raises(InputError, match=f"^{re.escape(text)}$"):
        Threat("pixels", "0.003", parse_eps("0.003"))
    assert Threat("real", "0.003", parse_eps("0.003")).levels == 1


@given(st.fractions(Fraction(1, 255), 1, max_denominator=10**12))
def test_pixels_allow_the_floor_and_real_the_ceiling(eps: Fraction) -> None:
    assert Threat("pixels", "", eps).levels == math.floor(255 * eps)
    assert Threat("real", "", eps).levels == math.ceil(255 * eps)


@given(st.integers(1, 10**12), st.integers(1, 10**12))
def test_a_quotient_is_read_without_rounding(numerator: int, denominator: int) -> None:
    if numerator < 10**12 and denominator < 10**12 and numerator <= denominator:
        assert parse_eps(f"{numerator}/{denominator}") == Fraction(numerator, denominator)


@pytest.mark.parametrize("model", ["pixels", "real"])
@pytest.mark.parametrize("eps", ["8/255", "0.3", "0.1", "1/255", "254.5/255", "1", "0.004"])
def test_a_box_holds_the_images_within_eps_and_no_other(model: ThreatModel, eps: str) -> None:
    threat = Threat(model, eps, parse_eps(eps))
    lower, upper = (ends.reshape(256).astype(int) for ends in threat.box(LEVELS))
    reach = 255 * threat.eps
    for pixel in range(256):
        inside = {value for value in range(256) if abs(value - pixel) <= reach}
        if model == "real":
            # The camera may round a real value within reach up or down.
            ends = max(Fraction(0), pixel - reach), min(Fraction(255), pixel + reach)
            inside |= {math.floor(ends[0]), math.ceil(ends[1])}
        assert set(range(lower[pixel], upper[pixel] + 1)) == inside


@pytest.mark.parametrize("levels", [0, 1, 8, 254, 255])
def test_boxes_do_not_wrap_around(levels: int) -> None:
    lower, upper = box_of(LEVELS, levels)
    assert lower.dtype == upper.dtype == np.uint8
    wanted = [(max(pixel - levels, 0), min(pixel + levels, 255)) for pixel in range(256)]
    assert list(zip(lower.ravel().tolist(), upper.ravel().tolist(), strict=True)) == wanted
