# SPDX-License-Identifier: Apache-2.0
"""Outputs `label` and `radius`, so that every answer carries its own certificate.

Guarantees: no image at l_inf distance less than `radius` pixels from the input gets another label from an engine
that runs the graph within its format's roundings. With `m` the computed difference of the two largest logits,

    radius = max(0, (m - c) / 2),   c = 0 when the net is exact,   c >= 4 delta + rounding of the two differences.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import numpy as np
from onnx import NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from linfdeploy.onnx.passes.ranges import rounding_error, value_ranges
from linfdeploy.onnx.pixel_net import PixelNet

__all__ = ["radius_initializers", "radius_nodes", "radius_outputs", "radius_slack"]


def radius_slack(net: PixelNet) -> np.float32:
    """Returns c, rounded up to float32: zero for an exact net.

    `m` and `m - c` are each rounded once in float32: at most `2^-24 (|m| + |m - c|)` together, and
    `|m| <= 2 (output + delta) (1 + 2^-24)`.
    """
    if net.precision == "exact":
        return np.float32(0)
    ranges = value_ranges(net)
    delta = rounding_error(net, ranges)
    largest_margin = 2 * (Fraction(ranges[-1].output) + delta) * 2
    slack = 4 * delta + Fraction(1, 2**24) * 2 * (largest_margin + 4 * delta) + Fraction(1, 2**100)
    return np.float32(np.nextafter(np.float32(float(slack)), np.float32(np.inf)))


def radius_nodes() -> list[NodeProto]:
    """Returns the nodes from `logits` to `label` and `radius`."""
    return [
        helper.make_node("ArgMax", ["logits"], ["label"], name="label", axis=1, keepdims=0),
        helper.make_node("TopK", ["logits", "two"], ["top", "top.index"], name="top", axis=1),
        helper.make_node("Split", ["top"], ["first", "second"], name="split", axis=1, num_outputs=2),
        helper.make_node("Sub", ["first", "second"], ["margin"], name="margin"),
        helper.make_node("Sub", ["margin", "slack"], ["sound"], name="sound"),
        helper.make_node("Mul", ["sound", "half"], ["signed"], name="signed"),
        helper.make_node("Relu", ["signed"], ["column"], name="column"),
        helper.make_node("Reshape", ["column", "flat"], ["radius"], name="radius"),
    ]


def radius_initializers(net: PixelNet) -> list[TensorProto]:
    """Returns the constants that `radius_nodes` reads."""
    constants: Sequence[tuple[str, np.ndarray]] = [
        ("two", np.array([2], np.int64)),
        ("slack", np.array(radius_slack(net), np.float32)),
        ("half", np.array(0.5, np.float32)),
        ("flat", np.array([-1], np.int64)),
    ]
    return [numpy_helper.from_array(value, name) for name, value in constants]


def radius_outputs() -> list[ValueInfoProto]:
    """Returns the declarations of `label` and `radius`."""
    return [
        helper.make_tensor_value_info("label", TensorProto.INT64, ["N"]),
        helper.make_tensor_value_info("radius", TensorProto.FLOAT, ["N"]),
    ]
