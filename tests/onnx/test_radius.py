# SPDX-License-Identifier: Apache-2.0
from fractions import Fraction

import numpy as np
import numpy.typing as npt
import pytest
from small_nets import all_images, exact_logits, float_bits, in_reference, in_runtime, pixel_net, random_images

from linfdeploy.engines.reference import ReferenceEngine, roundings_of
from linfdeploy.onnx.passes.ranges import rounding_error, value_ranges
from linfdeploy.onnx.pixel_net import PRECISIONS, PixelLayer, PixelNet, Precision
from linfdeploy.onnx.radius import radius_slack
from linfdeploy.onnx.write import GraphOptions, model_from_net

WITH_RADIUS = GraphOptions("standard", radius=True)
PAIR = (1, 1, 2)


def answers(net: PixelNet, images: npt.NDArray[np.uint8]) -> dict[str, npt.NDArray[np.generic]]:
    return dict(in_runtime(model_from_net(net, WITH_RADIUS, {}), images))


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("seed", range(3))
def test_graph_and_evaluator_agree_on_every_bit(precision: Precision, seed: int) -> None:
    net = pixel_net(seed, precision)
    images = random_images(33, seed=seed)
    model = model_from_net(net, WITH_RADIUS, {})
    for answer in (in_runtime(model, images), in_reference(model, images)):
        # A half graph may round elsewhere; what follows from its logits is then judged from them.
        ours = ReferenceEngine(net).label_and_radius(np.asarray(answer["logits"]))
        assert answer["label"].dtype == np.int64
        assert np.array_equal(answer["label"], ours["label"])
        assert answer["radius"].shape == (33,)
        assert np.array_equal(float_bits(answer["radius"]), float_bits(ours["radius"]))
    ours = ReferenceEngine(net, radius=True).answer(images)
    assert set(ours) == {"logits", "label", "radius"}
    for name, values in in_reference(model, images).items():
        assert np.array_equal(float_bits(values), float_bits(ours[name])) if name != "label" else True


@pytest.mark.parametrize("seed", range(4))
def test_exact_radius_is_half_the_margin(seed: int) -> None:
    net = pixel_net(seed)
    assert radius_slack(net) == 0
    images = random_images(20, seed=seed)
    for image, radius, label in zip(images, *(answers(net, images)[n] for n in ("radius", "label")), strict=True):
        logits = exact_logits(net, image)
        first, second = sorted(logits)[:-3:-1]
        assert Fraction(float(radius)) == (first - second) / 2
        assert logits[int(label)] == first


@pytest.mark.parametrize("precision", PRECISIONS)
def test_no_image_within_the_radius_has_another_label(precision: Precision) -> None:
    """Every image of two pixels, every engine rounding: the nearest image of another label is no nearer."""
    net = pixel_net(5, precision, sizes=(2, 4, 3), shape=PAIR)
    images = all_images()
    centres = np.random.default_rng(0).integers(0, len(images), 100)
    certified = 0
    for rounding in roundings_of(net):
        answer = ReferenceEngine(net, rounding, radius=True).answer(images)
        labels = answer["label"]
        for centre in centres:
            others = images[labels != labels[centre]].reshape(-1, 2).astype(np.int64)
            assert len(others)
            nearest = np.abs(others - images[centre].reshape(2)).max(1).min()
            assert answer["radius"][centre] <= nearest
            certified += int(answer["radius"][centre] > 0)
    assert certified > 0


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("seed", range(3))
def test_float_radius_is_below_the_real_one(precision: Precision, seed: int) -> None:
    """`2 radius + 4 delta <= the computed margin`, exactly, which theory asks for; and it is not wasteful."""
    net = pixel_net(seed, precision)
    delta = rounding_error(net, value_ranges(net))
    images = random_images(50, seed=seed)
    answer = answers(net, images)
    for logits, radius in zip(answer["logits"], answer["radius"], strict=True):
        first, second = sorted(map(Fraction, logits.tolist()))[:-3:-1]
        if radius > 0:
            assert 2 * Fraction(float(radius)) + 4 * delta <= first - second
        assert 2 * Fraction(float(radius)) + 8 * delta >= first - second


@pytest.mark.parametrize("precision", PRECISIONS)
def test_ties_have_radius_zero(precision: Precision) -> None:
    weight, bias = np.array([[3, 4], [3, 4], [90, 4]]), np.array([0, 0, 500])
    if precision == "fp16":
        layer = PixelLayer(weight.astype(np.float16), bias.astype(np.float16))
    else:
        layer = PixelLayer(weight.astype(np.float32), bias.astype(np.float32))
    net = PixelNet(PAIR, (layer,), 12 if precision == "exact" else None)
    answer = answers(net, all_images()[::97])
    assert not answer["radius"].any()
    assert not answer["label"].any()


def test_two_classes_and_one_image() -> None:
    net = pixel_net(0, sizes=(9, 2))
    assert answers(net, random_images(1))["radius"].shape == (1,)
