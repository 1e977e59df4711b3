# SPDX-License-Identifier: Apache-2.0
"""Each way in which weights can differ is named, down to the bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pixel_nets import GRID, random_net, with_layer

from linfdeploy.onnx.pixel_net import PixelNet, Precision
from linfdeploy.report.model import Violation
from linfdeploy.report.words import KINDS
from linfdeploy.verify.differences import weight_differences

SIZES = (6, 9, 9, 5)


def only(found: PixelNet, expected: PixelNet) -> Violation:
    (violation,) = weight_differences(found, expected)
    assert violation.kind in KINDS
    return violation


def changed(net: PixelNet, layer: int, where: Any, value: Any) -> PixelNet:
    weight = net.layers[layer].weight.copy()
    weight[where] = value
    return with_layer(net, layer, weight=weight)


@pytest.mark.parametrize("precision", ["exact", "fp32", "fp16"])
def test_equal_nets_do_not_differ(precision: Precision) -> None:
    assert weight_differences(random_net(SIZES, precision, 0), random_net(SIZES, precision, 0)) == ()


@pytest.mark.parametrize("precision", ["exact", "fp16"])
def test_a_flipped_bit_is_named_at_every_position(precision: Precision) -> None:
    net = random_net(SIZES, precision, 0)
    word = np.uint16 if precision == "fp16" else np.uint32
    for bit in range(np.dtype(word).itemsize * 8):
        for layer, row, column in ((0, 0, 0), (1, 3, 8), (2, 4, 2)):
            weight = net.layers[layer].weight.copy()
            weight.view(word)[row, column] ^= word(1) << word(bit)
            violation = only(with_layer(net, layer, weight=weight), net)
            assert violation.kind == "weight bit"
            assert violation.detail.startswith(
                f"bit {bit} is flipped in layer {layer}, weight [{row}, {column}]: {weight[row, column]} where "
            )


def test_the_sign_of_a_zero_is_a_difference() -> None:
    net = changed(random_net(SIZES, "exact", 0), 0, (0, 0), 0.0)
    assert only(changed(net, 0, (0, 0), -0.0), net).detail.startswith("bit 31 is flipped")


def test_one_other_weight_is_named() -> None:
    net = random_net(SIZES, "exact", 0)
    violation = only(changed(net, 2, (1, 2), 0.3), net)
    assert (violation.kind, violation.detail[:46]) == ("weights", "one weight differs: layer 2, weight [1, 2]: 0.")


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_transposed_weights_are_named_square_or_not(layer: int) -> None:
    net = random_net(SIZES, "exact", 0)
    weight = net.layers[layer].weight
    other = with_layer(net, layer, weight=np.ascontiguousarray(weight.T).reshape(weight.shape))
    assert only(other, net) == Violation("weights", f"layer {layer}'s weights are transposed")


def test_an_overwritten_input_column_is_named() -> None:
    net = random_net(SIZES, "exact", 0)
    violation = only(changed(net, 0, (slice(None), -1), 0.0), net)
    assert violation == Violation("input column", "input column 5 of layer 0 is replaced in 9 rows")


def test_a_dropped_input_column_is_another_shape() -> None:
    net = random_net(SIZES, "exact", 0)
    narrow = with_layer(net, 1, weight=net.layers[1].weight[:, :-1].copy())
    narrow = with_layer(narrow, 0, weight=net.layers[0].weight[:-1], bias=net.layers[0].bias[:-1])
    violation = only(narrow, net)
    assert violation == Violation("shape", "layers are 6-8-9-5; the reference has 6-9-9-5")


@pytest.mark.parametrize("steps", [1, -1, 40])
def test_a_bias_off_by_grid_steps_is_named(steps: int) -> None:
    net = random_net(SIZES, "exact", 0)
    bias = net.layers[1].bias.copy()
    bias[3] += np.float32(steps * 2.0**-GRID)
    violation = only(with_layer(net, 1, bias=bias), net)
    assert violation.kind == "bias"
    assert violation.detail == (
        f"1 of layer 1's biases differ; output 3 is off by {steps * 2.0**-GRID:+g} pixel ({steps:+d} grid steps)"
    )


def test_a_bias_off_by_one_ulp_is_named_without_grid_steps() -> None:
    net = random_net(SIZES, "fp32", 0)
    bias = net.layers[0].bias.copy()
    bias[2] = np.nextafter(bias[2], np.float32(0))
    violation = only(with_layer(net, 0, bias=bias), net)
    assert violation.kind == "bias"
    assert "grid" not in violation.detail


def test_swapped_classes_are_named() -> None:
    net = random_net(SIZES, "exact", 0)
    order = [0, 4, 2, 3, 1]
    last = net.layers[2]
    other = with_layer(net, 2, weight=last.weight[order], bias=last.bias[order])
    assert only(other, net) == Violation("classes", "classes 1, 4 have changed places in the last layer")


def test_half_precision_where_exact_was_promised_is_named() -> None:
    found, expected = random_net(SIZES, "fp16", 0), random_net(SIZES, "exact", 0)
    assert only(found, expected) == Violation("precision", "weights are fp16; exact was promised")


def test_every_layer_that_differs_is_reported() -> None:
    net = random_net(SIZES, "exact", 0)
    other = changed(changed(net, 0, (0, 0), 1.5), 2, (slice(None), slice(None)), 2.5)
    kinds = [violation.detail for violation in weight_differences(other, net)]
    assert len(kinds) == 2
    assert "45 of layer 2's weights differ, by up to " in kinds[1]
