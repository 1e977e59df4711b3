# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import csv
import io
import re
from fractions import Fraction
from itertools import product
from typing import Any

import numpy as np
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_nets import all_images, pixel_net, random_images

from linfdeploy.engines.reference import ReferenceEngine
from linfdeploy.errors import DatasetError
from linfdeploy.onnx.pixel_net import PRECISIONS, Precision
from linfdeploy.verify.summary import TestSet
from linfdeploy.verify.threat import Threat
from linfdeploy.verify.vnnlib import (
    FORMATS,
    Instance,
    InstanceForm,
    VnnlibFormat,
    instance_files,
    property_text,
    verifier_model,
)

THREAT = Threat("pixels", "3px", Fraction(3, 255))
NET = pixel_net(0)


def tree(text: str) -> list[Any]:
    """VNN-LIB's brackets as lists; an index in square brackets belongs to the name before it."""
    text = re.sub(r";.*", "", text)
    text = re.sub(r"\s*\[([^\]]*)\]", lambda found: "@" + found[1].replace(" ", ""), text)
    stack: list[list[Any]] = [[]]
    for token in re.findall(r"[()]|[^\s()]+", text):
        if token == "(":
            stack.append([])
        elif token == ")":
            done = stack.pop()
            stack[-1].append(done)
        else:
            stack[-1].append(token)
    (whole,) = stack
    return whole


def holds(expression: Any, values: dict[str, float]) -> bool:
    """Evaluates a Boolean expression; values are exact in float."""
    match expression:
        case ["and", *parts]:
            return all(holds(part, values) for part in parts)
        case ["or", *parts]:
            return any(holds(part, values) for part in parts)
        case [">=", left, right]:
            return bool(value_of(left, values) >= value_of(right, values))
        case ["<=", left, right]:
            return bool(value_of(left, values) <= value_of(right, values))
    raise AssertionError(expression)


def value_of(text: str, values: dict[str, float]) -> float:
    return values[text] if text in values else float(text)


def names(version: VnnlibFormat) -> tuple[list[str], list[str]]:
    if version == "1.0":
        return [f"X_{i}" for i in range(9)], [f"Y_{j}" for j in range(3)]
    inputs = [f"image@0,0,{row},{column}" for row, column in product(range(3), repeat=2)]
    return inputs, [f"logits@0,{j}" for j in range(3)]


@st.composite
def instances(draw: st.DrawFn) -> Instance:
    ends = np.sort(
        np.array(draw(st.lists(st.integers(0, 255), min_size=18, max_size=18)), np.uint8).reshape(2, 9), 0
    )
    lower, upper = ends.reshape(2, 1, 3, 3)
    return Instance(draw(st.integers(0, 9999)), draw(st.integers(0, 2)), lower, upper)


@given(instance=instances(), version=st.sampled_from(FORMATS), data=st.data())
def test_a_property_holds_where_the_label_is_lost_inside_the_box(
    instance: Instance, version: VnnlibFormat, data: st.DataObject
) -> None:
    commands = tree(property_text(instance, NET, THREAT, version))
    asserted = [command[1] for command in commands if command[0] == "assert"]
    image = np.array(data.draw(st.lists(st.integers(0, 255), min_size=9, max_size=9))).reshape(1, 3, 3)
    if data.draw(st.booleans()):
        image = np.clip(image, instance.lower, instance.upper)
    logits = data.draw(st.lists(st.integers(-3, 3), min_size=3, max_size=3))
    inputs, outputs = names(version)
    values = dict(zip(inputs + outputs, [*image.ravel().tolist(), *logits], strict=True))
    inside = bool(((instance.lower <= image) & (image <= instance.upper)).all())
    lost = max(logits[: instance.label] + logits[instance.label + 1 :]) >= logits[instance.label]
    assert all(holds(expression, values) for expression in asserted) == (inside and lost)


@given(instance=instances())
def test_a_parser_of_others_reads_the_same(instance: Instance) -> None:
    vnnlib = pytest.importorskip("vnnlib", reason="there is no parser to compare with: pip install vnnlib")
    compat = pytest.importorskip("vnnlib.compat")
    query = vnnlib.parse_query_string(property_text(instance, NET, THREAT, "2.0"))
    (network,) = query.networks
    assert [tuple(part.shape) for part in (*network.inputs, *network.outputs)] == [(1, 1, 3, 3), (1, 3)]
    (case,) = compat.transform(query)
    ends = np.array(case.input_box)
    assert ends.tolist() == np.stack([instance.lower.ravel(), instance.upper.ravel()], 1).tolist()
    # Each polytope A y <= b is one way to lose the label.
    found = {(tuple(polytope.coeff_matrix[0]), polytope.rhs[0]) for polytope in case.output_constraints}
    expected = set()
    for other in {0, 1, 2} - {instance.label}:
        row = [0.0] * 3
        row[other], row[instance.label] = -1.0, 1.0
        expected.add((tuple(row), 0.0))
    assert found == expected


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_model_is_the_net(precision: Precision) -> None:
    net = pixel_net(3, precision)
    session = onnxruntime.InferenceSession(
        verifier_model(net).SerializeToString(), providers=["CPUExecutionProvider"]
    )
    images = random_images(20)
    found = np.concatenate(
        [session.run(["logits"], {"image": image[None].astype(np.float32)})[0] for image in images]
    )
    expected = ReferenceEngine(net).run(images)
    if precision == "fp16":
        # Float16 weights in float32: the real net up to the roundings that float16 makes.
        np.testing.assert_allclose(found, expected, rtol=0, atol=2.0)
        return
    assert found.tobytes() == expected.tobytes()


def read(files: dict[str, bytes], name: str) -> list[list[str]]:
    return list(csv.reader(io.StringIO(files[name].decode())))


class TestFolder:
    def test_what_is_known_is_true(self) -> None:
        net = pixel_net(2, sizes=(2, 4, 3), shape=(1, 1, 2))
        images = random_images(30, (1, 1, 2))
        labels = ReferenceEngine(net).run(images).argmax(1)
        threat = Threat("pixels", "20px", Fraction(20, 255))
        files = instance_files(net, TestSet("some", images, labels), threat, InstanceForm())
        _, *known = read(files, "known.csv")
        assert {result for *_, result in known} == {"unsat", "unknown"}
        for name, label, _margin, result in known:
            index = int(re.findall(r"(\d+)\.vnnlib", name)[0])
            near = np.abs(all_images().astype(int) - images[index]).reshape(-1, 2).max(1) <= 20
            logits = ReferenceEngine(net).run(all_images()[near])
            others = np.delete(logits, int(label), 1).max(1)
            if result == "unsat":
                assert (logits[:, int(label)] > others).all()

    def test_files(self) -> None:
        images = random_images(12)
        labels = ReferenceEngine(NET).run(images).argmax(1)
        labels[5] = (labels[5] + 1) % 3
        files = instance_files(NET, TestSet("some", images, labels), THREAT, InstanceForm("1.0", 60))
        listed = read(files, "instances.csv")
        assert [row[1] for row in listed] == [f"instances/{i:05d}.vnnlib" for i in range(12) if i != 5]
        assert {(row[0], row[2]) for row in listed} == {("model.onnx", "60")}
        assert set(files) == {"model.onnx", "instances.csv", "known.csv", *(row[1] for row in listed)}
        text = files["instances/00003.vnnlib"].decode()
        assert text.startswith(
            f"; sat: an image within 3 levels (of 255) of test image 3 gets another label than {labels[3]}, or a "
            "tie.\n; unsat: none does. Units are pixels.\n(declare-const X_0 Real)\n"
        )

    def test_a_foreign_data_set(self) -> None:
        images = random_images(5)
        labels = (ReferenceEngine(NET).run(images).argmax(1) + 1) % 3
        with pytest.raises(
            DatasetError, match="the net gives none of the 5 images of some its label; expected at"
        ):
            instance_files(NET, TestSet("some", images, labels), THREAT, InstanceForm())
