# SPDX-License-Identifier: Apache-2.0
"""What a net is, as plain data: it travels in checkpoints and in the metadata of exported graphs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from linfdeploy.errors import CheckpointError, brief

__all__ = ["MAX_UNITS", "LinfDistSpec", "NetSpec"]

MAX_UNITS = 2**24
"""The most inputs or outputs a layer may claim; beyond it a file is taken for hostile."""

# The net holds mean and std in float32, where a larger number is infinite and a smaller std zero.
LARGEST = (2 - 2**-23) * 2.0**127
SMALLEST_STD = 2.0**-126


@dataclass(frozen=True)
class LinfDistSpec:
    """One layer, `y_o = max_i |x_i - w_oi| - mean_o + b_o`.

    Attributes:
        inputs: Number of inputs I.
        outputs: Number of outputs O.
        mean_shift: Whether the batch mean (training) or the running mean (evaluation) is subtracted.
        bias: Whether a bias is added.
    """

    inputs: int
    outputs: int
    mean_shift: bool
    bias: bool
    type: str = "linf_dist"


@dataclass(frozen=True)
class NetSpec:
    """A net of l_inf-distance layers on normalised images; its logits are negated distances.

    Attributes:
        input_shape: (C, H, W) of an image.
        mean: Per channel, in [0, 1] pixel units; the input is `(image - mean) / std`.
        std: One positive scalar, so that an l_inf ball of images stays a ball.
        layers: The layers, the last of which has one output per class.
    """

    input_shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: float
    layers: tuple[LinfDistSpec, ...]

    def __post_init__(self) -> None:
        """Checks that the parts fit together.

        Raises:
            CheckpointError: They do not.
        """
        _check_input(self.input_shape, self.mean, self.std)
        _check_layers(self.layers, math.prod(self.input_shape))

    @property
    def classes(self) -> int:
        """Number of classes."""
        return self.layers[-1].outputs

    def to_json(self) -> dict[str, Any]:
        """Returns the spec as data that JSON can hold."""
        return {**asdict(self), "classes": self.classes}

    @staticmethod
    def from_json(data: object) -> NetSpec:
        """Reads what `to_json` wrote, trusting nothing.

        Raises:
            CheckpointError: A field is missing, unknown, of the wrong type or contradicts another.
        """
        fields = _fields(data, {"input_shape", "mean", "std", "layers", "classes"}, "the spec")
        layers = tuple(_layer_from_json(index, layer) for index, layer in enumerate(_sequence(fields, "layers")))
        spec = NetSpec(
            input_shape=_shape(fields),
            mean=tuple(_number(value, "mean") for value in _sequence(fields, "mean")),
            std=_number(fields["std"], "std"),
            layers=layers,
        )
        if type(fields["classes"]) is not int or fields["classes"] != spec.classes:
            raise CheckpointError(
                f"the spec claims {brief(fields['classes'])} classes but its last layer has "
                f"{spec.classes} outputs; expected the same number"
            )
        return spec

    @staticmethod
    def mlp(
        input_shape: tuple[int, int, int],
        mean: tuple[float, ...],
        std: float,
        hidden: tuple[int, ...],
        classes: int,
    ) -> NetSpec:
        """Returns the papers' net: hidden layers with mean shift, an output layer with bias."""
        sizes = (math.prod(input_shape), *hidden, classes)
        last = len(sizes) - 2
        layers = tuple(
            LinfDistSpec(sizes[i], sizes[i + 1], mean_shift=i < last, bias=i == last) for i in range(last + 1)
        )
        return NetSpec(input_shape, mean, std, layers)


def _check_input(shape: tuple[int, int, int], mean: tuple[float, ...], std: float) -> None:
    if len(shape) != 3 or min(shape) < 1:
        raise CheckpointError(f"input shape is {brief(shape)}; expected three positive sizes (C, H, W)")
    if len(mean) != shape[0] or not all(abs(value) <= LARGEST for value in mean):
        raise CheckpointError(
            f"mean is {brief(mean)}; expected {brief(shape[0])} finite float32 numbers, one per channel"
        )
    if not SMALLEST_STD <= std <= LARGEST:
        raise CheckpointError(f"std is {std}; expected one finite positive float32 number")


def _check_layers(layers: tuple[LinfDistSpec, ...], inputs: int) -> None:
    if not layers:
        raise CheckpointError("the spec has no layers; expected at least one")
    for index, layer in enumerate(layers):
        if layer.inputs != inputs or not 1 <= layer.outputs <= MAX_UNITS or inputs > MAX_UNITS:
            raise CheckpointError(
                f"layer {index} claims {brief(layer.inputs)} inputs and {brief(layer.outputs)} outputs; "
                f"expected {inputs} inputs and between 1 and {MAX_UNITS} outputs"
            )
        inputs = layer.outputs
    if inputs < 2:
        raise CheckpointError(f"the last layer has {inputs} output; expected at least 2 classes")


def _layer_from_json(index: int, data: object) -> LinfDistSpec:
    what = f"layer {index}"
    fields = _fields(data, {"type", "inputs", "outputs", "mean_shift", "bias"}, what)
    if fields["type"] != "linf_dist":
        raise CheckpointError(f"{what} is of type {brief(fields['type'])}; expected 'linf_dist'")
    for name, kind in (("inputs", int), ("outputs", int), ("mean_shift", bool), ("bias", bool)):
        if type(fields[name]) is not kind:
            raise CheckpointError(f"{what}: {name} is {brief(fields[name])}; expected {kind.__name__}")
    return LinfDistSpec(fields["inputs"], fields["outputs"], fields["mean_shift"], fields["bias"])


def _fields(data: object, expected: set[str], what: str) -> Mapping[str, Any]:
    if not isinstance(data, Mapping) or set(data) != expected:
        found = brief(list(data)) if isinstance(data, Mapping) else type(data).__name__
        raise CheckpointError(f"{what} is {found}; expected the fields {sorted(expected)}")
    return data


def _sequence(fields: Mapping[str, Any], name: str) -> list[Any]:
    if not isinstance(fields[name], list | tuple):
        raise CheckpointError(f"{name} is {brief(fields[name])}; expected a list")
    return list(fields[name])


def _shape(fields: Mapping[str, Any]) -> tuple[int, int, int]:
    values = _sequence(fields, "input_shape")
    if len(values) != 3 or any(type(value) is not int for value in values):
        raise CheckpointError(f"input shape is {brief(values)}; expected three positive sizes (C, H, W)")
    return values[0], values[1], values[2]


def _number(value: object, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise CheckpointError(f"{name} holds {brief(value)}; expected a number")
    try:
        return float(value)
    except OverflowError:
        return math.inf
