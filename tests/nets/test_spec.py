# SPDX-License-Identifier: Apache-2.0
"""The net's specification: JSON round trip, and everything it refuses, to the letter."""

from __future__ import annotations

import json
import math
import re
from typing import Any

import pytest

from linfdeploy.errors import CheckpointError
from linfdeploy.nets.spec import MAX_UNITS, LayerSpec, LinearSpec, LinfDistSpec, NetSpec

SPEC = NetSpec.mlp((1, 2, 3), (0.25,), 0.5, (5, 4), 3)
FIELDS = ["classes", "input_shape", "layers", "mean", "std"]


def _refused(text: str) -> Any:
    return pytest.raises(CheckpointError, match=f"^{re.escape(text)}$")


def _read(**changes: object) -> NetSpec:
    return NetSpec.from_json({**SPEC.to_json(), **changes})


def _read_layer(**changes: object) -> NetSpec:
    first, *rest = SPEC.to_json()["layers"]
    return _read(layers=[{**first, **changes}, *rest])


def test_the_papers_net() -> None:
    assert SPEC.layers == (
        LinfDistSpec(6, 5, mean_shift=True, bias=False),
        LinfDistSpec(5, 4, mean_shift=True, bias=False),
        LinfDistSpec(4, 3, mean_shift=False, bias=True),
    )
    assert SPEC.classes == 3


def test_no_hidden_layers() -> None:
    assert NetSpec.mlp((1, 2, 2), (0.0,), 1.0, (), 2).layers == (LinfDistSpec(4, 2, False, True),)


@pytest.mark.parametrize("mean", [(0.0, 0.5, 0.1), (-1e30, 1e-40, 3.4028234663852886e38)])
@pytest.mark.parametrize("std", [1.0, 0.1, 1 / 3, 2.0**-126])
def test_json_round_trip_keeps_every_bit(mean: tuple[float, ...], std: float) -> None:
    spec = NetSpec.mlp((3, 4, 5), mean, std, (7,), 10)
    again = NetSpec.from_json(json.loads(json.dumps(spec.to_json())))
    assert again == spec
    assert again.to_json() == spec.to_json()


def test_whole_numbers_are_numbers() -> None:
    spec = _read(mean=[0], std=1)
    assert (spec.mean, spec.std) == ((0.0,), 1.0)
    assert isinstance(spec.std, float)


@pytest.mark.parametrize("data", [None, 3, "spec", [1, 2]])
def test_not_a_mapping(data: object) -> None:
    with _refused(f"the spec is {type(data).__name__}; expected the fields {FIELDS}"):
        NetSpec.from_json(data)


def test_missing_and_unknown_fields() -> None:
    data = SPEC.to_json()
    del data["std"]
    with _refused(f"the spec is {list(data)}; expected the fields {FIELDS}"):
        NetSpec.from_json(data)
    with _refused(f"the spec is {[*SPEC.to_json(), 'extra']}; expected the fields {FIELDS}"):
        _read(extra=1)


@pytest.mark.parametrize("classes", [2, 4, True, 3.0, "3", None])
def test_wrong_classes(classes: object) -> None:
    with _refused(
        f"the spec claims {classes!r} classes but its last layer has 3 outputs; expected the same number"
    ):
        _read(classes=classes)


@pytest.mark.parametrize("shape", [[1, 6], [1, 2, 3, 1], [1, 2, 3.0], [True, 2, 3], [0, 2, 3], [-1, -2, 3]])
def test_wrong_input_shape(shape: list[Any]) -> None:
    with pytest.raises(CheckpointError, match=r"^input shape is .*; expected three positive sizes \(C, H, W\)$"):
        _read(input_shape=shape)


@pytest.mark.parametrize("field", ["input_shape", "mean", "layers"])
@pytest.mark.parametrize("value", [None, 3, "abc", {}])
def test_not_a_list(field: str, value: object) -> None:
    with _refused(f"{field} is {value!r}; expected a list"):
        _read(**{field: value})


@pytest.mark.parametrize("field", ["mean", "std"])
@pytest.mark.parametrize("value", [None, True, "0.5", [0.5], 1j])
def test_not_a_number(field: str, value: object) -> None:
    with _refused(f"{field} holds {value!r}; expected a number"):
        _read(**{field: [value] if field == "mean" else value})


@pytest.mark.parametrize("mean", [[], [0.0, 0.0], [math.nan], [math.inf], [-math.inf], [3.5e38], [10**400]])
def test_impossible_mean(mean: list[float]) -> None:
    with pytest.raises(CheckpointError) as refused:
        _read(mean=mean)
    shown = tuple(math.inf if value == 10**400 else value for value in mean)
    assert str(refused.value) == (f"mean is {shown}; expected 1 finite float32 numbers, one per channel")


@pytest.mark.parametrize("std", [0.0, -1.0, math.nan, math.inf, -math.inf, 1e-39, 1e-300, 3.5e38, 10**400])
def test_impossible_std(std: float) -> None:
    shown = math.inf if std == 10**400 else std
    with _refused(f"std is {shown}; expected one finite positive float32 number"):
        _read(std=std)


def test_no_layers() -> None:
    with _refused("the spec has no layers; expected at least one"):
        _read(layers=[])


@pytest.mark.parametrize(("inputs", "outputs"), [(7, 5), (6, 0), (6, -5), (6, MAX_UNITS + 1)])
def test_layer_sizes_that_do_not_fit(inputs: int, outputs: int) -> None:
    with _refused(
        f"layer 0 claims {inputs} inputs and {outputs} outputs; "
        f"expected 6 inputs and between 1 and {MAX_UNITS} outputs"
    ):
        _read_layer(inputs=inputs, outputs=outputs)


def test_layers_that_do_not_follow() -> None:
    layers = SPEC.to_json()["layers"]
    with _refused(
        f"layer 1 claims 4 inputs and 3 outputs; expected 5 inputs and between 1 and {MAX_UNITS} outputs"
    ):
        _read(layers=[layers[0], layers[2]])


def test_one_class() -> None:
    with _refused("the last layer has 1 output; expected at least 2 classes"):
        NetSpec.mlp((1, 2, 2), (0.0,), 1.0, (5,), 1)


def test_images_beyond_any_layer() -> None:
    layer = {"type": "linf_dist", "inputs": 2**40, "outputs": 2, "mean_shift": False, "bias": True}
    with pytest.raises(CheckpointError, match=r"^layer 0 claims 1099511627776 inputs"):
        _read(input_shape=[1, 2**20, 2**20], layers=[layer], classes=2)


@pytest.mark.parametrize("digits", [400, 5000])
@pytest.mark.parametrize("field", ["classes", "input_shape", "mean", "std", "layers", "inputs", "outputs", "type"])
def test_hostile_sizes_of_numbers(field: str, digits: int) -> None:
    huge: Any = 10**digits
    read = _read_layer if field in {"inputs", "outputs", "type"} else _read
    with pytest.raises(CheckpointError) as refused:
        read(**{field: [huge, huge, huge] if field == "input_shape" else huge})
    assert len(str(refused.value)) < 1000


def test_errors_are_one_short_line() -> None:
    for value in ("\n" * 10_000, ["x\ny"] * 10_000, {"a\nb": "\n"}):
        for field in FIELDS:
            with pytest.raises(CheckpointError) as refused:
                _read(**{field: value})
            assert "\n" not in str(refused.value)
            assert len(str(refused.value)) < 500


def test_the_papers_net_with_a_head() -> None:
    spec = NetSpec.mlp((1, 2, 3), (0.25,), 0.5, (5, 4), 3, head=(8,))
    distances = LinfDistSpec(6, 5, mean_shift=True, bias=False), LinfDistSpec(5, 4, mean_shift=True, bias=False)
    head = LinearSpec(4, 8, "tanh"), LinearSpec(8, 3, "none")
    assert spec.layers == (*distances, *head)
    assert (spec.distances, spec.head, spec.classes) == (distances, head, 3)
    assert (SPEC.distances, SPEC.head) == (SPEC.layers, ())
    again = NetSpec.from_json(json.loads(json.dumps(spec.to_json())))
    assert again == spec


def test_data_of_a_pure_net_are_as_they_were() -> None:
    """Checkpoints and graphs written before there were heads hold these very words."""
    assert json.dumps(NetSpec.mlp((1, 1, 2), (0.5,), 1.0, (), 2).to_json()) == (
        '{"input_shape": [1, 1, 2], "mean": [0.5], "std": 1.0, "layers": [{"inputs": 2, "outputs": 2, '
        '"mean_shift": false, "bias": true, "type": "linf_dist"}], "classes": 2}'
    )


def _net(*layers: LayerSpec) -> NetSpec:
    return NetSpec((1, 1, 3), (0.0,), 1.0, layers)


DISTANCE = LinfDistSpec(3, 3, mean_shift=True, bias=False)
HIDDEN, LAST = LinearSpec(3, 3, "tanh"), LinearSpec(3, 3, "none")


@pytest.mark.parametrize("layers", [(LAST,), (DISTANCE, HIDDEN, DISTANCE), (HIDDEN, DISTANCE), (HIDDEN, LAST)])
def test_a_head_that_is_not_behind(layers: tuple[LayerSpec, ...]) -> None:
    with _refused(
        f"the layers are of the types {[layer.type for layer in layers]}; expected at least one distance layer "
        "first, and linear layers behind all of them"
    ):
        _net(*layers)


@pytest.mark.parametrize("head", [(HIDDEN,), (LAST, LAST), (HIDDEN, HIDDEN), (HIDDEN, LAST, LAST)])
def test_activations_in_the_wrong_place(head: tuple[LinearSpec, ...]) -> None:
    with _refused(
        f"the head's activations are {[layer.activation for layer in head]}; expected 'tanh' behind every linear "
        "layer but the last, and 'none' there"
    ):
        _net(DISTANCE, *head)
