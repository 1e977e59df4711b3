# SPDX-License-Identifier: Apache-2.0
"""The golden answers against ONNX Runtime and numpy, and their files against numpy's reader."""

import io
from fractions import Fraction
from typing import Any

import numpy as np
import onnx
import pytest
from bundles import images, model_at
from small_nets import exact_logits, float_bits, in_runtime

from linfdeploy.engines.bundle.golden import PROBE, answer_all, array_from_npy, golden_answers, npy_from_array
from linfdeploy.engines.reference import ReferenceEngine
from linfdeploy.errors import EngineError
from linfdeploy.kernels import linf_dist
from linfdeploy.onnx.pixel_net import Precision
from linfdeploy.onnx.read import read_graph

# fp16 is left out: ONNX Runtime chooses where its plan rounds.
IN_FLOAT32: tuple[Precision, ...] = ("exact", "fp32")


@pytest.mark.parametrize("precision", IN_FLOAT32)
def test_every_output_is_that_of_onnx_runtime(precision: Precision, tmp_path: Any) -> None:
    path = model_at(tmp_path / "model.onnx", precision)
    golden = images()
    answers = golden_answers(read_graph(path), golden.images)
    expected = in_runtime(onnx.load(path), golden.images)
    assert set(answers) == set(expected) == {"logits", "label", "radius"}
    for name in ("logits", "radius"):
        assert answers[name].dtype == np.float32
        assert np.array_equal(float_bits(answers[name]), float_bits(expected[name])), name
    assert answers["label"].dtype == np.int64
    assert np.array_equal(answers["label"], expected["label"])


def test_exact_logits_are_those_of_the_rationals(tmp_path: Any) -> None:
    graph = read_graph(model_at(tmp_path / "model.onnx"))
    golden = images()
    some = golden.images[::29]
    logits = golden_answers(graph, golden.images)["logits"][::29]
    assert [[Fraction(float(x)) for x in row] for row in logits] == [
        exact_logits(graph.net, image) for image in some
    ]


def test_without_radius_there_are_logits_alone(tmp_path: Any) -> None:
    graph = read_graph(model_at(tmp_path / "model.onnx", radius=False))
    assert set(golden_answers(graph, images().images)) == {"logits"}


def test_batches_change_nothing(tmp_path: Any) -> None:
    graph = read_graph(model_at(tmp_path / "model.onnx"))
    many = images().images
    assert len(many) > 600
    engine = ReferenceEngine(graph.net, radius=True)
    whole, parts = engine.answer(many), answer_all(engine, many)
    assert all(np.array_equal(whole[name], parts[name]) for name in whole)


def test_a_machine_that_computes_wrongly_makes_no_golden_bits(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(x: Any, w: Any) -> Any:
        distances = linf_dist(x, w)
        distances[0, 0] = np.nextafter(distances[0, 0], np.float32(0))
        return distances

    monkeypatch.setattr("linfdeploy.engines.reference.linf_dist", wrong)
    graph = read_graph(model_at(tmp_path / "model.onnx"))
    with pytest.raises(
        EngineError, match=r"^the evaluator's logits differ from plain numpy's in \d+ of 24 numbers"
    ):
        golden_answers(graph, images().images)


def test_what_is_labelled() -> None:
    golden = images()
    assert golden.labelled == 20
    assert (golden.labels[20:] == PROBE).all()
    assert len(golden.images) == len(golden.labels) == 20 + sum(golden.probes.values())


ARRAYS = [
    np.arange(24, dtype=np.uint8).reshape(2, 3, 2, 2),
    np.array([[0.5, -0.0, 3e38]], np.float32),
    np.array([-1, 2**62], np.int64),
    np.zeros((1000, 7, 11, 13), np.uint8),
    np.arange(6, dtype=">i8"),
    np.asfortranarray(np.arange(6, dtype=np.float32).reshape(2, 3)),
]


@pytest.mark.parametrize("array", ARRAYS, ids=lambda array: f"{array.dtype.str}{array.shape}")
def test_files_are_those_of_numpy(array: Any) -> None:
    data = npy_from_array(array)
    read = np.load(io.BytesIO(data), allow_pickle=False)
    assert read.dtype == array.dtype.newbyteorder("<")
    assert np.array_equal(read, array)
    # The numbers start at a multiple of 64.
    assert (len(data) - array.nbytes) % 64 == 0
    ours = array_from_npy(data, read.dtype.str, array.shape)
    assert ours is not None
    assert ours.dtype == array.dtype.newbyteorder("=")
    assert ours.tobytes() == read.tobytes()
    assert ours.flags.writeable


def test_another_array_is_not_taken() -> None:
    array = np.arange(6, dtype=np.int64)
    data = npy_from_array(array)
    assert array_from_npy(data, "<i8", (6,)) is not None
    assert array_from_npy(data, "<i8", (7,)) is None
    assert array_from_npy(data, "<i8", (2, 3)) is None
    assert array_from_npy(data, "<f8", (6,)) is None
    assert array_from_npy(data[:-1], "<i8", (6,)) is None
    assert array_from_npy(data + b"\0", "<i8", (6,)) is None
    assert array_from_npy(b"", "<i8", (6,)) is None
    pickled = io.BytesIO()
    np.save(pickled, np.array([print], object), allow_pickle=True)
    assert array_from_npy(pickled.getvalue(), "<i8", (1,)) is None
