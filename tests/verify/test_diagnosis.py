# SPDX-License-Identifier: Apache-2.0
"""What an engine computes instead is named, when it is one of the faults that happen."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from pixel_nets import faults, random_images, random_net, with_layer

from linfdeploy.engines.base import Logits
from linfdeploy.engines.reference import ReferenceEngine
from linfdeploy.kernels import linf_dist
from linfdeploy.onnx.pixel_net import PixelNet, Precision
from linfdeploy.verify.diagnosis import diagnose

NET = random_net((6, 9, 5), "exact", 4)
IMAGES = random_images(NET, 200, 0)
EXPECTED = ReferenceEngine(NET).run(IMAGES)


@pytest.mark.parametrize("fault", list(faults(NET)))
def test_each_fault_is_named(fault: str) -> None:
    engine, words = faults(NET)[fault]
    assert words in diagnose(NET, IMAGES, engine.run(IMAGES), EXPECTED)


def without_last_column(net: PixelNet, dropped: set[int]) -> Logits:
    x = IMAGES.reshape(len(IMAGES), -1).astype(np.float32)
    for index, layer in enumerate(net.layers):
        width = x.shape[1] - (index in dropped)
        distances = [
            np.abs(x[:, :width].astype(net.format) - row[:width]).max(1) + bias
            for row, bias in zip(layer.weight, layer.bias, strict=True)
        ]
        x = np.stack(distances, 1).astype(np.float32)
    return -x


@pytest.mark.parametrize("precision", ["exact", "fp32", "fp16"])
@pytest.mark.parametrize(
    ("dropped", "words"),
    [
        ({0}, "the last input column of layer 0 is dropped"),
        ({1}, "the last input column of layer 1 is dropped"),
        ({0, 1}, "the last input column of every layer is dropped"),
    ],
)
def test_a_dropped_column_is_named(precision: Precision, dropped: set[int], words: str) -> None:
    net = random_net((6, 9, 5), precision, 4)
    # The last columns count often: their weights lie far from every input.
    for index in range(2):
        weight = net.layers[index].weight.copy()
        weight[:, -1] = weight[:, -1] + 150
        net = with_layer(net, index, weight=weight)
    expected = ReferenceEngine(net).run(IMAGES)
    assert diagnose(net, IMAGES, without_last_column(net, dropped), expected) == words


def test_a_transposed_matrix_is_no_known_fault_of_an_engine_but_is_not_mistaken_for_one() -> None:
    net = random_net((5, 5), "exact", 0)
    images = random_images(net, 50, 0)
    other = with_layer(net, 0, weight=np.ascontiguousarray(net.layers[0].weight.T))
    found, expected = ReferenceEngine(other).run(images), ReferenceEngine(net).run(images)
    assert diagnose(net, images, found, expected) == "no known fault explains it"


def test_two_wrong_rows_are_counted_and_the_first_named() -> None:
    found = EXPECTED.copy()
    found[[7, 9]] = EXPECTED[[9, 7]]
    words = "2 rows of the batch hold another image's logits, the first at row 7"
    assert diagnose(NET, IMAGES, found, EXPECTED) == words


def test_a_large_net_is_diagnosed_in_little_memory() -> None:
    net = random_net((784, 512, 10), "exact", 0)
    images = random_images(net, 256, 0)
    expected = ReferenceEngine(net).run(images)
    found = -linf_dist(images.reshape(256, -1).astype(np.float32), net.layers[0].weight.astype(np.float32))[:, :10]
    tracemalloc.start()
    diagnose(net, images, found, expected)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 64 * 2**20
