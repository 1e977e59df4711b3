# SPDX-License-Identifier: Apache-2.0
import itertools
from fractions import Fraction

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_nets import (
    Round,
    all_images,
    exact_logits,
    float_bits,
    pixel_net,
    random_images,
    rounded_to,
    slow_logits,
)

from linfdeploy.engines.reference import PER_OP, ReferenceEngine, Rounding
from linfdeploy.onnx.pixel_net import PRECISIONS, PixelNet, Precision

PAIR = (1, 1, 2)
HALF, SINGLE = rounded_to(11, -14), rounded_to(24, -126)
ROUNDINGS = [Rounding(a, b, c, d) for a, b, c, d in itertools.product((True, False), repeat=4)]


def in_float64(net: PixelNet, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    x = images.reshape(len(images), -1).astype(np.float64)
    for layer in net.layers:
        weight, bias = layer.weight.astype(np.float64), layer.bias.astype(np.float64)
        x = np.abs(x[:, None] - weight[None]).max(-1) + bias
    return -x


def per_op_in_half(net: PixelNet, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float16]:
    x = images.reshape(len(images), -1).astype(np.float16)
    for layer in net.layers:
        weight, bias = layer.weight.astype(np.float16), layer.bias.astype(np.float16)
        difference: npt.NDArray[np.float16] = x[:, None] - weight[None]
        assert difference.dtype == np.float16
        x = np.abs(difference).max(-1) + bias
    return -x


@pytest.mark.parametrize("seed", range(5))
def test_exact_nets_equal_float64_and_rationals(seed: int) -> None:
    net, images = pixel_net(seed), random_images(64, seed=seed)
    found = ReferenceEngine(net).run(images)
    assert found.dtype == np.float32
    assert np.array_equal(found.astype(np.float64), in_float64(net, images))
    for image, logits in zip(images[:4], found, strict=False):
        assert [Fraction(float(value)) for value in logits] == exact_logits(net, image)


@pytest.mark.parametrize("seed", range(5))
def test_half_per_op(seed: int) -> None:
    net, images = pixel_net(seed, "fp16"), random_images(64, seed=seed)
    found = ReferenceEngine(net, PER_OP).run(images)
    assert np.array_equal(float_bits(found), float_bits(per_op_in_half(net, images).astype(np.float32)))


def test_float32_rounds_after_every_operation() -> None:
    net = pixel_net(4, "fp32")
    for image in random_images(3):
        found = ReferenceEngine(net).run(image[None])[0]
        slow = slow_logits(net, image, lambda _index, _what: SINGLE, SINGLE)
        assert [Fraction(float(value)) for value in found] == slow


@pytest.mark.parametrize("rounding", ROUNDINGS, ids=lambda rounding: rounding.name)
def test_half_rounds_where_it_says(rounding: Rounding) -> None:
    net = pixel_net(6, "fp16")
    last = len(net.layers) - 1

    def after(index: int, what: str) -> Round:
        return HALF if getattr(rounding, f"last_{what}" if index == last else what) else SINGLE

    for image in random_images(3, seed=1):
        found = ReferenceEngine(net, rounding).run(image[None])[0]
        assert [Fraction(float(value)) for value in found] == slow_logits(net, image, after, SINGLE)


@given(st.integers(0, 2**32 - 1), st.sampled_from(PRECISIONS), st.integers(0, 15), st.data())
@settings(max_examples=25, deadline=None)
def test_bounds_hold_every_image_of_the_box(
    seed: int, precision: Precision, index: int, data: st.DataObject
) -> None:
    net = pixel_net(seed, precision, sizes=(2, 3, 3, 2), shape=PAIR)
    rounding = ROUNDINGS[index] if precision == "fp16" else PER_OP
    engine = ReferenceEngine(net, rounding)
    ends = [sorted(data.draw(st.lists(st.integers(0, 255), min_size=2, max_size=2))) for _ in range(2)]
    lower, upper = (np.array([[[pair]]], np.uint8) for pair in zip(*ends, strict=True))
    lowest, highest = engine.bounds(lower, upper)
    images = all_images()
    inside = images[((images >= lower) & (images <= upper)).all((1, 2, 3))]
    logits = engine.run(inside)
    assert lowest.dtype == highest.dtype == np.float32
    assert np.all(lowest <= logits)
    assert np.all(logits <= highest)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_bounds_of_a_point_are_its_logits_and_of_one_layer_are_attained(precision: Precision) -> None:
    net = pixel_net(8, precision, sizes=(2, 4), shape=PAIR)
    engine, images = ReferenceEngine(net), all_images()
    lowest, highest = engine.bounds(images[:100], images[:100])
    assert np.array_equal(lowest, highest)
    assert np.array_equal(lowest, engine.run(images[:100]))
    lower, upper = np.array([[[[3, 100]]]], np.uint8), np.array([[[[90, 220]]]], np.uint8)
    inside = images[((images >= lower) & (images <= upper)).all((1, 2, 3))]
    logits = engine.run(inside)
    lowest, highest = engine.bounds(lower, upper)
    # Larger distances lie at corners, which are images; smaller ones may lie between pixels.
    assert np.array_equal(lowest[0], logits.min(0))
    assert np.all(highest[0] >= logits.max(0))
    assert np.all(highest[0] <= logits.max(0) + np.float32(0.51))


def test_batches_do_not_matter() -> None:
    engine, images = ReferenceEngine(pixel_net(0, "fp32")), random_images(23)
    whole = engine.run(images)
    for size in (1, 2, 7):
        parts = [engine.run(images[i : i + size]) for i in range(0, 23, size)]
        assert np.concatenate(parts).tobytes() == whole.tobytes()
