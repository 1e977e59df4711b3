# SPDX-License-Identifier: Apache-2.0
"""Convolutional nets from the checkpoint to the certificate: one function of the image, in every way to run it."""

from __future__ import annotations

import re
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import onnxruntime
import oracles
import pytest
import torch
from conv_nets import MEAN, SHAPE, STD, box_and_images, conv_net, exact_conv_logits, real_logits, traced_conv_net
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import ModelProto, helper, numpy_helper

from linfdeploy.engines.bundle.read import read_bundle
from linfdeploy.engines.bundle.write import BundleOptions, edge_model, write_bundle
from linfdeploy.engines.custom_ops.library import library
from linfdeploy.engines.plain import PlainEngine
from linfdeploy.engines.reference import PER_OP, ReferenceEngine, roundings_of
from linfdeploy.errors import ExportError, GraphError
from linfdeploy.nets.windows import Window
from linfdeploy.onnx import linf_dist_conv
from linfdeploy.onnx.export import ExportOptions, model_from_checkpoint_net, pixel_net_from_chain
from linfdeploy.onnx.passes.ranges import centre_gap, exactness_gap, never_rounds, rounding_error, value_ranges
from linfdeploy.onnx.pixel_net import PixelNet
from linfdeploy.onnx.read import read_graph
from linfdeploy.onnx.write import GraphOptions, model_from_net
from linfdeploy.verify.attacks.twin import Twin
from linfdeploy.verify.certificates import Certifier
from linfdeploy.verify.coverage import Coverage, operations
from linfdeploy.verify.diagnosis import diagnose
from linfdeploy.verify.differences import weight_differences
from linfdeploy.verify.golden import golden_images
from linfdeploy.verify.paths import PathFinder
from linfdeploy.verify.probes import make_probes
from linfdeploy.verify.summary import TestSet
from linfdeploy.verify.vnnlib import verifier_model

PRECISIONS = ("exact", "fp32", "fp16")


def deployed(precision: Any = "exact", *, head: bool = False) -> PixelNet:
    return pixel_net_from_chain(traced_conv_net(head)[1], precision, None)


def images(count: int = 12, shape: tuple[int, int, int] = SHAPE, seed: int = 0) -> Any:
    found = np.random.default_rng(seed).integers(0, 256, (count, *shape), np.uint8)
    found[0], found[1] = 0, 255
    return found


def centre_of(net: PixelNet) -> Any:
    assert net.centre is not None
    return net.centre


def run(model: ModelProto, batch: Any, *, custom: bool) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    if custom:
        options.register_custom_ops_library(str(library()))
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(["logits"], {"image": batch})[0]


def saved(model: ModelProto, folder: Path) -> Path:
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    return folder / "model.onnx"


needs_library = pytest.mark.skipif(
    not library().is_file(), reason="no custom-op library: install with ONNXRUNTIME_ROOT set"
)


def test_the_evaluator_computes_the_real_net() -> None:
    net = deployed()
    found = ReferenceEngine(net).run(images())
    exact = [[float(value) for value in exact_conv_logits(net, image)] for image in images()]
    np.testing.assert_array_equal(found, oracles.float32(exact))


def test_the_deployed_net_is_the_checkpoint_up_to_the_grid() -> None:
    net, found = traced_conv_net()[0], ReferenceEngine(deployed()).run(images())
    unit = 255 * Fraction(float(np.float32(STD)))
    real = np.array([[float(unit * value) for value in real_logits(net, image)] for image in images()])
    # Half a step for each weight and each bias of four layers, and for the centre.
    assert 0 < np.abs(found - real).max() <= 9 * 2.0**-13


def test_zero_beside_the_image_is_the_mean_pixel() -> None:
    np.testing.assert_allclose(centre_of(deployed()), 255 * np.array(MEAN), rtol=0, atol=2.0**-13 + 1e-5)


def test_a_mean_image_sees_no_border() -> None:
    net = deployed()
    first = replace(net, layers=net.layers[:1], centre=oracles.float32([76, 161]))
    image = np.broadcast_to(np.array([76, 161], np.uint8)[:, None, None], (1, *SHAPE))
    places = ReferenceEngine(first).run(image).reshape(3, -1)
    np.testing.assert_array_equal(places, np.broadcast_to(places[:, :1], places.shape))


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("head", [False, True])
def test_plain_numpy_has_the_same_bits(precision: str, head: bool) -> None:
    net = deployed(precision, head=head).distances
    lower, upper = (np.clip(images().astype(int) + move, 0, 255).astype(np.uint8) for move in (-3, 3))
    plain, ours = PlainEngine(net), ReferenceEngine(net)
    np.testing.assert_array_equal(oracles.bits(plain.run(images())), oracles.bits(ours.run(images())))
    for end, expected in zip(ours.bounds(lower, upper), plain.bounds(lower, upper), strict=True):
        np.testing.assert_array_equal(oracles.bits(end), oracles.bits(expected))


@pytest.mark.parametrize("form", ["function", "standard"])
@pytest.mark.parametrize("precision", ["exact", "fp32"])
def test_standard_ops_have_the_same_bits(form: Any, precision: str) -> None:
    net = deployed(precision)
    found = run(model_from_net(net, GraphOptions(form), {}), images(), custom=False)
    np.testing.assert_array_equal(oracles.bits(found), oracles.bits(ReferenceEngine(net).run(images())))


@needs_library
@pytest.mark.parametrize("form", ["function", "op"])
@pytest.mark.parametrize("precision", ["exact", "fp32"])
def test_the_custom_op_has_the_same_bits(form: Any, precision: str) -> None:
    net = deployed(precision)
    found = run(model_from_net(net, GraphOptions(form), {}), images(), custom=True)
    np.testing.assert_array_equal(oracles.bits(found), oracles.bits(ReferenceEngine(net).run(images())))


def test_float16_in_standard_ops_follows_the_family() -> None:
    net = deployed("fp16")
    found = run(model_from_net(net, GraphOptions("standard"), {}), images(), custom=False)
    family = list(roundings_of(net))
    assert any(ReferenceEngine(net, rounding).explains(images(), found).all() for rounding in family)
    # Behind a bias that is folded into the next weights, zeros beside an image would be others.
    assert not any(rounding.folded for rounding in family)


@given(st.integers(0, 2**32 - 1), st.integers(1, 4), st.integers(1, 3), st.integers(0, 2), st.data())
@settings(max_examples=25)
def test_the_function_of_any_window(
    seed: int, kernel: int, stride: int, padding: int, data: st.DataObject
) -> None:
    size = st.integers(max(kernel - 2 * padding, 1), 6)
    window = Window((data.draw(st.integers(1, 3)), data.draw(size), data.draw(size)), kernel, stride, padding)
    net = conv_net(seed, window=window)
    batch = images(3, window.shape, seed)
    expected = [[float(value) for value in exact_conv_logits(net, image)] for image in batch]
    assert exactness_gap(net, 12) is None
    np.testing.assert_array_equal(ReferenceEngine(net).run(batch), oracles.float32(expected))
    np.testing.assert_array_equal(
        run(model_from_net(net, GraphOptions("standard"), {}), batch, custom=False), oracles.float32(expected)
    )


@given(st.integers(0, 2**32 - 1), st.integers(1, 3), st.integers(0, 2), st.sampled_from(PRECISIONS))
@settings(max_examples=40)
def test_bounds_hold_at_and_inside_the_corners(seed: int, stride: int, padding: int, precision: Any) -> None:
    net = conv_net(seed, precision, window=Window((2, 5, 4), 3, stride, padding))
    lower, upper, batch = box_and_images(net, seed)
    evaluator = ReferenceEngine(net)
    (low, high), found = evaluator.bounds(lower, upper), evaluator.run(batch)
    assert (low <= found).all()
    assert (found <= high).all()


@given(st.integers(0, 2**32 - 1), st.sampled_from(PRECISIONS))
@settings(max_examples=25)
def test_ranges_and_delta_hold(seed: int, precision: Any) -> None:
    net = conv_net(seed, precision)
    ranges = value_ranges(net)
    delta, found = rounding_error(net, ranges), ReferenceEngine(net).run(images(6, net.input_shape, seed))
    for image, logits in zip(images(6, net.input_shape, seed), found, strict=True):
        real = exact_conv_logits(net, image)
        assert all(abs(value) <= Fraction(ranges[-1].output) for value in real)
        assert all(abs(Fraction(float(a)) - b) <= delta for a, b in zip(logits, real, strict=True))


def test_nothing_rounds_in_an_exact_net_and_a_finer_centre_is_noticed() -> None:
    net = conv_net(0)
    assert never_rounds(net)
    assert centre_gap(net) is None
    moved = replace(net, centre=centre_of(net) + np.float32(2.0**-14))
    assert exactness_gap(moved, 12) == "the centre is off the grid of 2^-12 pixel"
    half = conv_net(0, "fp16")
    fine = replace(half, centre=np.array([100.06, 7], np.float16))
    assert centre_gap(half) is None
    assert centre_gap(fine) == (
        "the centre [100.0625, 7.0] is too fine for fp16 to subtract it from pixels exactly"
    )


@pytest.mark.parametrize(
    ("form", "precision"),
    [("function", "exact"), ("function", "fp32"), ("op", "exact"), *(("standard", each) for each in PRECISIONS)],
)
def test_a_graph_is_read_back(form: Any, precision: str, tmp_path: Path) -> None:
    net = deployed(precision, head=form == "standard")
    metadata = {"grid": "12"} if precision == "exact" else {}
    graph = read_graph(saved(model_from_net(net, GraphOptions(form), metadata), tmp_path))
    assert graph.departures == ()
    assert weight_differences(graph.net, net) == ()
    assert graph.net.precision == precision
    assert [layer.window for layer in graph.net.layers] == [layer.window for layer in net.layers]


def _set(model: ModelProto, node: str, **attributes: list[int]) -> None:
    found = next(one for one in model.graph.node if one.name == node)
    for name, values in attributes.items():
        kept = [attribute for attribute in found.attribute if attribute.name != name]
        del found.attribute[:]
        found.attribute.extend([*kept, helper.make_attribute(name, values)])


@pytest.mark.parametrize(
    ("moves", "message"),
    [
        (
            {"dilations": [2, 2]},
            "expected a square window with one stride, one padding and no dilation",
        ),
        (
            {"strides": [0, 0]},
            "layer 0 is a convolution of an image of (2, 5, 4), kernel 3, stride 0 and padding 1; expected sizes "
            "from 1 to 65536, and a padding from 0",
        ),
        (
            {"strides": [2, 2]},
            "layer 1 has weight (4, 27) and bias (4,); expected weight (O, 18) and bias (O,)",
        ),
    ],
)
def test_windows_that_move_otherwise_are_refused(
    moves: dict[str, list[int]], message: str, tmp_path: Path
) -> None:
    model = model_from_net(deployed(), GraphOptions("op"), {})
    _set(model, "layer0", **moves)
    path = saved(model, tmp_path)
    if message.startswith("layer 1"):
        # The next layer takes what it is given; the dense one behind it no longer fits.
        with pytest.raises(GraphError, match=r"layer 2 has weight \(5, 24\)"):
            read_graph(path)
        return
    with pytest.raises(GraphError, match=re.escape(message)):
        read_graph(path)


def _exchange(model: ModelProto, name: str, values: Any) -> None:
    tensor = next(one for one in model.graph.initializer if one.name == name)
    tensor.CopyFrom(numpy_helper.from_array(values, name))


@pytest.mark.parametrize(
    ("centre", "message"),
    [
        (np.zeros((2,), np.float32), "the centre has shape (2,); expected (2, 1, 1), one of each channel"),
        (
            np.zeros((2, 1, 1), np.float16),
            "the centre is float16 before layers of float32; expected one format",
        ),
        (
            np.full((2, 1, 1), 0.1, np.float32),
            "is too fine for fp32 to subtract it from pixels exactly; expected a graph that linfdeploy export "
            "wrote",
        ),
    ],
)
def test_a_centre_that_does_not_fit_is_refused(centre: Any, message: str, tmp_path: Path) -> None:
    model = model_from_net(deployed("fp32"), GraphOptions(), {})
    _exchange(model, "centre", centre)
    with pytest.raises(GraphError, match=re.escape(message)):
        read_graph(saved(model, tmp_path))


def test_half_precision_has_the_standard_form_alone(tmp_path: Path) -> None:
    text = "the net has convolutions in fp16 and the form function, whose operator LinfDistConv is of float32"
    with (
        patch("linfdeploy.onnx.export.chain_from_net", lambda _: traced_conv_net()[1]),
        pytest.raises(ExportError, match=f"^{text}: use --form standard, or --precision exact or fp32$"),
    ):
        model_from_checkpoint_net(traced_conv_net()[0], ExportOptions("fp16"), "0" * 64)
    path = saved(model_from_net(deployed("fp16"), GraphOptions(), {}), tmp_path)
    with pytest.raises(GraphError, match=f"{text}; expected the form standard, as linfdeploy export writes it$"):
        read_graph(path)


def test_a_convolution_at_the_end_is_refused(tmp_path: Path) -> None:
    net = deployed()
    model = model_from_net(replace(net, layers=net.layers[:2]), GraphOptions("op"), {})
    with pytest.raises(GraphError, match="ends with a convolution; expected a dense layer or a head behind it"):
        read_graph(saved(model, tmp_path))


def test_changed_parts_are_departures(tmp_path: Path) -> None:
    model = model_from_net(deployed(), GraphOptions(), {"grid": "12"})
    body = next(function for function in model.functions if function.name == linf_dist_conv.OP)
    moved = next(node for node in body.node if node.name == "LinfDistConv.reach")
    moved.op_type = "Add"
    assert read_graph(saved(model, tmp_path)).departures == (
        "the function body of linfdeploy::LinfDist or LinfDistConv is not the one that is written",
    )
    model = model_from_net(deployed(), GraphOptions("standard"), {"grid": "12"})
    padding = next(node for node in model.graph.node if node.op_type == "Pad")
    padding.attribute.append(helper.make_attribute("mode", "reflect"))
    (departure,) = read_graph(saved(model, tmp_path)).departures
    assert departure == "node 'layer0.padded' (Pad) is not what is written for these weights"


def test_certificates_hold_on_every_moved_image() -> None:
    net = deployed()
    evaluator, batch = ReferenceEngine(net), images(40)
    logits = evaluator.run(batch)
    flags = Certifier(net, PER_OP, batch, logits).at(4)
    rng = np.random.default_rng(1)
    for _ in range(30):
        moved = np.clip(batch.astype(int) + rng.choice([-4, 4], batch.shape), 0, 255).astype(np.uint8)
        kept = evaluator.run(moved).argmax(1) == logits.argmax(1)
        for certified in (flags.exact, flags.interval, flags.delta):
            assert certified is not None
            assert kept[certified].all()
    assert flags.exact is not None
    assert flags.exact.any()


def test_the_twin_has_the_same_bits_and_a_gradient() -> None:
    net = deployed()
    x = torch.from_numpy(images().reshape(12, -1).astype(np.float32))
    np.testing.assert_array_equal(Twin(net).logits(x).numpy(), ReferenceEngine(net).run(images()))
    _, _, gradient = Twin(net).gradient(x, 8.0, lambda logits: logits[:, 0])
    assert (gradient != 0).any(1).all()


def test_paths_end_at_pixels_that_move_the_logit() -> None:
    net, batch = deployed(), images(40)
    logits, paths = ReferenceEngine(net).run(batch), PathFinder(net).find(batch)
    moves = 0
    for logit in range(net.classes):
        moved = batch.reshape(len(batch), -1).astype(int)
        moved[np.arange(len(batch)), paths.pixels[:, logit]] -= paths.rising[:, logit]
        inside = ((moved >= 0) & (moved <= 255)).all(1)
        after = ReferenceEngine(net).run(np.clip(moved, 0, 255).astype(np.uint8).reshape(batch.shape))
        # Lowering a logit raises the maximum that it hangs on: nothing can take its place.
        change = logits[:, logit] - after[:, logit]
        alive = inside & (paths.rising[:, logit] != 0)
        np.testing.assert_array_equal(change[alive], 1.0)
        moves += int(alive.sum())
    assert moves > 20


def test_coverage_counts_the_weights_of_filters() -> None:
    net, batch = conv_net(3), images(20)
    coverage = Coverage(net)
    assert coverage.add(batch).any()
    assert not coverage.add(batch).any()
    assert [layer.weights for layer in coverage.layers] == [3 * 18, 3 * 18]
    assert operations(net) == 6 * 3 * 18 + 3 * 18
    probes = make_probes(net, batch, 2, 0)
    assert all(
        after.reaching >= before.reaching for after, before in zip(probes.coverage, coverage.layers, strict=True)
    )


def test_faults_are_named() -> None:
    net, batch = conv_net(5), images(20)
    expected = ReferenceEngine(net).run(batch)
    half = replace(
        net,
        grid=None,
        centre=centre_of(net).astype(np.float16),
        layers=tuple(
            replace(layer, weight=layer.weight.astype(np.float16), bias=layer.bias.astype(np.float16))
            for layer in net.layers
        ),
    )
    assert diagnose(net, batch, ReferenceEngine(half).run(batch), expected) == "it computes in fp16"
    moved = replace(net, centre=centre_of(net) + np.float32(1))
    (violation,) = weight_differences(moved, net)
    assert violation.detail == "the centre that is subtracted from the pixels differs"
    wider = replace(net, layers=(replace(net.layers[0], window=Window((2, 5, 4), 3, 1, 0)), net.layers[1]))
    assert [violation.kind for violation in weight_differences(wider, net)] == ["shape"]


@pytest.mark.parametrize("form", ["function", "op", "standard"])
def test_a_bundle_holds_a_convolutional_net(form: Any, tmp_path: Path) -> None:
    net = deployed()
    path = saved(model_from_net(net, GraphOptions(form), {"grid": "12"}), tmp_path)
    data = TestSet("noise", images(), np.zeros(12, np.int64))
    golden = golden_images(net, data, 2, 0)
    write_bundle(tmp_path / "bundle", edge_model(path, "jetpack7"), golden, BundleOptions("jetpack7", "2px", 0))
    bundle = read_bundle(tmp_path / "bundle")
    assert bundle.record.golden_bits == "required"
    sources = [name for name in bundle.record.files if "linf_dist_conv" in name]
    assert bool(sources) == (form != "standard")


def test_other_verifiers_get_no_convolutions() -> None:
    with pytest.raises(
        ExportError,
        match="the net has l_inf-distance convolutions, which other verifiers' layers do not gather windows for; "
        "expected dense layers alone: verify it with linfdeploy",
    ):
        verifier_model(deployed())
