# SPDX-License-Identifier: Apache-2.0
"""Layers as data: every type is read back, and what is refused, to the letter."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from typing import Any

import pytest

from linfdeploy.errors import CheckpointError
from linfdeploy.nets.layer_specs import (
    LAYER_TYPES,
    LayerSpec,
    LinearSpec,
    LinfDistConvSpec,
    LinfDistSpec,
    SortDistConvSpec,
    layer_from_json,
)

KNOWN = f"one of the types {', '.join(LAYER_TYPES)}"
LAYERS: list[LayerSpec] = [
    LinfDistSpec(6, 5, True, False),
    LinfDistSpec(1, 2, False, True),
    LinearSpec(3, 4, "tanh"),
]
CONV = LinfDistConvSpec(2, 7, 6, 4, 3, 2, 1, mean_shift=True, bias=False)
SORTED = SortDistConvSpec(2, 7, 6, 4, 3, 2, 1, mean_shift=True, bias=False, keep=0.75, terms=5)


def _refused(text: str) -> Any:
    return pytest.raises(CheckpointError, match=f"^{re.escape(text)}$")


def _data(layer: LayerSpec, **changes: object) -> dict[str, object]:
    return {**asdict(layer), **changes}  # type: ignore[call-overload]


@pytest.mark.parametrize("layer", [*LAYERS, CONV, SORTED])
def test_round_trip(layer: LayerSpec) -> None:
    assert layer_from_json(0, json.loads(json.dumps(_data(layer)))) == layer


def test_every_type_knows_its_name() -> None:
    assert list(LAYER_TYPES) == sorted(LAYER_TYPES)
    assert {LAYER_TYPES[layer.type] for layer in (*LAYERS, CONV)} == {LinfDistSpec, LinearSpec, LinfDistConvSpec}
    assert [layer.is_distance for layer in (*LAYERS, CONV)] == [True, True, False, True]


def test_parts_in_words() -> None:
    found = [layer.parts for layer in (*LAYERS, LinfDistSpec(1, 2, False, False), LinearSpec(3, 4, "none"))]
    assert found == ["mean shift", "bias", "bias, tanh", "no bias", "bias"]
    assert CONV.parts == "2x7x6 to 4x4x3, kernel 3, stride 2, padding 1, mean shift"
    assert SORTED.parts == f"{CONV.parts}, keep 0.75, 5 terms"


def test_a_convolution_maps_flat_images() -> None:
    assert (CONV.inputs, CONV.outputs, CONV.output_shape) == (84, 48, (4, 4, 3))


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        (
            {"kernel": 9},
            "a window of 9 on an image of 7 x 6 with padding 1; expected one that fits into the padded image",
        ),
        (
            {"stride": 0},
            "an image of (2, 7, 6), kernel 3, stride 0 and padding 1; expected sizes from 1 to 65536, and a "
            "padding from 0",
        ),
        (
            {"padding": -1},
            "an image of (2, 7, 6), kernel 3, stride 2 and padding -1; expected sizes from 1 to 65536, and a "
            "padding from 0",
        ),
        (
            {"channels": 1000, "height": 1000, "width": 1000},
            "an image of 1000000000 values, of which windows of 9000 show 2250000000; expected at most 16777216 "
            "in each, and 67108864 in all windows",
        ),
    ],
)
def test_a_window_that_does_not_fit(changes: dict[str, int], text: str) -> None:
    with _refused(f"layer 0: {text}"):
        layer_from_json(0, _data(CONV, **changes))


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"keep": 0.0}, "keep is 0.0; expected a chance above 0 and at most 1"),
        (
            {"terms": 19},
            "terms is 19 for 18 inputs; expected 1 to the number of inputs, and at most 32",
        ),
        (
            {"kernel": 9},
            "a window of 9 on an image of 7 x 6 with padding 1; expected one that fits into the padded image",
        ),
    ],
)
def test_sorted_distances_of_a_window_that_shows_too_little(changes: dict[str, object], text: str) -> None:
    with _refused(f"layer 0: {text}"):
        layer_from_json(0, _data(SORTED, **changes))


@pytest.mark.parametrize(("data", "found"), [(7, "int"), (None, "NoneType"), ({"inputs": 5}, "['inputs']")])
def test_no_type(data: object, found: str) -> None:
    with _refused(f"layer 3 is {found}; expected a mapping with {KNOWN}"):
        layer_from_json(3, data)


@pytest.mark.parametrize("name", ["conv", "", None, 3, ["linear"], {}])
def test_unknown_type(name: object) -> None:
    with _refused(f"layer 0 is of type {name!r}; expected {KNOWN}"):
        layer_from_json(0, _data(LAYERS[0], type=name))


def test_fields_of_another_type() -> None:
    fields = ["inputs", "outputs", "mean_shift", "bias", "type"]
    with _refused(f"layer 0 is {fields}; expected the fields ['activation', 'inputs', 'outputs', 'type']"):
        layer_from_json(0, _data(LAYERS[0], type="linear"))


@pytest.mark.parametrize("layer", [LAYERS[0], LAYERS[2]])
@pytest.mark.parametrize("field", ["inputs", "outputs"])
@pytest.mark.parametrize("value", [5.0, True, "5", None])
def test_size_of_the_wrong_type(layer: LayerSpec, field: str, value: object) -> None:
    with _refused(f"layer 0: {field} is {value!r}; expected int"):
        layer_from_json(0, _data(layer, **{field: value}))


@pytest.mark.parametrize("field", ["mean_shift", "bias"])
@pytest.mark.parametrize("value", [0, 1, "yes", None])
def test_flag_of_the_wrong_type(field: str, value: object) -> None:
    with _refused(f"layer 0: {field} is {value!r}; expected bool"):
        layer_from_json(0, _data(LAYERS[0], **{field: value}))


def test_activation() -> None:
    with _refused("layer 1: activation is 'relu'; expected one of none, tanh"):
        layer_from_json(1, _data(LAYERS[2], activation="relu"))
    with _refused("layer 1: activation is None; expected str"):
        layer_from_json(1, _data(LAYERS[2], activation=None))
