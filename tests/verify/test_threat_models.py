# SPDX-License-Identifier: Apache-2.0
"""Every certificate under both threat models against all that the attacker can do, eps being an exact rational."""

from __future__ import annotations

import functools
import math
from fractions import Fraction

import numpy as np
import numpy.typing as npt
import pytest
from pixel_nets import random_net, with_layer

from linfdeploy.engines.reference import PER_OP, ReferenceEngine
from linfdeploy.onnx.pixel_net import PixelLayer, PixelNet, Precision
from linfdeploy.verify.certificates import Certifier
from linfdeploy.verify.threat import Threat, ThreatModel, parse_eps

PRECISIONS: tuple[Precision, ...] = ("exact", "fp32", "fp16")
EVERY = np.arange(256, dtype=np.uint8).reshape(256, 1, 1, 1)
CERTIFICATES = "exact", "interval", "joint", "delta"


@functools.cache
def reachable(eps: Fraction, model: ThreatModel) -> list[list[int]]:
    """The pixels to which an attacker can move each pixel, by the words of the model.

    Real values move by eps and stay in the pixel range; a faithful camera gives `value` for a real t exactly if t
    is in (value - 1, value + 1).
    """
    reach, found = 255 * eps, []
    for pixel in range(256):
        low, high = max(Fraction(0), pixel - reach), min(Fraction(255), pixel + reach)
        near = range(max(pixel - math.ceil(reach) - 2, 0), min(pixel + math.ceil(reach) + 3, 256))
        if model == "pixels":
            found.append([value for value in near if abs(value - pixel) <= reach])
        else:
            found.append([value for value in near if low < value + 1 and high > value - 1])
    return found


def strict_wins(table: npt.NDArray[np.float32], label: int) -> npt.NDArray[np.bool_]:
    wins: npt.NDArray[np.bool_] = table[:, label] > np.delete(table, label, 1).max(1)
    return wins


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("model", ["pixels", "real"])
@pytest.mark.parametrize("eps", ["1/255", "1.5px", "0.02", "7.000001px", "0.1", "0.3"])
def test_no_certificate_is_contradicted_by_what_the_attacker_can_reach(
    eps: str, model: ThreatModel, precision: Precision
) -> None:
    threat, given = Threat(model, eps, parse_eps(eps)), dict.fromkeys(CERTIFICATES, 0)
    for seed in range(8):
        net = random_net((1, 4, 3), precision, seed)
        table = ReferenceEngine(net).run(EVERY)
        certifier = Certifier(net, PER_OP, EVERY, table)
        flags = certifier.at(threat.levels)
        for pixel, label in enumerate(certifier.labels.tolist()):
            robust = strict_wins(table[reachable(threat.eps, model)[pixel]], label).all()
            for name in CERTIFICATES:
                held = getattr(flags, name)
                if held is not None and held[pixel]:
                    assert robust, (name, seed, pixel)
                    given[name] += 1
    if threat.levels <= 8:
        assert all(given[name] > 50 for name in ("interval", "joint"))
        assert (given["exact"] > 50) == (precision == "exact")


@pytest.mark.parametrize("eps", ["1.5px", "0.02", "7.000001px", "0.3"])
def test_a_fraction_of_a_level_counts_as_a_whole_one_where_the_camera_rounds(eps: str) -> None:
    # d_0 = |x| and d_1 = |x - 2 k - 1|, k whole levels: they tie halfway, k + 1/2 levels from 0.
    levels = math.floor(255 * parse_eps(eps))
    weight = np.array([[0], [2 * levels + 1]], np.float32)
    net = PixelNet((1, 1, 1), (PixelLayer(weight, np.zeros(2, np.float32)),), 12)
    certifier = Certifier(net, PER_OP, EVERY[:1], ReferenceEngine(net).run(EVERY[:1]))
    for model, holds in (("pixels", True), ("real", False)):
        flags = certifier.at(Threat(model, eps, parse_eps(eps)).levels)  # type: ignore[arg-type]
        assert flags.exact is not None
        assert flags.interval is not None
        assert flags.joint is not None
        assert (flags.exact[0], flags.interval[0], flags.joint[0]) == (holds,) * 3
    assert (ReferenceEngine(net).run(EVERY[levels + 1 : levels + 2]).argmax(1) == 1).all()


@pytest.mark.parametrize(("precision", "bias"), [("fp32", 2.0**34), ("fp16", 2.0**15)])
def test_a_bias_that_absorbs_everything_leaves_ties_and_no_radius(precision: Precision, bias: float) -> None:
    ties = 0
    for seed in range(5):
        net = random_net((1, 4, 3), precision, seed)
        last = net.layers[1]
        small = (last.weight - 200).astype(net.format)
        absorbed = with_layer(net, 1, weight=small, bias=np.full_like(last.bias, bias))
        table = ReferenceEngine(absorbed).run(EVERY)
        tied = np.flatnonzero((table == table.max(1, keepdims=True)).sum(1) > 1)
        radii = Certifier(absorbed, PER_OP, EVERY, table).radii
        ties += len(tied)
        assert radii.interval is not None
        assert radii.joint is not None
        assert (radii.interval[tied] == -1).all()
        assert (radii.joint[tied] == -1).all()
        assert all(radii.delta[sample] == 0 for sample in tied)
    assert ties == 5 * 256 or precision == "fp16"
    assert ties > 50


@pytest.mark.parametrize("precision", PRECISIONS)
def test_an_engine_that_answers_the_same_for_all_images_has_no_radius_where_it_ties(precision: Precision) -> None:
    net = random_net((1, 4, 3), precision, 3)
    constant = np.full((256, 3), -7, np.float32)
    radii = Certifier(net, None, EVERY, constant).radii
    assert (radii.interval, radii.joint) == (None, None)
    assert set(radii.delta) | set(radii.exact or ()) == {Fraction(0)}
